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
    /// Only the first may be empty, and then it is the only one.
    segments: Vec<Segment>,
}

/// Some of a chunk's records, where they were read into.
#[derive(Debug, Clone, Default)]
struct Segment {
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
    /// Bytes that a chunk holds of it, without bookkeeping.
    pub fn byte_len(&self) -> usize {
        self.key.map_or(0, <[u8]>::len) + self.value.map_or(0, <[u8]>::len) + self.headers.len()
    }

    pub fn position(&self) -> Position {
        Position { partition: self.partition, offset: self.offset }
    }
}

impl Chunk {
    /// An empty chunk of `partition` whose stored position stands at `from`.
    pub fn new(partition: Partition, from: i64) -> Self {
        Self { partition, from, to: from, segments: Vec::new() }
    }

    /// The same, with room for so many bytes in so many records.
    pub fn with_capacity(partition: Partition, from: i64, bytes: usize, records: usize) -> Self {
        let segment = Segment { bytes: Vec::with_capacity(bytes), slots: Vec::with_capacity(records) };
        Self { segments: vec![segment], ..Self::new(partition, from) }
    }

    /// Appends a copy of `record`; its offset must not be below [`Chunk::to`]. Lengths are those of Kafka, below 2 GiB.
    pub fn push(&mut self, record: RawRecord<'_>) {
        debug_assert_eq!(record.partition, self.partition);
        debug_assert!(record.offset >= self.to, "offsets rise within a chunk");
        if self.segments.is_empty() {
            self.segments.push(Segment::default());
        }
        if let Some(last) = self.segments.last_mut() {
            last.push(record);
        }
        self.to = record.offset + 1;
    }

    pub fn len(&self) -> usize {
        self.segments.iter().map(|segment| segment.slots.len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.segments.iter().all(|segment| segment.slots.is_empty())
    }

    /// Bytes held: payloads, keys and headers, without bookkeeping.
    pub fn byte_len(&self) -> usize {
        self.segments.iter().map(|segment| segment.bytes.len()).sum()
    }

    pub fn range(&self) -> OffsetRange {
        OffsetRange { partition: self.partition, from: self.from, to: self.to }
    }

    pub fn records(&self) -> impl Iterator<Item = RawRecord<'_>> {
        self.segments.iter().flat_map(|segment| segment.slots.iter().map(|slot| segment.record(slot, self.partition)))
    }

    /// The record at `offset`, if this chunk holds it.
    pub fn at(&self, offset: i64) -> Option<RawRecord<'_>> {
        let ends_before = |segment: &Segment| segment.slots.last().is_some_and(|last| last.offset < offset);
        let segment = self.segments.get(self.segments.partition_point(ends_before))?;
        let index = segment.slots.binary_search_by_key(&offset, |slot| slot.offset).ok()?;
        segment.slots.get(index).map(|slot| segment.record(slot, self.partition))
    }

    /// The Kafka timestamp of the last record, see [`RawRecord::timestamp_ms`].
    fn last_timestamp_ms(&self) -> Option<u64> {
        let last = self.segments.last()?.slots.last()?;
        u64::try_from(last.timestamp_ms).ok()
    }

    /// How many of the first records are within the limits.
    pub fn fitting(&self, max_events: usize, max_bytes: usize) -> usize {
        let (mut events, mut bytes) = (0, 0);
        for segment in &self.segments {
            let within = segment.fitting(max_bytes.saturating_sub(bytes));
            events += within;
            bytes += segment.bytes.len();
            if within < segment.slots.len() || events >= max_events {
                break;
            }
        }
        events.min(max_events)
    }

    /// Cuts the first `count` records off into a chunk of their own; `self` keeps the rest and starts where it ends.
    pub fn split_front(&mut self, count: usize) -> Chunk {
        if count >= self.len() {
            let rest = Chunk::new(self.partition, self.to);
            return std::mem::replace(self, rest);
        }
        let mut front = Chunk::new(self.partition, self.from);
        let mut wanted = count;
        while let Some(first) = self.segments.first_mut().filter(|_| wanted > 0) {
            let part = if wanted < first.slots.len() { first.split_front(wanted) } else { self.segments.remove(0) };
            wanted -= part.slots.len();
            front.to = part.slots.last().map_or(front.to, |last| last.offset + 1);
            front.segments.push(part);
        }
        self.from = front.to;
        front
    }

    /// Appends the records of `next`, which begins where `self` ends.
    pub fn append(&mut self, next: Chunk) {
        debug_assert_eq!((next.partition, next.from), (self.partition, self.to));
        self.segments.extend(next.segments);
        self.to = self.to.max(next.to);
    }
}

impl Segment {
    fn push(&mut self, record: RawRecord<'_>) {
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
    }

    /// How many of the first records are within so many bytes.
    fn fitting(&self, max_bytes: usize) -> usize {
        // A record ends where the next one starts.
        let ends = self.slots.get(1..).unwrap_or_default();
        let within = ends.partition_point(|next| next.start <= max_bytes);
        let all = within == ends.len() && !self.slots.is_empty() && self.bytes.len() <= max_bytes;
        within + usize::from(all)
    }

    /// Cuts the first `count` records off, which are not all of them.
    fn split_front(&mut self, count: usize) -> Segment {
        let cut = self.slots.get(count).map_or(self.bytes.len(), |slot| slot.start);
        // The front's memory is exact; the rest keeps its own, as more will be appended to it.
        let bytes = self.bytes.drain(..cut).as_slice().to_vec();
        let slots = self.slots.drain(..count).as_slice().to_vec();
        self.slots.iter_mut().for_each(|slot| slot.start -= cut);
        Segment { bytes, slots }
    }

    fn record<'a>(&'a self, slot: &Slot, partition: Partition) -> RawRecord<'a> {
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
            partition,
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
        let youngest = self
            .chunks
            .iter()
            .filter_map(Chunk::last_timestamp_ms)
            .max()
            .map(|ms| UNIX_EPOCH + Duration::from_millis(ms));
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
            cut_again in 0usize..35,
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
                bytes += record.byte_len();
                bytes <= max_bytes
            });
            let fits = fits.count();
            prop_assert_eq!(chunk.fitting(max_events, max_bytes), fits);
            let before: Vec<String> = chunk.records().map(whole).collect();
            let (from, to) = (chunk.from, chunk.to);
            let mut front = chunk.split_front(cut);
            prop_assert_eq!((front.from, front.len(), front.to), (from, cut.min(before.len()), chunk.from));
            prop_assert_eq!(chunk.to, to);
            prop_assert!(front.records().all(|record| record.offset < front.to));
            front.append(chunk);
            prop_assert_eq!(front.records().map(whole).collect::<Vec<_>>(), before.clone());
            prop_assert_eq!((front.from, front.to, front.len()), (from, to, before.len()));
            for offset in from..=to {
                let found = front.at(offset).map(whole);
                prop_assert_eq!(found, front.records().find(|record| record.offset == offset).map(whole));
            }
            // Of several segments, whatever one of them would say.
            prop_assert_eq!(front.fitting(max_events, max_bytes), fits);
            let again = front.split_front(cut_again);
            prop_assert_eq!((again.from, again.len(), again.to), (from, cut_again.min(before.len()), front.from));
            prop_assert_eq!(again.records().chain(front.records()).map(whole).collect::<Vec<_>>(), before);
        }
    }
}
