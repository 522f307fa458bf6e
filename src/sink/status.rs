//! What the tables say about a pipeline: for `status` and the `quarantine` commands, from any machine, with or without a running
//! instance. Reads only, but for [`mark`].

use super::positions::text_ascii;
use super::quoting::text;
use super::session::{Session, StatementError, bytes_at, int_at, text_at};
use super::tables::{METRICS, POSITIONS, QUARANTINE};
use crate::error::Result;
use crate::position::{Partition, Position};

/// One partition's row.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PartitionStatus {
    pub topic: String,
    pub partition: i64,
    pub next_offset: i64,
    pub owner: String,
    pub epoch: i64,
    pub read: i64,
    pub ignored: i64,
    pub refused: i64,
    pub held: i64,
    pub accepted: i64,
    pub changes: i64,
    pub upserted: i64,
    pub deleted: i64,
    pub superseded: i64,
    pub updated: String,
    /// Of the last transaction.
    pub generation: i64,
}

/// A quarantined record as `list` shows it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct QuarantineEntry {
    pub partition: i64,
    pub offset: i64,
    pub state: String,
    pub stage: String,
    pub model: String,
    pub column: String,
    pub reason: String,
    pub keys: String,
    pub attempts: i64,
    pub first_attempt: String,
    pub last_attempt: String,
    /// Only for `show`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

/// Which quarantined records are meant; empty fields don't narrow.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    pub key: Option<String>,
    pub position: Option<Position>,
    pub partition: Option<Partition>,
    pub states: Vec<String>,
    pub stage: Option<String>,
}

impl Selection {
    fn condition(&self, pipeline: &str) -> String {
        let mut parts = vec![format!("pipeline = {}", text_ascii(pipeline))];
        if let Some(key) = &self.key {
            // `event_keys` holds an array of keys, each an array of its columns' values: only a whole key matches.
            let texts = if key.starts_with('[') {
                vec![key.clone()]
            } else {
                vec![format!("[{}]", serde_json::Value::String(key.clone())), format!("[{key}]")]
            };
            let found: Vec<String> = texts.iter().map(|key| format!("LOCATE({}, event_keys) > 0", text(key))).collect();
            parts.push(format!("({})", found.join(" OR ")));
        }
        if let Some(position) = self.position {
            parts.push(format!("kafka_partition = {} AND kafka_offset = {}", position.partition, position.offset));
        }
        if let Some(partition) = self.partition {
            parts.push(format!("kafka_partition = {partition}"));
        }
        if !self.states.is_empty() {
            let states: Vec<String> = self.states.iter().map(|state| text_ascii(state)).collect();
            parts.push(format!("state IN ({})", states.join(", ")));
        }
        if let Some(stage) = &self.stage {
            parts.push(format!("stage = {}", text_ascii(stage)));
        }
        parts.join(" AND ")
    }
}

/// All partitions of a pipeline, in order.
pub async fn partitions(session: &mut Session, pipeline: &str) -> Result<Vec<PartitionStatus>> {
    let sql = format!(
        "SELECT topic, kafka_partition, next_offset, owner, owner_epoch, n_read, n_ignored, n_refused, n_held, n_accepted, n_changes, \
         n_upserted, n_deleted, n_superseded, updated, wrote_generation FROM {POSITIONS} WHERE pipeline = {} ORDER BY topic, kafka_partition",
        text_ascii(pipeline)
    );
    let rows = session.rows(&sql).await.map_err(StatementError::into_error)?;
    let number = |row: &mysql_async::Row, index: usize| int_at(row, index).unwrap_or(0);
    Ok(rows
        .iter()
        .map(|row| PartitionStatus {
            topic: text_at(row, 0),
            partition: number(row, 1),
            next_offset: number(row, 2),
            owner: text_at(row, 3),
            epoch: number(row, 4),
            read: number(row, 5),
            ignored: number(row, 6),
            refused: number(row, 7),
            held: number(row, 8),
            accepted: number(row, 9),
            changes: number(row, 10),
            upserted: number(row, 11),
            deleted: number(row, 12),
            superseded: number(row, 13),
            updated: text_at(row, 14),
            generation: number(row, 15),
        })
        .collect())
}

/// Records in quarantine by state.
pub async fn quarantine_counts(session: &mut Session, pipeline: &str) -> Result<Vec<(String, i64)>> {
    let sql = format!(
        "SELECT state, COUNT(*) FROM {QUARANTINE} WHERE pipeline = {} GROUP BY state ORDER BY state",
        text_ascii(pipeline)
    );
    let rows = session.rows(&sql).await.map_err(StatementError::into_error)?;
    Ok(rows.iter().map(|row| (text_at(row, 0), int_at(row, 1).unwrap_or(0))).collect())
}

/// The last summary's end, lag and freshness.
pub async fn last_summary(session: &mut Session, pipeline: &str) -> Result<Option<(String, Option<i64>, Option<i64>)>> {
    let sql = format!(
        "SELECT window_end, lag_records, freshness_ms FROM {METRICS} WHERE pipeline = {} ORDER BY window_end DESC LIMIT 1",
        text_ascii(pipeline)
    );
    let rows = session.rows(&sql).await.map_err(StatementError::into_error)?;
    Ok(rows.first().map(|row| (text_at(row, 0), int_at(row, 1), int_at(row, 2))))
}

/// Quarantined records in order, at most `limit`; with their bytes if `bytes`.
pub async fn quarantined(
    session: &mut Session,
    pipeline: &str,
    selection: &Selection,
    limit: usize,
    bytes: bool,
) -> Result<Vec<QuarantineEntry>> {
    let sql = format!(
        "SELECT kafka_partition, kafka_offset, state, stage, model, column_name, reason, event_keys, attempts, first_attempt, last_attempt, {} \
         FROM {QUARANTINE} WHERE {} ORDER BY kafka_partition, kafka_offset LIMIT {limit}",
        if bytes { "record_value" } else { "NULL" },
        selection.condition(pipeline)
    );
    let rows = session.rows(&sql).await.map_err(StatementError::into_error)?;
    Ok(rows
        .iter()
        .map(|row| QuarantineEntry {
            partition: int_at(row, 0).unwrap_or(-1),
            offset: int_at(row, 1).unwrap_or(-1),
            state: text_at(row, 2),
            stage: text_at(row, 3),
            model: text_at(row, 4),
            column: text_at(row, 5),
            reason: text_at(row, 6),
            keys: text_at(row, 7),
            attempts: int_at(row, 8).unwrap_or(0),
            first_attempt: text_at(row, 9),
            last_attempt: text_at(row, 10),
            value: bytes_at(row, 11).map(|value| String::from_utf8_lossy(&value).into_owned()),
        })
        .collect())
}

/// Marks pending records; the instance that owns the partition does the rest. Yields how many were marked.
pub async fn mark(session: &mut Session, pipeline: &str, selection: &Selection, state: &str) -> Result<u64> {
    let sql = format!("UPDATE {QUARANTINE} SET state = {} WHERE {}", text_ascii(state), selection.condition(pipeline));
    session.run(&sql).await.map(|done| done.affected).map_err(StatementError::into_error)
}
