//! Staging: a batch's rows into a temporary table of the session, so that everything after it is set-based.
//!
//! In: rows of the target's columns with versions, sorted by key. Out: the same rows in the stage, exactly. `LOAD DATA LOCAL`
//! turns values that don't fit into warnings, so rows sent, rows stored and the warning count are compared; the strict
//! multi-row INSERT, for servers without `local_infile`, fails by itself. Nothing here touches the target.

use arrow::array::RecordBatch;
use bytes::Bytes;

use super::encode::{Lines, Literals};
use super::quoting::identifier;
use super::session::{Session, StatementError};
use super::tables::MAX_KEY_BYTES;
use crate::error::Result;
use crate::sink::server_error::{Class, refuses_local_infile};
use crate::target::{Holds, Target};

/// Name of the temporary table; it belongs to the session, so that one name serves all.
pub const STAGE: &str = "`afterimage_stage`";

/// Columns that the stage has besides the target's: number of the row in the batch, whether what is known of the key is asked for,
/// encoded key, `u` or `d`.
const EXTRA: [&str; 4] = ["__row", "__late", "__row_key", "__op"];

/// Statements that depend only on the target; built once.
pub struct Stage {
    create: String,
    load: String,
    insert: String,
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
        let mut ddl = Vec::new();
        for (index, column) in target.columns.iter().enumerate() {
            // A delete row carries NULL everywhere but in the key.
            let null = if index < target.key_len { "NOT NULL" } else { "NULL" };
            ddl.push(format!("{} {} {null}", identifier(&column.name), column.ddl_type));
        }
        let create = format!(
            "CREATE TEMPORARY TABLE {STAGE} (`__row` INT NOT NULL PRIMARY KEY, `__late` TINYINT NOT NULL, `__row_key` VARBINARY({MAX_KEY_BYTES}) NOT NULL, \
             `__op` CHAR(1) CHARACTER SET ascii NOT NULL, {}, `cdc_ts` BIGINT NOT NULL, `cdc_partition` INT NOT NULL, `cdc_offset` BIGINT NOT NULL) \
             ENGINE=InnoDB",
            ddl.join(", ")
        );
        // Bytes travel in hexadecimal: a file in utf8mb4 can't carry them, and CHARACTER SET binary breaks JSON columns.
        let mut sets: Vec<String> = Vec::new();
        let mut fields: Vec<String> = EXTRA.iter().map(|name| identifier(name)).collect();
        for (index, column) in target.columns.iter().enumerate() {
            if matches!(column.holds, Holds::Bytes { .. }) {
                fields.push(format!("@b{index}"));
                sets.push(format!("{} = UNHEX(@b{index})", identifier(&column.name)));
            } else if column.ddl_type.starts_with("bit") {
                // A number in a file would be taken for its digits' bits.
                fields.push(format!("@b{index}"));
                sets.push(format!("{} = CAST(@b{index} AS UNSIGNED)", identifier(&column.name)));
            } else {
                fields.push(identifier(&column.name));
            }
        }
        fields.extend(["`cdc_ts`", "`cdc_partition`", "`cdc_offset`"].map(str::to_owned));
        let load = format!(
            "LOAD DATA LOCAL INFILE 'rows' INTO TABLE {STAGE} CHARACTER SET utf8mb4 FIELDS TERMINATED BY '\\t' ESCAPED BY '\\\\' \
             LINES TERMINATED BY '\\n' ({}){}",
            fields.join(", "),
            if sets.is_empty() { String::new() } else { format!(" SET {}", sets.join(", ")) }
        );
        let names: Vec<String> = EXTRA
            .iter()
            .map(|name| identifier(name))
            .chain(target.columns.iter().map(|column| identifier(&column.name)))
            .chain(["`cdc_ts`", "`cdc_partition`", "`cdc_offset`"].map(str::to_owned))
            .collect();
        let insert = format!("INSERT INTO {STAGE} ({}) VALUES ", names.join(", "));
        Self { create, load, insert }
    }

    /// An empty stage. Made anew each time: emptying one by TRUNCATE would need the DROP privilege, and commits.
    pub async fn clear(&self, session: &mut Session) -> Result<(), StatementError> {
        session.run(&format!("DROP TEMPORARY TABLE IF EXISTS {STAGE}")).await?;
        session.run(&self.create).await.map(drop)
    }

    /// Fills the stage with `rows` (see [`crate::work::Evaluation::latest`]); `late[i]` marks rows whose stored version is asked for.
    /// `Ok(Err(faults))` where the server would not hold some rows exactly.
    pub async fn fill(
        &self,
        session: &mut Session,
        target: &Target,
        rows: &RecordBatch,
        late: &[bool],
    ) -> Result<Filled, StatementError> {
        if session.facts.local_infile {
            let lines = match Lines::encode(target, rows, late) {
                Ok(lines) => lines,
                Err(fault) => return Ok(Filled::Refused(vec![fault])),
            };
            self.load(session, lines, rows.num_rows()).await
        } else {
            self.insert(session, target, rows, late).await
        }
    }

    async fn load(&self, session: &mut Session, lines: Bytes, row_count: usize) -> Result<Filled, StatementError> {
        let done = match session.load(&self.load, lines).await {
            Ok(done) => done,
            // MySQL refuses the whole statement for bad UTF-8 or JSON; the row is found by the caller.
            Err(error) if error.class == Class::Row => return Ok(Filled::Refused(Vec::new())),
            Err(error) if refuses_local_infile(error.code) => {
                session.facts.local_infile = false;
                return Ok(Filled::NoLocalInfile);
            }
            Err(error) => return Err(error),
        };
        if done.warnings == 0 && done.affected == row_count as u64 {
            return Ok(Filled::Staged);
        }
        let warnings = session.rows("SHOW WARNINGS").await?;
        let mut faults: Vec<RowFault> = Vec::new();
        for row in &warnings {
            let message = super::session::text_at(row, 2);
            let code = super::session::int_at(row, 1).unwrap_or(0);
            if let Some(fault) = RowFault::from_message(code, &message, 0)
                && !faults.iter().any(|known| known.row == fault.row)
            {
                faults.push(fault);
            }
        }
        Ok(Filled::Refused(faults))
    }

    async fn insert(
        &self,
        session: &mut Session,
        target: &Target,
        rows: &RecordBatch,
        late: &[bool],
    ) -> Result<Filled, StatementError> {
        const ROWS_PER_STATEMENT: usize = 2000;
        let literals = match Literals::new(target, rows, late) {
            Ok(literals) => literals,
            Err(fault) => return Ok(Filled::Refused(vec![fault])),
        };
        let byte_limit = (session.facts.max_allowed_packet / 2).min(1 << 20);
        let mut next = 0;
        while next < rows.num_rows() {
            let mut sql = self.insert.clone();
            let first = next;
            while next < rows.num_rows()
                && next - first < ROWS_PER_STATEMENT
                && (next == first || sql.len() < byte_limit)
            {
                if next > first {
                    sql.push(',');
                }
                if let Err(fault) = literals.push_row(&mut sql, next) {
                    return Ok(Filled::Refused(vec![fault]));
                }
                next += 1;
            }
            match session.run(&sql).await {
                Ok(_) => {}
                Err(error) if error.class == Class::Row => {
                    return Ok(Filled::Refused(
                        RowFault::from_message(i64::from(error.code), &error.message, first).into_iter().collect(),
                    ));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Filled::Staged)
    }
}

/// What became of filling the stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filled {
    Staged,
    /// The server would change or refuse these rows; empty where it can't say which.
    Refused(Vec<RowFault>),
    /// The server has `local_infile` switched off by now: fill again, the other way will be taken.
    NoLocalInfile,
}

impl RowFault {
    /// Reads the row's number (counted from 1 within the statement) and the column from a server's message; the message itself is
    /// not kept, because it may quote the value.
    pub fn from_message(code: i64, message: &str, first: usize) -> Option<Self> {
        let (_, tail) = message.rsplit_once("row ")?;
        let number: usize = tail.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()?;
        // MySQL writes 'column', MariaDB `database`.`table`.`column`.
        let column = message
            .rsplit_once("olumn ")
            .and_then(|(_, rest)| rest.split(" at row ").next()?.split(['\'', '`']).rfind(|part| !part.is_empty()))
            .map(str::to_owned);
        Some(Self {
            row: first + number.checked_sub(1)?,
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
        let fault = RowFault::from_message(1406, "Data too long for column 'name' at row 3", 10).unwrap();
        assert_eq!((fault.row, fault.column.as_deref()), (12, Some("name")));
        let fault =
            RowFault::from_message(1366, "Incorrect integer value: 'x' for column `db`.`t`.`age` at row 1", 0).unwrap();
        assert_eq!((fault.row, fault.column.as_deref()), (0, Some("age")));
        assert_eq!(RowFault::from_message(1213, "Deadlock found", 0), None);
    }
}
