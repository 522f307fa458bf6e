//! An INSERT of many rows, for where `LOAD DATA LOCAL` can't be or costs more.
//!
//! In: [`Rows`], and which of them. Out: what the server counted, over all of its statements. MariaDB takes any
//! number of rows as values of one prepared statement in one request (`COM_STMT_BULK_EXECUTE`), so that it parses neither SQL nor
//! numbers; while it works on one request, the next one is made. A row too long for a request goes as text, with all that follow it, and so
//! does everything on MySQL and where a proxy doesn't pass such requests on.
//!
//! Measured with nine columns and a client in C, in microseconds of MariaDB's processor time per row: 3.3 into a temporary table (LOAD DATA
//! 4.3, text 7 to 8); a guarded upsert 8.1 (by way of a stage 10.9). MySQL has statements with many rows of parameters at most, by which
//! the service gained nothing (docs/performance.md, Ways that lost).

use mysql_async::Value;

use super::quoting::identifier;
use super::server_error::{Class, refuses_prepared};
use super::session::{Done, ServerFacts, Session, StatementError};
use super::stage::RowFault;
use crate::target::{Target, VERSION_COLUMNS};

/// A request is no larger, if its rows allow that; bytes.
const LONGEST: usize = 1 << 20;

/// An INSERT, built once.
pub struct Insert {
    /// Up to the rows.
    head: String,
    /// What follows the rows, in MySQL's and in MariaDB's dialect.
    tails: [String; 2],
    /// A row in which each of the values is a question mark.
    row: String,
}

/// Rows by number, as an INSERT takes them.
pub trait Rows {
    /// Appends a row as literals, `(v1,v2,..)`.
    fn push(&self, sql: &mut Vec<u8>, row: usize) -> Result<(), RowFault>;

    /// The values of a row, without those that are the same in each.
    fn values(&self, row: usize) -> Result<Vec<Value>, RowFault>;
}

impl Insert {
    /// `head` ends with VALUES and is followed by rows of so many columns.
    pub fn new(head: String, columns: usize, tails: [String; 2]) -> Self {
        Self::of_rows_like(format!("({})", vec!["?"; columns].join(",")), head, tails)
    }

    /// `row` is a row in which each of the values is a question mark.
    pub fn of_rows_like(row: String, head: String, tails: [String; 2]) -> Self {
        Self { head, tails, row }
    }

    /// Of rows of the target, each with its version.
    pub fn into_target(target: &Target, tails: [String; 2]) -> Self {
        let names: Vec<String> = target.columns.iter().map(|column| identifier(&column.name)).collect();
        let (table, columns) = (identifier(&target.table), names.join(", "));
        let head = format!("INSERT INTO {table} ({columns}, cdc_ts, cdc_partition, cdc_offset) VALUES ");
        Self::new(head, names.len() + VERSION_COLUMNS.len(), tails)
    }

    /// What comes before the rows.
    pub fn head(&self) -> &str {
        &self.head
    }

    /// What comes behind them.
    pub fn tail(&self, mariadb: bool) -> &str {
        &self.tails[usize::from(mariadb)]
    }

    /// Puts the numbered rows; `None` where one of them is refused, whatever it is: some of the others are there then, and who wants to
    /// know which takes another road.
    pub async fn put(
        &self,
        session: &mut Session,
        tuples: &impl Rows,
        rows: &[usize],
    ) -> Result<Option<Done>, StatementError> {
        let (most, limit) = (session.facts.bulk_rows, longest(&session.facts));
        let statement = format!("{}{}{}", self.head, self.row, self.tail(true));
        let (mut sum, mut rest) = (Done::default(), rows);
        let mut next = request(tuples, rest, most, limit);
        loop {
            let Ok(values) = next else { return Ok(None) };
            if values.is_empty() {
                break;
            }
            let count = values.len();
            rest = rest.get(count..).unwrap_or_default();
            let sending = session.run_for_each(&statement, values);
            let (answer, following) = futures::join!(sending, async { request(tuples, rest, most, limit) });
            match answer {
                Ok(done) if done.records == count as u64 || count == 1 => sum.add(counted(done, count)),
                // Taken one by one, which is slow and says nothing of the others.
                Ok(_) => {
                    session.facts.bulk_rows = 0;
                    return Ok(None);
                }
                Err(error) if refuses_prepared(error.code) => {
                    session.facts.bulk_rows = 0;
                    return Ok(None);
                }
                Err(error) if error.class == Class::Row => return Ok(None),
                Err(error) => return Err(error),
            }
            next = following;
        }
        Ok(match self.put_text(session, tuples, rest).await? {
            Ok(done) => {
                sum.add(done);
                Some(sum)
            }
            Err(_) => None,
        })
    }

