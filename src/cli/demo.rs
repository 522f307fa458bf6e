//! `demo`.

use super::{DemoArgs, Exit};

pub async fn run(_args: &DemoArgs) -> Exit {
    eprintln!("error: demo is not built yet");
    Exit::Bug
}
