//! `preview`.

use super::{Exit, PreviewArgs};

pub async fn run(_args: &PreviewArgs) -> Exit {
    eprintln!("error: preview is not built yet");
    Exit::Bug
}
