//! What the polling thread and the loop share: the assigned partitions, their buffered records, and the reports.
//!
//! The thread fills, the loop takes; neither holds the lock while it waits or calls librdkafka. The loop's wishes take effect
//! here at once (nothing more is handed over of a halted partition) and are carried out in the client by the thread.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::error::RDKafkaErrorCode;
use tokio::sync::Notify;

use super::feed::Feed;
use super::pressure::{self, Load, Pressure};
use super::{Ask, Assignment, End, PartitionStats, Polled, Share, SourceOptions, SourceStats};
use crate::error::Error;
use crate::position::{OffsetRange, Partition};
use crate::record::{Chunk, RawBatch, RawRecord};

/// How often it is asked whether a trouble is over.
const DOUBT: Duration = Duration::from_secs(10);
/// How long a position waits for records to take it across marks of transactions: with a producer of many small transactions
/// this is how often a transaction of ours moves nothing but positions, at most.
const PASSED: Duration = Duration::from_secs(1);
/// How long the buffer is full before polling goes on in spite of it, for the sake of what isn't records.
const FULL: Duration = Duration::from_secs(2);

/// The two threads' common ground.
pub(super) struct Shared {
    topic: Arc<str>,
    budget: usize,
    state: Mutex<State>,
    /// Wakes the thread where it waits for room in the buffer.
    room: Condvar,
    /// Wakes the loop.
    pub(super) wake: Notify,
    /// Tells the thread that there is something to do besides polling.
    attention: AtomicBool,
}

#[derive(Default)]
struct State {
    feeds: BTreeMap<Partition, Feed>,
    reports: VecDeque<Polled>,
    last_generation: u64,
    received: u64,
    /// Since when there is more in the buffer than there should be.
    full_since: Option<Instant>,
    served: BTreeMap<Share, Served>,
    /// What the loop waits for, so that the thread need not wake it for every record.
    awaited: Vec<Awaited>,
    /// Applied offsets that wait to be committed for lag tools.
    applied: BTreeMap<Partition, i64>,
    commit_errors: u64,
    /// The trouble that was reported last and isn't over.
    trouble: Option<Trouble>,
    /// How many partitions the topic has, as last heard.
    topic_partitions: Partition,
    rejoining: bool,
    closing: bool,
}

/// The last batch of a share.
#[derive(Debug, Clone, Copy)]
struct Served {
    at: Instant,
    /// Which partition is served first the next time; moves on with every batch so that none starves.
    turn: Partition,
}

/// The loop waits for a batch; it need not be woken for records before `reaches` unless there were none.
struct Awaited {
    ask: Ask,
    had_records: bool,
}

/// What [`Shared::poll`] has.
#[derive(Debug)]
pub(super) enum Answer {
    Now(Polled),
    /// Nothing unless the loop is woken, or before that time.
    Later(Option<Instant>),
}

/// A trouble that isn't over, as far as known.
struct Trouble {
    name: String,
    heals: Heals,
    /// When it was last asked whether it is over.
    asked: Instant,
}

/// What shows that a trouble is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heals {
    /// A connection to a broker, or anything read.
    WithConnection,
    /// Records, the end of a partition, or an assignment.
    WithRecords,
}

/// What the thread has to do in the client for one partition: take it out if it is in, then put it in at `from`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) assignment: Assignment,
    pub(super) remove: bool,
    pub(super) from: Option<i64>,
}

impl Shared {
    pub(super) fn new(options: &SourceOptions) -> Self {
        Self {
            topic: options.topic.as_str().into(),
            budget: options.buffer_bytes.max(1),
            state: Mutex::default(),
            room: Condvar::new(),
            wake: Notify::new(),
            attention: AtomicBool::new(false),
        }
    }

    pub(super) fn topic(&self) -> &str {
        &self.topic
    }

    /// A panic elsewhere can't leave the state half changed: every change is a plain assignment.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether something besides polling is to be done; asked once per poll.
    pub(super) fn take_attention(&self) -> bool {
        self.attention.load(Ordering::Acquire) && self.attention.swap(false, Ordering::AcqRel)
    }

    fn attend(&self) {
        self.attention.store(true, Ordering::Release);
        self.room.notify_one();
    }

