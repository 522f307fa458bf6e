//! Rows of keys that have one already, straight into the target by guarded upserts: no stage, which is a quarter of MariaDB's work for
//! a merge. (Not on MySQL, which takes no rows in bulk: as text they cost it more than the stage does.)
//!
//! In: a batch, and which of its keys are likely to have a row. Out of [`pick`]: the rows to write this way, and the rest, for the
//! stage. Out of [`Updates::put`]: `true` where each of the picked rows has changed its key's row, and then the target is as
//! [`super::merge`] would have left it: what was there when it was locked has outlived every tombstone, and nothing lost. Else `false`,
//! with nothing of it left, and the caller takes the whole batch by way of the stage, which says which rows lost. What proves it is the
//! server's own count of rows that were there and were changed.

use arrow::array::{AsArray, RecordBatch};

use super::direct::upsert;
use super::encode::Tuples;
use super::fresh::{SAVEPOINT, UNDO};
use super::insert::Insert;
use super::session::{ServerFacts, Session, StatementError};
use super::stage::{Marks, Op};
use crate::failpoint::failpoint;
use crate::target::Target;

/// Fewer rows are left with the others.
const LEAST: usize = 50;

/// Statements that depend only on the target; built once.
pub struct Updates {
    upsert: Insert,
}

/// A batch's rows by number, each in one of the two.
#[derive(Debug)]
pub struct Picked {
    pub updates: Vec<usize>,
    pub rest: Vec<usize>,
}

/// Which rows of a batch to write this way: those of keys that have a row, as far as `marks` says, unless they may be older than that.
/// None where they are few.
pub fn pick(facts: &ServerFacts, rows: &RecordBatch, marks: Marks<'_>) -> Picked {
    let deleted = rows.column_by_name("_deleted").and_then(|column| column.as_boolean_opt());
    let is_update =
        |row: &usize| marks.op(deleted, *row) == Op::Update && !marks.late.get(*row).copied().unwrap_or(false);
    let (updates, rest): (Vec<usize>, Vec<usize>) = (0..rows.num_rows()).partition(is_update);
    let worth_it = facts.takes_rows_in_bulk() && updates.len() >= LEAST.min(facts.prepared_rows);
    if worth_it { Picked { updates, rest } } else { Picked::none(rows) }
}

impl Picked {
    pub fn none(rows: &RecordBatch) -> Self {
        Self { updates: Vec::new(), rest: (0..rows.num_rows()).collect() }
    }
}

impl Updates {
    pub fn new(target: &Target) -> Self {
        Self { upsert: upsert(target) }
    }

    /// Writes the rows inside the caller's transaction, all or none of them. See the module page.
    pub async fn put(
        &self,
        session: &mut Session,
        target: &Target,
        rows: &RecordBatch,
        updates: &[usize],
    ) -> Result<bool, StatementError> {
        let Ok(tuples) = Tuples::of_target(target, rows) else { return Ok(false) };
        session.run(SAVEPOINT).await?;
        failpoint!("before_upserts");
        let done = self.upsert.put(session, &tuples, updates).await?;
        failpoint!("after_upserts");
        // A row that was changed counts twice, and as a duplicate.
        let count = updates.len() as u64;
        if done.is_some_and(|done| done.duplicates == count && done.affected == 2 * count && done.warnings == 0) {
            return Ok(true);
        }
        session.run(UNDO).await.map(|_| false)
    }
}
