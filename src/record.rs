//! What the source hands over: raw records in arenas, one [`Chunk`] per partition, no allocation per record; and single records that own
//! their bytes, for tools and tests.

use std::fmt;
use std::sync::Arc;

use crate::position::{OffsetRange, Partition, Position};

/// One micro-batch as read from Kafka: at most one chunk per partition, chunks in ascending partition order.
#[derive(Debug, Clone)]
pub struct RawBatch {
    pub topic: Arc<str>,
    pub chunks: Vec<Chunk>,
}

/// Consecutive records of one partition, offsets strictly rising.
#[derive(Debug, Clone)]
pub struct Chunk {
    pub partition: Partition,
    /// Position before the first record: where the stored offset stands (never after the first record's offset).
    pub from: i64,
    /// Position after the last record: what the stored offset becomes.
    pub to: i64,
    bytes: Vec<u8>,
    slots: Vec<Slot>,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    offset: i64,
    timestamp_ms: i64,
    start: usize,
    key: u32,
    value: u32,
    headers: u32,
}

/// Length marking an absent key or value (Kafka's null), which differs from an empty one.
const ABSENT: u32 = u32::MAX;

/// One record, borrowed from its chunk.
#[derive(Debug, Clone, Copy)]
pub struct RawRecord<'a> {
    pub partition: Partition,
    pub offset: i64,
    /// The record's Kafka timestamp in milliseconds since 1970 UTC; `None` where the broker has none.
    pub timestamp_ms: Option<i64>,
    pub key: Option<&'a [u8]>,
    /// `None` is Kafka's tombstone.
    pub value: Option<&'a [u8]>,
    /// Headers as a JSON array of `[name, value]`, value a string or null; empty where the record has none.
    pub headers: &'a [u8],
}

impl RawRecord<'_> {
    pub fn position(&self) -> Position {
        Position { partition: self.partition, offset: self.offset }
    }
}

impl Chunk {
    /// An empty chunk of `partition` whose stored position stands at `from`.
    pub fn new(partition: Partition, from: i64) -> Self {
        Self { partition, from, to: from, bytes: Vec::new(), slots: Vec::new() }
    }

    /// Appends a copy of `record`; its offset must not be below [`Chunk::to`]. Lengths are those of Kafka, below 2 GiB.
    pub fn push(&mut self, record: RawRecord<'_>) {
        debug_assert_eq!(record.partition, self.partition);
        debug_assert!(record.offset >= self.to, "offsets rise within a chunk");
        let start = self.bytes.len();
        self.bytes.extend_from_slice(record.key.unwrap_or_default());
        self.bytes.extend_from_slice(record.value.unwrap_or_default());
        self.bytes.extend_from_slice(record.headers);
        let length = |part: Option<&[u8]>| part.map_or(ABSENT, |bytes| bytes.len() as u32);
        self.slots.push(Slot {
            offset: record.offset,
            timestamp_ms: record.timestamp_ms.unwrap_or(-1),
            start,
            key: length(record.key),
            value: length(record.value),
            headers: record.headers.len() as u32,
        });
        self.to = record.offset + 1;
    }

    pub fn len(&self) -> usize {
        self.slots.len()
    }

    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Bytes held: payloads, keys and headers, without bookkeeping.
    pub fn byte_len(&self) -> usize {
        self.bytes.len()
    }

    pub fn range(&self) -> OffsetRange {
        OffsetRange { partition: self.partition, from: self.from, to: self.to }
    }

    pub fn records(&self) -> impl ExactSizeIterator<Item = RawRecord<'_>> {
        self.slots.iter().map(|slot| self.record(slot))
    }

    /// The record at `offset`, if this chunk holds it.
    pub fn at(&self, offset: i64) -> Option<RawRecord<'_>> {
        let index = self.slots.binary_search_by_key(&offset, |slot| slot.offset).ok()?;
        self.slots.get(index).map(|slot| self.record(slot))
    }

    /// Cuts the first `count` records off into a chunk of their own; `self` keeps the rest and starts where it ends.
    pub fn split_front(&mut self, count: usize) -> Chunk {
        if count >= self.slots.len() {
            let rest = Chunk::new(self.partition, self.to);
            return std::mem::replace(self, rest);
        }
        let mut front = Chunk::new(self.partition, self.from);
        let mut rest = Chunk::new(self.partition, self.from);
        for (index, record) in self.records().enumerate() {
            if index == count {
                rest.from = front.to;
                rest.to = front.to;
            }
            if index < count { front.push(record) } else { rest.push(record) }
        }
        // The chunk may reach beyond its last record.
        rest.to = rest.to.max(self.to);
        *self = rest;
        front
    }

    fn record<'a>(&'a self, slot: &Slot) -> RawRecord<'a> {
        let part = |start: usize, length: u32| match length {
            ABSENT => (None, start),
            length => {
                let end = start + length as usize;
                (self.bytes.get(start..end), end)
            }
        };
        let (key, end) = part(slot.start, slot.key);
        let (value, end) = part(end, slot.value);
        let (headers, _) = part(end, slot.headers);
        RawRecord {
            partition: self.partition,
            offset: slot.offset,
            timestamp_ms: (slot.timestamp_ms >= 0).then_some(slot.timestamp_ms),
            key,
            value,
            headers: headers.unwrap_or_default(),
        }
    }
}

impl RawBatch {
    pub fn len(&self) -> usize {
        self.chunks.iter().map(Chunk::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.chunks.iter().all(Chunk::is_empty)
    }

    pub fn byte_len(&self) -> usize {
        self.chunks.iter().map(Chunk::byte_len).sum()
    }

    /// All records, by partition, then offset.
    pub fn records(&self) -> impl Iterator<Item = RawRecord<'_>> {
        self.chunks.iter().flat_map(Chunk::records)
    }

    /// The record at `position`, if this batch holds it.
    pub fn at(&self, position: Position) -> Option<RawRecord<'_>> {
        self.chunks.iter().find(|chunk| chunk.partition == position.partition)?.at(position.offset)
    }
}

/// One record of a topic, owning its bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct OwnedRecord {
    pub partition: Partition,
    pub offset: i64,
    /// Kafka timestamp, milliseconds since 1970 UTC.
    pub timestamp_ms: Option<i64>,
    pub key: Option<Vec<u8>>,
    /// `None` is Kafka's tombstone.
    pub value: Option<Vec<u8>>,
}

/// Bytes as text, for people who look at a failed test.
impl fmt::Debug for OwnedRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.value.as_deref().map(String::from_utf8_lossy);
        write!(f, "({}, {}) at {:?}: ", self.partition, self.offset, self.timestamp_ms)?;
        f.write_str(value.as_deref().unwrap_or("(null)"))
    }
}

impl OwnedRecord {
    pub fn as_raw(&self) -> RawRecord<'_> {
        RawRecord {
            partition: self.partition,
            offset: self.offset,
            timestamp_ms: self.timestamp_ms,
            key: self.key.as_deref(),
            value: self.value.as_deref(),
            headers: b"",
        }
    }
}
