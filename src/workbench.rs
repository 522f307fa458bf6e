//! The workbench: the road of one pipeline without servers, for whoever wants to know what an edit would do.
//!
//! In: [`OwnedRecord`]s, batch by batch, and [`Tables`] as they stand before the first. Out, for each batch, a [`Turn`]: every
//! model's rows, the [`Evaluation`], what would be written; and afterwards the tables as a database would then hold them.
//!
//! Decoder and engine are those of the service; only the transaction is played ([`tables`]). What needs a server or a clock isn't
//! there: MySQL's own refusals, retries from quarantine, tombstones that expire, `max_refused`. Nothing here prints.

pub mod difference;
pub mod effects;
pub mod events;
pub mod fixture;
pub mod online;
pub mod revision;
pub mod tables;
pub mod test;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;

pub use self::tables::{Late, Quarantined, Row, Tables, Why, Write, WriteKind};
use crate::config::{self, OnError};
use crate::decode::{DecodeRefusal, Decoded, Decoder};
use crate::diagnostic::Diagnostic;
use crate::error::{Error, Kind, Result};
use crate::hold::{HoldSet, Pending};
use crate::position::{Partition, Position, Version};
use crate::record::OwnedRecord;
use crate::service;
use crate::sql::{Engine, Input, row_keys};
use crate::work::{Evaluation, OutOfOrder, Refusal};

/// One pipeline, planned once, and the tables that it works on.
pub struct Bench {
    engine: Engine,
    decoder: Decoder,
    stop_on_refusal: bool,
    tables: Tables,
    /// What the tables' quarantine means to the engine.
    holds: HoldSet,
}

/// One batch along the road.
#[derive(Debug, Clone)]
pub struct Turn {
    /// Each model that ran, in running order.
    pub models: Vec<ModelRows>,
    pub evaluation: Evaluation,
    /// Late events of this batch.
    pub out_of_order: Vec<OutOfOrder>,
    /// Fields that no schema knows, by name, and how many good events of this batch had them.
    pub unmapped: BTreeMap<String, u64>,
    /// What becomes of each row of `latest`, in its order.
    pub writes: Vec<Write>,
    pub decode_time: Duration,
    pub models_time: Duration,
}

/// The rows of one model.
#[derive(Debug, Clone)]
pub struct ModelRows {
    pub name: String,
    pub rows: RecordBatch,
    pub took: Duration,
}

impl Bench {
    /// Loads and plans a pipeline as the service does, over empty tables. `lookups` are the rows of those lookups that aren't read
    /// from their files. Yields warnings besides, or every fault.
    pub async fn prepare(
        pipeline: &config::Pipeline,
        lookups: &BTreeMap<String, RecordBatch>,
    ) -> Result<(Self, Vec<Diagnostic>), Vec<Diagnostic>> {
        let (schema, engine, warnings) = service::prepare(pipeline, lookups).await?;
        let decoder = service::decoder(pipeline, &schema);
        let bench = Self::new(engine, decoder, pipeline.on_error)
            .map_err(|error| vec![Diagnostic::error("AI0113", error.to_string())])?;
        Ok((bench, warnings))
    }

    /// Goes on with an engine and a decoder that somebody else made.
    pub fn new(mut engine: Engine, decoder: Decoder, on_error: OnError) -> Result<Self> {
        engine.keep_rows();
        let tables = Tables::of(&engine)?;
        let stop_on_refusal = on_error == OnError::Stop;
        Ok(Self { engine, decoder, stop_on_refusal, tables, holds: HoldSet::default() })
    }

    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// To give it another target or other lookups; start anew afterwards, because the tables may have other columns then.
    pub fn engine_mut(&mut self) -> &mut Engine {
        &mut self.engine
    }

    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    pub fn into_tables(self) -> Tables {
        self.tables
    }

    /// Empty tables with the columns of this pipeline's target.
    pub fn empty(&self) -> Result<Tables> {
        Tables::of(&self.engine)
    }

