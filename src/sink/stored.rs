//! What the tables hold of some keys, read and never written: for a look at what a batch would do to them.
//!
//! In: rows in the shape of [`crate::work::Evaluation::latest`]. Out: [`Stored`], per key its row (as the server writes its values) and
//! its tombstone, and what of the topic's partitions waits in quarantine, all of one instant: everything is read in one read-only
//! transaction with a consistent snapshot. SELECT on the tables is the only privilege that it needs.

use std::collections::BTreeMap;

use arrow::array::{ArrayRef, RecordBatch};
use mysql_async::Row;

use super::encode::{self, Keys};
use super::positions::{Owner, text_ascii};
use super::quarantine::{self, PendingRow};
use super::quoting::{binary, identifier};
use super::session::{Session, StatementError, bytes_at, int_at};
use super::tables::{POSITIONS, TOMBSTONES};
use crate::error::{Error, Kind, Result};
use crate::position::{Partition, Version};
use crate::target::{Column, Holds, Target};

/// A value as the server writes it; `None` is NULL.
pub type Value = Option<Vec<u8>>;

/// One key's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRow {
    /// In the order of [`Target::columns`].
    pub values: Vec<Value>,
    pub version: Version,
}

/// What is stored of one key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoredKey {
    pub row: Option<StoredRow>,
    pub tombstone: Option<Version>,
}

impl StoredKey {
    /// The newest version known of the key, of its row or of its deletion.
    pub fn version(&self) -> Option<Version> {
        self.row.as_ref().map(|row| row.version).max(self.tombstone)
    }
}

/// What a partition's position says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredPartition {
    pub next_offset: i64,
    pub high_water_ns: Option<i64>,
}

/// See the module page.
#[derive(Debug, Clone, Default)]
pub struct Stored {
    /// By the key's text in the tombstones table; nothing for keys of which nothing is stored.
    pub keys: BTreeMap<String, StoredKey>,
    pub pending: Vec<PendingRow>,
    pub partitions: BTreeMap<Partition, StoredPartition>,
}

/// Keys asked for in one statement.
const AT_ONCE: usize = 200;

/// Reads what stands of the keys of `rows`, and of `partitions`.
pub async fn read(
    session: &mut Session,
    owner: &Owner,
    target: &Target,
    rows: &RecordBatch,
    partitions: &[Partition],
) -> Result<Stored> {
    run(session, "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ").await?;
    run(session, "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY").await?;
    let read = snapshot(session, owner, target, rows, partitions).await;
    session.rollback().await;
    read
}

async fn snapshot(
    session: &mut Session,
    owner: &Owner,
    target: &Target,
    rows: &RecordBatch,
    partitions: &[Partition],
) -> Result<Stored> {
    let mut stored = Stored { keys: keys(session, owner, target, rows).await?, ..Stored::default() };
    stored.pending = quarantine::pending(session, owner, partitions).await.map_err(StatementError::into_error)?;
    let sql = format!(
        "SELECT kafka_partition, next_offset, high_water_ns FROM {POSITIONS} WHERE pipeline = {} AND topic = {}",
        text_ascii(&owner.pipeline),
        text_ascii(&owner.topic)
    );
    for row in query(session, &sql).await? {
        let partition = int_at(&row, 0).and_then(|number| Partition::try_from(number).ok());
        if let (Some(partition), Some(next_offset)) = (partition, int_at(&row, 1)) {
            stored.partitions.insert(partition, StoredPartition { next_offset, high_water_ns: int_at(&row, 2) });
        }
    }
    Ok(stored)
}

async fn keys(
    session: &mut Session,
    owner: &Owner,
    target: &Target,
    rows: &RecordBatch,
) -> Result<BTreeMap<String, StoredKey>> {
    let unwritable =
        |fault: super::RowFault| Error::new(Kind::Bug, format!("a key can't be written: {}", fault.reason));
    let keys = Keys::new(target, rows).map_err(unwritable)?;
    let mut conditions: BTreeMap<String, String> = BTreeMap::new();
    for row in 0..rows.num_rows() {
        conditions.insert(keys.text(row).map_err(unwritable)?, keys.condition(row).map_err(unwritable)?);
    }
    let conditions: Vec<(String, String)> = conditions.into_iter().collect();
    let mut found: BTreeMap<String, StoredKey> = BTreeMap::new();
    for part in conditions.chunks(AT_ONCE) {
        let of = |number: usize| part.get(number).map(|(key, _)| key.clone());
        let selects: Vec<String> =
            part.iter().enumerate().map(|(number, (_, condition))| one_row(target, number, condition)).collect();
        for row in query(session, &selects.join(" UNION ALL ")).await? {
            let width = target.columns.len();
            let key = int_at(&row, 0).and_then(|number| of(usize::try_from(number).ok()?));
            if let (Some(key), Some(version)) = (key, version_at(&row, width + 1)) {
                let values = (1..=width).map(|column| bytes_at(&row, column)).collect();
                found.entry(key).or_default().row = Some(StoredRow { values, version });
            }
        }
        let names: Vec<String> = part.iter().map(|(key, _)| binary(key.as_bytes())).collect();
        let sql = format!(
            "SELECT row_key, cdc_ts, cdc_partition, cdc_offset FROM {TOMBSTONES} WHERE pipeline = {} AND row_key IN ({})",
            text_ascii(&owner.pipeline),
            names.join(", ")
        );
        for row in query(session, &sql).await? {
            let key = bytes_at(&row, 0).and_then(|key| String::from_utf8(key).ok());
            if let (Some(key), Some(version)) = (key, version_at(&row, 1)) {
                found.entry(key).or_default().tombstone = Some(version);
            }
        }
    }
    Ok(found)
}

