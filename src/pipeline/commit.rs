//! Committing: repeats one transaction until its fate is known.
//!
//! In: shaped work, and perhaps what came of a first attempt. Out: committed, refused rows to take out, partitions that aren't ours any more, or "asked to stop". A sick
//! database makes it wait, visibly, for as long as it takes; a COMMIT without an answer is settled by the positions before anything
//! else happens, however often that question has to be asked.

use std::time::{Duration, Instant};

use arrow::array::AsArray;
use arrow::datatypes::{Int32Type, Int64Type};
use rand::RngExt;

use super::health::State;
use super::policy::{self, Pace};
use super::protocol::{self, Claim, Next, Observed};
use super::{Pipeline, Stations, upkeep::Committed};
use crate::error::{Error, Kind, Result};
use crate::failpoint::failpoint;
use crate::position::{Partition, Position};
use crate::sink::positions::Token;
use crate::sink::{Outcome, RowFault, Staging, Work};
use crate::work::{Refusal, Stage, Suspicion};

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
    /// Nothing was applied; another generation of the definition is in use: see [`Pipeline::catch_up`].
    Outdated,
    /// Nothing was applied; these partitions aren't where (or whose) we thought.
    Lost(Vec<Partition>),
    /// Nothing was applied; we were asked to stop.
    Stopped,
}

impl Pipeline {
    /// Repeats `work` until its fate is known; `tried` is what came of the first attempt, if there was one. What follows each attempt and
    /// each question is for [`protocol::next`] to say. Nothing else may be under way.
    pub(super) async fn commit(
        &mut self,
        work: &Work<'_>,
        suspicion: &Suspicion,
        mut tried: Option<Result<Outcome>>,
    ) -> Result<Applied> {
        let owner = self.stations.sink.owner().token;
        let claim = Claim { id: &work.id, owner: &owner, advances: &work.advances };
        // Attempts to apply, and questions what became of the last one: none while it isn't in doubt.
        let (mut attempt, mut asked) = (0, 0);
        let began = Instant::now();
        loop {
            let outcome = if asked == 0 {
                attempt += 1;
                match tried.take() {
                    Some(outcome) => outcome,
                    None => self.attempt(work, suspicion).await,
                }
            } else {
                failpoint!("before_read_back");
                self.stations.sink.find(&work.advances).await.map(Outcome::Lost)
            };
            let next = protocol::next(&claim, observed(&outcome, asked > 0));
            self.log(&next, &outcome, attempt, asked);
            let (pace, tries, reason) = match next {
                Next::Advance => {
                    self.health.enter(State::Running, "");
                    self.follow(&work.id, &work.advances);
                    return Ok(Applied::Committed(committed(outcome, attempt)));
                }
                Next::Fenced(partitions) => {
                    self.let_go(&partitions, false);
                    return Ok(Applied::Lost(partitions));
                }
                Next::Moved(partitions) => {
                    self.let_go(&partitions, true);
                    return Ok(Applied::Lost(partitions));
                }
                Next::Outdated => {
                    self.reload.outdated = true;
                    return Ok(Applied::Outdated);
                }
                Next::ReadBack(pace) => {
                    asked += 1;
                    (pace, asked - 1, format!("fate of a COMMIT unknown: {}", trouble(outcome)))
                }
                Next::Repeat(pace) => {
                    asked = 0;
                    (pace, attempt, trouble(outcome).to_string())
                }
                Next::FindRows => match self.refusals(work, outcome).await {
                    Ok(applied) => return Ok(applied),
                    // Whatever ended the search is judged like any other error; nothing is open, nothing in doubt.
                    Err(error) => match policy::pace(error.kind) {
                        Some(pace) => (pace, attempt, error.to_string()),
                        None => return Err(error),
                    },
                },
                Next::Halt => return Err(trouble(outcome)),
            };
            if pace == Pace::AtOnce {
                continue;
            }
            // A lock that somebody holds for long is worth knowing about.
            if pace != Pace::Soon || tries >= 5 || began.elapsed() > LONG_WAIT {
                self.health.enter(State::Waiting, &reason);
            }
            if asked == 0 {
                self.health.update(|snapshot| snapshot.retries += 1);
            }
            if !self.pause(policy::pause(pace, tries)).await {
                return Ok(Applied::Stopped);
            }
        }
    }