    /// The same as text alone; a row that is refused is named, as far as the server does.
    pub async fn put_text(
        &self,
        session: &mut Session,
        tuples: &impl Rows,
        mut rows: &[usize],
    ) -> Result<Result<Done, Option<RowFault>>, StatementError> {
        let mut sum = Done::default();
        while !rows.is_empty() {
            let (sql, count) = match self.text(&session.facts, tuples, rows) {
                Ok(text) => text,
                Err(fault) => return Ok(Err(Some(fault))),
            };
            match session.run(&sql).await {
                Ok(done) => sum.add(counted(done, count)),
                Err(error) if error.class == Class::Row => {
                    let fault = RowFault::from_message(i64::from(error.code), &error.message, rows);
                    return Ok(Err(fault));
                }
                Err(error) => return Err(error),
            }
            rows = &rows[count..];
        }
        Ok(Ok(sum))
    }

    /// A statement for the first of the rows, and for how many.
    fn text(&self, facts: &ServerFacts, tuples: &impl Rows, rows: &[usize]) -> Result<(String, usize), RowFault> {
        // Ten columns on one core: MySQL takes a fifth more time for a row of 2,000 than for one of 400 to 1,000, MariaDB a tenth more for
        // one of 1,000 than for one of 5,000.
        let most = if facts.mariadb { 5000 } else { 800 };
        let byte_limit = longest(facts);
        let mut sql = self.head.as_bytes().to_vec();
        let mut count = 0;
        for row in rows.iter().take(most) {
            if count > 0 && sql.len() >= byte_limit {
                break;
            }
            if count > 0 {
                sql.push(b',');
            }
            tuples.push(&mut sql, *row)?;
            count += 1;
        }
        sql.extend_from_slice(self.tail(facts.mariadb).as_bytes());
        let not_text = |_| RowFault {
            row: rows.first().copied().unwrap_or(0),
            column: None,
            reason: "a statement's text is not UTF-8".to_owned(),
        };
        String::from_utf8(sql).map(|sql| (sql, count)).map_err(not_text)
    }
}

fn longest(facts: &ServerFacts) -> usize {
    (facts.max_allowed_packet / 2).min(LONGEST)
}

/// The values of the first rows: of up to `most`, as far as they have no more than `limit` bytes.
fn request(tuples: &impl Rows, rows: &[usize], most: usize, limit: usize) -> Result<Vec<Vec<Value>>, RowFault> {
    let mut values = Vec::with_capacity(rows.len().min(most));
    let mut bytes = 0;
    for row in rows.iter().take(most) {
        let row = tuples.values(*row)?;
        bytes += row.iter().map(length).sum::<usize>();
        if bytes > limit {
            break;
        }
        values.push(row);
    }
    Ok(values)
}

/// What a statement of `rows` rows did: of a single one the servers don't say whether it was there, but a row that is changed counts twice.
fn counted(done: Done, rows: usize) -> Done {
    if rows == 1 { Done { records: 1, duplicates: done.affected / 2, ..done } } else { done }
}

/// What a value takes in a request, about.
fn length(value: &Value) -> usize {
    if let Value::Bytes(bytes) = value { bytes.len() + 4 } else { 9 }
}
