//! `generate`.

use super::{Exit, GenerateArgs};

pub async fn run(_args: &GenerateArgs) -> Exit {
    eprintln!("error: generate is not built yet");
    Exit::Bug
}
