//! `migrate`.

use super::{Exit, MigrateArgs};

pub async fn run(_args: &MigrateArgs) -> Exit {
    eprintln!("error: migrate is not built yet");
    Exit::Bug
}
