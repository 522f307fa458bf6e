//! The merge: staged rows into target and tombstones by version, in a few statements that work on both servers.
//!
//! Order: tombstones, guarded upserts, then deletes of whatever a tombstone dominates. The deletes are current reads with locks, so
//! the result is right even when two sessions work on one key at the same time; no gap locks are needed under READ COMMITTED. A row
//! that was there already outlived every tombstone of its key, and whoever has added one since will look at the row when it is
//! unlocked: upserts that inserted nothing leave nothing to delete.
//! Version columns are assigned last and least significant first, because the update list is evaluated left to right on values
//! already changed. `>=` makes a repetition of the same event a no-op that still wins. A small batch does the same without the stage
//! ([`super::direct`]).

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type};

use super::encode::key_says_itself;
use super::quoting::identifier;
use super::session::{Done, Session, StatementError, int_at};
use super::stage::{Counts, Op, STAGE, Staged};
use super::tables::TOMBSTONES;
use crate::failpoint::failpoint;
use crate::position::{Partition, Version};
use crate::target::{Target, VERSION_COLUMNS};

/// Statements that depend only on the target; built once.
pub struct Merge {
    tombstones: String,
    inserts: Upserts,
    updates: Upserts,
    delete_deleted: String,
    count_overtaken: String,
    stale_by_partition: String,
    known: String,
}

/// Of one kind of upserts: the statement itself, and the one that deletes what tombstones dominate among its rows.
struct Upserts {
    upsert: String,
    delete_dominated: String,
}

/// How many staged rows lost against a newer version, per partition of the losing event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Superseded {
    pub partition: Partition,
    pub upserts: i64,
    pub deletes: i64,
}

/// What a merge found.
#[derive(Debug, Default)]
pub struct Merged {
    /// What of the rows lost against a newer version; empty for an orderly stream.
    pub superseded: Vec<Superseded>,
    /// No key of the batch had a row, and none was deleted.
    pub all_new: bool,
}

/// What is stored of rows' keys: number of the row in the batch, and the newer version of row and tombstone; `None` for keys never seen.
pub type Known = Vec<(usize, Option<Version>)>;

/// Version of a row or tombstone.
pub(super) fn version(alias: &str) -> String {
    format!("({alias}.cdc_ts,{alias}.cdc_partition,{alias}.cdc_offset)")
}

/// An assignment of an upsert's update list that holds where the new version is at least the old one. Written out, because the servers
/// compare rows of values slowly: with 200 columns that was a tenth of the statement. In an update list the old row goes by its
/// table's name, neither server takes an alias there; `new` says what the new row's columns are called.
pub(super) fn guarded(old: &str, name: &str, value: &str, new: &dyn Fn(&str) -> String) -> String {
    let [time, partition, offset] = VERSION_COLUMNS.map(new);
    format!(
        "{old}.{name} = IF({time} > {old}.cdc_ts OR ({time} = {old}.cdc_ts AND ({partition} > {old}.cdc_partition OR \
         ({partition} = {old}.cdc_partition AND {offset} >= {old}.cdc_offset))), {value}, {old}.{name})"
    )
}

/// The assignments of the version itself, least significant first.
pub(super) fn newer_last(old: &str, new: &dyn Fn(&str) -> String) -> Vec<String> {
    VERSION_COLUMNS.iter().rev().map(|name| guarded(old, name, &new(name), new)).collect()
}

