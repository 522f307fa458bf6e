//! One row per interval in the metrics table: what the log's summary says, for those who look later.

use super::positions::{Owner, SumChanges, text_ascii};
use super::quoting::{optional_number, optional_text, text};
use super::session::{Session, StatementError};
use super::tables::METRICS;
use crate::error::Result;

/// Figures of one interval of one pipeline on one instance.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Summary {
    /// Microseconds since 1970 UTC.
    pub start_us: i64,
    pub end_us: i64,
    pub transactions: u64,
    pub retries: u64,
    pub sums: SumChanges,
    pub out_of_order: u64,
    pub bytes_read: u64,
    pub decode_ms: f64,
    pub sql_ms: f64,
    pub sink_ms: f64,
    /// Records between our positions and the ends of the partitions; unknown without a broker.
    pub lag_records: Option<i64>,
    /// Age of the newest event applied, against the clock.
    pub freshness_ms: Option<i64>,
    /// JSON object: figures of the model `metrics`.
    pub extra: Option<String>,
}

/// Appends `summary`.
pub async fn write(session: &mut Session, owner: &Owner, summary: &Summary) -> Result<()> {
    let time = |us: i64| format!("'1970-01-01' + INTERVAL {us} MICROSECOND");
    let sums = &summary.sums;
    let sql = format!(
        "INSERT INTO {METRICS} (pipeline, instance, window_start, window_end, transactions, retries, records_read, records_ignored, \
         records_refused, records_held, records_accepted, changes, upserted, deleted, superseded, out_of_order, bytes_read, decode_ms, sql_ms, \
         sink_ms, lag_records, freshness_ms, extra, generation) VALUES ({}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, \
         {}, {}, {}, {})",
        text_ascii(&owner.pipeline),
        text(&owner.name),
        time(summary.start_us),
        time(summary.end_us),
        summary.transactions,
        summary.retries,
        sums.read,
        sums.ignored,
        sums.refused,
        sums.held,
        sums.accepted,
        sums.changes,
        sums.upserted,
        sums.deleted,
        sums.superseded,
        summary.out_of_order,
        summary.bytes_read,
        summary.decode_ms,
        summary.sql_ms,
        summary.sink_ms,
        optional_number(summary.lag_records),
        optional_number(summary.freshness_ms),
        optional_text(summary.extra.as_deref()),
        owner.generation.number,
    );
    session.run(&sql).await.map(drop).map_err(StatementError::into_error)
}
