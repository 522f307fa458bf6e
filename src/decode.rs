//! Decode: change events as JSON become the Arrow batch `events` that the models read.
//!
//! In: raw records in the order of the batch. Out, for each of them, exactly one of: a row in `events` (in the same order), an entry
//! in `refused` with a row in `salvage`, an entry in `ignored` (Kafka's null value). One bad record never harms its neighbours: its
//! row is cut off again, whatever was written of it.
//!
//! Strict: a value enters its column exactly or refuses its record; nothing is coerced, rounded or cut. Fields that no schema knows
//! are counted by name and otherwise left alone. Reasons name fields and places, never values.
//!
//! An event is `{"op", "before", "after", "timestamp"}`. `c`, `r` and `u` need `after`, `d` needs `before`; the image that an `op`
//! has no use for (`before` of `c` and `r`, `after` of `d`) is checked and then NULL in `events`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};

use crate::error::{Error, Kind, Result};
use crate::position::Position;
use crate::record::RawRecord;
use crate::schema::{SourceSchema, image_fields};
use crate::work::{Refusal, Stage};

mod columns;
mod envelope;
mod image;
mod keyed;
mod nested;
mod rows;
mod salvage;
mod unmapped;

use envelope::Reader;
pub use keyed::{Changes, Keyed};
use rows::Rows;
pub use unmapped::OTHER_FIELDS;

/// Unit of the event's `timestamp`, which counts from 1970 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TimestampUnit {
    S,
    Ms,
    Us,
    Ns,
}

impl TimestampUnit {
    /// `units` as nanoseconds; `None` beyond what 64 bits hold (years 1677 to 2262).
    pub fn to_ns(self, units: i64) -> Option<i64> {
        let ns_per_unit = match self {
            Self::S => 1_000_000_000,
            Self::Ms => 1_000_000,
            Self::Us => 1_000,
            Self::Ns => 1,
        };
        units.checked_mul(ns_per_unit)
    }
}

/// What decoding depends on besides the schema.
#[derive(Debug, Clone)]
pub struct DecodeOptions {
    pub topic: Arc<str>,
    pub timestamp_unit: TimestampUnit,
    /// How far an event may be dated ahead of its record's Kafka timestamp (of the wall clock, where it has none).
    pub max_future_skew: Duration,
}

/// What became of a batch.
#[derive(Debug, Clone)]
pub struct Decoded {
    /// One row per good record, see [`events_schema`].
    pub events: RecordBatch,
    pub refused: Vec<DecodeRefusal>,
    /// Row i is all that could be read of `refused[i]`, NULL elsewhere: good for finding out which users a bad record names, and
    /// for nothing else. `op` is `u` or `d` by the image that names a user, NULL where none does; `ts` is 1970 where unreadable.
    pub salvage: RecordBatch,
    /// Records whose value is null: Kafka's tombstones.
    pub ignored: Vec<Position>,
    /// Fields that no schema knows, by name, and how many good events had them.
    pub unmapped: BTreeMap<String, u64>,
}

/// A record that is no event of this schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodeRefusal {
    pub position: Position,
    /// The field to blame, e.g. `after.userId`, where one is.
    pub column: Option<String>,
    pub reason: String,
}

impl DecodeRefusal {
    /// The refusal as the rest of the road knows it; which users it names is found out from `salvage`.
    pub fn to_refusal(&self) -> Refusal {
        Refusal {
            position: self.position,
            keys: Vec::new(),
            stage: Stage::Decode,
            model: None,
            column: self.column.clone(),
            reason: self.reason.clone(),
        }
    }
}

/// Why a record is refused, before its position is known.
#[derive(Debug, PartialEq, Eq)]
struct Fault {
    column: Option<String>,
    reason: String,
}

impl Fault {
    fn new(reason: impl Into<String>) -> Self {
        Self { column: None, reason: reason.into() }
    }

    /// `rest` continues the sentence that starts with the field: `is missing`.
    fn field(name: &str, rest: &str) -> Self {
        Self { column: Some(name.to_owned()), reason: format!("`{name}` {rest}") }
    }
}

/// Decodes batch after batch; its buffers grow to the size of a batch once.
pub struct Decoder {
    reader: Reader,
    events: Rows,
    salvage: Rows,
    max_future_skew: Duration,
}

