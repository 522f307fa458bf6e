//! `run`.

use super::{Exit, RunArgs};

pub async fn run(_args: &RunArgs) -> Exit {
    eprintln!("error: run is not built yet");
    Exit::Bug
}
