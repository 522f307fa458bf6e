//! An INSERT of many rows, for where `LOAD DATA LOCAL` can't be or costs more.
//!
//! In: [`Rows`], and which of them. Out: what the server counted, over all of its statements. Rows go as values of a prepared statement,
//! so that the server parses neither SQL nor numbers: MariaDB executes it for any number of rows in one request
//! (`COM_STMT_BULK_EXECUTE`); MySQL's has some hundreds of rows of parameters. While the server works on one request, the next one is
//! made. What doesn't fill MySQL's statement goes as text; so does a row too long for a request, with all that follow it, and everything
//! where a proxy doesn't pass such requests on.
//!
//! Measured with nine columns and a client in C, in microseconds of the server's processor time per row. MariaDB: 3.3 into a temporary
//! table (LOAD DATA 4.3, text 7 to 8); a guarded upsert 8.1 (by way of a stage 10.9). MySQL, new rows into the target: 6.2 (LOAD DATA 4.8,
//! text 6.9).

use mysql_async::Value;

use super::quoting::identifier;
use super::server_error::{Class, refuses_prepared};
use super::session::{Done, ServerFacts, Session, StatementError};
use super::stage::RowFault;
use crate::target::{Target, VERSION_COLUMNS};

/// A request is no larger, if its rows allow that; bytes.
const LONGEST: usize = 1 << 20;

/// More parameters than these no prepared statement has.
const MOST_PARAMETERS: usize = 65_535;

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

    /// Appends the values of a row, without those that are the same in each.
    fn values(&self, values: &mut Vec<Value>, row: usize) -> Result<(), RowFault>;
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
        let facts = session.facts.clone();
        let at_once = self.rows_at_once(&facts);
        let shape = vec![self.row.as_str(); at_once].join(",");
        let statement = format!("{}{shape}{}", self.head, self.tail(facts.mariadb));
        let (mut sum, mut rest) = (Done::default(), rows);
        let mut next = request(tuples, rest, at_once, &facts);
        loop {
            let Ok(values) = next else { return Ok(None) };
            if values.is_empty() {
                break;
            }
            let count = values.len() * at_once;
            rest = rest.get(count..).unwrap_or_default();
            let sending = session.run_for_each(&statement, values);
            let (answer, following) = futures::join!(sending, async { request(tuples, rest, at_once, &facts) });
            match answer {
                Ok(done) if done.records == count as u64 || count == 1 => sum.add(counted(done, count)),
                // Taken one by one, which is slow and says nothing of the others.
                Ok(_) => {
                    session.facts.prepared_rows = 0;
                    return Ok(None);
                }
                Err(error) if refuses_prepared(error.code) => {
                    session.facts.prepared_rows = 0;
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

    /// How many rows one execution of the prepared statement takes.
    fn rows_at_once(&self, facts: &ServerFacts) -> usize {
        let parameters = self.row.matches('?').count().max(1);
        if facts.mariadb { 1 } else { facts.prepared_rows.min(MOST_PARAMETERS / parameters).max(1) }
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

/// The values of the first rows, of `at_once` rows each; as many of them as one request takes.
fn request(
    tuples: &impl Rows,
    rows: &[usize],
    at_once: usize,
    facts: &ServerFacts,
) -> Result<Vec<Vec<Value>>, RowFault> {
    let (most, limit) = (facts.prepared_rows / at_once, longest(facts));
    let mut executions = Vec::with_capacity(most.min(rows.len()));
    let (mut bytes, mut length_of_one) = (0, 0);
    for these in rows.chunks_exact(at_once).take(most) {
        let mut values = Vec::with_capacity(length_of_one);
        for row in these {
            let before = values.len();
            tuples.values(&mut values, *row)?;
            bytes += values.iter().skip(before).map(length).sum::<usize>();
            if bytes > limit {
                return Ok(executions);
            }
        }
        length_of_one = values.len();
        executions.push(values);
    }
    Ok(executions)
}

/// What a statement of `rows` rows did: of a single one the servers don't say whether it was there, but a row that is changed counts twice.
fn counted(done: Done, rows: usize) -> Done {
    if rows == 1 { Done { records: 1, duplicates: done.affected / 2, ..done } } else { done }
}

/// What a value takes in a request, about.
fn length(value: &Value) -> usize {
    if let Value::Bytes(bytes) = value { bytes.len() + 4 } else { 9 }
}
