//! The loop: take a batch, decode it, run the models, have it applied, tell the broker.
//!
//! One [`Pipeline`] keeps one table equal to one topic. It is the only file that knows all four stations; everything irregular is
//! one word that leads elsewhere: [`lanes`] has transactions under way while the next batches are evaluated, [`landing`] says what becomes
//! of them, [`adopt`] positions partitions, [`commit`] repeats a transaction until its fate is known,
//! [`rerun`] takes records out of quarantine, [`target`] follows alterations of the table, [`reload`] takes up changed files, [`upkeep`] does what is due by the clock,
//! [`protocol`] says what follows each outcome of a transaction and [`policy`] how soon.
//!
//! Starting, recovering and rebalancing are the same act: forget, read the positions from MySQL, begin there. All that is kept in
//! memory between batches is [`Owned`] and the hold set, both read from MySQL at each assignment.

mod adopt;
pub mod breaker;
mod commit;
pub mod health;
mod landing;
mod lanes;
pub mod lookups;
pub mod pace;
pub mod policy;
pub mod protocol;
pub mod reload;
mod rerun;
mod target;
mod unread;
mod upkeep;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use self::adopt::Adoption;
use self::breaker::Breaker;
pub use self::breaker::BreakerLimits;
use self::health::{Health, State};
use self::lanes::{Event, Lanes, Parcel};
pub use self::lookups::{Lookup, Lookups, Origin};
use self::reload::Reload;
use self::unread::Unread;
use self::upkeep::Upkeep;
use crate::decode::{DecodeRefusal, Decoded, Decoder};
use crate::error::{Error, Kind, Result};
use crate::failpoint::failpoint;
use crate::generation::Marks;
use crate::hold::HoldSet;
use crate::position::{Partition, Position};
use crate::record::RawBatch;
use crate::sink::Sink;
use crate::sink::positions::{Advance, SumChanges, Token};
use crate::source::{Assignment, BatchLimits, Broker, Polled, Source};
use crate::sql::{Engine, Input};
use crate::work::{Evaluation, PartitionSums, Refusal};

/// What the loop needs to know besides its stations.
#[derive(Debug, Clone)]
pub struct Settings {
    pub name: String,
    pub topic: Arc<str>,
    pub table: String,
    pub limits: BatchLimits,
    /// How many transactions may be open at the same time, each of other partitions.
    pub lanes: usize,
    pub stop_on_refusal: bool,
    pub breaker: BreakerLimits,
    pub tombstone_retention: Duration,
    pub metrics_interval: Duration,
    /// End once everything that was there at the start is applied.
    pub until_caught_up: bool,
}

/// The four stations of one pipeline, ready to run.
pub struct Stations {
    pub source: Source,
    pub broker: Broker,
    pub decoder: Decoder,
    pub engine: Engine,
    pub sink: Sink,
    pub lookups: Lookups,
    /// Of the definition that decoder and engine were made from.
    pub marks: Marks,
}

/// A partition that is ours, as far as memory knows.
#[derive(Debug, Clone)]
struct Owned {
    assignment: Assignment,
    epoch: i64,
    /// As MySQL has it: moves with each commit.
    stored: Standing,
    /// As it will be when everything under way is committed.
    ahead: Standing,
}

/// How far a partition is.
#[derive(Debug, Clone, Copy)]
struct Standing {
    next_offset: i64,
    /// The transaction that moved it last.
    transaction: Token,
    high_water_ns: Option<i64>,
}

/// What the loop does next.
enum Next {
    Landing(Event),
    Polled(Polled),
    /// Nothing but what is due anyway.
    Due,
}

/// Why a pipeline ended without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Asked to.
    Stopped,
    /// Everything that was there at the start is applied.
    CaughtUp,
}

/// One topic kept as one table.
pub struct Pipeline {
    settings: Settings,
    stations: Stations,
    health: Health,
    stop: watch::Receiver<bool>,
    owned: BTreeMap<Partition, Owned>,
    lanes: Lanes,
    adoption: Adoption,
    /// Includes what is under way.
    holds: HoldSet,
    breaker: Breaker,
    upkeep: Upkeep,
    unread: Unread,
    reload: Reload,
}