    // --- the loop's side ---

    /// The next report or batch, if there is one.
    pub(super) fn poll(&self, asks: &[Ask], now: Instant) -> Answer {
        let mut state = self.lock();
        if let Some(report) = state.reports.pop_front() {
            return Answer::Now(report);
        }
        let ended = state.newly_at_end();
        if !ended.is_empty() {
            return Answer::Now(Polled::AtEnd(ended));
        }
        // When each ask is due, as far as there is anything for it.
        let due = |ask: &Ask| state.due(ask, now).map(|due| (due, *ask));
        // Of those that are due it is the turn of the one whose share was served longest ago.
        let asked: Vec<(Instant, Ask)> = asks.iter().filter_map(due).collect();
        let ready = asked.iter().filter(|(due, _)| *due <= now).map(|(_, ask)| ask);
        if let Some(ask) = ready.min_by_key(|ask| state.served.get(&ask.share).map(|served| served.at)).copied() {
            let chunks = state.take(&ask, now);
            let more = state.of(ask.share).any(|feed| feed.next.is_some() && (feed.events > 0 || !feed.at_end));
            state.awaited.clear();
            self.room.notify_one();
            return Answer::Now(Polled::Batch(RawBatch { topic: Arc::clone(&self.topic), chunks, more }));
        }
        let awaited = asks.iter().map(|ask| Awaited { ask: *ask, had_records: state.waiting(ask.share).0 > 0 });
        state.awaited = awaited.collect();
        if state.full_since.is_some() && state.is_hungry() {
            self.room.notify_one();
        }
        Answer::Later(asked.iter().map(|(due, _)| *due).min())
    }

    pub(super) fn position(&self, assignment: Assignment, from: i64) {
        self.want(assignment.partition, Some(assignment.generation), Some(from));
    }

    pub(super) fn halt(&self, partition: Partition) {
        self.want(partition, None, None);
    }

    fn want(&self, partition: Partition, generation: Option<u64>, from: Option<i64>) {
        let mut state = self.lock();
        let Some(feed) = state.feeds.get_mut(&partition) else { return };
        if generation.is_some_and(|generation| generation != feed.generation) {
            return;
        }
        feed.stop();
        feed.wanted = from;
        feed.changed = true;
        self.attend();
    }

    pub(super) fn rejoin(&self) {
        self.lock().rejoining = true;
        self.attend();
    }

    pub(super) fn acknowledge(&self, ranges: &[OffsetRange]) {
        self.lock().applied.extend(ranges.iter().map(|range| (range.partition, range.to)));
    }

    pub(super) fn close(&self) {
        self.lock().closing = true;
        self.attend();
    }

    pub(super) fn stats(&self) -> SourceStats {
        let state = self.lock();
        let partitions = state.feeds.iter().map(|(partition, feed)| PartitionStats {
            assignment: Assignment { partition: *partition, generation: feed.generation },
            next: feed.next,
            buffered_events: feed.events,
            at_end: feed.at_end,
            end: feed.end,
        });
        SourceStats {
            buffered_bytes: state.bytes(),
            buffered_events: state.events(),
            paused: state.full_since.is_some() || state.feeds.values().any(|feed| feed.paused),
            commit_errors: state.commit_errors,
            received: state.received,
            topic_partitions: state.topic_partitions,
            partitions: partitions.collect(),
        }
    }

    // --- the thread's side ---

