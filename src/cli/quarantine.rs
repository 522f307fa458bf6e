//! `quarantine`.

use super::{Exit, QuarantineCommand};

pub async fn run(_args: &QuarantineCommand) -> Exit {
    eprintln!("error: quarantine is not built yet");
    Exit::Bug
}
