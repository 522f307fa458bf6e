//! What is due by the clock: marks in quarantine, changed lookups, expired tombstones, partitions that nobody reads, the interval's
//! summary; and whether database and target still are as we think, which a partition without traffic would not notice otherwise.
//!
//! None of it may stop the road: what fails for lack of a database is left for the next time.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::health::State;
use super::lanes::Parcel;
use super::policy;
use super::target::LOOK_AT_TARGET;
use super::{Pipeline, Stations, sum_changes};
use crate::error::{Error, Kind, Result};
use crate::position::Partition;
use crate::sink::Superseded;
use crate::sink::positions::SumChanges;
use crate::sink::summary::{self, Summary};
use crate::work::Evaluation;

const LOOK_AT_MARKS: Duration = Duration::from_secs(1);
const LOOK_AT_POSITIONS: Duration = Duration::from_secs(5);
const SWEEP_TOMBSTONES: Duration = Duration::from_secs(10);
const LOOK_FOR_UNREAD: Duration = Duration::from_secs(5);
/// After so many intervals without an end a producer's transaction is worth a warning.
const OPEN_FOR_LONG: u32 = 6;

/// What the sink said about a committed batch.
#[derive(Debug, Default)]
pub(super) struct Committed {
    pub superseded: Vec<Superseded>,
    pub out_of_order: usize,
    pub retries: u32,
}

/// Clocks of one pipeline.
pub(super) struct Upkeep {
    metrics_interval: Duration,
    pub(super) marks: Instant,
    lookups: Instant,
    positions: Instant,
    tombstones: Instant,
    unread: Instant,
    /// The next look at the target.
    pub(super) target: Instant,
    summary_due: Instant,
    summary: Summary,
    newest_event_ns: Option<i64>,
    /// By partition: where a producer's open transaction begins, and for how many intervals it has been there.
    open_transactions: BTreeMap<Partition, (i64, u32)>,
    /// Why upkeep has shown the pipeline as waiting.
    shown: Option<String>,
    /// There is more to run again than fits into one turn.
    pub(super) rerun_goes_on: bool,
}

impl Upkeep {
    pub(super) fn new(metrics_interval: Duration) -> Self {
        let now = Instant::now();
        Self {
            metrics_interval,
            marks: now + LOOK_AT_MARKS,
            lookups: now,
            positions: now + LOOK_AT_POSITIONS,
            tombstones: now + SWEEP_TOMBSTONES,
            unread: now + LOOK_FOR_UNREAD,
            target: now + LOOK_AT_TARGET,
            summary_due: now + metrics_interval,
            summary: Summary { start_us: now_us(), ..Summary::default() },
            newest_event_ns: None,
            open_transactions: BTreeMap::new(),
            shown: None,
            rerun_goes_on: false,
        }
    }

    pub(super) fn next_due(&self) -> Instant {
        let clocks = [self.lookups, self.positions, self.tombstones, self.unread, self.target, self.summary_due];
        clocks.into_iter().fold(self.marks, Instant::min)
    }
}

impl Pipeline {
    /// Does one thing that is due: each may wait for a database that doesn't answer, and what lands meanwhile has its turn in between.
    pub(super) async fn upkeep_due(&mut self) -> Result<()> {
        let now = Instant::now();
        // The next time is set whether or not there is anything to do: what stays due would keep the loop from polling.
        if now >= self.upkeep.positions {
            self.upkeep.positions = now + LOOK_AT_POSITIONS;
            // What is under way finds out by itself, and would have to be waited for.
            if self.lanes.is_idle() {
                let done = self.look_at_positions().await;
                self.tolerate("looking at the positions", done)?;
            }
        } else if now >= self.upkeep.target {
            self.land_all().await?;
            let done = self.target_due().await;
            self.tolerate("looking at the target", done)?;
        } else if now >= self.upkeep.lookups {
            let done = self.refresh_lookups().await;
            self.upkeep.lookups = self.stations.lookups.next_due();
            self.tolerate("refreshing lookups", done)?;
        } else if now >= self.upkeep.tombstones {
            self.upkeep.tombstones = now + SWEEP_TOMBSTONES;
            let done = self.sweep_tombstones().await;
            self.tolerate("expiring tombstones", done)?;
        } else if now >= self.upkeep.unread {
            self.upkeep.unread = now + LOOK_FOR_UNREAD;
            let done = self.look_for_unread().await;
            self.tolerate("looking for partitions that nobody reads", done)?;
        } else if now >= self.upkeep.summary_due {
            self.write_summary().await;
        } else if now >= self.upkeep.marks {
            // Last, because it may be due all the time.
            self.upkeep.marks = now + LOOK_AT_MARKS;
            match self.rerun_due().await {
                Ok(()) => self.answers_again(),
                Err(error) => self.show(error)?,
            }
        }
        Ok(())
    }

