//! Which events make a model fail: a run-time error stops a whole batch and names no row.
//!
//! Parts of the batch are run until each failing part is a single event. Such a run serves only to find the event: its rows aren't
//! used, because a window or an aggregate over a part of a batch is not that over the whole.

use arrow::array::RecordBatch;

use super::Engine;
use super::held::{Faults, fault};
use super::rows::positions;
use crate::error::{Error, Kind, Result};
use crate::work::Stage;

/// A model failed at run time.
#[derive(Debug, Clone)]
pub(super) struct Crash {
    pub(super) model: String,
    /// The engine's words without the values it quotes.
    pub(super) reason: String,
}

impl Crash {
    pub(super) fn error(&self) -> Error {
        Error::new(Kind::Model, format!("{}.sql fails: {}", self.model, self.reason))
            .remedy("no single event explains it; run `afterimage preview` on these events and mend the model")
    }
}

impl Engine {
    /// The events of `events` that make a model fail each by itself; an error if there are none, though the batch failed by `crash`.
    pub(super) async fn guilty(&mut self, events: &RecordBatch, crash: Crash) -> Result<Faults> {
        let positions = positions(events)?;
        let mut guilty = Faults::new();
        let mut open = vec![(0, events.num_rows())];
        while let Some((from, rows)) = open.pop() {
            if rows == 0 {
                continue;
            }
            let Some(found) = self.crash_on(&events.slice(from, rows)).await else { continue };
            if rows > 1 {
                let half = rows / 2;
                open.push((from + half, rows - half));
                open.push((from, half));
            } else if let Some(position) = positions.get(from) {
                let refusal = fault(*position, Stage::Model, Some(&found.model), None, found.reason);
                guilty.insert(*position, refusal);
            }
        }
        if guilty.is_empty() {
            return Err(self.at(crash.error()));
        }
        tracing::warn!(
            model = crash.model,
            error = crash.reason,
            events = guilty.len(),
            "model fails on single events"
        );
        Ok(guilty)
    }
}
