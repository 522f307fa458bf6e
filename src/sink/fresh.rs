//! Rows that are all new to the target, straight into it: no stage, no guards, half the server's work of a merge.
//!
//! In: a batch of upserts of which none is expected to have a row or a tombstone. Out: `true` where that was so for every one of them,
//! and then the target is as after [`super::merge`]; else `false`, with nothing of it left, and the caller takes the batch by way of the
//! stage. What proves it is what the server says of the statements themselves: a key that exists, a value that would be changed and a
//! row that a constraint refuses all count as a warning or an error. A guess that fails costs time and nothing else;
//! [`super::experience`] makes few of that kind.
//!
//! A tombstone of one of the keys may be newer than its row. They are looked at behind the rows, with locks, and any that could be is
//! reason enough to begin again: whoever adds one later waits for our rows before deleting what it dominates.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use bytes::Bytes;

use super::encode::{Lines, Tuples};
use super::insert::Insert;
use super::positions::text_ascii;
use super::quoting::identifier;
use super::server_error::{Class, refuses_local_infile};
use super::session::{Done, ServerFacts, Session, StatementError, int_at};
use super::stage::{RowFault, fields};
use super::tables::TOMBSTONES;
use crate::failpoint::failpoint;
use crate::target::Target;

/// Where the transaction stands before rows that may have to be taken back.
pub(super) const SAVEPOINT: &str = "SAVEPOINT afterimage_rows";
pub(super) const UNDO: &str = "ROLLBACK TO SAVEPOINT afterimage_rows";
/// A pipeline with more tombstones is left to the merge, which looks up those of the batch's keys only.
const MOST_TOMBSTONES: i64 = 1000;
/// Statements that depend only on the target; built once.
pub struct Fresh {
    load: String,
    insert: Insert,
    pipeline: String,
}

/// A batch that waits to be written. See the module page.
#[derive(Debug)]
pub struct NewRows {
    rows: Rows,
    count: u64,
    oldest_ns: i64,
}

#[derive(Debug)]
enum Rows {
    /// Of a `LOAD DATA` file.
    Lines(Bytes),
    /// For an INSERT, which is made while it goes on.
    Batch(RecordBatch),
}

impl Fresh {
    pub fn new(target: &Target, pipeline: &str) -> Self {
        let table = identifier(&target.table);
        Self {
            load: super::stage::load(&table, &fields(target, &[])),
            insert: Insert::into_target(target, Default::default()),
            pipeline: text_ascii(pipeline),
        }
    }

    /// The batch as the server takes it; `None` where it can't be of this kind.
    pub fn rows(&self, facts: &ServerFacts, target: &Target, rows: &RecordBatch) -> Option<Result<NewRows, RowFault>> {
        let deleted = rows.column_by_name("_deleted")?.as_boolean_opt()?;
        let times = rows.column_by_name("cdc_ts")?.as_primitive_opt::<Int64Type>()?;
        if deleted.true_count() > 0 || times.null_count() > 0 {
            return None;
        }
        let oldest_ns = times.values().iter().min().copied()?;
        let encoded = if facts.prefers_insert() {
            Ok(Rows::Batch(rows.clone()))
        } else {
            Lines::of_target(target, rows).map(Rows::Lines)
        };
        Some(encoded.map(|encoded| NewRows { rows: encoded, count: rows.num_rows() as u64, oldest_ns }))
    }

    /// Writes the rows inside the caller's transaction, all or none of them. See the module page.
    pub async fn put(&self, session: &mut Session, target: &Target, new: &NewRows) -> Result<bool, StatementError> {
        session.run(SAVEPOINT).await?;
        failpoint!("before_upserts");
        let written = match self.write(session, target, &new.rows).await {
            Ok(done) => done.affected == new.count && done.warnings == 0,
            // Such as a duplicate key, or a value in a column where it doesn't belong: the stage says which row.
            Err(error) if error.class == Class::Row || refuses_local_infile(error.code) => false,
            Err(error) => return Err(error),
        };
        failpoint!("after_upserts");
        if written && !self.may_be_dominated(session, new.oldest_ns).await? {
            return Ok(true);
        }
        session.run(UNDO).await.map(|_| false)
    }

    async fn write(&self, session: &mut Session, target: &Target, rows: &Rows) -> Result<Done, StatementError> {
        let batch = match rows {
            Rows::Lines(lines) => return session.load(&self.load, lines.clone()).await,
            Rows::Batch(batch) => batch,
        };
        let Ok(tuples) = Tuples::of_target(target, batch) else { return Ok(Done::default()) };
        let numbers: Vec<usize> = (0..batch.num_rows()).collect();
        self.insert.put(session, &tuples, &numbers).await.map(Option::unwrap_or_default)
    }

    /// Whether a tombstone may be as new as one of the rows.
    async fn may_be_dominated(&self, session: &mut Session, oldest_ns: i64) -> Result<bool, StatementError> {
        let look = format!(
            "SELECT COUNT(*), MAX(cdc_ts) FROM (SELECT cdc_ts FROM {TOMBSTONES} WHERE pipeline = {} LIMIT {} LOCK IN SHARE MODE) d",
            self.pipeline,
            MOST_TOMBSTONES + 1
        );
        let rows = session.rows(&look).await?;
        let at = |index: usize| rows.first().and_then(|row| int_at(row, index));
        Ok(at(0).is_none_or(|count| count > MOST_TOMBSTONES) || at(1).is_some_and(|newest| newest >= oldest_ns))
    }
}
