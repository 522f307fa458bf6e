//! Partitions that nobody reads: found, named, and given out by joining the group anew.
//!
//! The group's leader gives out partitions when somebody joins or when it sees the topic grow. A static member that is back after a
//! restart gets what it had, without a new round, and takes the grown topic for what was always there: the further partitions would be
//! nobody's, in silence (P6), until the next rebalance. What nobody has ever begun has no position in the database. Whoever notices
//! leaves the group and joins again, which makes the leader give out everything.

use std::time::{Duration, Instant};

use super::Pipeline;
use crate::error::Result;
use crate::position::Partition;

/// Longer than a rebalance and the first look at the database take.
const PATIENCE: Duration = Duration::from_secs(12);
const FIRST_PAUSE: Duration = Duration::from_secs(30);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// For how long there has been such a partition, and when joining anew may help next.
#[derive(Debug, Default)]
pub(super) struct Unread {
    since: Option<Instant>,
    tried: Option<(Instant, Duration)>,
}

impl Unread {
    /// Whether to join anew, given whether there are such partitions now.
    fn is_time(&mut self, now: Instant, any: bool) -> bool {
        if !any {
            *self = Self::default();
            return false;
        }
        let since = *self.since.get_or_insert(now);
        let pause = match self.tried {
            None if now.duration_since(since) < PATIENCE => return false,
            Some((tried, pause)) if now.duration_since(tried) < pause => return false,
            None => FIRST_PAUSE,
            // Where it didn't help, trying often doesn't either: somebody else's partition may be halted before its first record.
            Some((_, pause)) => (pause * 2).min(LONGEST_PAUSE),
        };
        self.tried = Some((now, pause));
        true
    }
}

impl Pipeline {
    /// Looks whether the topic has partitions that nobody has begun; joins the group anew if that stays so.
    pub(super) async fn look_for_unread(&mut self) -> Result<()> {
        let count = self.stations.source.stats().topic_partitions;
        let owner = self.stations.sink.owner().clone();
        let begun = owner.offsets(self.stations.sink.session().await?).await?;
        let halted = self.health.snapshot().halted;
        let unread: Vec<Partition> = (0..count)
            .filter(|partition| {
                !begun.contains_key(partition) && !self.adoption.awaits(*partition) && !halted.contains_key(partition)
            })
            .collect();
        if self.unread.is_time(Instant::now(), !unread.is_empty()) {
            let pipeline = self.settings.name.as_str();
            tracing::warn!(pipeline, partitions = ?unread, "nobody reads these partitions: joining the group anew");
            self.stations.source.rejoin();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_patient_at_first_and_more_so_after_every_try() {
        let (mut unread, start) = (Unread::default(), Instant::now());
        let tries: Vec<u64> =
            (0..2_000).filter(|second| unread.is_time(start + Duration::from_secs(*second), true)).collect();
        assert_eq!(tries, [12, 42, 102, 222, 462, 942, 1542]);
        assert!(!unread.is_time(start + Duration::from_secs(2_000), false));
        assert!(!unread.is_time(start + Duration::from_secs(2_001), true), "it begins anew");
    }
}