/// Offsets into text are 32 bits wide in Arrow, so one batch holds no more bytes than that.
const MAX_BATCH_BYTES: usize = i32::MAX as usize;

impl Decoder {
    pub fn new(schema: &SourceSchema, options: DecodeOptions) -> Self {
        let events_schema = events_schema(schema);
        let rows = || Rows::new(schema, events_schema.clone(), options.topic.clone());
        Self {
            reader: Reader::new(schema, options.timestamp_unit),
            events: rows(),
            salvage: rows(),
            max_future_skew: options.max_future_skew,
        }
    }

    /// Schema of `events` and `salvage`.
    pub fn events_schema(&self) -> SchemaRef {
        self.events.schema()
    }

    /// Decodes one batch. Bad records are no error; an error means that the batch as a whole can't be held, and leaves the decoder
    /// ready for the next one.
    pub fn decode<'a>(&mut self, records: impl IntoIterator<Item = RawRecord<'a>>) -> Result<Decoded> {
        // What an earlier, failed batch left behind.
        self.events.truncate(0);
        self.salvage.truncate(0);
        let now_ms = wall_clock_ms();
        let (mut refused, mut ignored) = (Vec::new(), Vec::new());
        let mut bytes = 0_usize;
        for record in records {
            let Some(value) = record.value else {
                ignored.push(record.position());
                continue;
            };
            bytes += value.len() + record.key.map_or(0, <[u8]>::len) + self.reader.default_bytes();
            if bytes > MAX_BATCH_BYTES {
                return Err(Error::new(Kind::Config, format!("a batch is larger than 2 GiB at {}", record.position()))
                    .remedy("lower the pipeline's batch.max_bytes"));
            }
            if let Err(fault) = self.read(&record, value, now_ms) {
                self.events.truncate(self.events.len());
                salvage::read(&self.reader, &record, value, &mut self.salvage);
                let Fault { column, reason } = fault;
                refused.push(DecodeRefusal { position: record.position(), column, reason });
            }
        }
        let unmapped = self.reader.take_unmapped();
        Ok(Decoded { events: self.events.finish()?, refused, salvage: self.salvage.finish()?, ignored, unmapped })
    }

    fn read(&mut self, record: &RawRecord<'_>, value: &[u8], now_ms: i64) -> Result<(), Fault> {
        if value.is_empty() {
            return Err(Fault::new("the payload is empty: 0 bytes, which is not Kafka's null"));
        }
        let text = std::str::from_utf8(value)
            .map_err(|error| Fault::new(format!("the payload is not UTF-8 from byte {} on", error.valid_up_to())))?;
        let event = self.reader.read(text, &mut self.events)?;
        let clock_ms = record.timestamp_ms.unwrap_or(now_ms);
        let latest_ns = i128::from(clock_ms) * 1_000_000 + self.max_future_skew.as_nanos() as i128;
        if i128::from(event.ts_ns) > latest_ns {
            let clock = if record.timestamp_ms.is_some() { "the record's Kafka timestamp" } else { "the clock" };
            let rest = format!("is ahead of {clock} by more than max_future_skew ({:?})", self.max_future_skew);
            return Err(Fault::field("timestamp", &rest));
        }
        self.events.push(record, Some(event.op), event.ts_ns);
        self.reader.count_unmapped();
        Ok(())
    }
}

/// Columns of the table `events`; the decoder yields exactly these.
pub fn events_schema(schema: &SourceSchema) -> SchemaRef {
    let image = DataType::Struct(image_fields(schema));
    let utc = Some(Arc::from("UTC"));
    Arc::new(Schema::new(vec![
        Field::new("op", DataType::Utf8, true),
        Field::new("before", image.clone(), true),
        Field::new("after", image, true),
        Field::new("ts", DataType::Timestamp(TimeUnit::Nanosecond, utc.clone()), false),
        Field::new("_topic", DataType::Utf8, false),
        Field::new("_partition", DataType::Int32, false),
        Field::new("_offset", DataType::Int64, false),
        Field::new("_kafka_ts", DataType::Timestamp(TimeUnit::Millisecond, utc), true),
        Field::new("_key", DataType::Binary, true),
        Field::new("_schema_version", DataType::Int32, false),
    ]))
}

fn wall_clock_ms() -> i64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_1970.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
