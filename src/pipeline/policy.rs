//! How long to wait after an error before trying again, or that there is no point in it. Pure but for the jitter.

use std::time::Duration;

use rand::RngExt;

use crate::error::Kind;

/// How soon something is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pace {
    /// Without a pause.
    AtOnce,
    /// Soon: somebody else was in the way.
    Soon,
    /// When brokers or database may have come back; visibly, for as long as it takes.
    Patient,
    /// Something an operator mends while we run: now and then.
    Operator,
}

/// The pace for each kind of error; `None`: this pipeline stops. No wildcard: a new kind does not compile until somebody decides
/// what it means.
pub fn pace(kind: Kind) -> Option<Pace> {
    match kind {
        Kind::SinkContention => Some(Pace::Soon),
        Kind::BrokerUnavailable | Kind::SinkUnavailable => Some(Pace::Patient),
        Kind::CommitUnknown | Kind::Fenced | Kind::RowRefused => Some(Pace::Patient),
        Kind::SinkConfig => Some(Pace::Operator),
        // An operator decides.
        Kind::PositionLost | Kind::Model | Kind::Config | Kind::TooManyRefused | Kind::RecordRefused => None,
        // Waited for where that can help: see `reload`.
        Kind::Outdated => None,
        // Our fault.
        Kind::Bug => None,
    }
}

/// How long to wait before attempt number `attempt` (from 1): exponential with full jitter, so that instances that failed
/// together don't come back together.
pub fn pause(pace: Pace, attempt: u32) -> Duration {
    let (first_ms, cap_ms): (u64, u64) = match pace {
        Pace::AtOnce => return Duration::ZERO,
        Pace::Soon => (10, 1_000),
        Pace::Patient => (50, 5_000),
        Pace::Operator => (1_000, 15_000),
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
            let wait = pause(Pace::Patient, attempt);
            assert!(wait >= Duration::from_millis(12) && wait <= Duration::from_secs(5), "{attempt}: {wait:?}");
        }
    }
}