impl Merge {
    pub fn new(target: &Target, pipeline: &str) -> Self {
        let table = identifier(&target.table);
        let names: Vec<String> = target.columns.iter().map(|column| identifier(&column.name)).collect();
        let on_key: Vec<String> =
            target.keys().iter().map(|column| format!("t.{0} = s.{0}", identifier(&column.name))).collect();
        let on_key = on_key.join(" AND ");
        let pipeline = super::positions::text_ascii(pipeline);
        let row_key = match target.keys() {
            [key] if key_says_itself(target) => format!("CAST(s.{} AS BINARY)", identifier(&key.name)),
            _ => "s.`__row_key`".to_owned(),
        };
        let on_tombstone = format!("d.pipeline = {pipeline} AND d.row_key = {row_key}");
        let staged = |name: &str| format!("s.{name}");
        let mut assignments: Vec<String> = target
            .data()
            .iter()
            .map(|column| identifier(&column.name))
            .map(|name| guarded(&table, &name, &staged(&name), &staged))
            .collect();
        assignments.extend(newer_last(&table, &staged));
        let selected: Vec<String> = names.iter().map(|name| format!("s.{name}")).collect();
        let upsert = |op: Op| {
            format!(
                "INSERT INTO {table} ({}, cdc_ts, cdc_partition, cdc_offset) SELECT {}, s.cdc_ts, s.cdc_partition, s.cdc_offset FROM {STAGE} s \
                 WHERE s.`__op` = '{}' ON DUPLICATE KEY UPDATE {}",
                names.join(", "),
                selected.join(", "),
                op.code(),
                assignments.join(", "),
            )
        };
        let mut tombstone = vec![guarded(TOMBSTONES, "deleted", "UTC_TIMESTAMP(6)", &staged)];
        tombstone.extend(newer_last(TOMBSTONES, &staged));
        let tombstones = format!(
            "INSERT INTO {TOMBSTONES} (pipeline, row_key, cdc_ts, cdc_partition, cdc_offset, deleted) SELECT {pipeline}, {row_key}, s.cdc_ts, \
             s.cdc_partition, s.cdc_offset, UTC_TIMESTAMP(6) FROM {STAGE} s WHERE s.`__op` = '{}' ON DUPLICATE KEY UPDATE {}",
            Op::Delete.code(),
            tombstone.join(", ")
        );
        let delete = |op: Op| {
            format!(
                "DELETE t FROM {STAGE} s STRAIGHT_JOIN {TOMBSTONES} d ON {on_tombstone} STRAIGHT_JOIN {table} t ON {on_key} \
                 WHERE s.`__op` = '{}' AND {} <= {}",
                op.code(),
                version("t"),
                version("d"),
            )
        };
        let count_overtaken = format!(
            "SELECT COUNT(*) FROM {STAGE} s STRAIGHT_JOIN {table} t ON {on_key} WHERE s.`__op` = '{}' AND {} > {}",
            Op::Delete.code(),
            version("t"),
            version("s"),
        );
        let upserts = |op: Op| Upserts { upsert: upsert(op), delete_dominated: delete(op) };
        let stale_by_partition = format!(
            "SELECT s.cdc_partition, SUM(s.`__op` <> '{deleted}'), SUM(s.`__op` = '{deleted}') FROM {STAGE} s LEFT JOIN {table} t ON {on_key} \
             LEFT JOIN {TOMBSTONES} d ON {on_tombstone} WHERE COALESCE({t} > {s}, 0) OR COALESCE({d} > {s}, 0) GROUP BY s.cdc_partition",
            deleted = Op::Delete.code(),
            t = version("t"),
            s = version("s"),
            d = version("d"),
        );
        // A row has outlived every tombstone of its key. With NULL neither server looks for one.
        let known = format!(
            "SELECT s.`__late`, t.cdc_ts, t.cdc_partition, t.cdc_offset, d.cdc_ts, d.cdc_partition, d.cdc_offset FROM {STAGE} s \
             LEFT JOIN {table} t ON {on_key} LEFT JOIN {TOMBSTONES} d ON d.pipeline = {pipeline} AND \
             d.row_key = IF(t.cdc_ts IS NULL, {row_key}, NULL) WHERE s.`__late` IS NOT NULL ORDER BY s.`__late`"
        );
        Self {
            tombstones,
            inserts: upserts(Op::Insert),
            updates: upserts(Op::Update),
            delete_deleted: delete(Op::Delete),
            count_overtaken,
            stale_by_partition,
            known,
        }
    }

    /// Runs the merge of what waits in the session's stage, or as text, inside the caller's transaction. `foreseen` is what of it was
    /// going to lose by what was stored a moment ago: where the sums agree, the server isn't asked what lost.
    pub async fn run(
        &self,
        session: &mut Session,
        staged: &Staged,
        foreseen: &[Superseded],
    ) -> Result<Merged, StatementError> {
        match staged {
            Staged::Table(counts) if *counts == Counts::default() => Ok(Merged::default()),
            Staged::Table(counts) => self.run_on_table(session, *counts, foreseen).await,
            Staged::Text(statements) => statements.run(session).await,
        }
    }

    async fn run_on_table(
        &self,
        session: &mut Session,
        counts: Counts,
        foreseen: &[Superseded],
    ) -> Result<Merged, StatementError> {
        // Tallied from what the server reports anyway, so that an orderly batch pays nothing for exact sums.
        let mut lost = Lost::default();
        failpoint!("before_upserts");
        let kinds = [(counts.inserts, &self.inserts), (counts.updates, &self.updates)];
        let kinds: Vec<(u64, &Upserts)> = kinds.into_iter().filter(|(rows, _)| *rows > 0).collect();
        let tombstones = (counts.deletes > 0).then_some(self.tombstones.as_str());
        let upserts = kinds.iter().map(|(_, kind)| kind.upsert.as_str());
        let statements: Vec<&str> = tombstones.into_iter().chain(upserts).collect();
        let answers = session.run_several(&statements).await?;
        let mut answers = answers.iter().map(|answer| answer.done);
        if tombstones.is_some() {
            lost.deletes += counts.deletes.saturating_sub(answers.next().map_or(0, won));
        }
        let mut inserted_in_all = 0;
        let mut dominated = Vec::new();
        for ((rows, kind), done) in kinds.iter().zip(answers) {
            lost.upserts += rows.saturating_sub(won(done));
            inserted_in_all += inserted(done);
            if inserted(done) > 0 {
                dominated.push(kind.delete_dominated.as_str());
            }
        }
        failpoint!("after_upserts");
        let deleted = [self.delete_deleted.as_str(), &self.count_overtaken];
        let deleted = if counts.deletes > 0 { &deleted[..] } else { &[] };
        let answers = session.run_several(&[deleted, &dominated].concat()).await?;
        let (deleted, dominated) = answers.split_at(deleted.len().min(answers.len()));
        let overtaken = deleted.last().and_then(|answer| int_at(answer.rows.first()?, 0));
        lost.deletes += overtaken.and_then(|overtaken| u64::try_from(overtaken).ok()).unwrap_or(0);
        lost.upserts += dominated.iter().map(|answer| answer.done.affected).sum::<u64>();
        if lost == Lost::default() {
            let all_new = counts.deletes == 0 && inserted_in_all == counts.inserts + counts.updates;
            return Ok(Merged { superseded: Vec::new(), all_new });
        }
        if lost == Lost::of(foreseen) {
            return Ok(Merged { superseded: foreseen.to_vec(), all_new: false });
        }
        let rows = session.rows(&self.stale_by_partition).await?;
        let superseded = rows
            .iter()
            .map(|row| Superseded {
                partition: int_at(row, 0).and_then(|number| Partition::try_from(number).ok()).unwrap_or(-1),
                upserts: int_at(row, 1).unwrap_or(0),
                deletes: int_at(row, 2).unwrap_or(0),
            })
            .collect();
        Ok(Merged { superseded, all_new: false })
    }