/// Selects the row that fulfils `condition` behind a number that tells which one it is: two keys are equal where the server says so.
fn one_row(target: &Target, number: usize, condition: &str) -> String {
    let value = |column: &Column| {
        let name = identifier(&column.name);
        // Or its bits come as bytes.
        if column.ddl_type.starts_with("bit") { format!("CAST({name} AS UNSIGNED)") } else { name }
    };
    let columns: Vec<String> = target.columns.iter().map(value).collect();
    format!(
        "(SELECT {number}, {}, cdc_ts, cdc_partition, cdc_offset FROM {} WHERE {condition})",
        columns.join(", "),
        identifier(&target.table)
    )
}

fn version_at(row: &Row, first: usize) -> Option<Version> {
    Some(Version {
        ts_ns: int_at(row, first)?,
        partition: Partition::try_from(int_at(row, first + 1)?).ok()?,
        offset: int_at(row, first + 2)?,
    })
}

async fn run(session: &mut Session, sql: &str) -> Result<()> {
    session.run(sql).await.map(drop).map_err(StatementError::into_error)
}

async fn query(session: &mut Session, sql: &str) -> Result<Vec<Row>> {
    session.rows(sql).await.map_err(StatementError::into_error_about_rows)
}

/// The key of each of `rows` as [`Stored::keys`] has it.
pub fn key_texts(target: &Target, rows: &RecordBatch) -> Result<Vec<String>> {
    let bug = |fault: super::RowFault| Error::new(Kind::Bug, format!("a key can't be written: {}", fault.reason));
    let keys = Keys::new(target, rows).map_err(bug)?;
    (0..rows.num_rows()).map(|row| keys.text(row).map_err(bug)).collect()
}

/// Whether `column` would be the same after `new` (a value of a row to write) as it is now.
pub fn is_same(column: &Column, new: (&ArrayRef, usize), stored: &Value) -> bool {
    let (array, row) = new;
    match (encode::plain(array, row, column.holds), stored) {
        (Ok(None), None) => true,
        (Ok(Some(new)), Some(stored)) => new == *stored || means_same(column.holds, &new, stored),
        _ => false,
    }
}

/// Whether two texts of one column mean one value, though the server writes it another way than it was given.
fn means_same(holds: Holds, left: &[u8], right: &[u8]) -> bool {
    let (Ok(left), Ok(right)) = (std::str::from_utf8(left), std::str::from_utf8(right)) else { return false };
    match holds {
        Holds::Int { .. } | Holds::Bool | Holds::Decimal { .. } | Holds::DateTime { .. } | Holds::Time { .. } => {
            without_zeros(left) == without_zeros(right)
        }
        Holds::Float => left.parse::<f32>().is_ok_and(|left| Ok(left) == right.parse::<f32>()),
        Holds::Double => left.parse::<f64>().is_ok_and(|left| Ok(left) == right.parse::<f64>()),
        Holds::Json => {
            let parse = |text| serde_json::from_str::<serde_json::Value>(text).ok();
            parse(left).is_some_and(|left| Some(left) == parse(right))
        }
        Holds::Text { .. } | Holds::JsonText | Holds::Bytes { .. } | Holds::Date | Holds::Other => false,
    }
}

/// Without the zeros at the end of a fraction.
fn without_zeros(text: &str) -> &str {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_value_written_in_two_ways_is_the_same() {
        let decimal = Holds::Decimal { precision: 9, scale: 2 };
        for (holds, left, right, same) in [
            (decimal, "1.5", "1.50", true),
            (decimal, "15", "1.50", false),
            (decimal, "100", "100.00", true),
            (Holds::Double, "1e3", "1000", true),
            (Holds::Float, "0.1", "0.1", true),
            (Holds::DateTime { digits: 6 }, "2024-05-01 10:00:00.500", "2024-05-01 10:00:00.500000", true),
            (Holds::DateTime { digits: 0 }, "2024-05-01 10:00:00", "2024-05-01 10:00:01", false),
            (Holds::Json, r#"{"a":1,"b":[]}"#, r#"{"b": [], "a": 1}"#, true),
            (Holds::Json, "no json", "no json!", false),
            (Holds::Text { max_chars: 9, max_bytes: 9 }, "1.50", "1.5", false),
        ] {
            assert_eq!(means_same(holds, left.as_bytes(), right.as_bytes()), same, "{left} {right}");
        }
    }
}
