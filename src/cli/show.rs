//! Rows and values on their way to a terminal, a pipe or a file: what `preview`, `diff` and `explain` have in common.

pub(super) mod arrow_rows;
pub(super) mod files;
pub(super) mod grid;
pub(super) mod terminal;

use crate::error::{Error, Kind};

/// How the writing of output ends early.
#[derive(Debug)]
pub(super) enum Stopped {
    /// The reader has gone (`| head`): it has all that it wants.
    ReaderGone,
    Failed(Error),
}

impl From<std::io::Error> for Stopped {
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Self::ReaderGone;
        }
        Self::Failed(Error::new(Kind::Config, "the output can't be written").source(error))
    }
}

impl From<Error> for Stopped {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// `1 row`, `2 rows`.
pub(super) fn counted(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}