    async fn sweep_tombstones(&mut self) -> Result<()> {
        if self.owned.is_empty() {
            return Ok(());
        }
        self.stations.sink.sweep_tombstones(self.settings.tombstone_retention).await.map(drop)
    }

    /// Errors that pass by themselves are logged and left for the next time.
    pub(super) fn tolerate(&self, doing: &str, done: Result<()>) -> Result<()> {
        let Err(error) = done else { return Ok(()) };
        if policy::pace(error.kind).is_none() {
            return Err(error);
        }
        tracing::warn!(pipeline = self.settings.name, reason = %error, "{doing} has to wait");
        Ok(())
    }

    /// Shows a database that is away or refuses us, though nothing is to be written at the moment.
    fn show(&mut self, error: Error) -> Result<()> {
        match error.kind {
            Kind::SinkUnavailable | Kind::SinkConfig => {
                let reason = format!("looking at the quarantine: {error}");
                self.health.enter(State::Waiting, &reason);
                self.upkeep.shown = Some(reason);
                Ok(())
            }
            _ => self.tolerate("looking at the quarantine", Err(error)),
        }
    }

    /// The database answers again: what was shown for its sake, and by nobody else since, is over.
    fn answers_again(&mut self) {
        if let Some(reason) = self.upkeep.shown.take()
            && self.health.snapshot().reason == reason
        {
            self.health.enter(State::Running, "");
        }
    }

    /// Takes up what lookups have become, between two batches, and has another try at what they made fail.
    async fn refresh_lookups(&mut self) -> Result<()> {
        let Stations { lookups, engine, .. } = &mut self.stations;
        lookups.refresh(engine);
        if !lookups.is_retry_due() || self.upkeep.rerun_goes_on {
            return Ok(());
        }
        self.land_all().await?;
        self.stations.lookups.retry_begun();
        let marked = match self.retry_model_refusals().await {
            Ok(marked) => marked,
            Err(error) => {
                self.stations.lookups.retry_failed();
                return Err(error);
            }
        };
        if marked == 0 {
            self.stations.lookups.retry_ended();
            return Ok(());
        }
        tracing::info!(
            pipeline = self.settings.name,
            records = marked,
            "lookup changed: records that the models refused are tried again"
        );
        self.rerun_due().await
    }

    /// One line per sink cycle, and the figures for the interval.
    pub(super) fn report(&mut self, parcel: &Parcel, committed: &Committed, sink: Duration) {
        let Parcel { raw, evaluation, decode, sql, .. } = parcel;
        let mut sums = SumChanges::default();
        for partition in &evaluation.sums {
            sums.add(&sum_changes(partition));
            self.upkeep.newest_event_ns = self.upkeep.newest_event_ns.max(partition.high_water_ns);
        }
        for lost in &committed.superseded {
            sums.upserted -= lost.upserts;
            sums.deleted -= lost.deletes;
            sums.superseded += lost.upserts + lost.deletes;
        }
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let (lag, freshness) = (self.lag(), self.freshness_ms());
        let summary = &mut self.upkeep.summary;
        summary.transactions += 1;
        summary.retries += u64::from(committed.retries);
        summary.sums.add(&sums);
        summary.out_of_order += committed.out_of_order as u64;
        summary.bytes_read += raw.byte_len() as u64;
        summary.decode_ms += ms(*decode);
        summary.sql_ms += ms(*sql);
        summary.sink_ms += ms(sink);
        if let Some(figures) = summary_figures(evaluation) {
            summary.extra = Some(figures);
        }
        let buffered = self.stations.source.stats().buffered_bytes;
        self.health.update(|snapshot| {
            snapshot.totals.add(&sums);
            snapshot.transactions += 1;
            snapshot.out_of_order += committed.out_of_order as u64;
            snapshot.lag_records = lag;
            snapshot.freshness_ms = freshness;
            snapshot.buffered_bytes = buffered;
        });
        tracing::info!(
            pipeline = self.settings.name,
            read = sums.read,
            ignored = sums.ignored,
            refused = sums.refused,
            held = sums.held,
            accepted = sums.accepted,
            upserted = sums.upserted,
            deleted = sums.deleted,
            superseded = sums.superseded,
            out_of_order = committed.out_of_order,
            decode_ms = ms(*decode),
            sql_ms = ms(*sql),
            sink_ms = ms(sink),
            lag,
            freshness_ms = freshness,
            retries = committed.retries,
            figures = summary_figures(evaluation),
            "batch applied"
        );
    }

