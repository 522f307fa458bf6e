//! The merge of a small batch without a stage: the rows travel in the statements themselves, so that one event costs three round trips.
//!
//! In: rows of the target's columns with versions, sorted by key. Out: [`Statements`], text that any session can run inside its
//! transaction. They do what [`super::merge`] does, in the same order and under the same locks, row by row instead of joined with a
//! stage: tombstones, guarded upserts, a locking look at the keys' tombstones, then deletes of what they dominate. Both ways leave the
//! same tables and say the same of what lost; `tests/sink.rs` compares them on both servers.

use arrow::array::{Array, AsArray, RecordBatch};
use mysql_async::Row;

use super::encode::{Keys, Tuples};
use super::insert::{Insert, Rows};
use super::merge::{Known, Merged, Superseded, guarded, newer_last, version, versions};
use super::positions::text_ascii;
use super::quoting::{binary, identifier};
use super::session::{Answer, Done, ServerFacts, Session, StatementError, int_at};
use super::tables::{MAX_KEY_BYTES, TOMBSTONES};
use crate::failpoint::failpoint;
use crate::position::{Partition, Version};
use crate::target::Target;

/// Batches of more rows are as cheap by way of the stage: on both servers the two cost the same between 100 and 200 rows.
pub const MOST_ROWS: usize = 100;
/// Each delete is a statement of its own.
const MOST_DELETES: usize = 40;
/// Long values are better off in LOAD DATA, bytes.
const LONGEST: usize = 1 << 20;
/// Keys looked up in one statement.
const AT_ONCE: usize = 100;

/// Texts that depend only on the target; built once.
pub struct Direct {
    table: String,
    pipeline: String,
    upsert: Insert,
    tombstone_head: String,
    /// What follows the rows, in MySQL's and in MariaDB's dialect.
    tombstone_tails: [String; 2],
}

/// A batch as text. See the module page.
#[derive(Debug)]
pub struct Statements {
    table: String,
    pipeline: String,
    mariadb: bool,
    rows: Vec<Change>,
    tombstones: Option<String>,
    upserts: Option<String>,
    upsert_count: u64,
    delete_count: u64,
}

/// One row of the batch: which key it changes, and what it is compared by.
#[derive(Debug)]
struct Change {
    /// What a stored row of the key fulfils.
    condition: String,
    /// The key as the tombstones table has it, a literal.
    row_key: String,
    deleted: bool,
    late: bool,
    version: Version,
}

/// How a row that was to be inserted is called in an upsert's update list: MySQL warns of `VALUES()`, MariaDB knows nothing else.
fn new_value(mariadb: bool, column: &str) -> String {
    if mariadb { format!("VALUES({column})") } else { format!("new.{column}") }
}

/// What follows an upsert's rows: each column gets its new value, or the one given for it, and the version comes last.
fn tail(mariadb: bool, old: &str, columns: &[(String, Option<&str>)]) -> String {
    let new = |column: &str| new_value(mariadb, column);
    let assign = |(name, value): &(String, Option<&str>)| {
        guarded(old, name, &value.map_or_else(|| new(name), str::to_owned), &new)
    };
    let mut assignments: Vec<String> = columns.iter().map(assign).collect();
    assignments.extend(newer_last(old, &new));
    let alias = if mariadb { "" } else { " AS new" };
    format!("{alias} ON DUPLICATE KEY UPDATE {}", assignments.join(", "))
}

/// The guarded upsert of many rows into `target`.
pub(super) fn upsert(target: &Target) -> Insert {
    let table = identifier(&target.table);
    let data: Vec<(String, Option<&str>)> =
        target.data().iter().map(|column| (identifier(&column.name), None)).collect();
    Insert::into_target(target, [false, true].map(|mariadb| tail(mariadb, &table, &data)))
}