    /// Puts records into their partitions' buffers, apart from those of partitions that aren't being read and those that came
    /// before.
    pub(super) fn accept<'a>(&self, records: impl IntoIterator<Item = RawRecord<'a>>) {
        let mut state = self.lock();
        for record in records {
            state.push(record);
        }
        if state.trouble.take().is_some() {
            state.reports.push_back(Polled::Recovered);
        }
        if state.is_awaited() {
            drop(state);
            self.wake.notify_one();
        }
    }

    /// Remembers that the client has read all there is of `partition`; `position`: where it stands, if it says.
    pub(super) fn reached_end(&self, partition: Partition, position: Option<i64>) {
        let mut state = self.lock();
        if let Some(feed) = state.feeds.get_mut(&partition).filter(|feed| feed.next.is_some()) {
            if let Some(position) = position {
                feed.pass(position);
            }
            feed.at_end = true;
            drop(state);
            self.wake.notify_one();
        }
    }

    /// New partitions of this instance, each with a new generation.
    pub(super) fn assigned(&self, partitions: &[Partition]) {
        let mut state = self.lock();
        let mut assignments = Vec::with_capacity(partitions.len());
        for &partition in partitions {
            state.last_generation += 1;
            let generation = state.last_generation;
            // A partition that is assigned twice without having been revoked has been lost in between.
            state.feeds.insert(partition, Feed::new(partition, generation));
            assignments.push(Assignment { partition, generation });
        }
        self.report(state, Polled::Assigned(assignments));
    }

    /// Forgets revoked partitions; returns those that are in the client's assignment.
    pub(super) fn revoked(&self, partitions: &[Partition]) -> Vec<Partition> {
        let mut state = self.lock();
        let mut gone = Vec::new();
        let mut in_client = Vec::new();
        for partition in partitions {
            let Some(feed) = state.feeds.remove(partition) else { continue };
            state.applied.remove(partition);
            gone.push(*partition);
            if feed.in_client {
                in_client.push(*partition);
            }
        }
        if !gone.is_empty() {
            // Reports that these partitions were assigned or lost are true no longer, but harmless: their generation is over.
            self.report(state, Polled::Revoked(gone));
        }
        in_client
    }

    /// All partitions of this instance: for a client that has died with them.
    pub(super) fn revoked_all(&self) {
        self.revoked(&self.partitions());
    }

    /// Stops `partition` and reports it as lost. Its generation is over with that, so that a position which the loop was about
    /// to name without knowing comes too late.
    pub(super) fn lost(&self, partition: Partition, what: String) {
        let mut state = self.lock();
        let generation = state.last_generation + 1;
        let Some(feed) = state.feeds.get_mut(&partition) else { return };
        feed.stop();
        feed.generation = generation;
        feed.wanted = None;
        feed.changed = true;
        state.last_generation = generation;
        self.attend();
        self.report(state, Polled::PositionLost { assignment: Assignment { partition, generation }, what });
    }

    /// All partitions of this instance.
    pub(super) fn partitions(&self) -> Vec<Partition> {
        self.lock().feeds.keys().copied().collect()
    }

    /// The partitions being read and the offset each wants next.
    pub(super) fn reading(&self) -> Vec<(Partition, i64)> {
        let state = self.lock();
        state.feeds.iter().filter_map(|(partition, feed)| feed.next.map(|next| (*partition, next))).collect()
    }

    /// Reports trouble, once until it is over. That no broker answers is the least telling of all and replaces no other.
    pub(super) fn trouble(&self, name: String, heals: Heals, error: Error) {
        let mut state = self.lock();
        let known = state.trouble.as_ref().is_some_and(|known| known.name == name);
        let vague = name == RDKafkaErrorCode::AllBrokersDown.to_string() && state.trouble.is_some();
        if !known && !vague {
            state.trouble = Some(Trouble { name, heals, asked: Instant::now() });
            self.report(state, Polled::Trouble(error));
        }
    }

    /// Ends any trouble: something was read or assigned.
    pub(super) fn recovered(&self) {
        let mut state = self.lock();
        if state.trouble.take().is_some() {
            self.report(state, Polled::Recovered);
        }
    }

    /// Ends such trouble as a connection ends.
    pub(super) fn connected(&self) {
        if self.lock().trouble.as_ref().is_some_and(|trouble| trouble.heals == Heals::WithConnection) {
            self.recovered();
        }
    }

    /// Trouble that records end may be over without any: where nobody writes, nothing more comes of a partition once its end was
    /// told. So now and then such partitions are begun anew where they stand, and the client tells their end again if it can.
    pub(super) fn doubt_trouble(&self) {
        let mut state = self.lock();
        let Some(trouble) = &mut state.trouble else { return };
        if trouble.heals != Heals::WithRecords || trouble.asked.elapsed() < DOUBT {
            return;
        }
        trouble.asked = Instant::now();
        for feed in state.feeds.values_mut().filter(|feed| feed.in_client && !feed.changed && feed.at_end) {
            feed.wanted = feed.next;
            feed.changed = true;
            feed.at_end = false;
        }
        self.attend();
    }

    /// Whether the loop wants to join the group anew; once.
    pub(super) fn take_rejoin(&self) -> bool {
        std::mem::take(&mut self.lock().rejoining)
    }

    pub(super) fn set_topic_partitions(&self, count: Partition) {
        self.lock().topic_partitions = count;
    }

    pub(super) fn is_closing(&self) -> bool {
        self.lock().closing
    }

    /// Applied offsets that haven't been committed for lag tools yet.
    pub(super) fn take_applied(&self) -> BTreeMap<Partition, i64> {
        std::mem::take(&mut self.lock().applied)
    }

    pub(super) fn count_commit_error(&self) {
        self.lock().commit_errors += 1;
    }

    pub(super) fn set_end(&self, partition: Partition, end: End) {
        if let Some(feed) = self.lock().feeds.get_mut(&partition) {
            feed.end = Some(end);
        }
    }

    /// The loop's wishes that are still to be carried out in the client.
    pub(super) fn changes(&self) -> Vec<Change> {
        let state = self.lock();
        let changed = state.feeds.iter().filter(|(_, feed)| feed.changed);
        changed
            .map(|(partition, feed)| Change {
                assignment: Assignment { partition: *partition, generation: feed.generation },
                remove: feed.in_client,
                from: feed.wanted,
            })
            .collect()
    }

    /// Tells what the client now does. If the loop has changed its mind meanwhile, the partition stays refused and the next
    /// call of [`Shared::changes`] names it again.
    pub(super) fn carried_out(&self, change: &Change, in_client: bool) {
        let mut state = self.lock();
        let Some(feed) = state.feeds.get_mut(&change.assignment.partition) else { return };
        if feed.generation != change.assignment.generation {
            return;
        }
        feed.in_client = in_client;
        if feed.wanted == change.from && in_client == change.from.is_some() {
            feed.changed = false;
            feed.next = change.from;
        } else {
            self.attend();
        }
    }

    /// Decides about back-pressure; to be asked before every poll. What is named is taken to be done.
    pub(super) fn pressure(&self, now: Instant) -> Pressure {
        let mut state = self.lock();
        let full = state.bytes() > self.budget;
        state.full_since = full.then(|| state.full_since.unwrap_or(now));
        if !full && state.feeds.values().all(|feed| !feed.paused) {
            return Pressure::default();
        }
        let in_client = state.feeds.iter().filter(|(_, feed)| feed.in_client);
        let load =
            |(&partition, feed): (&Partition, &Feed)| Load { partition, memory: feed.memory(), paused: feed.paused };
        let loads: Vec<Load> = in_client.map(load).collect();
        let for_long = state.full_since.is_some_and(|since| now.saturating_duration_since(since) >= FULL);
        let pressure = pressure::decide(self.budget, &loads, for_long || state.is_hungry());
        for (partitions, paused) in [(&pressure.pause, true), (&pressure.resume, false)] {
            for partition in partitions {
                if let Some(feed) = state.feeds.get_mut(partition) {
                    feed.paused = paused;
                }
            }
        }
        pressure
    }

    /// Returns when records were taken, somebody lacks what a poll might bring, the loop wants something, or after `most`.
    pub(super) fn wait_for_room(&self, most: Duration) {
        let waits = |state: &mut State| {
            state.bytes() > self.budget && !state.is_hungry() && !self.attention.load(Ordering::Acquire)
        };
        drop(self.room.wait_timeout_while(self.lock(), most, waits));
    }

    fn report(&self, mut state: MutexGuard<'_, State>, report: Polled) {
        state.reports.push_back(report);
        drop(state);
        self.wake.notify_one();
    }
}

