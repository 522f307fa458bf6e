//! The tables that a pipeline writes, held in memory, and the transaction of one batch on them.
//!
//! [`Tables::apply`] does to them what `sink/merge.rs` has MySQL do: a row or a tombstone gives way to any that is not older
//! (`>=`), a tombstone removes the row that it isn't older than, and a row that an older event would bring back stays gone.

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type, Schema, SchemaRef};
use datafusion::common::ScalarValue;
use std::sync::Arc;

use crate::error::{Error, Kind, Result};
use crate::hold::{Key, PendingState};
use crate::pipeline::sum_changes;
use crate::position::{Partition, Position, Version};
use crate::record::OwnedRecord;
use crate::sink::positions::SumChanges;
use crate::sql::{Engine, row_keys};
use crate::target::VERSION_COLUMNS;
use crate::work::{Evaluation, OutOfOrder, Refusal, Stage};

/// All that a database keeps of one pipeline.
#[derive(Debug, Clone)]
pub struct Tables {
    /// The target's columns without the version, key columns first, in the types that `latest` yields.
    columns: SchemaRef,
    key_len: usize,
    pub rows: BTreeMap<Key, Row>,
    /// The greatest version that deleted a key, even if it came back since.
    pub tombstones: BTreeMap<Key, Version>,
    pub quarantine: BTreeMap<Position, Quarantined>,
    pub out_of_order: BTreeMap<(Position, Key), Late>,
    pub sums: BTreeMap<Partition, SumChanges>,
    /// Fields that no schema knows, by name, and how many good events had them.
    pub unmapped: BTreeMap<String, u64>,
    /// Greatest event time accepted, per partition, nanoseconds.
    pub high_water_ns: BTreeMap<Partition, i64>,
    /// Offset after the last record applied, per partition.
    pub next_offset: BTreeMap<Partition, i64>,
}

/// A row of the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub version: Version,
    /// One per column of [`Tables::columns`], of that column's type.
    pub cells: Vec<ScalarValue>,
}

/// A record in quarantine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    /// Users it names, as far as they can be read.
    pub keys: Vec<Key>,
    /// Why it was refused; `None` for one that waits behind another.
    pub why: Option<Why>,
    /// The record itself; `None` where it stood there before the first batch.
    pub record: Option<OwnedRecord>,
}

/// Why a record was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Why {
    pub stage: Stage,
    pub model: Option<String>,
    pub column: Option<String>,
    pub reason: String,
}

/// An accepted event older than one accepted before it for the same user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Late {
    /// Its event time, nanoseconds.
    pub ts_ns: i64,
    /// The newest event accepted before it for that user.
    pub known: Version,
}

/// What becomes of one row of `latest`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    pub key: Key,
    pub kind: WriteKind,
    pub version: Version,
    /// The row that stood there before this batch.
    pub before: Option<Row>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WriteKind {
    Insert,
    Update,
    /// The row is gone, or there was none.
    Delete,
    /// A newer version is stored: nothing changes.
    Superseded,
}

impl WriteKind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Insert => "insert",
            Self::Update => "update",
            Self::Delete => "delete",
            Self::Superseded => "superseded",
        }
    }
}

impl Quarantined {
    pub fn state(&self) -> &'static str {
        if self.why.is_some() { "refused" } else { "held" }
    }

    pub(super) fn pending(&self) -> PendingState {
        if self.why.is_some() { PendingState::Refused } else { PendingState::Held }
    }
}

impl From<&Refusal> for Why {
    fn from(refusal: &Refusal) -> Self {
        let Refusal { stage, model, column, reason, .. } = refusal.clone();
        Self { stage, model, column, reason }
    }
}

impl Tables {
    /// Empty tables for what `engine` writes.
    pub fn of(engine: &Engine) -> Result<Self> {
        let latest = engine.no_rows()?.schema();
        // Behind the target's columns stand `_deleted` and the version.
        let count = latest.fields().len().saturating_sub(1 + VERSION_COLUMNS.len());
        let fields: Vec<_> = latest.fields().iter().take(count).cloned().collect();
        Ok(Self {
            columns: Arc::new(Schema::new(fields)),
            key_len: engine.key().len(),
            rows: BTreeMap::new(),
            tombstones: BTreeMap::new(),
            quarantine: BTreeMap::new(),
            out_of_order: BTreeMap::new(),
            sums: BTreeMap::new(),
            unmapped: BTreeMap::new(),
            high_water_ns: BTreeMap::new(),
            next_offset: BTreeMap::new(),
        })
    }

    pub fn columns(&self) -> &SchemaRef {
        &self.columns
    }

