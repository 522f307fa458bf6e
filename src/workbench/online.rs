//! Tables filled from the server: what a pipeline's batch would meet if it came now.
//!
//! In: a session that may only read, and the batches to come. Out: the workbench's tables with the rows, tombstones and quarantine of
//! exactly the keys that the batches may write, all of one instant; nothing is written, and no lock is taken.
//!
//! Which keys those are is found out by a first run over empty tables: what waits in quarantine can only make fewer events pass.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::{ArrayRef, BinaryArray, RecordBatch, StringArray, new_null_array};
use arrow::compute::{can_cast_types, cast, concat_batches};
use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;

use super::Bench;
use super::tables::{Quarantined, Row, Tables, Why};
use crate::config::Pipeline;
use crate::diagnostic::Diagnostic;
use crate::error::{Error, Kind, Result};
use crate::generation::Generation;
use crate::hold::{Key, PendingState};
use crate::position::{Partition, Position};
use crate::record::OwnedRecord;
use crate::sink::inspect;
use crate::sink::positions::Owner;
use crate::sink::quarantine::PendingRow;
use crate::sink::session::Session;
use crate::sink::stored::{self, Stored, StoredKey, StoredRow, Value};
use crate::sql::row_keys;
use crate::target::Target;
use crate::work::Stage;

/// What the server holds of the keys in question.
#[derive(Debug)]
pub struct Online {
    pub target: Target,
    keys: BTreeMap<Key, StoredKey>,
}

/// Whether the events are taken for news or for what the topic has held all along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum As {
    /// They come behind everything that was read: all that waits in quarantine makes its users' events wait.
    News,
    /// They stand where they stand: only records before them make them wait, and those among them are judged anew.
    History,
}