impl State {
    fn push(&mut self, record: RawRecord<'_>) {
        let Some(feed) = self.feeds.get_mut(&record.partition) else { return };
        let Some(next) = feed.next.filter(|next| record.offset >= *next) else { return };
        feed.push(record, next);
        self.received += 1;
    }

    fn events(&self) -> usize {
        self.feeds.values().map(|feed| feed.events).sum()
    }

    /// Memory that the records take.
    fn bytes(&self) -> usize {
        self.feeds.values().map(Feed::memory).sum()
    }

    fn of(&self, share: Share) -> impl Iterator<Item = &Feed> {
        self.feeds.iter().filter(move |(partition, _)| share.holds(**partition)).map(|(_, feed)| feed)
    }

    /// Records of the share and the bytes of their keys, values and headers.
    fn waiting(&self, share: Share) -> (usize, usize) {
        self.of(share).fold((0, 0), |(events, bytes), feed| (events + feed.events, bytes + feed.bytes))
    }

    /// When a batch for `ask` is to be handed over if nothing more comes; `None` where there is nothing to hand over.
    fn due(&self, ask: &Ask, now: Instant) -> Option<Instant> {
        let (events, bytes) = self.waiting(ask.share);
        if events == 0 {
            // A position that has passed marks of transactions, without any record after them that would take it along.
            return self.of(ask.share).filter_map(|feed| feed.passed_at).min().map(|at| at + PASSED);
        }
        if events >= ask.limits.max_events || bytes >= ask.limits.max_bytes {
            return Some(now);
        }
        Some(self.served.get(&ask.share).map_or(now, |served| served.at + ask.limits.max_wait))
    }

