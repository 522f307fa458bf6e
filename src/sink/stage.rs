//! Staging: a batch's rows to where the merge takes them from, before its transaction begins.
//!
//! In: rows of the target's columns with versions, sorted by key. Out: [`Staged`]. A batch of some size goes into a temporary table of
//! the session, exactly, so that everything after it is set-based: `LOAD DATA LOCAL` turns values that don't fit into warnings, so rows
//! sent, rows stored and the warning count are compared; the strict INSERT of many rows, for MariaDB, which takes it faster, and for servers
//! without `local_infile`, fails by itself. Nothing here touches the target. Small batches ([`super::direct`]) and those of new rows ([`super::fresh`]) do without.

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use bytes::Bytes;

use super::direct::Statements;
use super::encode::{Lines, Tuples, key_says_itself};
use super::insert::Insert;
use super::quoting::identifier;
use super::session::{Session, StatementError};
use super::tables::MAX_KEY_BYTES;
use crate::sink::server_error::{Class, refuses_local_infile};
use crate::target::{Holds, Target};

/// Name of the temporary table; it belongs to the session, so that one name serves all.
pub const STAGE: &str = "`afterimage_stage`";

/// What kind of row is staged; each has statements of its own. The codes are those of the stage's column `__op`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    Delete,
    /// An upsert of a key that isn't known to have a row.
    Insert,
    /// An upsert of a key that is likely to have one.
    Update,
}

impl Op {
    pub const fn code(self) -> &'static str {
        match self {
            Self::Delete => "d",
            Self::Insert => "i",
            Self::Update => "u",
        }
    }
}

/// How many rows of each kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    pub deletes: u64,
    pub inserts: u64,
    pub updates: u64,
}

/// What is known of a batch's rows before they are staged; of rows beyond the ends, nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Marks<'a> {
    /// It may be older than what is stored of its key, for which may be asked.
    pub late: &'a [bool],
    /// The key is likely to have a row.
    pub stored: &'a [bool],
}

impl Marks<'_> {
    /// Of the batch's column `_deleted`, the kind of one of its rows.
    pub fn op(&self, deleted: Option<&BooleanArray>, row: usize) -> Op {
        if deleted.is_some_and(|deleted| deleted.is_valid(row) && deleted.value(row)) {
            Op::Delete
        } else if self.stored.get(row).copied().unwrap_or(false) {
            Op::Update
        } else {
            Op::Insert
        }
    }
}

/// A batch that waits for its merge.
#[derive(Debug)]
pub enum Staged {
    /// In the temporary table of the session that staged it.
    Table(Counts),
    /// As text; any session can run it.
    Text(Box<Statements>),
}

/// Statements that depend only on the target; built once.
pub struct Stage {
    create: String,
    load: String,
    insert: Insert,
}

/// Row of the batch and what the server has against it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowFault {
    pub row: usize,
    pub column: Option<String>,
    pub reason: String,
}

impl Stage {
    pub fn new(target: &Target) -> Self {
        let key: Vec<String> = target.keys().iter().map(|column| identifier(&column.name)).collect();
        // Besides the target's columns: an [`Op`]; the row's number in the batch where what is known of its key is asked for; the
        // encoded key where the key itself isn't that. Each kind of row stands by itself, because it has statements of its own.
        let mut extra = vec!["`__op`", "`__late`"];
        let mut ddl = vec!["`__op` CHAR(1) CHARACTER SET ascii NOT NULL".to_owned(), "`__late` INT NULL".to_owned()];
        if key_says_itself(target) {
            ddl.push(format!("PRIMARY KEY (`__op`, {})", key.join(", ")));
        } else {
            extra.push("`__row_key`");
            ddl.push(format!("`__row_key` VARBINARY({MAX_KEY_BYTES}) NOT NULL"));
        }
        for (index, column) in target.columns.iter().enumerate() {
            // A delete row carries NULL everywhere but in the key.
            let null = if index < target.key_len { "NOT NULL" } else { "NULL" };
            ddl.push(format!("{} {} {null}", identifier(&column.name), column.ddl_type));
        }
        let create = format!(
            "CREATE TEMPORARY TABLE {STAGE} ({}, `cdc_ts` BIGINT NOT NULL, `cdc_partition` INT NOT NULL, `cdc_offset` BIGINT NOT NULL) \
             ENGINE=InnoDB",
            ddl.join(", ")
        );
        let load = load(STAGE, &fields(target, &extra));
        let names: Vec<String> = extra
            .iter()
            .map(|name| (*name).to_owned())
            .chain(target.columns.iter().map(|column| identifier(&column.name)))
            .chain(["`cdc_ts`", "`cdc_partition`", "`cdc_offset`"].map(str::to_owned))
            .collect();
        let insert = format!("INSERT INTO {STAGE} ({}) VALUES ", names.join(", "));
        Self { create, load, insert: Insert::new(insert, names.len(), Default::default()) }
    }

