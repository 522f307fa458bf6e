//! The merge: staged rows into target and tombstones by version, in four statements that work on both servers.
//!
//! Order: tombstones, guarded upserts, then deletes of whatever a tombstone dominates. The deletes are current reads with locks, so
//! the result is right even when two sessions work on one key at the same time; no gap locks are needed under READ COMMITTED.
//! Version columns are assigned last and least significant first, because the update list is evaluated left to right on values
//! already changed. `>=` makes a repetition of the same event a no-op that still wins.

use super::quoting::identifier;
use super::session::{Session, StatementError, int_at};
use super::stage::STAGE;
use super::tables::TOMBSTONES;
use crate::failpoint::failpoint;
use crate::position::Partition;
use crate::target::{Target, VERSION_COLUMNS};

/// Statements that depend only on the target; built once.
pub struct Merge {
    tombstones: String,
    upserts: String,
    delete_deleted: String,
    delete_dominated: String,
    count_overtaken: String,
    stale_by_partition: String,
    known: String,
}

/// How many staged rows lost against a newer version, per partition of the losing event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Superseded {
    pub partition: Partition,
    pub upserts: i64,
    pub deletes: i64,
}

/// Version of a row or tombstone.
fn version(alias: &str) -> String {
    format!("({alias}.cdc_ts,{alias}.cdc_partition,{alias}.cdc_offset)")
}

impl Merge {
    pub fn new(target: &Target, pipeline: &str) -> Self {
        let table = identifier(&target.table);
        let names: Vec<String> = target.columns.iter().map(|column| identifier(&column.name)).collect();
        let on_key: Vec<String> =
            target.keys().iter().map(|column| format!("t.{0} = s.{0}", identifier(&column.name))).collect();
        let on_key = on_key.join(" AND ");
        let pipeline = super::positions::text_ascii(pipeline);
        let on_tombstone = format!("d.pipeline = {pipeline} AND d.row_key = s.`__row_key`");
        // In an upsert's update list the old row goes by its table's name: neither server takes an alias there.
        let guarded = |old: &str, name: &str, new: &str| {
            format!("{old}.{name} = IF({} >= {}, {new}, {old}.{name})", version("s"), version(old))
        };
        let versions = |old: &str| -> Vec<String> {
            VERSION_COLUMNS.iter().rev().map(|name| guarded(old, name, &format!("s.{name}"))).collect()
        };
        let mut assignments: Vec<String> = target
            .data()
            .iter()
            .map(|column| identifier(&column.name))
            .map(|name| guarded(&table, &name, &format!("s.{name}")))
            .collect();
        assignments.extend(versions(&table));
        let selected: Vec<String> = names.iter().map(|name| format!("s.{name}")).collect();
        let upserts = format!(
            "INSERT INTO {table} ({}, cdc_ts, cdc_partition, cdc_offset) SELECT {}, s.cdc_ts, s.cdc_partition, s.cdc_offset FROM {STAGE} s \
             WHERE s.`__op` = 'u' ON DUPLICATE KEY UPDATE {}",
            names.join(", "),
            selected.join(", "),
            assignments.join(", "),
        );
        let mut tombstone = vec![guarded(TOMBSTONES, "deleted", "UTC_TIMESTAMP(6)")];
        tombstone.extend(versions(TOMBSTONES));
        let tombstones = format!(
            "INSERT INTO {TOMBSTONES} (pipeline, row_key, cdc_ts, cdc_partition, cdc_offset, deleted) SELECT {pipeline}, s.`__row_key`, s.cdc_ts, \
             s.cdc_partition, s.cdc_offset, UTC_TIMESTAMP(6) FROM {STAGE} s WHERE s.`__op` = 'd' ON DUPLICATE KEY UPDATE {}",
            tombstone.join(", ")
        );
        let delete = |op: char| {
            format!(
                "DELETE t FROM {STAGE} s STRAIGHT_JOIN {TOMBSTONES} d ON {on_tombstone} STRAIGHT_JOIN {table} t ON {on_key} \
                 WHERE s.`__op` = '{op}' AND {} <= {}",
                version("t"),
                version("d"),
            )
        };
        let count_overtaken = format!(
            "SELECT COUNT(*) FROM {STAGE} s STRAIGHT_JOIN {table} t ON {on_key} WHERE s.`__op` = 'd' AND {} > {}",
            version("t"),
            version("s"),
        );
        let stale_by_partition = format!(
            "SELECT s.cdc_partition, SUM(s.`__op` = 'u'), SUM(s.`__op` = 'd') FROM {STAGE} s LEFT JOIN {table} t ON {on_key} \
             LEFT JOIN {TOMBSTONES} d ON {on_tombstone} WHERE COALESCE({t} > {s}, 0) OR COALESCE({d} > {s}, 0) GROUP BY s.cdc_partition",
            t = version("t"),
            s = version("s"),
            d = version("d"),
        );
        let known = format!(
            "SELECT s.`__row`, t.cdc_ts, t.cdc_partition, t.cdc_offset, d.cdc_ts, d.cdc_partition, d.cdc_offset FROM {STAGE} s \
             LEFT JOIN {table} t ON {on_key} LEFT JOIN {TOMBSTONES} d ON {on_tombstone} WHERE s.`__late` = 1 ORDER BY s.`__row`"
        );
        Self {
            tombstones,
            upserts,
            delete_deleted: delete('d'),
            delete_dominated: delete('u'),
            count_overtaken,
            stale_by_partition,
            known,
        }
    }