impl Pipeline {
    pub fn new(
        settings: Settings,
        stations: Stations,
        health: Health,
        stop: watch::Receiver<bool>,
        reload: Reload,
    ) -> Self {
        let breaker = Breaker::new(settings.breaker);
        let upkeep = Upkeep::new(settings.metrics_interval);
        let lanes = Lanes::new(settings.lanes, settings.limits, stop.clone());
        Self {
            settings,
            stations,
            health,
            stop,
            owned: BTreeMap::new(),
            lanes,
            adoption: Adoption::default(),
            holds: HoldSet::default(),
            breaker,
            upkeep,
            unread: Unread::default(),
            reload,
        }
    }

    /// Runs until asked to stop, until caught up (if that was asked for), until outdated, or until an error that only an operator can
    /// mend. Gives the line to the watcher of its files back.
    pub async fn run(mut self) -> (Result<Ended>, Reload) {
        let ended = self.road().await;
        // What is under way is let finish; what stands back is nobody's loss: it will be read again.
        while !self.lanes.is_idle() {
            let event = self.lanes.next().await;
            self.note(event).await;
        }
        match &ended {
            Ok(_) => self.health.enter(State::Stopped, ""),
            Err(error) if error.kind == Kind::Outdated => self.health.enter(State::Waiting, &error.to_string()),
            Err(error) => self.health.enter(State::Halted, &error.to_string()),
        }
        self.write_summary().await;
        // Whoever looks now sees that they are others' to take.
        self.owned.clear();
        self.publish_partitions();
        let left = self.stations.source.close(Duration::from_secs(3)).await;
        tracing::info!(pipeline = self.settings.name, left_group = left, "pipeline ended");
        (ended, self.reload)
    }

    async fn road(&mut self) -> Result<Ended> {
        if !self.open().await? {
            return Ok(Ended::Stopped);
        }
        loop {
            if self.stopping() {
                return Ok(Ended::Stopped);
            }
            if self.reload.outdated {
                self.land_all().await?;
                if !self.catch_up().await? {
                    return Ok(Ended::Stopped);
                }
            }
            if self.settings.until_caught_up && self.caught_up().await? {
                return Ok(Ended::CaughtUp);
            }
            let due = self.upkeep.next_due().min(self.adoption.due()).min(self.reload.due());
            let asks = self.lanes.asks();
            let next = tokio::select! {
                // A request to stop comes before more work, and that before the clock, which has its turn after every batch anyway.
                biased;
                _ = self.stop.changed() => continue,
                event = self.lanes.next() => Next::Landing(event),
                // Before the clock: whatever is due is done below in any case, and nothing that is due can starve the source.
                polled = self.stations.source.next(&asks) => Next::Polled(polled),
                seen = self.reload.news() => {
                    self.note_files(seen);
                    Next::Due
                }
                () = tokio::time::sleep_until(due.into()) => Next::Due,
            };
            match next {
                Next::Landing(event) => self.land(event).await?,
                Next::Polled(Polled::Batch(raw)) => self.launch(raw).await?,
                Next::Polled(Polled::Assigned(assignments)) => self.adoption.add(assignments),
                Next::Polled(Polled::Revoked(partitions)) => self.revoke(&partitions),
                Next::Polled(Polled::PositionLost { assignment, what }) => self.reposition(assignment, &what),
                Next::Polled(Polled::Trouble(error)) => self.trouble(error)?,
                Next::Polled(Polled::Recovered) => self.health.enter(State::Running, ""),
                Next::Polled(Polled::AtEnd(_)) | Next::Due => {}
            }
            self.reload_due().await?;
            self.adopt_due().await?;
            self.upkeep_due().await?;
        }
    }

    /// One batch along the road, as far as the lanes: they apply it while the next one comes along.
    async fn launch(&mut self, mut raw: RawBatch) -> Result<()> {
        failpoint!("after_poll");
        self.keep_owned(&mut raw);
        if !raw.chunks.is_empty() {
            let parcel = self.prepare(raw, &[]).await?;
            self.send(parcel);
        }
        Ok(())
    }

