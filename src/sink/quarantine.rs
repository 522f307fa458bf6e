//! The quarantine table: refused and held records with their original bytes, and what operators ask for them.
//!
//! Rows are written and settled only inside the data transaction of the partition's owner; the command line merely marks them
//! (`retry`, `discard`). States: `refused`, `held`, `retry`, `discard` keep their users waiting; `resolved`, `discarded` are history.

use std::fmt::Write;

use mysql_async::Row;

use super::positions::{Owner, text_ascii};
use super::quoting::{optional_binary, optional_number, optional_text, text};
use super::server_error;
use super::session::{Session, StatementError, bytes_at, int_at, text_at};
use super::tables::QUARANTINE;
use crate::error::{Error, Kind, Result};
use crate::hold::{Key, Pending, PendingState};
use crate::position::{Partition, Position};
use crate::record::RawRecord;
use crate::work::Refusal;

/// A record on its way into quarantine; `refusal` is `None` for one that is merely held.
#[derive(Debug, Clone)]
pub struct Quarantined<'a> {
    pub record: RawRecord<'a>,
    pub keys: &'a [Key],
    pub refusal: Option<&'a Refusal>,
}

/// What a re-run or an operator's mark made of a quarantined record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    pub position: Position,
    pub into: SettledInto,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SettledInto {
    /// It went through; its changes are in this transaction.
    Resolved,
    /// Given up on request.
    Discarded,
    /// Tried again and refused again.
    Refused(Refusal),
    /// Its users wait for another record now.
    Held,
}

/// A pending row without its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingRow {
    pub position: Position,
    pub pending: Pending,
    /// `refused` or `held`: its class in the sums, whatever has been asked for since.
    pub was_held: bool,
    pub discard: bool,
    pub stage: String,
    /// Whose models refused it last.
    pub generation: i64,
}

/// A quarantined record with its original bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRecord {
    pub position: Position,
    pub timestamp_ms: Option<i64>,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<u8>,
}

impl StoredRecord {
    pub fn as_raw(&self) -> RawRecord<'_> {
        RawRecord {
            partition: self.position.partition,
            offset: self.position.offset,
            timestamp_ms: self.timestamp_ms,
            key: self.key.as_deref(),
            value: self.value.as_deref(),
            headers: &self.headers,
        }
    }
}

/// Keys as the JSON array that stands in `event_keys`.
fn keys_text(keys: &[Key]) -> String {
    let parts: Vec<&str> = keys.iter().map(|key| &*key.0).collect();
    format!("[{}]", parts.join(","))
}

/// The inverse of [`keys_text`]; anything unreadable names nobody.
fn keys_from(text: &str) -> Vec<Key> {
    let parts: Vec<Box<serde_json::value::RawValue>> = serde_json::from_str(text).unwrap_or_default();
    parts.iter().map(|part| Key(part.get().into())).collect()
}

/// INSERTs for `records`, each well below `packet`, the server's limit for one statement. [`Kind::SinkConfig`], by name, where a
/// single record is larger than that: only an operator can help.
pub fn inserts(owner: &Owner, records: &[Quarantined<'_>], packet: usize) -> Result<Vec<String>> {
    let byte_limit = (packet / 2).min(4 << 20);
    let head = format!(
        "INSERT INTO {QUARANTINE} (pipeline, topic, kafka_partition, kafka_offset, state, stage, model, column_name, reason, event_keys, \
         kafka_timestamp_ms, record_key, record_value, record_headers, attempts, first_attempt, last_attempt, generation) VALUES "
    );
    // A row may be there already after an operator set positions back; the new judgement replaces the old one.
    let tail = " ON DUPLICATE KEY UPDATE state = VALUES(state), stage = VALUES(stage), model = VALUES(model), \
                column_name = VALUES(column_name), reason = VALUES(reason), event_keys = VALUES(event_keys), \
                attempts = attempts + 1, last_attempt = VALUES(last_attempt), generation = VALUES(generation)";
    let mut statements = Vec::new();
    let mut sql = String::new();
    for item in records {
        let refusal = item.refusal;
        let row = format!(
            "({}, {}, {}, {}, '{}', {}, {}, {}, {}, {}, {}, {}, {}, {}, 1, UTC_TIMESTAMP(6), UTC_TIMESTAMP(6), {})",
            text_ascii(&owner.pipeline),
            text_ascii(&owner.topic),
            item.record.partition,
            item.record.offset,
            if refusal.is_some() { "refused" } else { "held" },
            optional_text(refusal.map(|refusal| refusal.stage.name())),
            optional_text(refusal.and_then(|refusal| refusal.model.as_deref())),
            optional_text(refusal.and_then(|refusal| refusal.column.as_deref()).map(ascii_word).as_deref()),
            optional_text(refusal.map(|refusal| refusal.reason.as_str())),
            text(&keys_text(item.keys)),
            optional_number(item.record.timestamp_ms),
            optional_binary(item.record.key),
            optional_binary(item.record.value),
            optional_text(std::str::from_utf8(item.record.headers).ok().filter(|headers| !headers.is_empty())),
            owner.generation.number,
        );
        let alone = head.len() + row.len() + tail.len();
        if alone >= packet {
            let what = format!(
                "{} goes into quarantine, but a statement with it has {alone} bytes and max_allowed_packet is {packet}",
                item.record.position()
            );
            return Err(Error::new(Kind::SinkConfig, what).remedy(server_error::remedy(server_error::PACKET_TOO_LARGE)));
        }
        if !sql.is_empty() && sql.len() + row.len() > byte_limit {
            statements.push(std::mem::take(&mut sql) + tail);
        }
        sql.push_str(if sql.is_empty() { &head } else { ", " });
        sql.push_str(&row);
    }
    if !sql.is_empty() {
        statements.push(sql + tail);
    }
    Ok(statements)
}

/// Column names go into an ASCII column; a field name from outside may be anything.
fn ascii_word(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_graphic() { c } else { '?' }).take(64).collect()
}