    /// Runs the merge inside the caller's transaction. `upserts` and `deletes` are the staged rows by kind; the answer lists what of
    /// them lost against a newer version, empty for an orderly stream.
    pub async fn run(
        &self,
        session: &mut Session,
        upserts: usize,
        deletes: usize,
    ) -> Result<Vec<Superseded>, StatementError> {
        // Tallied from what the server reports anyway, so that an orderly batch pays nothing for exact sums.
        let mut lost = false;
        if deletes > 0 {
            let done = session.run(&self.tombstones).await?;
            lost |= won(done) < deletes as u64;
        }
        failpoint!("before_upserts");
        if upserts > 0 {
            let done = session.run(&self.upserts).await?;
            lost |= won(done) < upserts as u64;
        }
        failpoint!("after_upserts");
        if deletes > 0 {
            session.run(&self.delete_deleted).await?;
            if !lost {
                let overtaken = session.rows(&self.count_overtaken).await?;
                lost |= overtaken.first().and_then(|row| int_at(row, 0)).unwrap_or(0) > 0;
            }
        }
        if upserts > 0 {
            lost |= session.run(&self.delete_dominated).await?.affected > 0;
        }
        if !lost {
            return Ok(Vec::new());
        }
        let rows = session.rows(&self.stale_by_partition).await?;
        Ok(rows
            .iter()
            .map(|row| Superseded {
                partition: int_at(row, 0).and_then(|number| Partition::try_from(number).ok()).unwrap_or(-1),
                upserts: int_at(row, 1).unwrap_or(0),
                deletes: int_at(row, 2).unwrap_or(0),
            })
            .collect())
    }

    /// What is stored of the keys whose rows were staged as late: row number and the newer version of row and tombstone, `None` for
    /// keys never seen.
    pub async fn known(
        &self,
        session: &mut Session,
    ) -> Result<Vec<(usize, Option<crate::position::Version>)>, StatementError> {
        let rows = session.rows(&self.known).await?;
        Ok(rows
            .iter()
            .map(|row| {
                let read = |first: usize| {
                    Some(crate::position::Version {
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

/// Rows that an `INSERT .. SELECT .. ON DUPLICATE KEY UPDATE` inserted or changed: affected = inserted + 2 x changed, and the info
/// line counts the changed ones as duplicates.
fn won(done: super::session::Done) -> u64 {
    done.affected.saturating_sub(done.duplicates)
}
