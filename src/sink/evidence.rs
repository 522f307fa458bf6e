//! Evidence of late events: rows of `out_of_order_events`. In a stream of which a tenth is late there are so many that they go as other
//! rows do ([`super::insert`]): as text, each took 7 us of MariaDB's time.
//!
//! In: [`OutOfOrder`] events of one batch. Out: a row for each, inside the batch's transaction; one that is there already, from a
//! repetition, is the same.

use mysql_async::Value;

use super::insert::{Insert, Rows};
use super::positions::{Owner, text_ascii};
use super::quoting::binary;
use super::session::{Session, StatementError};
use super::stage::RowFault;
use super::tables::OUT_OF_ORDER;
use crate::error::{Error, Kind, Result};
use crate::work::OutOfOrder;

/// Fewer rows go as text: nothing is gained by preparing a statement.
const LEAST: usize = 20;

/// The statement, which depends on the pipeline only; built once.
pub struct Evidence {
    insert: Insert,
    /// What is the same in each row, as literals.
    pipeline: String,
}

/// Events as rows.
struct Late<'a> {
    events: &'a [OutOfOrder],
    pipeline: &'a str,
}

impl Evidence {
    pub fn new(owner: &Owner) -> Self {
        let pipeline = format!("{}, {}", text_ascii(&owner.pipeline), text_ascii(&owner.topic));
        let row = format!("({pipeline}, ?, ?, ?, ?, ?, ?, ?, UTC_TIMESTAMP(6))");
        let head = format!(
            "INSERT INTO {OUT_OF_ORDER} (pipeline, topic, kafka_partition, kafka_offset, event_key, event_ts_ns, newest_ts_ns, \
             newest_partition, newest_offset, detected) VALUES "
        );
        let tail = " ON DUPLICATE KEY UPDATE detected = VALUES(detected)".to_owned();
        Self { insert: Insert::of_rows_like(row, head, [tail.clone(), tail]), pipeline }
    }

    /// Writes a row for each of `events`.
    pub async fn put(&self, session: &mut Session, events: &[OutOfOrder]) -> Result<()> {
        let rows: Vec<usize> = (0..events.len()).collect();
        let late = Late { events, pipeline: &self.pipeline };
        let in_bulk = events.len() >= LEAST
            && self.insert.put(session, &late, &rows).await.map_err(StatementError::into_error_about_rows)?.is_some();
        if in_bulk {
            return Ok(());
        }
        // Some may be there by now.
        match self.insert.put_text(session, &late, &rows).await.map_err(StatementError::into_error_about_rows)? {
            Ok(_) => Ok(()),
            Err(fault) => {
                let reason = fault.map_or_else(|| "MySQL refuses a row".to_owned(), |fault| fault.reason);
                let remedy = "it seems to have been altered: `afterimage migrate` shows how it is created";
                Err(Error::new(Kind::SinkConfig, format!("table {OUT_OF_ORDER}: {reason}")).remedy(remedy))
            }
        }
    }
}

impl Rows for Late<'_> {
    fn push(&self, sql: &mut Vec<u8>, row: usize) -> Result<(), RowFault> {
        let Some(event) = self.events.get(row) else { return Ok(()) };
        let tuple = format!(
            "({}, {}, {}, {}, {}, {}, {}, {}, UTC_TIMESTAMP(6))",
            self.pipeline,
            event.position.partition,
            event.position.offset,
            binary(event.key.0.as_bytes()),
            event.ts_ns,
            event.known.ts_ns,
            event.known.partition,
            event.known.offset,
        );
        sql.extend_from_slice(tuple.as_bytes());
        Ok(())
    }

    fn values(&self, values: &mut Vec<Value>, row: usize) -> Result<(), RowFault> {
        let Some(event) = self.events.get(row) else { return Ok(()) };
        values.extend([
            event.position.partition.into(),
            event.position.offset.into(),
            event.key.0.as_bytes().into(),
            event.ts_ns.into(),
            event.known.ts_ns.into(),
            event.known.partition.into(),
            event.known.offset.into(),
        ]);
        Ok(())
    }
}
