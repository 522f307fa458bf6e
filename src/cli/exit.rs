//! What the process's exit code says.

use std::process::ExitCode;

use crate::error::{Error, Kind};

/// How a command ended; the numbers are part of the command line's contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Did what it was asked to.
    Done = 0,
    /// `check` found faults, or a comparison found a difference.
    Faulty = 1,
    /// The command line or the config is wrong: nothing was started.
    Config = 2,
    /// Stopped and will not go on until somebody does something; the last error says what.
    OperatorNeeded = 3,
    /// A fault of afterimage itself: please report it.
    Bug = 4,
    /// Stopped at once by a second signal, in the middle of its work; nothing is lost by that.
    Forced = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl Exit {
    /// How a command ends that `error` has stopped.
    pub fn of(error: &Error) -> Self {
        match error.kind {
            Kind::Config => Self::Config,
            Kind::Bug => Self::Bug,
            Kind::BrokerUnavailable
            | Kind::SinkUnavailable
            | Kind::SinkContention
            | Kind::CommitUnknown
            | Kind::Fenced
            | Kind::Outdated
            | Kind::RowRefused
            | Kind::SinkConfig
            | Kind::PositionLost
            | Kind::Model
            | Kind::TooManyRefused
            | Kind::RecordRefused => Self::OperatorNeeded,
        }
    }
}
