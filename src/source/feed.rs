//! One assigned partition: what the loop wants of it, and its buffered records.

use std::collections::VecDeque;
use std::time::Instant;

use super::End;
use crate::position::Partition;
use crate::record::{Chunk, RawRecord};

/// A segment is closed above so many records or bytes, so that taking a part of a long buffer moves little and growing reserves
/// little.
const SEGMENT_EVENTS: usize = 16 * 1024;
const SEGMENT_BYTES: usize = 1 << 20;
/// Bookkeeping per record in a chunk, which counts as memory, too.
pub(super) const RECORD_OVERHEAD: usize = 40;

/// One assigned partition.
pub(super) struct Feed {
    partition: Partition,
    pub(super) generation: u64,
    /// Where the loop wants it to be read from; `None` stops it.
    pub(super) wanted: Option<i64>,
    /// `wanted` is news that the thread has yet to carry out.
    pub(super) changed: bool,
    /// It is in the client's assignment.
    pub(super) in_client: bool,
    /// Reading it is paused there.
    pub(super) paused: bool,
    /// Offset after the last accepted record; records below it are repeats. `None` refuses all.
    pub(super) next: Option<i64>,
    /// The last one may be empty: it leads across marks of transactions, which are no records.
    pub(super) segments: VecDeque<Chunk>,
    /// Records in there.
    pub(super) events: usize,
    /// Their keys, values and headers.
    pub(super) bytes: usize,
    /// Since when nothing but such an empty one is there.
    pub(super) passed_at: Option<Instant>,
    /// All there is has been received.
    pub(super) at_end: bool,
    /// ... and the loop knows.
    pub(super) end_told: bool,
    /// As far as known.
    pub(super) end: Option<End>,
}

impl Feed {
    pub(super) fn new(partition: Partition, generation: u64) -> Self {
        Self {
            partition,
            generation,
            wanted: None,
            changed: false,
            in_client: false,
            paused: false,
            next: None,
            segments: VecDeque::new(),
            events: 0,
            bytes: 0,
            passed_at: None,
            at_end: false,
            end_told: false,
            end: None,
        }
    }

    /// Appends a record, which the caller knows to be at `next` or after it.
    pub(super) fn push(&mut self, record: RawRecord<'_>, next: i64) {
        let full = |chunk: &Chunk| {
            chunk.len() >= SEGMENT_EVENTS || chunk.byte_len() + record.byte_len() > SEGMENT_BYTES && !chunk.is_empty()
        };
        let mut chunk = match self.segments.pop_back() {
            Some(last) if !full(&last) => last,
            Some(last) => {
                // One that was filled is followed by another of its kind.
                let records = last.len() + last.len() / 8;
                self.segments.push_back(last);
                Chunk::with_capacity(record.partition, next, SEGMENT_BYTES, records)
            }
            None => Chunk::new(record.partition, next),
        };
        let before = chunk.byte_len();
        chunk.push(record);
        self.events += 1;
        self.bytes += chunk.byte_len() - before;
        self.segments.push_back(chunk);
        self.next = Some(record.offset + 1);
        self.passed_at = None;
        self.at_end = false;
        self.end_told = false;
    }

    /// The memory that the buffered records take.
    pub(super) fn memory(&self) -> usize {
        self.bytes + self.events * RECORD_OVERHEAD
    }

    /// Takes note that the client stands at `to`, behind marks of transactions and records of aborted ones that it doesn't hand
    /// over. Positions follow: once these offsets expire, they must not look like records that were never read.
    pub(super) fn pass(&mut self, to: i64) {
        let Some(next) = self.next.filter(|next| *next < to) else { return };
        if let Some(last) = self.segments.back_mut() {
            last.to = to;
        } else {
            let mut across = Chunk::new(self.partition, next);
            across.to = to;
            self.segments.push_back(across);
            self.passed_at = Some(Instant::now());
        }
        self.next = Some(to);
    }

    /// Refuses further records and drops the buffered ones.
    pub(super) fn stop(&mut self) {
        self.next = None;
        self.passed_at = None;
        self.at_end = false;
        self.end_told = false;
        // A partition that is put into the client is resumed, as a pause outlives the assignment it was made for.
        self.paused = false;
        self.segments = VecDeque::new();
        self.events = 0;
        self.bytes = 0;
    }

    /// The first records within the limits, but not fewer than `at_least`.
    pub(super) fn take(&mut self, max_events: usize, max_bytes: usize, at_least: usize) -> Option<Chunk> {
        let mut taken: Option<Chunk> = None;
        self.passed_at = None;
        while let Some(front) = self.segments.front_mut() {
            let (events, bytes) = taken.as_ref().map_or((0, 0), |chunk| (chunk.len(), chunk.byte_len()));
            let count = front.fitting(max_events - events.min(max_events), max_bytes - bytes.min(max_bytes));
            let count = count.max(at_least.saturating_sub(events));
            if count == 0 && !front.is_empty() {
                break;
            }
            let whole = count >= front.len();
            let part = front.split_front(count);
            if whole {
                self.segments.pop_front();
            }
            match &mut taken {
                None => taken = Some(part),
                Some(chunk) => chunk.append(part),
            }
            if !whole {
                break;
            }
        }
        if let Some(chunk) = &taken {
            self.events -= chunk.len();
            self.bytes -= chunk.byte_len();
        }
        taken
    }
}
