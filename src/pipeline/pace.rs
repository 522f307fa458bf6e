//! How much the next batch of a lane may hold: pure arithmetic over what the last ones took.
//!
//! In: what each batch held and how long each half of the road needed for it. Out: limits for the next one. A large batch costs less
//! per event (statements, the commit, versions of one key that fall together before they reach the server) but nobody sees any of
//! it before all of it is committed. So a batch may take a part of the time that the backlog has lasted so far: what was produced a
//! moment ago is there within milliseconds, whoever looks at any time sees most of what could be there, and of records that have waited
//! for seconds batches are as large as [`LONGEST`] allows, or, where nothing falls together, as pays for statements and commit. How many
//! events that is follows from the measured time per event alone: a server that becomes slow gets small transactions, a fast one large
//! ones.

use std::time::Duration;

use crate::source::BatchLimits;

/// Before anything has been measured.
const FIRST_EVENTS: usize = 1_000;
/// A batch may take this long whenever there is a backlog.
const SHORTEST: Duration = Duration::from_millis(100);
/// ... and no longer than this.
const LONGEST: Duration = Duration::from_secs(1);
/// ... nor, where nearly every event is a row of its own, than so many times the shortest one of the same backlog: beyond that more events
/// cost no less each, and everybody waits longer.
const ENOUGH: u32 = 10;
/// Of so many events one may fall together with another then. Many, because more do in a larger batch: of the benches' two million events
/// one in 47 in batches of 9,000, and one in 21 in batches of 22,000.
const MANY: usize = 128;
/// Which part of the time that the backlog has lasted, or its records have waited, a batch may take.
const PART: u32 = 3;
/// By how much a batch may be larger than the one before it: what is measured at one size says little about a much larger one.
const GROWTH: usize = 4;
/// A batch so much smaller than its limits says nothing about large ones: it is the fixed costs that are measured then.
const TELLING: usize = 4;

/// The pace of one lane.
#[derive(Debug, Clone)]
pub struct Pace {
    most: BatchLimits,
    /// Events of the next batch.
    events: usize,
    /// Seconds per event, as far as measured.
    per_event: Option<f64>,
    /// How long there has been a backlog: the sum over full batches since the last one that wasn't, or as long as their records waited.
    backlog: Duration,
    /// The shortest batch since it began: no less than what a batch costs by itself, however small.
    shortest: Duration,
}

/// What became of one batch.
#[derive(Debug, Clone, Copy)]
pub struct Pass {
    pub events: usize,
    pub bytes: usize,
    /// What its events came to.
    pub rows: usize,
    /// Whether more was known to come behind it.
    pub more: bool,
    /// How long its youngest record had waited.
    pub age: Duration,
    /// What it was taken with.
    pub limits: BatchLimits,
    /// Decoding, models, staging: what goes on beside another batch's transaction.
    pub preparing: Duration,
    /// From the first statement to the commit.
    pub transaction: Duration,
}

impl Pass {
    /// Whether the limits ended the batch rather than a lack of records. Bytes may fall short of the limit by a record.
    fn was_full(&self) -> bool {
        self.events >= self.limits.max_events || self.bytes >= self.limits.max_bytes - self.limits.max_bytes / 8
    }

    /// How long the lane was occupied: the two halves run side by side on successive batches.
    fn occupied(&self) -> Duration {
        self.preparing.max(self.transaction)
    }
}

impl Pace {
    /// `most` is what the configuration allows; `max_wait` is passed on.
    pub fn new(most: BatchLimits) -> Self {
        Self {
            events: FIRST_EVENTS.min(most.max_events),
            most,
            per_event: None,
            backlog: Duration::ZERO,
            shortest: Duration::MAX,
        }
    }

    /// Of the next batch.
    pub fn limits(&self) -> BatchLimits {
        BatchLimits { max_events: self.events, ..self.most }
    }

    /// Learns from a batch that was applied.
    pub fn note(&mut self, pass: &Pass) {
        let full = pass.was_full();
        let telling = full || pass.events.saturating_mul(TELLING) >= self.events;
        // The client may lag behind for a moment in the middle of a backlog: what it had fetched by then fills no batch.
        let backlog = (self.backlog + pass.occupied()).max(pass.age);
        self.backlog = if full || telling && pass.more { backlog } else { Duration::ZERO };
        self.shortest = if self.backlog.is_zero() { Duration::MAX } else { self.shortest.min(pass.occupied()) };
        if telling {
            let measured = pass.occupied().as_secs_f64() / pass.events.max(1) as f64;
            // At once where it became slower, with half the weight where faster: one stall must not be forgotten in the next batch.
            self.per_event = Some(self.per_event.map_or(measured, |known| measured.max((measured + known) / 2.0)));
        }
        let allowed = (self.backlog / PART).clamp(SHORTEST, self.longest(pass)).as_secs_f64();
        let fitting = self.per_event.map_or(self.events, |per_event| events_in(allowed, per_event));
        // Of a small batch most is fixed costs, which say that no more than a few times as many would fit.
        let doubled = full && pass.occupied().as_secs_f64() * 2.0 < allowed;
        let fitting = if doubled { fitting.max(pass.events.saturating_mul(2)) } else { fitting };
        let grown = pass.events.max(self.events.min(FIRST_EVENTS)).saturating_mul(GROWTH);
        self.events = fitting.min(grown).clamp(1, self.most.max_events.max(1));
    }

    /// How long a batch may take after `pass`, however long the backlog has lasted.
    fn longest(&self, pass: &Pass) -> Duration {
        let falls_together = pass.events.saturating_sub(pass.rows).saturating_mul(MANY) > pass.events;
        if falls_together { LONGEST } else { self.shortest.saturating_mul(ENOUGH).clamp(SHORTEST, LONGEST) }
    }
}

/// How many events at `per_event` seconds fit into `seconds`.
fn events_in(seconds: f64, per_event: f64) -> usize {
    if per_event <= 0.0 {
        return usize::MAX;
    }
    (seconds / per_event) as usize
}

#[cfg(test)]
mod tests;