    /// Forgets everything and goes on from `tables`: a start, a recovery, another test.
    pub fn start(&mut self, tables: Tables) {
        self.holds = HoldSet::default();
        for (position, record) in &tables.quarantine {
            let pending = Pending { keys: record.keys.clone(), state: record.pending() };
            self.holds.insert(*position, pending);
        }
        self.tables = tables;
    }

    /// One batch along the road, into the tables; `records` in any order, no position twice.
    ///
    /// Fails as the service would, and then nothing is applied: [`Kind::RecordRefused`] under `on_error = "stop"`, [`Kind::Model`]
    /// where a model yields what its contract forbids.
    pub async fn run(&mut self, records: &[OwnedRecord]) -> Result<Turn> {
        let mut sorted: Vec<&OwnedRecord> = records.iter().collect();
        sorted.sort_by_key(|record| (record.partition, record.offset));
        let started = Instant::now();
        let decoded = self.decoder.decode(sorted.iter().map(|record| record.as_raw()))?;
        let decode_time = started.elapsed();
        let started = Instant::now();
        let evaluation = self.evaluate(&decoded, &sorted).await?;
        self.judge(&evaluation)?;
        let known = self.known(&evaluation)?;
        let out_of_order = self.engine.evidence(&evaluation.suspicion, &known).await?;
        let models_time = started.elapsed();
        let writes = self.tables.apply(&evaluation, &sorted)?;
        self.tables.note(&out_of_order, &decoded.unmapped);
        for refusal in &evaluation.refused {
            self.hold(refusal.position);
        }
        for held in &evaluation.held {
            self.hold(held.position);
        }
        let models = self.engine.tables().map(|(name, rows, took)| {
            let (name, rows) = (name.to_owned(), rows.clone());
            ModelRows { name, rows, took }
        });
        let models = models.collect();
        let unmapped = decoded.unmapped;
        Ok(Turn { models, evaluation, out_of_order, unmapped, writes, decode_time, models_time })
    }

    async fn evaluate(&mut self, decoded: &Decoded, records: &[&OwnedRecord]) -> Result<Evaluation> {
        let decode_refused: Vec<Refusal> = decoded.refused.iter().map(DecodeRefusal::to_refusal).collect();
        let partitions: BTreeSet<Partition> = records.iter().map(|record| record.partition).collect();
        let partitions: Vec<Partition> = partitions.into_iter().collect();
        let input = Input {
            events: decoded.events.clone(),
            salvage: decoded.salvage.clone(),
            decode_refused: &decode_refused,
            ignored: &decoded.ignored,
            forced: &[],
            holds: &self.holds,
            rerun: &HashSet::new(),
            high_water_ns: &self.tables.high_water_ns,
            partitions: &partitions,
        };
        self.engine.evaluate(input).await
    }

    fn judge(&self, evaluation: &Evaluation) -> Result<()> {
        let Some(refusal) = evaluation.refused.first().filter(|_| self.stop_on_refusal) else { return Ok(()) };
        let what = format!("{} is refused at {}: {}", refusal.position, refusal.stage.name(), refusal.reason);
        Err(Error::new(Kind::RecordRefused, what).remedy("on_error = \"stop\" ends the pipeline here"))
    }

    /// What is stored of the suspects' keys before this batch.
    fn known(&self, evaluation: &Evaluation) -> Result<Vec<(usize, Option<Version>)>> {
        if evaluation.suspects.is_empty() {
            return Ok(Vec::new());
        }
        let keys = row_keys(&evaluation.latest, self.tables.key_len())?;
        let stored = |row: usize| keys.get(row).and_then(|key| self.tables.newest(key));
        Ok(evaluation.suspects.iter().map(|row| (*row, stored(*row))).collect())
    }

    fn hold(&mut self, position: Position) {
        if let Some(record) = self.tables.quarantine.get(&position) {
            self.holds.insert(position, Pending { keys: record.keys.clone(), state: record.pending() });
        }
    }
}

impl Turn {
    /// The rows of a model, if it ran.
    pub fn model(&self, name: &str) -> Option<&RecordBatch> {
        self.models.iter().find(|model| model.name == name).map(|model| &model.rows)
    }
}
