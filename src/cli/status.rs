//! `status`.

use super::{Exit, StatusArgs};

pub async fn run(_args: &StatusArgs) -> Exit {
    eprintln!("error: status is not built yet");
    Exit::Bug
}