    /// Stages those `numbers` of `rows` (see [`crate::work::Evaluation::latest`]) in the temporary table. A row that the server refuses
    /// is named, by its number in `rows`.
    pub async fn put(
        &self,
        session: &mut Session,
        target: &Target,
        rows: &RecordBatch,
        marks: Marks<'_>,
        numbers: &[usize],
    ) -> Result<Filled, StatementError> {
        let tuples = match Tuples::staged(target, rows, marks) {
            Ok(tuples) => tuples,
            Err(fault) => return Ok(Filled::Refused(vec![fault])),
        };
        if session.facts.prefers_insert() {
            self.clear(session).await?;
            let done = self.insert.put(session, &tuples, numbers).await?;
            if done.is_some_and(|done| done.affected == numbers.len() as u64 && done.warnings == 0) {
                return Ok(Filled::table(rows, marks, numbers));
            }
        }
        if session.facts.local_infile {
            let lines = match Lines::encode(target, rows, marks, numbers) {
                Ok(lines) => lines,
                Err(fault) => return Ok(Filled::Refused(vec![fault])),
            };
            self.clear(session).await?;
            match self.load(session, lines, rows, marks, numbers).await {
                // Taken up again by the other way where the server has just refused this one.
                Err(error) if refuses_local_infile(error.code) => session.facts.local_infile = false,
                filled => return filled,
            }
        }
        self.clear(session).await?;
        Ok(match self.insert.put_text(session, &tuples, numbers).await? {
            Ok(_) => Filled::table(rows, marks, numbers),
            Err(fault) => Filled::Refused(fault.into_iter().collect()),
        })
    }

    /// An empty stage. Made anew each time: emptying one by TRUNCATE would need the DROP privilege, and commits.
    async fn clear(&self, session: &mut Session) -> Result<(), StatementError> {
        let drop_it = format!("DROP TEMPORARY TABLE IF EXISTS {STAGE}");
        session.run_several(&[&drop_it, &self.create]).await.map(drop)
    }

    async fn load(
        &self,
        session: &mut Session,
        lines: Bytes,
        rows: &RecordBatch,
        marks: Marks<'_>,
        numbers: &[usize],
    ) -> Result<Filled, StatementError> {
        let done = match session.load(&self.load, lines).await {
            Ok(done) => done,
            // MySQL refuses the whole statement for bad UTF-8 or JSON; the row is found by the caller.
            Err(error) if error.class == Class::Row => return Ok(Filled::Refused(Vec::new())),
            Err(error) => return Err(error),
        };
        if done.warnings == 0 && done.affected == numbers.len() as u64 {
            return Ok(Filled::table(rows, marks, numbers));
        }
        let warnings = session.rows("SHOW WARNINGS").await?;
        let mut faults: Vec<RowFault> = Vec::new();
        for row in &warnings {
            let message = super::session::text_at(row, 2);
            let code = super::session::int_at(row, 1).unwrap_or(0);
            if let Some(fault) = RowFault::from_message(code, &message, numbers)
                && !faults.iter().any(|known| known.row == fault.row)
            {
                faults.push(fault);
            }
        }
        Ok(Filled::Refused(faults))
    }
}