    pub fn key_len(&self) -> usize {
        self.key_len
    }

    /// The newest version that is stored of a key, as a row or as a tombstone.
    pub fn newest(&self, key: &Key) -> Option<Version> {
        self.rows.get(key).map(|row| row.version).max(self.tombstones.get(key).copied())
    }

    /// Tombstones of keys without a row: the ones that a late update would meet. The others depend on where batches were cut.
    pub fn standing_tombstones(&self) -> impl Iterator<Item = (&Key, Version)> {
        self.tombstones.iter().filter(|(key, _)| !self.rows.contains_key(*key)).map(|(key, version)| (key, *version))
    }

    /// Takes the newest version of each partition for the highest time seen there: for tables that were put together by hand.
    pub fn remember_high_water(&mut self) {
        let versions = self.rows.values().map(|row| row.version).chain(self.tombstones.values().copied());
        let versions: Vec<Version> = versions.collect();
        for version in versions {
            let top = self.high_water_ns.entry(version.partition).or_insert(version.ts_ns);
            *top = (*top).max(version.ts_ns);
        }
    }

    /// Rows of the target as a table, for whoever shows it.
    pub fn batch<'a>(&self, rows: impl IntoIterator<Item = &'a Row>) -> Result<RecordBatch> {
        let rows: Vec<&Row> = rows.into_iter().collect();
        if rows.is_empty() {
            return Ok(RecordBatch::new_empty(Arc::clone(&self.columns)));
        }
        let column =
            |index: usize| ScalarValue::iter_to_array(rows.iter().filter_map(|row| row.cells.get(index)).cloned());
        let columns = (0..self.columns.fields().len()).map(column).collect::<Result<Vec<_>, _>>().map_err(unfit)?;
        RecordBatch::try_new(Arc::clone(&self.columns), columns).map_err(unfit)
    }

    /// The transaction of one batch: all of it. What becomes of each row of `latest`, in its order.
    pub(super) fn apply(&mut self, evaluation: &Evaluation, records: &[&OwnedRecord]) -> Result<Vec<Write>> {
        let staged = Staged::new(&evaluation.latest, self.key_len)?;
        let before: Vec<Option<Row>> = staged.keys.iter().map(|key| self.rows.get(key).cloned()).collect();
        self.merge(&staged, &evaluation.latest)?;
        let mut writes = Vec::with_capacity(before.len());
        for (row, before) in before.into_iter().enumerate() {
            writes.push(self.outcome(&staged, row, before));
        }
        self.keep_sums(evaluation, &writes)?;
        for (position, quarantined) in quarantined(evaluation, records) {
            self.quarantine.insert(position, quarantined);
        }
        for record in records {
            let next = self.next_offset.entry(record.partition).or_default();
            *next = (*next).max(record.offset.saturating_add(1));
        }
        Ok(writes)
    }

    /// The four statements of `sink/merge.rs`, in their order.
    pub(super) fn merge(&mut self, staged: &Staged, latest: &RecordBatch) -> Result<()> {
        for (key, version, _) in staged.rows().filter(|(_, _, deleted)| *deleted) {
            let stored = self.tombstones.entry(key.clone()).or_insert(version);
            *stored = version.max(*stored);
        }
        for (row, (key, version, deleted)) in staged.rows().enumerate() {
            let newest = self.rows.get(key).is_none_or(|stored| version >= stored.version);
            if !deleted && newest {
                let cells = (0..self.columns.fields().len())
                    .map(|column| ScalarValue::try_from_array(latest.column(column), row))
                    .collect::<Result<Vec<_>, _>>()
                    .map_err(unfit)?;
                self.rows.insert(key.clone(), Row { version, cells });
            }
        }
        for (key, _, _) in staged.rows() {
            let gone = self.tombstones.get(key).copied();
            if self.rows.get(key).is_some_and(|row| gone.is_some_and(|gone| row.version <= gone)) {
                self.rows.remove(key);
            }
        }
        Ok(())
    }

    fn outcome(&self, staged: &Staged, row: usize, before: Option<Row>) -> Write {
        let (key, version, deleted) = staged.row(row);
        let superseded = self.newest(key).is_some_and(|newest| newest > version);
        let kind = match (superseded, deleted, &before) {
            (true, _, _) => WriteKind::Superseded,
            (false, true, _) => WriteKind::Delete,
            (false, false, None) => WriteKind::Insert,
            (false, false, Some(_)) => WriteKind::Update,
        };
        Write { key: key.clone(), kind, version, before }
    }

    fn keep_sums(&mut self, evaluation: &Evaluation, writes: &[Write]) -> Result<()> {
        let deleted = deleted_of(&evaluation.latest)?;
        let mut moved: BTreeMap<Partition, SumChanges> = BTreeMap::new();
        for sums in &evaluation.sums {
            moved.insert(sums.partition, sum_changes(sums));
            if let Some(ts_ns) = sums.high_water_ns {
                let top = self.high_water_ns.entry(sums.partition).or_insert(ts_ns);
                *top = (*top).max(ts_ns);
            }
        }
        for (row, write) in writes.iter().enumerate().filter(|(_, write)| write.kind == WriteKind::Superseded) {
            let sums = moved.entry(write.version.partition).or_default();
            if deleted.value(row) {
                sums.deleted -= 1;
            } else {
                sums.upserted -= 1;
            }
            sums.superseded += 1;
        }
        if let Some((partition, sums)) = moved.iter().find(|(_, sums)| !sums.balances()) {
            return Err(Error::new(Kind::Bug, format!("the sums of partition {partition} don't balance: {sums:?}")));
        }
        for (partition, sums) in moved {
            self.sums.entry(partition).or_default().add(&sums);
        }
        Ok(())
    }

    /// What a batch leaves behind besides its rows.
    pub(super) fn note(&mut self, late: &[OutOfOrder], unmapped: &BTreeMap<String, u64>) {
        for event in late {
            let late = Late { ts_ns: event.ts_ns, known: event.known };
            self.out_of_order.insert((event.position, event.key.clone()), late);
        }
        for (field, count) in unmapped {
            *self.unmapped.entry(field.clone()).or_default() += count;
        }
    }
}