impl Direct {
    pub fn new(target: &Target, pipeline: &str) -> Self {
        let table = identifier(&target.table);
        let deleted = [("deleted".to_owned(), Some("UTC_TIMESTAMP(6)"))];
        let tombstone_tails = [false, true].map(|mariadb| tail(mariadb, TOMBSTONES, &deleted));
        Self {
            upsert: upsert(target),
            tombstone_head: format!(
                "INSERT INTO {TOMBSTONES} (pipeline, row_key, cdc_ts, cdc_partition, cdc_offset, deleted) VALUES "
            ),
            tombstone_tails,
            table,
            pipeline: text_ascii(pipeline),
        }
    }

    /// The batch as text; `None` where it is better off in the stage: too long, or with a row that can't be written (the stage says
    /// which).
    pub fn statements(
        &self,
        facts: &ServerFacts,
        target: &Target,
        rows: &RecordBatch,
        late: &[bool],
    ) -> Option<Statements> {
        if !knows_row_alias(facts) {
            return None;
        }
        let (tuples, keys) = (Tuples::of_target(target, rows).ok()?, Keys::new(target, rows).ok()?);
        let deleted = rows.column_by_name("_deleted")?.as_boolean_opt()?;
        if deleted.true_count() > MOST_DELETES {
            return None;
        }
        let versions = versions(rows)?;
        let dialect = usize::from(facts.mariadb);
        let longest = LONGEST.min(facts.max_allowed_packet / 4);
        let mut upserts = self.upsert.head().as_bytes().to_vec();
        let mut tombstones = self.tombstone_head.clone();
        let (mut upsert_count, mut delete_count, mut key_bytes) = (0_u64, 0_u64, 0);
        let mut changes = Vec::with_capacity(rows.num_rows());
        for (row, version) in versions.into_iter().enumerate() {
            let key = keys.text(row).ok()?;
            let deleted = deleted.is_valid(row) && deleted.value(row);
            let row_key = binary(key.as_bytes());
            if deleted {
                let comma = if delete_count > 0 { ", " } else { "" };
                let Version { ts_ns, partition, offset } = version;
                tombstones.push_str(&format!(
                    "{comma}({}, {row_key}, {ts_ns}, {partition}, {offset}, UTC_TIMESTAMP(6))",
                    self.pipeline
                ));
                delete_count += 1;
            } else {
                if upsert_count > 0 {
                    upserts.push(b',');
                }
                tuples.push(&mut upserts, row).ok()?;
                upsert_count += 1;
            }
            let condition = keys.condition(row).ok()?;
            key_bytes += row_key.len() + condition.len();
            if key.len() > MAX_KEY_BYTES || upserts.len().max(tombstones.len()).max(key_bytes) > longest {
                return None;
            }
            let late = late.get(row).copied().unwrap_or(false);
            changes.push(Change { condition, row_key, deleted, late, version });
        }
        upserts.extend_from_slice(self.upsert.tail(facts.mariadb).as_bytes());
        tombstones.push_str(self.tombstone_tails.get(dialect)?);
        Some(Statements {
            table: self.table.clone(),
            pipeline: self.pipeline.clone(),
            mariadb: facts.mariadb,
            rows: changes,
            tombstones: (delete_count > 0).then_some(tombstones),
            upserts: if upsert_count > 0 { Some(String::from_utf8(upserts).ok()?) } else { None },
            upsert_count,
            delete_count,
        })
    }
}

/// `INSERT .. AS new` and `VALUES ROW(..)` came with MySQL 8.0.19; MariaDB has words of its own for both.
fn knows_row_alias(facts: &ServerFacts) -> bool {
    let mut numbers = facts.version.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    facts.mariadb || (next(), next(), next()) >= (8, 0, 19)
}

