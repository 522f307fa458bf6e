//! Rows of the table `events` while they are being read.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray, TimestampNanosecondArray,
};
use arrow::buffer::{Buffer, OffsetBuffer};
use arrow::datatypes::{Fields, SchemaRef};
use arrow::error::ArrowError;

use super::columns::{Bytes, Cells, take};
use super::image::Image;
use crate::error::{Error, Kind, Result};
use crate::record::RawRecord;
use crate::schema::{SourceSchema, image_fields};

/// What an event did to its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Op {
    Create,
    Update,
    Delete,
    Read,
}

impl Op {
    pub(super) fn named(name: &str) -> Option<Self> {
        match name {
            "c" => Some(Self::Create),
            "u" => Some(Self::Update),
            "d" => Some(Self::Delete),
            "r" => Some(Self::Read),
            _ => None,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Create => "c",
            Self::Update => "u",
            Self::Delete => "d",
            Self::Read => "r",
        }
    }
}

/// Which of an event's two images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    Before,
    After,
}

impl Which {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::After => "after",
        }
    }
}

/// Buffers of all columns. A row is its two images first, then [`Rows::push`]; until then [`Rows::truncate`] takes it back.
pub(super) struct Rows {
    schema: SchemaRef,
    image_fields: Fields,
    topic: Arc<str>,
    version: i32,
    before: Image,
    after: Image,
    ops: Vec<Option<Op>>,
    ts_ns: Vec<i64>,
    partitions: Vec<i32>,
    offsets: Vec<i64>,
    kafka_ts_ms: Vec<Option<i64>>,
    keys: Bytes,
}

impl Rows {
    pub(super) fn new(schema: &SourceSchema, events_schema: SchemaRef, topic: Arc<str>) -> Self {
        Self {
            schema: events_schema,
            image_fields: image_fields(schema),
            topic,
            version: schema.version as i32,
            before: Image::new(&schema.fields, &schema.reading),
            after: Image::new(&schema.fields, &schema.reading),
            ops: Vec::new(),
            ts_ns: Vec::new(),
            partitions: Vec::new(),
            offsets: Vec::new(),
            kafka_ts_ms: Vec::new(),
            keys: Bytes::binary(),
        }
    }

    pub(super) fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    /// Rows that are complete.
    pub(super) fn len(&self) -> usize {
        self.ops.len()
    }

    pub(super) fn image(&mut self, which: Which) -> &mut Image {
        match which {
            Which::Before => &mut self.before,
            Which::After => &mut self.after,
        }
    }

    /// Completes a row whose images stand already.
    pub(super) fn push(&mut self, record: &RawRecord<'_>, op: Option<Op>, ts_ns: i64) {
        self.ops.push(op);
        self.ts_ns.push(ts_ns);
        self.partitions.push(record.partition);
        self.offsets.push(record.offset);
        self.kafka_ts_ms.push(record.timestamp_ms);
        match record.key {
            Some(key) => self.keys.append(key),
            None => self.keys.push_null(),
        }
    }

    /// Keeps the first `rows` rows, and nothing of a row that was begun.
    pub(super) fn truncate(&mut self, rows: usize) {
        self.before.truncate(rows);
        self.after.truncate(rows);
        self.ops.truncate(rows);
        self.ts_ns.truncate(rows);
        self.partitions.truncate(rows);
        self.offsets.truncate(rows);
        self.kafka_ts_ms.truncate(rows);
        self.keys.truncate(rows);
    }

    /// Hands over the rows as a batch and starts again, empty.
    pub(super) fn finish(&mut self) -> Result<RecordBatch> {
        self.batch().map_err(|error| Error::new(Kind::Bug, "decoded columns don't make a batch").source(error))
    }

    fn batch(&mut self) -> Result<RecordBatch, ArrowError> {
        let rows = self.len();
        let ops: StringArray = take(&mut self.ops).into_iter().map(|op| op.map(Op::name)).collect();
        let topic = StringArray::try_new(
            OffsetBuffer::from_lengths(std::iter::repeat_n(self.topic.len(), rows)),
            Buffer::from_vec(self.topic.repeat(rows).into_bytes()),
            None,
        )?;
        let columns: Vec<ArrayRef> = vec![
            Arc::new(ops),
            self.before.finish(&self.image_fields)?,
            self.after.finish(&self.image_fields)?,
            Arc::new(TimestampNanosecondArray::from(take(&mut self.ts_ns)).with_timezone("UTC")),
            Arc::new(topic),
            Arc::new(Int32Array::from(take(&mut self.partitions))),
            Arc::new(Int64Array::from(take(&mut self.offsets))),
            Arc::new(TimestampMillisecondArray::from(take(&mut self.kafka_ts_ms)).with_timezone("UTC")),
            self.keys.finish()?,
            Arc::new(Int32Array::from(vec![self.version; rows])),
        ];
        RecordBatch::try_new(self.schema.clone(), columns)
    }
}