/// The rows of `latest` as the merge finds them in its stage.
pub(super) struct Staged {
    pub(super) keys: Vec<Key>,
    pub(super) versions: Vec<Version>,
    pub(super) deleted: Vec<bool>,
}

impl Staged {
    fn new(latest: &RecordBatch, key_len: usize) -> Result<Self> {
        let keys = row_keys(latest, key_len)?;
        let deleted = deleted_of(latest)?;
        let missing = || Error::new(Kind::Bug, "latest carries no version columns");
        let [ts, partition, offset] = VERSION_COLUMNS.map(|name| latest.column_by_name(name));
        let ts = ts.and_then(|column| column.as_primitive_opt::<Int64Type>()).ok_or_else(missing)?;
        let partition = partition.and_then(|column| column.as_primitive_opt::<Int32Type>()).ok_or_else(missing)?;
        let offset = offset.and_then(|column| column.as_primitive_opt::<Int64Type>()).ok_or_else(missing)?;
        let version =
            |row| Version { ts_ns: ts.value(row), partition: partition.value(row), offset: offset.value(row) };
        let rows = 0..latest.num_rows();
        Ok(Self {
            keys,
            versions: rows.clone().map(version).collect(),
            deleted: rows.map(|row| deleted.value(row)).collect(),
        })
    }

    fn row(&self, row: usize) -> (&Key, Version, bool) {
        (&self.keys[row], self.versions[row], self.deleted[row])
    }

    fn rows(&self) -> impl Iterator<Item = (&Key, Version, bool)> {
        (0..self.keys.len()).map(|row| self.row(row))
    }
}

fn deleted_of(latest: &RecordBatch) -> Result<&arrow::array::BooleanArray> {
    let deleted = latest.column_by_name("_deleted").and_then(|column| column.as_boolean_opt());
    deleted
        .filter(|deleted| deleted.null_count() == 0)
        .ok_or_else(|| Error::new(Kind::Bug, "latest carries no _deleted"))
}

/// Records that `evaluation` sends into quarantine.
fn quarantined<'a>(
    evaluation: &'a Evaluation,
    records: &'a [&OwnedRecord],
) -> impl Iterator<Item = (Position, Quarantined)> + 'a {
    let find = |position: Position| {
        let place = records
            .binary_search_by_key(&(position.partition, position.offset), |record| (record.partition, record.offset));
        place.ok().and_then(|place| records.get(place)).map(|record| (*record).clone())
    };
    let refused = evaluation.refused.iter().map(move |refusal| {
        let why = Some(Why::from(refusal));
        (refusal.position, Quarantined { keys: refusal.keys.clone(), why, record: find(refusal.position) })
    });
    let held = evaluation.held.iter().map(move |held| {
        (held.position, Quarantined { keys: held.keys.clone(), why: None, record: find(held.position) })
    });
    refused.chain(held)
}

fn unfit(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(Kind::Bug, "a row of latest can't be kept").source(error)
}