impl Statements {
    /// Runs the merge inside the caller's transaction; see [`super::merge::Merge::run`].
    pub async fn run(&self, session: &mut Session) -> Result<Merged, StatementError> {
        let look = self.look_at_tombstones((0..self.rows.len()).collect::<Vec<_>>().as_slice(), " LOCK IN SHARE MODE");
        let statements: Vec<&str> =
            [self.tombstones.as_deref(), self.upserts.as_deref(), Some(look.as_str())].into_iter().flatten().collect();
        failpoint!("before_upserts");
        let mut answers = session.run_several(&statements).await?;
        failpoint!("after_upserts");
        let tombstones = found(&answers.pop().unwrap_or_default().rows);
        let mut answers = answers.into_iter().map(|Answer { done, .. }| done);
        let deleted = self.tombstones.as_ref().and_then(|_| answers.next()).unwrap_or_default();
        let upserted = self.upserts.as_ref().and_then(|_| answers.next()).unwrap_or_default();
        let mut lost = won(deleted) < self.delete_count || won(upserted) < self.upsert_count;
        lost |= self.delete_dominated(session, &tombstones).await?;
        let superseded = if lost { self.superseded(session).await? } else { Vec::new() };
        // A changed row counts twice in `affected`, and of several in `duplicates`.
        let inserted_all = upserted.affected == self.upsert_count && upserted.duplicates == 0;
        Ok(Merged { superseded, all_new: self.delete_count == 0 && inserted_all && !lost })
    }

    /// Deletes every row that a tombstone of its key dominates; whether a change of the batch lost by it.
    async fn delete_dominated(
        &self,
        session: &mut Session,
        tombstones: &[(usize, Version)],
    ) -> Result<bool, StatementError> {
        let dominated: Vec<(&Change, &Version)> = tombstones
            .iter()
            .filter_map(|(row, tombstone)| Some((self.rows.get(*row)?, tombstone)))
            // A row of this key is at least as new as the upsert.
            .filter(|(change, tombstone)| change.deleted || change.version <= **tombstone)
            .collect();
        if dominated.is_empty() {
            return Ok(false);
        }
        let delete = |(change, tombstone): &(&Change, &Version)| {
            format!(
                "DELETE FROM {} WHERE {} AND {} <= {}",
                self.table,
                change.condition,
                version(&self.table),
                literal(tombstone)
            )
        };
        let statements: Vec<String> = dominated.iter().map(delete).collect();
        let answers = run_all(session, &statements).await?;
        let mut lost = false;
        let mut not_there = Vec::new();
        for ((change, _), answer) in dominated.iter().zip(&answers) {
            if !change.deleted {
                lost |= answer.done.affected > 0;
            } else if answer.done.affected == 0 {
                not_there.push(format!(
                    "SELECT COUNT(*) FROM {} WHERE {} AND {} > {}",
                    self.table,
                    change.condition,
                    version(&self.table),
                    literal(&change.version)
                ));
            }
        }
        if !lost && !not_there.is_empty() {
            // Never there, or newer than the delete?
            let answers = run_all(session, &not_there).await?;
            lost = answers.iter().any(|answer| answer.rows.first().and_then(|row| int_at(row, 0)).unwrap_or(0) > 0);
        }
        Ok(lost)
    }

    /// What of the batch is older than what is stored now, per partition.
    async fn superseded(&self, session: &mut Session) -> Result<Vec<Superseded>, StatementError> {
        let all: Vec<usize> = (0..self.rows.len()).collect();
        let mut sums: Vec<Superseded> = Vec::new();
        for (row, stored) in self.stored(session, &all).await? {
            let Some(change) = self.rows.get(row).filter(|change| stored > Some(change.version)) else { continue };
            let partition: Partition = change.version.partition;
            let place = sums.iter().position(|sum| sum.partition == partition).unwrap_or_else(|| {
                sums.push(Superseded { partition, ..Superseded::default() });
                sums.len() - 1
            });
            if let Some(sum) = sums.get_mut(place) {
                if change.deleted { sum.deletes += 1 } else { sum.upserts += 1 }
            }
        }
        Ok(sums)
    }

    /// See [`super::merge::Merge::known`].
    pub async fn known(&self, session: &mut Session) -> Result<Known, StatementError> {
        let late = self.rows.iter().enumerate().filter(|(_, change)| change.late);
        let late: Vec<usize> = late.map(|(row, _)| row).collect();
        self.stored(session, &late).await
    }