    /// Whether the loop waits for partitions of which nothing is there.
    fn is_hungry(&self) -> bool {
        let lacks = |awaited: &Awaited| {
            let feeds = || self.of(awaited.ask.share);
            feeds().any(|feed| feed.in_client) && feeds().all(|feed| feed.events == 0)
        };
        self.awaited.iter().any(lacks)
    }

    /// Whether there is news for what the loop waits for; once.
    fn is_awaited(&mut self) -> bool {
        let mut awaited = std::mem::take(&mut self.awaited);
        let before = awaited.len();
        awaited.retain(|Awaited { ask, had_records }| {
            let (events, bytes) = self.waiting(ask.share);
            let first = events > 0 && !had_records;
            let full = events >= ask.limits.max_events || bytes >= ask.limits.max_bytes;
            !(first || full)
        });
        self.awaited = awaited;
        self.awaited.len() < before
    }

    /// Partitions at their end of which every record has been taken, each once.
    fn newly_at_end(&mut self) -> Vec<Assignment> {
        let mut ended = Vec::new();
        for (partition, feed) in &mut self.feeds {
            if feed.at_end && !feed.end_told && feed.events == 0 {
                feed.end_told = true;
                ended.push(Assignment { partition: *partition, generation: feed.generation });
            }
        }
        ended
    }

    /// Takes records within the limits, an equal part of each partition, ascending by partition.
    fn take(&mut self, ask: &Ask, now: Instant) -> Vec<Chunk> {
        let Ask { share, limits } = *ask;
        let turn = self.served.get(&share).map_or(0, |served| served.turn);
        let mut order: Vec<Partition> =
            self.feeds.keys().copied().filter(|partition| share.holds(*partition)).collect();
        order.retain(|partition| self.feeds.get(partition).is_some_and(|feed| !feed.segments.is_empty()));
        order.sort_by_key(|partition| (*partition < turn, *partition));
        let turn = order.first().map_or(0, |first| first.wrapping_add(1));
        self.served.insert(share, Served { at: now, turn });
        let (mut events, mut bytes) = (limits.max_events.max(1), limits.max_bytes);
        let mut chunks = Vec::with_capacity(order.len());
        for (index, partition) in order.iter().enumerate() {
            let Some(feed) = self.feeds.get_mut(partition) else { continue };
            let left = order.len() - index;
            let at_least = usize::from(chunks.iter().all(Chunk::is_empty));
            let Some(chunk) = feed.take(events.div_ceil(left), bytes.div_ceil(left), at_least) else { continue };
            events -= chunk.len().min(events);
            bytes -= chunk.byte_len().min(bytes);
            chunks.push(chunk);
            if events == 0 || bytes == 0 {
                break;
            }
        }
        chunks.sort_unstable_by_key(|chunk| chunk.partition);
        chunks
    }
}

#[cfg(test)]
mod tests;
