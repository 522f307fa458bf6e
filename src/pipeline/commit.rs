//! Committing: repeats one transaction until its fate is known.
//!
//! In: shaped work. Out: committed, refused rows to take out, partitions that aren't ours any more, or "asked to stop". A sick
//! database makes it wait, visibly, for as long as it takes; a COMMIT without an answer is settled by the positions before anything
//! else happens, however often that question has to be asked.

use std::time::{Duration, Instant};

use arrow::array::AsArray;
use arrow::datatypes::{Int32Type, Int64Type};
use rand::RngExt;

use super::health::State;
use super::policy::{self, Move};
use super::{Pipeline, upkeep::Committed};
use crate::error::{Error, Kind, Result};
use crate::position::{Partition, Position};
use crate::record::RawBatch;
use crate::sink::positions::{Fate, Token};
use crate::sink::quarantine::Quarantined;
use crate::sink::{Outcome, RowFault, Work};
use crate::work::{Evaluation, Refusal, Stage};

/// A transaction that others' locks hold up for longer than this is shown as waiting.
const LONG_WAIT: Duration = Duration::from_secs(5);

/// What became of a batch.
#[derive(Debug)]
pub(super) enum Applied {
    Committed(Committed),
    /// Nothing was applied; these records have to go into quarantine first.
    Refused(Vec<Refusal>),
    /// Nothing was applied; the target is another one than the work was made for.
    Altered,
    /// Nothing was applied; these partitions aren't where (or whose) we thought.
    Lost(Vec<Partition>),
    /// Nothing was applied; we were asked to stop.
    Stopped,
}

impl Pipeline {
    /// Applies a batch.
    pub(super) async fn apply(&mut self, raw: &RawBatch, evaluation: &Evaluation) -> Result<Applied> {
        let quarantine: Vec<Quarantined<'_>> = Self::quarantined(raw, evaluation);
        let mut late = vec![false; evaluation.latest.num_rows()];
        for row in &evaluation.suspects {
            if let Some(late) = late.get_mut(*row) {
                *late = true;
            }
        }
        let work = Work {
            id: token(),
            advances: self.advances(raw, evaluation),
            latest: &evaluation.latest,
            late,
            quarantine,
            settled: Vec::new(),
        };
        self.commit(&work).await
    }

    /// Repeats `work` until its fate is known.
    pub(super) async fn commit(&mut self, work: &Work<'_>) -> Result<Applied> {
        let mut attempt = 0;
        let began = Instant::now();
        loop {
            attempt += 1;
            let engine = &mut self.stations.engine;
            let mut evidence = async |known: Vec<(usize, _)>| engine.evidence(&known).await;
            let outcome = self.stations.sink.apply(work, &mut evidence).await;
            let error = match outcome {
                Ok(Outcome::Committed { superseded, out_of_order }) => {
                    self.recovered();
                    return Ok(Applied::Committed(Committed { superseded, out_of_order, retries: attempt - 1 }));
                }
                Ok(Outcome::Rows(faults)) => match self.refusals(work, faults).await {
                    Ok(applied) => return Ok(applied),
                    Err(error) => error,
                },
                // The swap found no row to change although all of them look right: let them be read again.
                Ok(Outcome::Lost(Fate::NotCommitted)) => {
                    let all = work.advances.iter().map(|advance| advance.partition).collect();
                    return Ok(self.lost(Fate::Moved(all), attempt));
                }
                Ok(Outcome::Lost(fate)) => return Ok(self.lost(fate, attempt)),
                Err(error) => error,
            };
            let next = policy::after(error.kind);
            tracing::debug!(pipeline = self.settings.name, attempt, ?next, %error, "transaction not applied");
            match next {
                // A lock that somebody holds for long is worth knowing about.
                Move::Repeat if attempt >= 5 || began.elapsed() > LONG_WAIT => {
                    self.health.enter(State::Waiting, &error.to_string())
                }
                Move::Repeat => {}
                Move::Wait | Move::WaitForOperator => self.health.enter(State::Waiting, &error.to_string()),
                Move::ReadBack => match self.read_back(work, &error).await {
                    Some(Fate::NotCommitted) => continue,
                    Some(fate) => return Ok(self.lost(fate, attempt)),
                    None => return Ok(Applied::Stopped),
                },
                Move::FindRows => match self.refusals(work, Vec::new()).await {
                    Ok(applied) => return Ok(applied),
                    // Whatever ended the search is judged when the transaction is tried again.
                    Err(error) => self.health.enter(State::Waiting, &error.to_string()),
                },
                Move::Halt | Move::Crash => return Err(error),
            }
            self.health.update(|snapshot| snapshot.retries += 1);
            if !self.pause(policy::pause(next, attempt)).await {
                return Ok(Applied::Stopped);
            }
        }
    }

