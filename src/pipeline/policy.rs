//! What happens after an error: one exhaustive table from kind to move, and the waiting times. Pure.

use std::time::Duration;

use rand::RngExt;

use crate::error::Kind;

/// What the loop does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Move {
    /// Repeat the whole transaction, soon.
    Repeat,
    /// Wait for brokers or database to come back, visibly, for as long as it takes; then repeat.
    Wait,
    /// Something an operator mends while we run: look again now and then.
    WaitForOperator,
    /// Ask the positions what became of the transaction, before anything else.
    ReadBack,
    /// Find the rows that the server refuses, quarantine them, go on.
    FindRows,
    /// This pipeline stops; an operator decides.
    Halt,
    /// This pipeline stops; it is our fault.
    Crash,
}

/// The move for each kind of error. No wildcard: a new kind does not compile until somebody decides what it means.
pub fn after(kind: Kind) -> Move {
    match kind {
        Kind::SinkContention => Move::Repeat,
        Kind::BrokerUnavailable | Kind::SinkUnavailable => Move::Wait,
        Kind::SinkConfig => Move::WaitForOperator,
        Kind::CommitUnknown | Kind::Fenced => Move::ReadBack,
        Kind::RowRefused => Move::FindRows,
        Kind::PositionLost | Kind::Model | Kind::Config | Kind::TooManyRefused | Kind::RecordRefused => Move::Halt,
        Kind::Bug => Move::Crash,
    }
}

/// How long to wait before attempt number `attempt` (from 1) of `next`: exponential with full jitter, so that instances that failed
/// together don't come back together.
pub fn pause(next: Move, attempt: u32) -> Duration {
    let (first_ms, cap_ms): (u64, u64) = match next {
        Move::Repeat => (10, 1_000),
        Move::WaitForOperator => (1_000, 15_000),
        Move::Wait | Move::ReadBack | Move::FindRows | Move::Halt | Move::Crash => (50, 5_000),
    };
    let ceiling = first_ms.saturating_mul(1 << attempt.saturating_sub(1).min(16)).min(cap_ms);
    Duration::from_millis(rand::rng().random_range(ceiling / 4..=ceiling))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_grows_to_a_cap_and_never_to_nothing() {
        for attempt in 1..40 {
            let wait = pause(Move::Wait, attempt);
            assert!(wait >= Duration::from_millis(12) && wait <= Duration::from_secs(5), "{attempt}: {wait:?}");
        }
    }

    #[test]
    fn a_commit_without_an_answer_is_never_simply_repeated() {
        assert_eq!(after(Kind::CommitUnknown), Move::ReadBack);
    }
}