/// UPDATEs for records that were run again or given up.
pub fn settlements(owner: &Owner, settled: &[Settled]) -> Vec<String> {
    settled
        .iter()
        .map(|item| {
            let mut set = String::new();
            // Writing to a String cannot fail.
            let _ = match &item.into {
                SettledInto::Resolved => write!(set, "state = 'resolved', attempts = attempts + 1"),
                SettledInto::Discarded => write!(set, "state = 'discarded'"),
                SettledInto::Held => write!(set, "state = 'held', stage = NULL, model = NULL, column_name = NULL, reason = NULL"),
                SettledInto::Refused(refusal) => write!(
                    set,
                    "state = 'refused', stage = {}, model = {}, column_name = {}, reason = {}, event_keys = {}, attempts = attempts + 1",
                    optional_text(Some(refusal.stage.name())),
                    optional_text(refusal.model.as_deref()),
                    optional_text(refusal.column.as_deref().map(ascii_word).as_deref()),
                    optional_text(Some(&refusal.reason)),
                    text(&keys_text(&refusal.keys)),
                ),
            };
            format!(
                "UPDATE {QUARANTINE} SET {set}, last_attempt = UTC_TIMESTAMP(6), generation = {} WHERE pipeline = {} AND topic = {} \
                 AND kafka_partition = {} AND kafka_offset = {}",
                owner.generation.number,
                text_ascii(&owner.pipeline),
                text_ascii(&owner.topic),
                item.position.partition,
                item.position.offset,
            )
        })
        .collect()
}

/// All pending rows of `partitions`, without bytes, in order. To be read under the lock of their positions, or they may be another
/// owner's work already.
pub(super) async fn pending(
    session: &mut Session,
    owner: &Owner,
    partitions: &[Partition],
) -> Result<Vec<PendingRow>, StatementError> {
    if partitions.is_empty() {
        return Ok(Vec::new());
    }
    let list: Vec<String> = partitions.iter().map(ToString::to_string).collect();
    let sql = format!(
        "SELECT kafka_partition, kafka_offset, state, stage, event_keys, generation FROM {QUARANTINE} WHERE pipeline = {} AND topic = {} \
         AND kafka_partition IN ({}) AND state IN ('refused', 'held', 'retry', 'discard') ORDER BY kafka_partition, kafka_offset",
        text_ascii(&owner.pipeline),
        text_ascii(&owner.topic),
        list.join(", "),
    );
    Ok(session.rows(&sql).await?.iter().map(pending_row).collect())
}

fn pending_row(row: &Row) -> PendingRow {
    let (state, stage) = (text_at(row, 2), text_at(row, 3));
    // A held record has no stage yet; one that was refused keeps it while marks change its state.
    let was_held = stage.is_empty();
    let discard = state == "discard";
    let state = match state.as_str() {
        "retry" => PendingState::Retry,
        "refused" => PendingState::Refused,
        // Given up: settled at the next opportunity, like a retry.
        "discard" => PendingState::Retry,
        _ => PendingState::Held,
    };
    PendingRow {
        position: position_at(row),
        pending: Pending { keys: keys_from(&text_at(row, 4)), state },
        was_held,
        discard,
        stage,
        generation: int_at(row, 5).unwrap_or(0),
    }
}