    fn recovered(&self) {
        self.health.enter(State::Running, "");
    }

    /// A fate other than "not there" as the outcome; forgets what isn't ours.
    fn lost(&mut self, fate: Fate, attempt: u32) -> Applied {
        match fate {
            Fate::Committed => {
                self.recovered();
                // What the merge said about superseded rows went down with the answer; the tables have it.
                Applied::Committed(Committed { superseded: Vec::new(), out_of_order: 0, retries: attempt })
            }
            Fate::NotCommitted => Applied::Lost(Vec::new()),
            Fate::Fenced(partitions) => {
                self.let_go(&partitions, false);
                Applied::Lost(partitions)
            }
            Fate::Moved(partitions) => {
                self.let_go(&partitions, true);
                Applied::Lost(partitions)
            }
        }
    }

    /// Asks the positions what became of `work`, until they answer. `None`: asked to stop, the next start will ask.
    async fn read_back(&mut self, work: &Work<'_>, doubt: &Error) -> Option<Fate> {
        tracing::warn!(pipeline = self.settings.name, reason = %doubt, "the answer to COMMIT is missing: reading positions back");
        let mut attempt = 0;
        loop {
            attempt += 1;
            match self.stations.sink.fate(&work.advances, &work.id).await {
                Ok(fate) => {
                    tracing::info!(pipeline = self.settings.name, ?fate, "positions read back");
                    return Some(fate);
                }
                Err(error) => {
                    let reason = format!("fate of a COMMIT unknown: {error}");
                    self.health.enter(State::Waiting, &reason);
                    if !self.pause(policy::pause(Move::ReadBack, attempt)).await {
                        return None;
                    }
                }
            }
        }
    }

    /// Row faults as refusals of the events behind the rows; searched for where the server didn't name them. Not before it is clear
    /// that the target is still what the rows were made for: an altered one refuses every row.
    async fn refusals(&mut self, work: &Work<'_>, faults: Vec<RowFault>) -> Result<Applied> {
        if self.look_at_target().await? {
            return Ok(Applied::Altered);
        }
        let refusals = if faults.is_empty() { self.find_rows(work).await? } else { refusals_of(work, faults)? };
        Ok(Applied::Refused(refusals))
    }

    async fn find_rows(&mut self, work: &Work<'_>) -> Result<Vec<Refusal>> {
        let faults = self.stations.sink.refused_rows(work.latest).await?;
        if faults.is_empty() {
            let what = "MySQL refuses a batch, but none of its rows by itself";
            return Err(Error::new(Kind::SinkConfig, what).remedy("look at the target's constraints and triggers"));
        }
        refusals_of(work, faults)
    }
}

fn refusals_of(work: &Work<'_>, faults: Vec<RowFault>) -> Result<Vec<Refusal>> {
    let bug = || Error::new(Kind::Bug, "latest carries no version columns");
    let partitions = work
        .latest
        .column_by_name("cdc_partition")
        .and_then(|column| column.as_primitive_opt::<Int32Type>())
        .ok_or_else(bug)?;
    let offsets = work
        .latest
        .column_by_name("cdc_offset")
        .and_then(|column| column.as_primitive_opt::<Int64Type>())
        .ok_or_else(bug)?;
    Ok(faults
        .into_iter()
        .filter(|fault| fault.row < partitions.len())
        .map(|fault| Refusal {
            position: Position { partition: partitions.value(fault.row), offset: offsets.value(fault.row) },
            keys: Vec::new(),
            stage: Stage::MySql,
            model: None,
            column: fault.column,
            reason: fault.reason,
        })
        .collect())
}

/// A random name for one transaction.
pub(super) fn token() -> Token {
    rand::rng().random()
}
