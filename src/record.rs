//! What the source hands over: raw records in arenas, one [`Chunk`] per partition, no allocation per record; and single records that own
//! their bytes, for tools and tests.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::position::{OffsetRange, Partition, Position};

/// One micro-batch as read from Kafka: at most one chunk per partition, chunks in ascending partition order.
#[derive(Debug, Clone)]
pub struct RawBatch {
    pub topic: Arc<str>,
    pub chunks: Vec<Chunk>,
    /// Whether there was more behind it, as far as known: an end of its partitions had not been read.
    pub more: bool,
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

    /// How many of the first records are within the limits.
    pub fn fitting(&self, max_events: usize, max_bytes: usize) -> usize {
        // A record ends where the next one starts.
        let ends = self.slots.get(1..).unwrap_or_default();
        let within = ends.partition_point(|next| next.start <= max_bytes);
        let all = within == ends.len() && !self.slots.is_empty() && self.bytes.len() <= max_bytes;
        (within + usize::from(all)).min(max_events)
    }

    /// Cuts the first `count` records off into a chunk of their own; `self` keeps the rest and starts where it ends.
    pub fn split_front(&mut self, count: usize) -> Chunk {
        let Some(cut) = self.slots.get(count).map(|slot| slot.start) else {
            let rest = Chunk::new(self.partition, self.to);
            return std::mem::replace(self, rest);
        };
        // The front's memory is exact; the rest keeps its own, as more will be appended to it.
        let bytes = self.bytes.drain(..cut).as_slice().to_vec();
        let slots = self.slots.drain(..count).as_slice().to_vec();
        self.slots.iter_mut().for_each(|slot| slot.start -= cut);
        let to = slots.last().map_or(self.from, |last| last.offset + 1);
        Chunk { partition: self.partition, from: std::mem::replace(&mut self.from, to), to, bytes, slots }
    }

    /// Appends a copy of the records of `next`, which begins where `self` ends.
    pub fn append(&mut self, next: &Chunk) {
        debug_assert_eq!((next.partition, next.from), (self.partition, self.to));
        let shift = self.bytes.len();
        self.bytes.extend_from_slice(&next.bytes);
        self.slots.extend(next.slots.iter().map(|slot| Slot { start: slot.start + shift, ..*slot }));
        self.to = self.to.max(next.to);
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

    /// How old the youngest record was at `now`, by Kafka's timestamps; zero where none has one.
    pub fn age(&self, now: SystemTime) -> Duration {
        let last = |chunk: &Chunk| chunk.slots.last().and_then(|slot| u64::try_from(slot.timestamp_ms).ok());
        let youngest = self.chunks.iter().filter_map(last).max().map(|ms| UNIX_EPOCH + Duration::from_millis(ms));
        // A producer's clock may be ahead of ours.
        youngest.and_then(|youngest| now.duration_since(youngest).ok()).unwrap_or_default()
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Everything of a record, in a form that can be compared.
    fn whole(record: RawRecord<'_>) -> String {
        format!("{record:?}")
    }

    #[test]
    fn a_batch_is_as_old_as_the_youngest_record_that_has_a_timestamp() {
        let chunk = |partition, times: &[Option<i64>]| {
            let mut chunk = Chunk::new(partition, 0);
            for (offset, timestamp_ms) in (0..).zip(times.iter().copied()) {
                chunk.push(RawRecord { partition, offset, timestamp_ms, key: None, value: None, headers: b"" });
            }
            chunk
        };
        let age = |chunks| {
            let batch = RawBatch { topic: "t".into(), chunks, more: false };
            batch.age(UNIX_EPOCH + Duration::from_millis(5_000)).as_millis()
        };
        assert_eq!(age(vec![chunk(0, &[Some(100), Some(2_000)]), chunk(1, &[Some(1_500)]), chunk(2, &[])]), 3_000);
        assert_eq!(age(vec![chunk(0, &[Some(100)]), chunk(1, &[None])]), 4_900);
        assert_eq!(age(vec![chunk(0, &[Some(6_000)])]), 0, "a clock that is ahead");
        assert_eq!(age(vec![chunk(0, &[None])]), 0);
    }

    proptest! {
        #[test]
        fn a_chunk_that_is_cut_and_joined_again_is_what_it_was_and_fits_as_counted_one_by_one(
            records in proptest::collection::vec((0i64..3, 0usize..4, 0usize..4, 0usize..3), 0..30),
            beyond in 0i64..3,
            cut in 0usize..35,
            max_events in 0usize..35,
            max_bytes in 0usize..120,
        ) {
            let mut chunk = Chunk::new(7, 100);
            for (gap, key, value, headers) in records {
                let bytes = [b'a'; 4];
                chunk.push(RawRecord {
                    partition: 7,
                    offset: chunk.to + gap,
                    timestamp_ms: (gap > 0).then_some(gap),
                    key: key.checked_sub(1).map(|length| &bytes[..length]),
                    value: value.checked_sub(1).map(|length| &bytes[..length]),
                    headers: &bytes[..headers],
                });
            }
            chunk.to += beyond;
            let mut bytes = 0;
            let fits = chunk.records().take(max_events).take_while(|record| {
                bytes += record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len) + record.headers.len();
                bytes <= max_bytes
            });
            prop_assert_eq!(chunk.fitting(max_events, max_bytes), fits.count());
            let before: Vec<String> = chunk.records().map(whole).collect();
            let (from, to) = (chunk.from, chunk.to);
            let mut front = chunk.split_front(cut);
            prop_assert_eq!((front.from, front.len(), front.to), (from, cut.min(before.len()), chunk.from));
            prop_assert_eq!(chunk.to, to);
            prop_assert!(front.records().all(|record| record.offset < front.to));
            front.append(&chunk);
            prop_assert_eq!(front.records().map(whole).collect::<Vec<_>>(), before);
            prop_assert_eq!((front.from, front.to, front.byte_len()), (from, to, front.bytes.len()));
        }
    }
}