    /// Bytes to Arrow to rows.
    async fn prepare(&mut self, raw: RawBatch, forced: &[Refusal]) -> Result<Parcel> {
        let started = Instant::now();
        let decoded = self.stations.decoder.decode(raw.records())?;
        let decode = started.elapsed();
        self.note_unmapped(&decoded);
        let started = Instant::now();
        let evaluation = self.evaluate(&raw, &decoded, forced, &HashSet::new()).await?;
        let sql = started.elapsed();
        self.judge(&evaluation)?;
        failpoint!("after_models");
        let advances = self.advances(&raw, &evaluation);
        Ok(Parcel::new(raw, evaluation, advances, decode, sql))
    }

    /// Drops chunks of partitions that aren't ours any more and any that doesn't begin where we stand: nothing is skipped (P3).
    fn keep_owned(&mut self, raw: &mut RawBatch) {
        let mut misplaced = Vec::new();
        raw.chunks.retain(|chunk| match self.owned.get(&chunk.partition) {
            Some(owned) if owned.ahead.next_offset == chunk.from => true,
            Some(owned) => {
                misplaced.push((owned.assignment, owned.ahead.next_offset, chunk.from));
                false
            }
            None => false,
        });
        for (assignment, next_offset, from) in misplaced {
            let (pipeline, partition) = (self.settings.name.as_str(), assignment.partition);
            tracing::warn!(
                pipeline,
                partition,
                next_offset,
                from,
                "records do not begin where the position stands: reading again"
            );
            self.stations.source.position(assignment, next_offset);
        }
    }

    /// Runs the models; once more if values were refused for the sake of a target that has been altered meanwhile.
    async fn evaluate(
        &mut self,
        raw: &RawBatch,
        decoded: &Decoded,
        forced: &[Refusal],
        rerun: &HashSet<Position>,
    ) -> Result<Evaluation> {
        let evaluation = self.run_models(raw, decoded, forced, rerun).await?;
        if self.target_fits_by_now(&evaluation).await {
            return self.run_models(raw, decoded, forced, rerun).await;
        }
        Ok(evaluation)
    }

    async fn run_models(
        &mut self,
        raw: &RawBatch,
        decoded: &Decoded,
        forced: &[Refusal],
        rerun: &HashSet<Position>,
    ) -> Result<Evaluation> {
        let partitions: Vec<Partition> = raw.chunks.iter().map(|chunk| chunk.partition).collect();
        let high_water_ns: BTreeMap<Partition, i64> =
            self.owned.iter().filter_map(|(partition, owned)| Some((*partition, owned.ahead.high_water_ns?))).collect();
        let decode_refused: Vec<Refusal> = decoded.refused.iter().map(DecodeRefusal::to_refusal).collect();
        let input = Input {
            events: decoded.events.clone(),
            salvage: decoded.salvage.clone(),
            decode_refused: &decode_refused,
            ignored: &decoded.ignored,
            forced,
            holds: &self.holds,
            rerun,
            high_water_ns: &high_water_ns,
            partitions: &partitions,
        };
        self.stations.engine.evaluate(input).await.map_err(|error| error.at(format!("pipeline {}", self.settings.name)))
    }

    /// Stops the pipeline where a refusal must, or where there are too many of them.
    fn judge(&self, evaluation: &Evaluation) -> Result<()> {
        if let (true, Some(refusal)) = (self.settings.stop_on_refusal, evaluation.refused.first()) {
            let reason = self.stations.engine.reason_without_values(refusal);
            let what = format!("{} is refused at {}: {reason}", refusal.position, refusal.stage.name());
            return Err(Error::new(Kind::RecordRefused, what).at(format!("topic `{}`", self.settings.topic)).remedy(
                "mend the producer, the models or the schema and start again; on_error = \"hold_key\" or \"skip_event\" goes on instead",
            ));
        }
        let mut read: u64 = evaluation.sums.iter().map(|sums| sums.classes.read).sum();
        let mut refused = evaluation.refused.len() as u64;
        for parcel in self.lanes.parcels() {
            read += parcel.read();
            refused += parcel.evaluation.refused.len() as u64;
        }
        if let Some((refused, read)) = self.breaker.would_trip(Instant::now(), read, refused) {
            let example = evaluation.refused.first().map(|refusal| {
                let reason = self.stations.engine.reason_without_values(refusal);
                format!(", e.g. {}: {reason}", refusal.position)
            });
            let what = format!(
                "{refused} of {read} records were refused within {:?}{}",
                self.settings.breaker.window,
                example.unwrap_or_default()
            );
            return Err(Error::new(Kind::TooManyRefused, what).remedy(
                "nothing of this batch was applied; mend the cause (a changed schema, model or lookup?) and start again, or raise max_refused",
            ));
        }
        Ok(())
    }

