//! Expires tombstones by age, a stretch of the key order at a time, so that no index on age is paid for by every delete.

use std::time::Duration;

use super::positions::text_ascii;
use super::quoting::binary;
use super::session::{Session, StatementError, bytes_at};
use super::tables::TOMBSTONES;
use crate::error::Result;

/// Keys looked at per step: a short statement that holds few locks.
const STRIDE: usize = 2000;

/// Where the walk through the keys stands.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    after: Vec<u8>,
}

impl Sweep {
    /// Looks at the next stretch of keys and deletes what is older than `retention`; starts over at the end. Yields how many went.
    pub(super) async fn step(&mut self, session: &mut Session, pipeline: &str, retention: Duration) -> Result<u64> {
        let pipeline = text_ascii(pipeline);
        let beyond = format!("pipeline = {pipeline} AND row_key > {}", binary(&self.after));
        let last = session
            .rows(&format!("SELECT row_key FROM {TOMBSTONES} WHERE {beyond} ORDER BY row_key LIMIT {}, 1", STRIDE - 1))
            .await
            .map_err(StatementError::into_error)?;
        let last = last.first().and_then(|row| bytes_at(row, 0));
        let until = last.as_ref().map_or_else(String::new, |key| format!(" AND row_key <= {}", binary(key)));
        let sql = format!(
            "DELETE FROM {TOMBSTONES} WHERE {beyond}{until} AND deleted < UTC_TIMESTAMP(6) - INTERVAL {} SECOND",
            retention.as_secs()
        );
        let done = session.run(&sql).await.map_err(StatementError::into_error)?;
        self.after = last.unwrap_or_default();
        Ok(done.affected)
    }
}