    /// Records between our positions and the ends of our partitions, as of a few seconds ago; those behind an open transaction
    /// count, although they can't be read yet.
    fn lag(&self) -> Option<i64> {
        let stats = self.stations.source.stats();
        let mut lag = None;
        for known in &stats.partitions {
            if let (Some(owned), Some(end)) = (self.owned.get(&known.assignment.partition), known.end) {
                *lag.get_or_insert(0) += (end.high - owned.stored.next_offset).max(0);
            }
        }
        lag
    }

    fn freshness_ms(&self) -> Option<i64> {
        self.upkeep.newest_event_ns.map(|newest| now_us() / 1000 - newest / 1_000_000)
    }

    /// Names partitions whose records wait for the end of a producer's transaction, once that has taken long (P6): a producer
    /// that is gone for good stalls its partition without an error anywhere.
    fn note_open_transactions(&mut self) {
        let mut open = BTreeMap::new();
        for known in self.stations.source.stats().partitions {
            let (partition, Some(end)) = (known.assignment.partition, known.end) else { continue };
            if end.stable >= end.high {
                continue;
            }
            let intervals = match self.upkeep.open_transactions.get(&partition) {
                Some((stable, intervals)) if *stable == end.stable => intervals + 1,
                _ => 0,
            };
            open.insert(partition, (end.stable, intervals));
            if intervals == OPEN_FOR_LONG {
                tracing::warn!(
                    pipeline = self.settings.name,
                    partition,
                    offset = end.stable,
                    records = end.high - end.stable,
                    "records wait for the end of a producer's open transaction"
                );
            }
        }
        self.upkeep.open_transactions = open;
    }

    /// Writes the interval's row, if anything was known of it, and begins the next interval. Best effort.
    pub(super) async fn write_summary(&mut self) {
        self.upkeep.summary_due = Instant::now() + self.upkeep.metrics_interval;
        self.note_open_transactions();
        let (lag, freshness) = (self.lag(), self.freshness_ms());
        let next = Summary { start_us: now_us(), ..Summary::default() };
        let mut summary = std::mem::replace(&mut self.upkeep.summary, next);
        summary.end_us = now_us();
        summary.lag_records = lag;
        summary.freshness_ms = freshness;
        self.health.update(|snapshot| (snapshot.lag_records, snapshot.freshness_ms) = (lag, freshness));
        let seconds = (summary.end_us - summary.start_us) as f64 / 1e6;
        tracing::info!(
            pipeline = self.settings.name,
            seconds,
            transactions = summary.transactions,
            retries = summary.retries,
            read = summary.sums.read,
            upserted = summary.sums.upserted,
            deleted = summary.sums.deleted,
            refused = summary.sums.refused,
            held = summary.sums.held,
            out_of_order = summary.out_of_order,
            lag,
            freshness_ms = freshness,
            "interval"
        );
        let owner = self.stations.sink.owner().clone();
        let written = match self.stations.sink.session().await {
            Ok(session) => summary::write(session, &owner, &summary).await,
            Err(error) => Err(error),
        };
        if let Err(error) = written {
            tracing::warn!(pipeline = self.settings.name, reason = %error, "the interval's row could not be written");
        }
    }
}

/// The model `metrics`' figures as JSON, if there are any.
fn summary_figures(evaluation: &Evaluation) -> Option<String> {
    (!evaluation.metrics.is_empty()).then(|| serde_json::Value::Object(evaluation.metrics.clone()).to_string())
}

/// Microseconds since 1970 UTC.
fn now_us() -> i64 {
    jiff::Timestamp::now().as_microsecond()
}