/// Whether anything of this pipeline was marked `retry` or `discard`: one cheap indexed look.
pub async fn any_marked(session: &mut Session, owner: &Owner) -> Result<bool> {
    let sql = format!(
        "SELECT 1 FROM {QUARANTINE} WHERE pipeline = {} AND topic = {} AND state IN ('retry', 'discard') LIMIT 1",
        text_ascii(&owner.pipeline),
        text_ascii(&owner.topic),
    );
    session.rows(&sql).await.map(|rows| !rows.is_empty()).map_err(StatementError::into_error)
}

/// The original bytes of pending records, in order.
pub async fn records(session: &mut Session, owner: &Owner, positions: &[Position]) -> Result<Vec<StoredRecord>> {
    // So many that the list stays far below any packet limit.
    const AT_ONCE: usize = 1_000;
    let mut records = Vec::with_capacity(positions.len());
    for part in positions.chunks(AT_ONCE) {
        let pairs: Vec<String> =
            part.iter().map(|position| format!("({}, {})", position.partition, position.offset)).collect();
        let sql = format!(
            "SELECT kafka_partition, kafka_offset, kafka_timestamp_ms, record_key, record_value, record_headers FROM {QUARANTINE} \
             WHERE pipeline = {} AND topic = {} AND (kafka_partition, kafka_offset) IN ({})",
            text_ascii(&owner.pipeline),
            text_ascii(&owner.topic),
            pairs.join(", "),
        );
        let rows = session.rows(&sql).await.map_err(StatementError::into_error)?;
        records.extend(rows.iter().map(|row| StoredRecord {
            position: position_at(row),
            timestamp_ms: int_at(row, 2),
            key: bytes_at(row, 3),
            value: bytes_at(row, 4),
            headers: bytes_at(row, 5).unwrap_or_default(),
        }));
    }
    records.sort_by_key(|record| record.position);
    Ok(records)
}

fn position_at(row: &Row) -> Position {
    let partition = int_at(row, 0).and_then(|number| Partition::try_from(number).ok()).unwrap_or(-1);
    Position { partition, offset: int_at(row, 1).unwrap_or(-1) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_keys_survive_the_way_through_the_table(
            keys in proptest::collection::vec(proptest::collection::vec(any::<String>(), 1..3), 0..4)
        ) {
            let keys: Vec<Key> =
                keys.into_iter().map(|parts| Key(serde_json::Value::from(parts).to_string().into())).collect();
            prop_assert_eq!(keys_from(&keys_text(&keys)), keys);
        }

        #[test]
        fn whatever_stands_in_the_table_names_somebody_or_nobody(text in "\\PC*") {
            drop(keys_from(&text));
        }
    }

    #[test]
    fn keys_survive_the_way_through_the_table() {
        let keys = vec![Key("[\"a,b\"]".into()), Key("[\"]\",7]".into())];
        assert_eq!(keys_from(&keys_text(&keys)), keys);
        assert_eq!(keys_from("nonsense"), Vec::new());
    }

    #[test]
    fn statements_stay_below_the_limit_and_lose_no_record() {
        let owner = Owner {
            pipeline: "users".into(),
            topic: "t".into(),
            token: [0; 16],
            name: String::new(),
            generation: Default::default(),
        };
        let value = [b'x'; 100];
        let records: Vec<Quarantined<'_>> = (0..50)
            .map(|offset| Quarantined {
                record: RawRecord {
                    partition: 0,
                    offset,
                    timestamp_ms: None,
                    key: None,
                    value: Some(&value),
                    headers: b"",
                },
                keys: &[],
                refusal: None,
            })
            .collect();
        let statements = inserts(&owner, &records, 8192).unwrap();
        assert!(statements.len() > 1 && statements.iter().all(|sql| sql.len() < 8192));
        let rows: usize = statements.iter().map(|sql| sql.matches("'held'").count()).sum();
        assert_eq!(rows, 50);
        let error = inserts(&owner, &records[7..8], 400).unwrap_err();
        assert!(error.to_string().contains("partition 0 offset 7") && error.kind == Kind::SinkConfig, "{error}");
    }
}