/// Faults of the server's tables, or why they can't be read.
#[derive(Debug)]
pub enum Refused {
    Faults(Vec<Diagnostic>),
    Error(Error),
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl Online {
    /// The stored row of `key`, if `row` of the simulated tables is still that one.
    pub fn row(&self, key: &Key, row: &Row) -> Option<&StoredRow> {
        let stored = self.keys.get(key)?.row.as_ref()?;
        (stored.version == row.version).then_some(stored)
    }
}

/// Gives `bench` the server's target, and tables as they would be met by `batches`.
pub async fn fill(
    bench: &mut Bench,
    session: &mut Session,
    pipeline: &Pipeline,
    batches: &[&[OwnedRecord]],
    taken: As,
) -> Result<Online, Refused> {
    let wanted = bench.engine_mut().derive_target(&pipeline.table);
    let target = inspect::target(session, &pipeline.table, &pipeline.key, Some(&wanted)).await?;
    let target = target.map_err(Refused::Faults)?.target;
    bench.engine_mut().set_target(target.clone()).map_err(Refused::Faults)?;
    bench.start(bench.empty()?);
    let rows = rows_to_come(bench, batches).await?;
    let partitions: BTreeSet<Partition> =
        batches.iter().flat_map(|batch| batch.iter()).map(|record| record.partition).collect();
    let partitions: Vec<Partition> = partitions.into_iter().collect();
    // Only the pipeline and the topic are read of it.
    let owner = Owner {
        pipeline: pipeline.name.clone(),
        topic: pipeline.topic.clone(),
        token: [0; 16],
        name: String::new(),
        generation: Generation::default(),
    };
    let stored = stored::read(session, &owner, &target, &rows, &partitions).await?;
    let texts = stored::key_texts(&target, &rows)?;
    let names: BTreeMap<String, Key> = texts.into_iter().zip(row_keys(&rows, target.key_len)?).collect();
    let Stored { keys, pending, high_water_ns } = stored;
    let keys: BTreeMap<Key, StoredKey> =
        keys.into_iter().filter_map(|(text, stored)| Some((names.get(&text)?.clone(), stored))).collect();
    let mut tables = bench.empty()?;
    keep_rows(&mut tables, &keys)?;
    tables.quarantine = waiting(pending, batches, taken);
    if taken == As::News {
        tables.high_water_ns = high_water_ns;
    }
    bench.start(tables);
    Ok(Online { target, keys })
}

/// All rows of `latest` that the batches could yield.
async fn rows_to_come(bench: &mut Bench, batches: &[&[OwnedRecord]]) -> Result<RecordBatch> {
    let none = bench.engine().no_rows()?;
    let mut latest = Vec::with_capacity(batches.len());
    for batch in batches {
        latest.push(bench.run(batch).await?.evaluation.latest);
    }
    let schema = none.schema();
    concat_batches(&schema, &latest)
        .map_err(|error| Error::new(Kind::Bug, "rows of latest don't fit together").source(error))
}

fn keep_rows(tables: &mut Tables, keys: &BTreeMap<Key, StoredKey>) -> Result<()> {
    let found: Vec<(&Key, &StoredRow)> =
        keys.iter().filter_map(|(key, stored)| Some((key, stored.row.as_ref()?))).collect();
    let mut cells: Vec<Vec<ScalarValue>> = vec![Vec::new(); found.len()];
    for (place, field) in tables.columns().fields().iter().enumerate() {
        let values: Vec<&Value> = found.iter().filter_map(|(_, row)| row.values.get(place)).collect();
        let typed = typed(&values, field.data_type())?;
        for (row, cells) in cells.iter_mut().enumerate() {
            let value = ScalarValue::try_from_array(&typed, row);
            cells.push(value.map_err(|error| Error::new(Kind::Bug, "a stored value can't be kept").source(error))?);
        }
    }
    for ((key, row), cells) in found.iter().zip(cells) {
        tables.rows.insert((*key).clone(), Row { version: row.version, cells });
    }
    for (key, stored) in keys {
        if let Some(version) = stored.tombstone {
            tables.tombstones.insert(key.clone(), version);
        }
    }
    Ok(())
}

/// The server's texts in a type of the models; NULL where that has no form for one.
fn typed(values: &[&Value], kind: &DataType) -> Result<ArrayRef> {
    let bytes = values.iter().map(|value| value.as_deref());
    if *kind == DataType::Binary {
        return Ok(std::sync::Arc::new(bytes.collect::<BinaryArray>()));
    }
    if !can_cast_types(&DataType::Utf8, kind) {
        return Ok(new_null_array(kind, values.len()));
    }
    let texts: StringArray = bytes.map(|bytes| bytes.map(String::from_utf8_lossy)).collect();
    cast(&texts, kind).map_err(|error| Error::new(Kind::Bug, format!("texts can't be read as {kind}")).source(error))
}

/// Records in quarantine that make events of `batches` wait.
fn waiting(pending: Vec<PendingRow>, batches: &[&[OwnedRecord]], taken: As) -> BTreeMap<Position, Quarantined> {
    let mut first: BTreeMap<Partition, i64> = BTreeMap::new();
    let mut among: BTreeSet<Position> = BTreeSet::new();
    for record in batches.iter().flat_map(|batch| batch.iter()) {
        let position = Position { partition: record.partition, offset: record.offset };
        among.insert(position);
        let first = first.entry(position.partition).or_insert(position.offset);
        *first = (*first).min(position.offset);
    }
    let waits = |position: &Position| match taken {
        As::News => !among.contains(position),
        As::History => first.get(&position.partition).is_some_and(|first| position.offset < *first),
    };
    pending
        .into_iter()
        .filter(|row| waits(&row.position))
        .map(|row| {
            let why = (row.pending.state != PendingState::Held).then(|| Why {
                stage: stage(&row.stage),
                model: None,
                column: None,
                reason: String::new(),
            });
            (row.position, Quarantined { keys: row.pending.keys, why, record: None })
        })
        .collect()
}

fn stage(name: &str) -> Stage {
    [Stage::Decode, Stage::Model, Stage::Target].into_iter().find(|stage| stage.name() == name).unwrap_or(Stage::MySql)
}