    /// What is stored of the keys whose rows were staged as late, in the order of the rows.
    pub async fn known(&self, session: &mut Session, staged: &Staged) -> Result<Known, StatementError> {
        if let Staged::Text(statements) = staged {
            return statements.known(session).await;
        }
        let rows = session.rows(&self.known).await?;
        Ok(rows
            .iter()
            .map(|row| {
                let read = |first: usize| {
                    Some(Version {
                        ts_ns: int_at(row, first)?,
                        partition: Partition::try_from(int_at(row, first + 1)?).ok()?,
                        offset: int_at(row, first + 2)?,
                    })
                };
                let index = int_at(row, 0).and_then(|number| usize::try_from(number).ok()).unwrap_or(0);
                (index, read(1).max(read(4)))
            })
            .collect())
    }
}

/// How many rows lost, as far as the statements' own sums tell: a row that loses twice, or that is repeated, counts too often.
#[derive(Debug, Default, PartialEq, Eq)]
struct Lost {
    upserts: u64,
    deletes: u64,
}

impl Lost {
    fn of(superseded: &[Superseded]) -> Self {
        let sum = |of: fn(&Superseded) -> i64| superseded.iter().map(of).sum::<i64>().unsigned_abs();
        Self { upserts: sum(|lost| lost.upserts), deletes: sum(|lost| lost.deletes) }
    }
}

/// What of `rows` (see [`crate::work::Evaluation::latest`]) is older than what is `known` of its key.
pub fn foresee(rows: &RecordBatch, known: &Known) -> Vec<Superseded> {
    let (Some(versions), Some(deleted)) =
        (versions(rows), rows.column_by_name("_deleted").and_then(|column| column.as_boolean_opt()))
    else {
        return Vec::new();
    };
    let mut superseded: BTreeMap<Partition, Superseded> = BTreeMap::new();
    for (row, newest) in known {
        let Some(version) = versions.get(*row).filter(|version| newest.is_some_and(|newest| newest > **version)) else {
            continue;
        };
        let lost = superseded
            .entry(version.partition)
            .or_insert(Superseded { partition: version.partition, ..Superseded::default() });
        if deleted.is_valid(*row) && deleted.value(*row) {
            lost.deletes += 1;
        } else {
            lost.upserts += 1;
        }
    }
    superseded.into_values().collect()
}

/// Each row's version; `None` where the batch hasn't those columns.
pub(super) fn versions(rows: &RecordBatch) -> Option<Vec<Version>> {
    let times = rows.column_by_name("cdc_ts")?.as_primitive_opt::<Int64Type>()?;
    let partitions = rows.column_by_name("cdc_partition")?.as_primitive_opt::<Int32Type>()?;
    let offsets = rows.column_by_name("cdc_offset")?.as_primitive_opt::<Int64Type>()?;
    if times.null_count() + partitions.null_count() + offsets.null_count() > 0 {
        return None;
    }
    let rows = times.values().iter().zip(partitions.values()).zip(offsets.values());
    Some(rows.map(|((&ts_ns, &partition), &offset)| Version { ts_ns, partition, offset }).collect())
}

/// Rows that an `INSERT .. SELECT .. ON DUPLICATE KEY UPDATE` inserted or changed: affected = inserted + 2 x changed, and the info
/// line counts the changed ones as duplicates.
fn won(done: Done) -> u64 {
    done.affected.saturating_sub(done.duplicates)
}

/// Of those, the ones that it inserted.
fn inserted(done: Done) -> u64 {
    done.affected.saturating_sub(done.duplicates.saturating_mul(2))
}