    /// The newer version of row and tombstone of each key, as this session sees them; reads without locks.
    async fn stored(&self, session: &mut Session, rows: &[usize]) -> Result<Known, StatementError> {
        let mut known: Known = rows.iter().map(|row| (*row, None)).collect();
        for part in rows.chunks(AT_ONCE) {
            let one = |row: &usize| {
                let condition = &self.rows.get(*row)?.condition;
                Some(format!("SELECT {row}, cdc_ts, cdc_partition, cdc_offset FROM {} WHERE {condition}", self.table))
            };
            let selects: Vec<String> = part.iter().filter_map(one).collect();
            let statements = [selects.join(" UNION ALL "), self.look_at_tombstones(part, "")];
            for answer in run_all(session, &statements).await? {
                for (row, version) in found(&answer.rows) {
                    if let Some(known) = known.iter_mut().find(|(known, _)| *known == row) {
                        known.1 = known.1.max(Some(version));
                    }
                }
            }
        }
        Ok(known)
    }

    /// Rows' tombstones by the number of the row. Joined with literals in this order, so that each is looked up by its whole key and
    /// none is touched that isn't asked for.
    fn look_at_tombstones(&self, rows: &[usize], lock: &str) -> String {
        let head = if self.mariadb { "(" } else { "ROW(" };
        let keys: Vec<String> =
            rows.iter().filter_map(|row| Some(format!("{head}{row}, {})", self.rows.get(*row)?.row_key))).collect();
        let keys = keys.join(", ");
        let wanted = if self.mariadb {
            format!("(WITH v(n, k) AS (VALUES {keys}) SELECT n, k FROM v) s")
        } else {
            format!("(VALUES {keys}) s(n, k)")
        };
        format!(
            "SELECT s.n, d.cdc_ts, d.cdc_partition, d.cdc_offset FROM {wanted} STRAIGHT_JOIN {TOMBSTONES} d ON d.pipeline = {} AND \
             d.row_key = s.k{lock}",
            self.pipeline
        )
    }
}

async fn run_all(session: &mut Session, statements: &[String]) -> Result<Vec<Answer>, StatementError> {
    session.run_several(&statements.iter().map(String::as_str).collect::<Vec<_>>()).await
}

/// Rows that an `INSERT .. VALUES .. ON DUPLICATE KEY UPDATE` inserted or changed: affected = inserted + 2 x changed. Of several rows the
/// info line counts the changed ones as duplicates; of a single one there is none.
fn won(done: Done) -> u64 {
    if done.records == 0 { done.affected.min(1) } else { done.affected.saturating_sub(done.duplicates) }
}

fn literal(version: &Version) -> String {
    format!("({},{},{})", version.ts_ns, version.partition, version.offset)
}

/// Number of a row and a version, per answer.
fn found(rows: &[Row]) -> Vec<(usize, Version)> {
    let read = |row: &Row| {
        let version = Version {
            ts_ns: int_at(row, 1)?,
            partition: Partition::try_from(int_at(row, 2)?).ok()?,
            offset: int_at(row, 3)?,
        };
        Some((usize::try_from(int_at(row, 0)?).ok()?, version))
    };
    rows.iter().filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_without_row_aliases_gets_the_stage() {
        let facts = |version: &str, mariadb| ServerFacts {
            version: version.to_owned(),
            mariadb,
            local_infile: true,
            max_allowed_packet: 0,
            read_only: false,
            prepared_rows: 0,
        };
        for (version, mariadb, knows) in [
            ("8.0.18", false, false),
            ("8.0.19-log", false, true),
            ("9.7.4-2", false, true),
            ("8.4.0", false, true),
            ("10.6.1-MariaDB", true, true),
            ("5.7.44", false, false),
        ] {
            assert_eq!(knows_row_alias(&facts(version, mariadb)), knows, "{version}");
        }
    }
}
