//! Circuit breaker: stops a pipeline whose records are refused wholesale, instead of diverting everything into quarantine.
//!
//! In: how many records were read and refused, and when. Out: whether the share within the window is too large. Pure.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// When to stop.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BreakerLimits {
    /// Share of records refused, 0 to 1.
    pub max_share: f64,
    pub window: Duration,
    /// Fewer records than this within the window prove nothing.
    pub min_records: u64,
}

/// Counts within the window. See the module page.
#[derive(Debug)]
pub struct Breaker {
    limits: BreakerLimits,
    seen: VecDeque<(Instant, u64, u64)>,
}

impl Breaker {
    pub fn new(limits: BreakerLimits) -> Self {
        Self { limits, seen: VecDeque::new() }
    }

    /// Whether a batch would be too much: `Some((refused, read))` within the window, the batch included.
    pub fn would_trip(&self, now: Instant, read: u64, refused: u64) -> Option<(u64, u64)> {
        let recent = self.seen.iter().filter(|(when, _, _)| now.duration_since(*when) <= self.limits.window);
        let (read, refused) =
            recent.fold((read, refused), |(read, refused), batch| (read + batch.1, refused + batch.2));
        let too_many = read >= self.limits.min_records && refused as f64 > self.limits.max_share * read as f64;
        too_many.then_some((refused, read))
    }

    /// Takes a batch that was applied into account.
    pub fn record(&mut self, now: Instant, read: u64, refused: u64) {
        self.seen.push_back((now, read, refused));
        while self.seen.front().is_some_and(|(when, _, _)| now.duration_since(*when) > self.limits.window) {
            self.seen.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: BreakerLimits = BreakerLimits { max_share: 0.5, window: Duration::from_secs(60), min_records: 100 };

    #[test]
    fn a_few_bad_records_do_not_trip_it_and_a_flood_does() {
        let (mut breaker, now) = (Breaker::new(LIMITS), Instant::now());
        breaker.record(now, 50, 50);
        assert_eq!(breaker.would_trip(now, 100, 10), None);
        breaker.record(now, 100, 10);
        assert_eq!(breaker.would_trip(now, 100, 100), Some((160, 250)));
    }

    #[test]
    fn what_is_older_than_the_window_is_forgotten() {
        let (mut breaker, now) = (Breaker::new(LIMITS), Instant::now());
        breaker.record(now, 1000, 499);
        assert_eq!(breaker.would_trip(now, 0, 2), Some((501, 1000)));
        assert_eq!(breaker.would_trip(now + Duration::from_secs(61), 100, 50), None);
    }
}