/// What a line holds, in order: `extra`, the target's columns, the version. Second, how columns are made of it that can't be read as
/// they are: bytes travel in hexadecimal, because a file in utf8mb4 can't carry them and CHARACTER SET binary breaks JSON columns; a
/// number for a BIT column would be taken for its digits' bits.
pub(super) fn fields(target: &Target, extra: &[&str]) -> (Vec<String>, Vec<String>) {
    let mut sets: Vec<String> = Vec::new();
    let mut fields: Vec<String> = extra.iter().map(|name| (*name).to_owned()).collect();
    for (index, column) in target.columns.iter().enumerate() {
        let name = identifier(&column.name);
        if matches!(column.holds, Holds::Bytes { .. }) {
            sets.push(format!("{name} = UNHEX(@b{index})"));
        } else if column.ddl_type.starts_with("bit") {
            sets.push(format!("{name} = CAST(@b{index} AS UNSIGNED)"));
        } else {
            fields.push(name);
            continue;
        }
        fields.push(format!("@b{index}"));
    }
    fields.extend(["`cdc_ts`", "`cdc_partition`", "`cdc_offset`"].map(str::to_owned));
    (fields, sets)
}

/// The statement that loads lines of such fields.
pub(super) fn load(table: &str, (fields, sets): &(Vec<String>, Vec<String>)) -> String {
    let sets = if sets.is_empty() { String::new() } else { format!(" SET {}", sets.join(", ")) };
    format!(
        "LOAD DATA LOCAL INFILE 'rows' INTO TABLE {table} CHARACTER SET utf8mb4 FIELDS TERMINATED BY '\\t' ESCAPED BY '\\\\' \
         LINES TERMINATED BY '\\n' ({}){sets}",
        fields.join(", ")
    )
}

/// What became of staging.
#[derive(Debug)]
pub enum Filled {
    Staged(Staged),
    /// The server would change or refuse these rows; empty where it can't say which.
    Refused(Vec<RowFault>),
}

impl Filled {
    fn table(rows: &RecordBatch, marks: Marks<'_>, numbers: &[usize]) -> Self {
        let deleted = rows.column_by_name("_deleted").and_then(|column| column.as_boolean_opt());
        let mut counts = Counts::default();
        for row in numbers {
            match marks.op(deleted, *row) {
                Op::Delete => counts.deletes += 1,
                Op::Insert => counts.inserts += 1,
                Op::Update => counts.updates += 1,
            }
        }
        Self::Staged(Staged::Table(counts))
    }
}

impl RowFault {
    /// Reads the row's number (counted from 1 within the statement, which held the rows with these `numbers`) and the column from a
    /// server's message; the message itself is not kept, because it may quote the value.
    pub fn from_message(code: i64, message: &str, numbers: &[usize]) -> Option<Self> {
        let (_, tail) = message.rsplit_once("row ")?;
        let number: usize = tail.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()?;
        // MySQL writes 'column', MariaDB `database`.`table`.`column`.
        let column = message
            .rsplit_once("olumn ")
            .and_then(|(_, rest)| rest.split(" at row ").next()?.split(['\'', '`']).rfind(|part| !part.is_empty()))
            .map(str::to_owned);
        Some(Self {
            row: *numbers.get(number.checked_sub(1)?)?,
            column,
            reason: format!("MySQL refuses the value with error {code}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_and_column_are_read_from_the_servers_message() {
        let fault = RowFault::from_message(1406, "Data too long for column 'name' at row 3", &[10, 11, 14]).unwrap();
        assert_eq!((fault.row, fault.column.as_deref()), (14, Some("name")));
        let fault =
            RowFault::from_message(1366, "Incorrect integer value: 'x' for column `db`.`t`.`age` at row 1", &[0])
                .unwrap();
        assert_eq!((fault.row, fault.column.as_deref()), (0, Some("age")));
        assert_eq!(RowFault::from_message(1213, "Deadlock found", &[0]), None);
    }
}
