//! Events in a file, one JSON object per line: written by `generate`, read by `preview`.
//!
//! A line is a record, `{"partition":0,"offset":7,"timestamp":1700000000000,"key":"42","value":{..}}`, or a bare event. Payloads that are
//! no JSON stand as `value_base64`, keys that are no text as `key_base64`. What is written is read back byte for byte.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::OwnedRecord;
use crate::error::{Error, Kind, Result};

/// A record as it stands on a line.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    #[serde(default)]
    partition: i32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    offset: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timestamp: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    #[serde(borrow, default)]
    value: Option<&'a RawValue>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
}

/// Writes `records`, one per line; yields how many.
pub fn write_ndjson(mut out: impl Write, records: impl IntoIterator<Item = OwnedRecord>) -> io::Result<u64> {
    let mut written = 0;
    for record in records {
        let mut line = Line {
            partition: record.partition,
            offset: Some(record.offset),
            timestamp: record.timestamp_ms,
            ..Line::default()
        };
        match record.key.map(String::from_utf8) {
            Some(Ok(key)) => line.key = Some(key),
            Some(Err(bytes)) => line.key_base64 = Some(BASE64_STANDARD.encode(bytes.as_bytes())),
            None => {}
        }
        if let Some(value) = &record.value {
            line.value = as_json(value);
            if line.value.is_none() {
                line.value_base64 = Some(BASE64_STANDARD.encode(value));
            }
        }
        serde_json::to_writer(&mut out, &line)?;
        out.write_all(b"\n")?;
        written += 1;
    }
    Ok(written)
}

/// The payload as JSON, where that keeps every byte of it, the line one line, and the line readable by every JSON parser. A payload
/// `null` would read as a missing one.
fn as_json(value: &[u8]) -> Option<&RawValue> {
    if value.contains(&b'\n') || value == b"null" || serde_json::from_slice::<serde_json::Value>(value).is_err() {
        return None;
    }
    let raw: &RawValue = serde_json::from_slice(value).ok()?;
    (raw.get().len() == value.len()).then_some(raw)
}

/// Reads a file of records or bare events. Bare events lie in partition 0 at rising offsets and take their own `timestamp`, of which
/// `ticks_per_second` make a second, as Kafka timestamp if it can be read. Lines that are no JSON are taken as they are: what is wrong
/// with them is for the decoder to say.
///
/// Fails if the file can't be read or a record's line can't be understood; the error names the line.
pub fn read_events_file(path: &Path, ticks_per_second: i64) -> Result<Vec<OwnedRecord>> {
    let read = read_placed_events(path, ticks_per_second)?;
    Ok(read.into_iter().map(|(record, _)| record).collect())
}

/// As [`read_events_file`], each with whether the file itself says at which offset it lies.
pub fn read_placed_events(path: &Path, ticks_per_second: i64) -> Result<Vec<(OwnedRecord, bool)>> {
    let bytes = std::fs::read(path).map_err(|error| {
        Error::new(Kind::Config, format!("can't read the events file {}", path.display()))
            .remedy("name a file with one JSON object per line")
            .source(error)
    })?;
    let mut records: Vec<(OwnedRecord, bool)> = Vec::new();
    for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let next = |partition| {
            let last = records.iter().rev().find(|(record, _)| record.partition == partition);
            last.map_or(0, |(record, _)| record.offset + 1)
        };
        let record = read_line(line, next, ticks_per_second)
            .map_err(|error| error.at(format!("{}:{}", path.display(), index + 1)))?;
        records.push(record);
    }
    Ok(records)
}

fn read_line(line: &[u8], next: impl Fn(i32) -> i64, ticks_per_second: i64) -> Result<(OwnedRecord, bool)> {
    if !is_record(line) {
        let timestamp_ms = own_timestamp_ms(line, ticks_per_second);
        let value = Some(line.to_vec());
        return Ok((OwnedRecord { partition: 0, offset: next(0), timestamp_ms, key: None, value }, false));
    }
    let fault = |error: &dyn std::fmt::Display| {
        Error::new(Kind::Config, format!("this record can't be read: {error}"))
            .remedy("a record has partition, offset, timestamp, key or key_base64, and value or value_base64")
    };
    let line: Line<'_> = serde_json::from_slice(line).map_err(|error| fault(&error))?;
    let decoded =
        |text: Option<String>| text.map(|text| BASE64_STANDARD.decode(text).map_err(|error| fault(&error))).transpose();
    let offset = line.offset.unwrap_or_else(|| next(line.partition));
    if offset < next(line.partition) {
        return Err(fault(&format!("offset {offset} is not above the one before it in partition {}", line.partition)));
    }
    let placed = line.offset.is_some();
    let record = OwnedRecord {
        partition: line.partition,
        offset,
        timestamp_ms: line.timestamp,
        key: decoded(line.key_base64)?.or(line.key.map(String::into_bytes)),
        value: decoded(line.value_base64)?.or(line.value.map(|value| value.get().as_bytes().to_vec())),
    };
    Ok((record, placed))
}

/// Whether a line is a record around an event rather than an event.
fn is_record(line: &[u8]) -> bool {
    let Ok(fields) = serde_json::from_slice::<BTreeMap<String, &RawValue>>(line) else { return false };
    let event = fields.contains_key("op") || fields.contains_key("before") || fields.contains_key("after");
    !event && ["value", "value_base64", "offset"].iter().any(|name| fields.contains_key(*name))
}

/// The time that an event itself carries, milliseconds since 1970, if it can be read.
pub fn own_timestamp_ms(event: &[u8], ticks_per_second: i64) -> Option<i64> {
    let event: serde_json::Value = serde_json::from_slice(event).ok()?;
    let ticks = event.get("timestamp")?.as_i64()?;
    i64::try_from(i128::from(ticks) * 1000 / i128::from(ticks_per_second.max(1))).ok()
}