    /// The positions that a batch moves, with its sums.
    fn advances(&self, raw: &RawBatch, evaluation: &Evaluation) -> Vec<Advance> {
        raw.chunks
            .iter()
            .filter_map(|chunk| {
                let owned = self.owned.get(&chunk.partition)?;
                let sums = evaluation.sums.iter().find(|sums| sums.partition == chunk.partition);
                Some(Advance {
                    partition: chunk.partition,
                    epoch: owned.epoch,
                    last: owned.ahead.transaction,
                    from: chunk.from,
                    to: chunk.to,
                    high_water_ns: sums.and_then(|sums| sums.high_water_ns),
                    sums: sums.map(sum_changes).unwrap_or_default(),
                    generation: self.stations.sink.owner().generation,
                })
            })
            .collect()
    }

    /// Warns once about each field that no schema knows, and counts all of them (P6).
    fn note_unmapped(&self, decoded: &Decoded) {
        if decoded.unmapped.is_empty() {
            return;
        }
        let mut news = Vec::new();
        self.health.update(|snapshot| news = snapshot.count_unmapped(&decoded.unmapped));
        let pipeline = self.settings.name.as_str();
        for field in news {
            tracing::warn!(
                pipeline,
                field,
                "events carry a field that no schema knows: it is counted and otherwise ignored"
            );
        }
    }

    fn revoke(&mut self, partitions: &[Partition]) {
        failpoint!("in_revoke");
        for partition in partitions {
            self.owned.remove(partition);
            self.holds.forget(*partition);
        }
        self.adoption.revoke(partitions);
        tracing::info!(pipeline = self.settings.name, ?partitions, "partitions revoked");
        self.publish_partitions();
    }

    /// Kafka does not have what comes next, as far as the client can tell: look closer before deciding.
    fn reposition(&mut self, assignment: Assignment, what: &str) {
        let (pipeline, partition) = (self.settings.name.as_str(), assignment.partition);
        tracing::warn!(pipeline, partition, what, "position lost");
        self.owned.remove(&assignment.partition);
        // Or its records might be run again together with those of partitions that are ours.
        self.holds.forget(assignment.partition);
        self.adoption.add(vec![assignment]);
    }

    fn trouble(&mut self, error: Error) -> Result<()> {
        if policy::pace(error.kind).is_none() {
            return Err(error);
        }
        self.health.enter(State::Waiting, &error.to_string());
        Ok(())
    }

    fn stopping(&self) -> bool {
        *self.stop.borrow()
    }

    /// Waits before another attempt; `false` if a request to stop came meanwhile.
    async fn pause(&mut self, length: Duration) -> bool {
        if self.stopping() {
            return false;
        }
        tokio::select! {
            () = tokio::time::sleep(length) => true,
            _ = self.stop.changed() => !self.stopping(),
        }
    }
}

/// A batch's sums as the positions row takes them.
pub fn sum_changes(sums: &PartitionSums) -> SumChanges {
    let count = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    SumChanges {
        read: count(sums.classes.read),
        ignored: count(sums.classes.ignored),
        refused: count(sums.classes.refused),
        held: count(sums.classes.held),
        accepted: count(sums.classes.accepted),
        changes: count(sums.changes.changes),
        upserted: count(sums.changes.upserted),
        deleted: count(sums.changes.deleted),
        superseded: count(sums.changes.superseded),
    }
}
