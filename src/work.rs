//! What the SQL models make of a batch: the part of the road between `sql` and `sink`.

use arrow::array::{ArrayRef, RecordBatch};

use crate::hold::Key;
use crate::position::{Partition, Position};

/// Where on the road a record was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// The bytes are no event of this schema.
    Decode,
    /// A model set `_error`, or failed on this event.
    Model,
    /// A value doesn't fit the target's column.
    Target,
    /// MySQL refused the row.
    MySql,
}

impl Stage {
    pub fn name(self) -> &'static str {
        match self {
            Self::Decode => "decode",
            Self::Model => "model",
            Self::Target => "target",
            Self::MySql => "mysql",
        }
    }
}

/// One refused record and why. The bytes are looked up by position when it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub position: Position,
    /// Users it names, as far as they can be read; they are put on hold.
    pub keys: Vec<Key>,
    pub stage: Stage,
    /// Model that refused it, for [`Stage::Model`].
    pub model: Option<String>,
    /// Column or field, where one is to blame.
    pub column: Option<String>,
    pub reason: String,
}

/// One record that waits behind a refused one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    pub position: Position,
    pub keys: Vec<Key>,
}

/// How many records of one partition fell into each class (P4): `read = ignored + refused + held + accepted`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Classes {
    pub read: u64,
    /// Null values, and events for which the models yield no row.
    pub ignored: u64,
    pub refused: u64,
    pub held: u64,
    pub accepted: u64,
}

/// What became of the changes of one partition's accepted records: `changes = upserted + deleted + superseded`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Changes {
    pub changes: u64,
    pub upserted: u64,
    pub deleted: u64,
    pub superseded: u64,
}

/// Sums of one partition in one batch, before the database had its say about `superseded`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionSums {
    pub partition: Partition,
    pub classes: Classes,
    pub changes: Changes,
    /// Greatest event time among accepted records, nanoseconds.
    pub high_water_ns: Option<i64>,
}

/// The outcome of running the models over one batch.
#[derive(Debug, Clone)]
pub struct Evaluation {
    /// The rows of `latest`, one per key, sorted by key: the target's columns (key first, then data, in [`crate::target::Target`]
    /// order), then `_deleted` Boolean, `cdc_ts` Int64 (ns), `cdc_partition` Int32, `cdc_offset` Int64.
    pub latest: RecordBatch,
    pub refused: Vec<Refusal>,
    pub held: Vec<Held>,
    /// Ascending by partition.
    pub sums: Vec<PartitionSums>,
    /// Rows of `latest` whose key an accepted event names that is older than the highest event time seen before it in its
    /// partition: it may be out of order, depending on what is stored of that key. Ascending, without repeats.
    pub suspects: Vec<usize>,
    /// What is needed to tell which of the suspects' events are late.
    pub suspicion: Suspicion,
    /// Figures of the model `metrics`: name to number, for the log line and the metrics table.
    pub metrics: serde_json::Map<String, serde_json::Value>,
}

/// What the model `out_of_order` reads of one batch. It runs when it is known what was stored before that batch, and by then the engine
/// may be at a later one. Empty where the batch has no suspects or the pipeline no such model; shares its columns with other tables.
#[derive(Debug, Clone, Default)]
pub struct Suspicion {
    /// By name.
    pub(crate) tables: Vec<(String, RecordBatch)>,
    /// Key columns of [`Evaluation::latest`].
    pub(crate) keys: Vec<ArrayRef>,
}

impl Suspicion {
    /// Whether there is nothing to ask for.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

/// An accepted event older than one accepted before it for the same user: evidence against the producer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutOfOrder {
    pub position: Position,
    pub key: Key,
    pub ts_ns: i64,
    /// The newest event accepted before it for that user.
    pub known: crate::position::Version,
}
