//! SQL: what the analysts' models make of a batch of decoded events.
//!
//! In: [`Input`], the decoded events of one micro-batch (Arrow) and what is known about its records so far. Out: an
//! [`Evaluation`](crate::work::Evaluation): the rows that go to the target, which records are refused or held, and the sums.
//!
//! A pipeline's folder holds one model per `*.sql` file ([`models`]). Every model is planned once over replaceable leaf tables
//! ([`slots`], [`plan`]) and checked against its contract ([`check`]); then an [`Engine`] runs all of them per batch. It promises:
//!
//! - every event is judged alone and in the order of its partition, so how a topic was cut into batches changes nothing (P1);
//! - `latest` holds, for each key, exactly the accepted change with the greatest version: verified per batch, whatever the SQL says;
//! - `read = ignored + refused + held + accepted` (P4), and an event that makes a model fail is found and refused alone (P5).
//!
//! It refuses, with file, line, column and a remedy, everything in the models that would break this: see [`check`].

mod bisect;
mod check;
mod check_target;
mod empty_join;
mod encoded;
mod engine;
pub mod explain;
mod fit;
mod fold;
mod held;
mod index_join;
mod keys;
mod latest_rule;
mod leaf;
mod locate;
mod lookup;
mod models;
mod nested;
mod output;
mod parse;
mod plan;
mod rows;
mod running_rule;
mod slots;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::RecordBatch;

use crate::hold::HoldSet;
use crate::position::{Partition, Position};
use crate::work::Refusal;

pub use engine::{Engine, Examined};
pub use index_join::Verdict;
pub use keys::row_keys;
pub use lookup::LookupTable;
pub use models::{Model, Models};

/// Which order decides between two events of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VersionBy {
    /// (event time, partition, offset).
    EventTime,
    /// (partition, offset): the event time counts as 0 and nothing is ever out of order.
    Arrival,
}

/// What a pipeline asks of its models.
#[derive(Debug, Clone)]
pub struct ModelSpec {
    /// The pipeline's name.
    pub name: String,
    /// Folder with one model per `*.sql` file.
    pub queries: PathBuf,
    /// Key columns of the target, in order.
    pub key: Vec<String>,
    pub version: VersionBy,
    /// Whether later events of a refused event's users wait (`on_error = "hold_key"`).
    pub hold_keys: bool,
    pub lookups: Vec<LookupSpec>,
}

/// A table that models may join by its name.
#[derive(Debug, Clone)]
pub struct LookupSpec {
    pub name: String,
    /// Columns that identify a row; never NULL, never twice.
    pub key: Vec<String>,
    pub from: LookupFrom,
}

/// Where a lookup's rows come from.
#[derive(Debug, Clone)]
pub enum LookupFrom {
    /// A CSV (all columns text, empty is NULL), NDJSON or Parquet file, told apart by its extension.
    File(PathBuf),
    /// Rows that were read elsewhere, e.g. by a query on MySQL.
    Table(RecordBatch),
    /// A table that is loaded already.
    Loaded(Arc<LookupTable>),
}

/// One batch and what is known about its records.
#[derive(Debug, Clone)]
pub struct Input<'a> {
    /// Decoded events, one row each, no position twice.
    pub events: RecordBatch,
    /// What could be read of the events in `decode_refused`, in the schema of `events`; only their users are taken from it.
    pub salvage: RecordBatch,
    /// Records that decode refused; their `keys` are found here.
    pub decode_refused: &'a [Refusal],
    /// Records with a null value.
    pub ignored: &'a [Position],
    /// Records of `events` that MySQL refused in an earlier attempt at this batch.
    pub forced: &'a [Refusal],
    /// Records in quarantine.
    pub holds: &'a HoldSet,
    /// Records of `holds` that are run again in this batch.
    pub rerun: &'a HashSet<Position>,
    /// Greatest event time accepted before this batch, per partition, nanoseconds.
    pub high_water_ns: &'a BTreeMap<Partition, i64>,
    /// Partitions that the sums must name even where this batch has no record of theirs.
    pub partitions: &'a [Partition],
}