    /// Tries to apply `work` once.
    async fn attempt(&mut self, work: &Work<'_>, suspicion: &Suspicion) -> Result<Outcome> {
        let Stations { sink, engine, .. } = &mut self.stations;
        let staged = match sink.stage(work).await? {
            Staging::Ready(staged) => staged,
            Staging::Refused(faults) => return Ok(Outcome::Rows(faults)),
        };
        let known = sink.known(work, &staged).await?;
        let evidence = engine.evidence(suspicion, &known).await?;
        sink.transact(work, &staged, &evidence).await
    }

    fn log(&self, next: &Next, outcome: &Result<Outcome>, attempt: u32, asked: u32) {
        let pipeline = self.settings.name.as_str();
        match (outcome, asked) {
            (Ok(_), 0) => {}
            (Ok(_), _) => tracing::info!(pipeline, ?next, "positions read back"),
            (Err(reason), 0) if matches!(next, Next::ReadBack(_)) => {
                tracing::warn!(pipeline, %reason, "the answer to COMMIT is missing: reading positions back");
            }
            (Err(error), _) => tracing::debug!(pipeline, attempt, asked, ?next, %error, "transaction not applied"),
        }
    }

    /// Row faults as refusals of the events behind the rows; searched for where the server didn't name them. Not before it is clear
    /// that the target is still what the rows were made for: an altered one refuses every row.
    async fn refusals(&mut self, work: &Work<'_>, outcome: Result<Outcome>) -> Result<Applied> {
        if self.look_at_target().await? {
            return Ok(Applied::Altered);
        }
        match outcome {
            Ok(Outcome::Rows(faults)) if !faults.is_empty() => return refusals_of(work, faults).map(Applied::Refused),
            Ok(_) | Err(_) => {}
        }
        let faults = self.stations.sink.refused_rows(work.latest).await?;
        if faults.is_empty() {
            let what = "MySQL refuses a batch, but none of its rows by itself";
            return Err(Error::new(Kind::SinkConfig, what).remedy("look at the target's constraints and triggers"));
        }
        refusals_of(work, faults).map(Applied::Refused)
    }
}

/// An outcome in the protocol's terms; `doubtful` where it answers the question what became of a COMMIT.
fn observed(outcome: &Result<Outcome>, doubtful: bool) -> Observed<'_> {
    match (outcome, doubtful) {
        (Ok(Outcome::Committed { .. }), _) => Observed::Committed,
        (Ok(Outcome::Rows(_)), _) => Observed::RowsRefused,
        (Ok(Outcome::Lost(found)), false) => Observed::SwapRefused(found),
        (Ok(Outcome::Lost(found)), true) => Observed::ReadBack(found),
        (Err(error), false) => Observed::Failed(error.kind),
        (Err(_), true) => Observed::ReadBackFailed,
    }
}

pub(super) fn committed(outcome: Result<Outcome>, attempt: u32) -> Committed {
    match outcome {
        Ok(Outcome::Committed { superseded, out_of_order }) => {
            Committed { superseded, out_of_order, retries: attempt - 1 }
        }
        // What the merge said about superseded rows went down with the answer; the tables have it.
        Ok(_) | Err(_) => Committed { superseded: Vec::new(), out_of_order: 0, retries: attempt },
    }
}

/// The error of an outcome that is one.
fn trouble(outcome: Result<Outcome>) -> Error {
    match outcome {
        Err(error) => error,
        Ok(outcome) => Error::new(Kind::Bug, format!("no error, but {outcome:?}")),
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
