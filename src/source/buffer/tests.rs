//! The shared buffer against a plain model, and its rules one by one.

use std::time::Duration;

use proptest::prelude::*;

use super::super::{BatchLimits, feed::RECORD_OVERHEAD};
use super::*;
use crate::error::Kind;

fn options(buffer_bytes: usize) -> SourceOptions {
    SourceOptions {
        brokers: String::new(),
        group: "g".into(),
        topic: "t".into(),
        properties: BTreeMap::new(),
        client_id: String::new(),
        buffer_bytes,
    }
}

fn shared() -> Shared {
    Shared::new(&options(1 << 20))
}

fn limits(max_events: usize, max_bytes: usize) -> BatchLimits {
    BatchLimits { max_events, max_bytes, max_wait: Duration::from_millis(5) }
}

fn record(partition: Partition, offset: i64, value: &[u8]) -> RawRecord<'_> {
    RawRecord { partition, offset, timestamp_ms: Some(0), key: None, value: Some(value), headers: b"" }
}

/// Assigns `partition`, as the group does.
fn assign(shared: &Shared, partition: Partition) -> Assignment {
    shared.assigned(&[partition]);
    let mut state = shared.lock();
    state.reports.clear();
    Assignment { partition, generation: state.feeds[&partition].generation }
}

/// Does what the thread does with a client that always obeys.
fn obey(shared: &Shared) {
    for change in shared.changes() {
        shared.carried_out(&change, change.from.is_some());
    }
}

fn start(shared: &Shared, partition: Partition, from: i64) -> Assignment {
    let assignment = assign(shared, partition);
    shared.position(assignment, from);
    obey(shared);
    assignment
}

/// What is there for whoever takes any partition and waits for nothing.
fn poll(shared: &Shared, limits: &BatchLimits) -> Option<Polled> {
    let ask = Ask::any(BatchLimits { max_wait: Duration::ZERO, ..*limits });
    match shared.poll(&[ask], Instant::now()) {
        Answer::Now(polled) => Some(polled),
        Answer::Later(_) => None,
    }
}

fn batch(shared: &Shared, limits: &BatchLimits) -> RawBatch {
    match poll(shared, limits) {
        Some(Polled::Batch(batch)) => batch,
        other => panic!("no batch but {other:?}"),
    }
}

fn has_records(shared: &Shared) -> bool {
    shared.lock().events() > 0
}

#[test]
fn nothing_is_accepted_before_a_position_is_named_and_carried_out() {
    let shared = shared();
    let assignment = assign(&shared, 0);
    shared.accept([record(0, 5, b"x")]);
    shared.position(assignment, 7);
    shared.accept([record(0, 6, b"x")]);
    shared.accept([record(0, 7, b"x")]);
    assert_eq!(shared.stats().buffered_events, 0);
    obey(&shared);
    shared.accept([record(0, 6, b"x")]);
    shared.accept([record(0, 9, b"x")]);
    let chunk = batch(&shared, &limits(10, 1000)).chunks.remove(0);
    assert_eq!((chunk.from, chunk.to, chunk.len()), (7, 10, 1));
}

#[test]
fn there_is_more_behind_a_batch_until_all_ends_were_read_and_all_records_taken() {
    let shared = shared();
    start(&shared, 0, 0);
    start(&shared, 1, 0);
    shared.accept([record(0, 0, b"x"), record(0, 1, b"x"), record(1, 0, b"x")]);
    shared.reached_end(1, None);
    assert!(batch(&shared, &limits(2, 1000)).more, "one is left, and the end of partition 0 was not read");
    assert!(matches!(poll(&shared, &limits(2, 1000)), Some(Polled::AtEnd(ended)) if ended.len() == 1));
    assert!(batch(&shared, &limits(2, 1000)).more, "the end of partition 0 was not read");
    shared.accept([record(0, 2, b"x"), record(0, 3, b"x")]);
    shared.reached_end(0, None);
    assert!(batch(&shared, &limits(1, 1000)).more, "one is left");
    assert!(!batch(&shared, &limits(1, 1000)).more);
}

#[test]
fn what_the_loop_says_about_an_earlier_generation_is_ignored() {
    let shared = shared();
    let first = assign(&shared, 3);
    assert_eq!(shared.revoked(&[3]), Vec::<Partition>::new());
    let second = assign(&shared, 3);
    assert_ne!(first.generation, second.generation);
    shared.position(first, 7);
    assert_eq!(shared.changes(), []);
    shared.position(second, 8);
    assert_eq!(shared.changes(), [Change { assignment: second, remove: false, from: Some(8) }]);
}

#[test]
fn a_wish_that_changes_while_it_is_carried_out_wins() {
    let shared = shared();
    let assignment = assign(&shared, 0);
    shared.position(assignment, 7);
    let old = shared.changes();
    shared.position(assignment, 20);
    shared.carried_out(&old[0], true);
    shared.accept([record(0, 8, b"x")]);
    assert_eq!(shared.stats().buffered_events, 0, "the client reads at 7, which is wanted no longer");
    assert_eq!(shared.changes(), [Change { assignment, remove: true, from: Some(20) }]);
    shared.halt(0);
    assert_eq!(shared.changes(), [Change { assignment, remove: true, from: None }]);
}

#[test]
fn revoked_and_halted_partitions_lose_their_buffers_at_once() {
    let shared = shared();
    for partition in 0..3 {
        start(&shared, partition, 0);
        shared.accept([record(partition, 0, b"abc")]);
    }
    assert_eq!(shared.revoked(&[0, 9]), [0]);
    shared.halt(1);
    let stats = shared.stats();
    assert_eq!((stats.buffered_events, stats.buffered_bytes), (1, 3 + RECORD_OVERHEAD));
    assert!(matches!(poll(&shared, &limits(9, 99)), Some(Polled::Revoked(gone)) if gone == [0]));
    let batch = batch(&shared, &limits(9, 99));
    assert_eq!(batch.chunks.iter().map(|chunk| chunk.partition).collect::<Vec<_>>(), [2]);
}

#[test]
fn a_lost_position_stops_the_partition_and_ends_its_generation() {
    let shared = shared();
    let old = start(&shared, 0, 5);
    shared.lost(0, "gone".into());
    shared.accept([record(0, 5, b"x")]);
    assert_eq!(shared.stats().buffered_events, 0);
    let Some(Polled::PositionLost { assignment, what }) = poll(&shared, &limits(9, 99)) else { panic!("no report") };
    assert!(assignment.partition == 0 && assignment.generation > old.generation && what == "gone");
    assert!(poll(&shared, &limits(9, 99)).is_none());
    shared.position(old, 5);
    assert_eq!(shared.changes(), [Change { assignment, remove: true, from: None }]);
    shared.position(assignment, 7);
    assert_eq!(shared.changes(), [Change { assignment, remove: true, from: Some(7) }]);
}

#[test]
fn the_end_is_told_after_all_records_before_it_and_again_after_new_ones() {
    let shared = shared();
    let assignment = start(&shared, 0, 0);
    let other = start(&shared, 1, 0);
    shared.reached_end(1, None);
    shared.accept([record(0, 0, b"x")]);
    shared.reached_end(0, None);
    assert!(matches!(poll(&shared, &limits(9, 99)), Some(Polled::AtEnd(ends)) if ends == [other]));
    assert_eq!(batch(&shared, &limits(9, 99)).len(), 1);
    assert!(matches!(poll(&shared, &limits(9, 99)), Some(Polled::AtEnd(ends)) if ends == [assignment]));
    assert!(poll(&shared, &limits(9, 99)).is_none());
    shared.accept([record(0, 1, b"x")]);
    assert!(!shared.stats().partitions[0].at_end);
    shared.reached_end(0, None);
    assert_eq!(batch(&shared, &limits(9, 99)).len(), 1);
    assert!(matches!(poll(&shared, &limits(9, 99)), Some(Polled::AtEnd(_))));
}

/// Records of `partition`, 100 bytes of memory each.
fn fill(shared: &Shared, partition: Partition, offsets: std::ops::Range<i64>) {
    let value = vec![b'x'; 100 - RECORD_OVERHEAD];
    shared.accept(offsets.map(|offset| record(partition, offset, &value)));
}

#[test]
fn a_full_buffer_is_not_polled_for_until_something_is_taken_and_paused_when_that_takes_long() {
    let shared = Shared::new(&options(400_000));
    start(&shared, 0, 0);
    let begun = Instant::now();
    fill(&shared, 0, 0..4000);
    assert_eq!(shared.pressure(begun), Pressure::default());
    fill(&shared, 0, 4000..4001);
    assert_eq!(shared.pressure(begun), Pressure { wait: true, ..Pressure::default() });
    assert!(shared.stats().paused);
    assert_eq!(batch(&shared, &limits(1, 999)).len(), 1);
    assert_eq!(shared.pressure(begun), Pressure::default());
    assert!(!shared.stats().paused);
    fill(&shared, 0, 4001..4003);
    assert!(shared.pressure(begun).wait && shared.pressure(begun + FULL / 2).wait);
    assert_eq!(shared.pressure(begun + FULL), Pressure { pause: vec![0], ..Pressure::default() });
    assert_eq!(shared.pressure(begun + FULL), Pressure::default(), "polling goes on, it is paused already");
    assert_eq!(batch(&shared, &limits(1000, 999_999)).len(), 1000);
    assert_eq!(shared.pressure(begun + FULL), Pressure::default(), "more than half is left");
    assert_eq!(batch(&shared, &limits(1100, 999_999)).len(), 1100);
    assert_eq!(shared.pressure(begun + FULL), Pressure { resume: vec![0], ..Pressure::default() });
    assert!(!shared.stats().paused);
}

#[test]
fn polling_goes_on_for_a_share_that_lacks_records_and_those_that_fill_the_buffer_are_paused() {
    let shared = Shared::new(&options(400_000));
    for partition in 0..2 {
        start(&shared, partition, 0);
    }
    fill(&shared, 0, 0..4001);
    let (begun, ask) = (Instant::now(), |index| Ask { share: Share { index, of: 2 }, limits: limits(10, 99) });
    assert!(shared.pressure(begun).wait, "nobody asks for the other one");
    assert!(matches!(shared.poll(&[ask(1)], begun), Answer::Later(None)));
    assert_eq!(shared.pressure(begun), Pressure { pause: vec![0], ..Pressure::default() });
    fill(&shared, 1, 0..1);
    assert!(is_woken(&shared));
    assert!(matches!(shared.poll(&[ask(1)], begun), Answer::Now(Polled::Batch(_))));
    // It lacks more.
    assert!(matches!(shared.poll(&[ask(1)], begun), Answer::Later(None)));
    assert_eq!(shared.pressure(begun), Pressure::default());
    // Read from elsewhere, the other one isn't paused any more: what the client is told with that.
    let generation = shared.lock().feeds[&0].generation;
    shared.position(Assignment { partition: 0, generation }, 7);
    obey(&shared);
    assert_eq!(shared.pressure(begun), Pressure::default());
    assert!(!shared.stats().paused);
}

#[test]
fn whoever_waits_for_room_is_woken_by_what_makes_some_and_by_wishes() {
    let shared = Shared::new(&options(1000));
    let waits = |act: &(dyn Fn() + Sync)| {
        let next = shared.lock().feeds[&0].next.unwrap();
        fill(&shared, 0, next..next + 20);
        assert!(shared.pressure(Instant::now()).wait);
        let begun = Instant::now();
        std::thread::scope(|threads| {
            let waiting = threads.spawn(|| shared.wait_for_room(Duration::from_secs(60)));
            std::thread::sleep(Duration::from_millis(20));
            act();
            waiting.join().unwrap();
        });
        assert!(begun.elapsed() < Duration::from_secs(50));
        shared.take_attention();
    };
    start(&shared, 0, 0);
    waits(&|| drop(batch(&shared, &limits(100, 10_000))));
    start(&shared, 1, 0);
    waits(&|| shared.halt(1));
    start(&shared, 3, 0);
    waits(&|| {
        let asks = [Ask { share: Share { index: 3, of: 4 }, limits: limits(9, 99) }];
        shared.pressure(Instant::now());
        assert!(matches!(shared.poll(&asks, Instant::now()), Answer::Later(_)));
    });
}

#[test]
fn a_revoked_partition_takes_the_pressure_along_that_it_made() {
    let shared = Shared::new(&options(1000));
    start(&shared, 0, 0);
    start(&shared, 1, 0);
    fill(&shared, 0, 0..11);
    assert!(shared.pressure(Instant::now()).wait);
    shared.revoked(&[0]);
    assert_eq!(shared.pressure(Instant::now()), Pressure::default());
}

#[test]
fn trouble_is_reported_once_until_it_is_over() {
    let shared = shared();
    let error = |what: &str| Error::new(Kind::BrokerUnavailable, what);
    let down = RDKafkaErrorCode::AllBrokersDown.to_string();
    shared.trouble("auth".into(), Heals::WithConnection, error("auth"));
    shared.trouble(down.clone(), Heals::WithConnection, error("down"));
    shared.trouble("auth".into(), Heals::WithConnection, error("auth again"));
    shared.connected();
    shared.trouble("topic".into(), Heals::WithRecords, error("topic"));
    shared.connected();
    shared.recovered();
    shared.trouble(down, Heals::WithConnection, error("down"));
    let reports: Vec<_> = std::iter::from_fn(|| poll(&shared, &limits(9, 99)))
        .map(|report| match report {
            Polled::Trouble(error) => error.what,
            other => format!("{other:?}"),
        })
        .collect();
    assert_eq!(reports, ["auth", "Recovered", "topic", "Recovered", "down"]);
}

#[test]
fn where_nobody_writes_the_end_is_asked_for_again_until_trouble_is_over() {
    let shared = shared();
    start(&shared, 0, 7);
    shared.reached_end(0, None);
    shared.trouble("topic".into(), Heals::WithRecords, Error::new(Kind::BrokerUnavailable, "refused"));
    shared.doubt_trouble();
    assert!(shared.changes().is_empty(), "not at once");
    let ago = Instant::now().checked_sub(DOUBT).unwrap();
    shared.lock().trouble.as_mut().unwrap().asked = ago;
    shared.doubt_trouble();
    let changes = shared.changes();
    assert_eq!((changes.len(), changes[0].remove, changes[0].from), (1, true, Some(7)));
    obey(&shared);
    shared.recovered();
    assert!(shared.changes().is_empty() && shared.lock().trouble.is_none());
}

#[test]
fn marks_of_transactions_at_the_end_move_the_position_with_the_records_before_them_or_after_a_while_alone() {
    let shared = shared();
    start(&shared, 0, 0);
    shared.accept([record(0, 0, b"a")]);
    shared.reached_end(0, Some(2));
    let taken = batch(&shared, &limits(10, 1000));
    assert_eq!((taken.chunks[0].range().from, taken.chunks[0].range().to, taken.len()), (0, 2, 1));
    // Nothing but marks: not at once, as records may follow.
    shared.reached_end(0, Some(5));
    assert!(!matches!(poll(&shared, &limits(10, 1000)), Some(Polled::Batch(_))));
    std::thread::sleep(PASSED);
    let taken = batch(&shared, &limits(10, 1000));
    assert_eq!((taken.chunks[0].range().from, taken.chunks[0].range().to, taken.len()), (2, 5, 0));
    // Records take it along.
    shared.reached_end(0, Some(6));
    shared.accept([record(0, 6, b"b")]);
    let taken = batch(&shared, &limits(10, 1000));
    assert_eq!((taken.chunks[0].range().from, taken.chunks[0].range().to, taken.len()), (5, 7, 1));
}

#[test]
fn a_record_larger_than_a_batch_comes_alone_and_starves_nobody() {
    let shared = shared();
    for partition in 0..2 {
        start(&shared, partition, 0);
    }
    let large = vec![0; 500];
    shared.accept([record(0, 0, &large)]);
    for offset in 0..40 {
        shared.accept([record(1, offset, b"0123456789")]);
    }
    let mut seen = Vec::new();
    while has_records(&shared) {
        let batch = batch(&shared, &limits(100, 100));
        assert!(batch.byte_len() <= 100 || batch.len() == 1);
        seen.extend(batch.records().map(|record| record.partition));
    }
    assert_eq!(seen.len(), 41);
    assert!(seen.iter().take(21).any(|partition| *partition == 0), "{seen:?}");
}

/// What happens to two partitions.
#[derive(Debug, Clone)]
enum Step {
    Assign(Partition),
    Revoke(Partition),
    Position(Partition, i64),
    Halt(Partition),
    Obey,
    /// The next offsets of what the client reads there, leaving out so many.
    Records(Partition, usize, i64),
    /// The end, so many offsets behind what was read last.
    End(Partition, i64),
    Take(usize, usize),
}

fn step() -> impl Strategy<Value = Step> {
    let partition = 0..2;
    prop_oneof![
        1 => partition.clone().prop_map(Step::Assign),
        1 => partition.clone().prop_map(Step::Revoke),
        2 => (partition.clone(), 0i64..50).prop_map(|(partition, from)| Step::Position(partition, from)),
        1 => partition.clone().prop_map(Step::Halt),
        4 => Just(Step::Obey),
        6 => (partition.clone(), 1usize..20, 0i64..3).prop_map(|(partition, count, gap)| Step::Records(partition, count, gap)),
        2 => (partition, 0i64..3).prop_map(|(partition, gap)| Step::End(partition, gap)),
        4 => (1usize..30, 1usize..300).prop_map(|(events, bytes)| Step::Take(events, bytes)),
    ]
}

proptest! {
    // Proves: P3
    #[test]
    fn whatever_happens_batches_join_without_gaps_inside_a_generation_and_the_sums_hold(
        steps in proptest::collection::vec(step(), 1..80)
    ) {
        let shared = shared();
        // What the client reads next, and where the loop's stored position would stand.
        let mut client: BTreeMap<Partition, i64> = BTreeMap::new();
        let mut stored: BTreeMap<Partition, i64> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Assign(partition) => {
                    if !shared.lock().feeds.contains_key(&partition) {
                        assign(&shared, partition);
                    }
                }
                Step::Revoke(partition) => {
                    shared.revoked(&[partition]);
                    client.remove(&partition);
                    stored.remove(&partition);
                }
                Step::Position(partition, from) => {
                    let generation = shared.lock().feeds.get(&partition).map(|feed| feed.generation);
                    if let Some(generation) = generation {
                        shared.position(Assignment { partition, generation }, from);
                        stored.insert(partition, from);
                    }
                }
                Step::Halt(partition) => {
                    shared.halt(partition);
                    stored.remove(&partition);
                }
                Step::Obey => {
                    for change in shared.changes() {
                        match change.from {
                            Some(from) => client.insert(change.assignment.partition, from),
                            None => client.remove(&change.assignment.partition),
                        };
                        shared.carried_out(&change, change.from.is_some());
                    }
                }
                Step::Records(partition, count, gap) => {
                    let Some(next) = client.get_mut(&partition) else { continue };
                    for _ in 0..count {
                        *next += gap;
                        shared.accept([record(partition, *next, &vec![b'x'; (*next % 17) as usize])]);
                        *next += 1;
                    }
                }
                Step::End(partition, gap) => {
                    let Some(next) = client.get_mut(&partition) else { continue };
                    *next += gap;
                    shared.reached_end(partition, Some(*next));
                }
                Step::Take(events, bytes) => {
                    shared.lock().reports.clear();
                    if !has_records(&shared) {
                        continue;
                    }
                    let batch = loop {
                        match poll(&shared, &limits(events, bytes)) {
                            Some(Polled::Batch(batch)) => break batch,
                            // Partitions that have just come to their end are told of first.
                            told => prop_assert!(matches!(told, Some(Polled::AtEnd(_))), "{told:?}"),
                        }
                    };
                    prop_assert!(!batch.is_empty());
                    prop_assert!(batch.len() <= events);
                    prop_assert!(batch.byte_len() <= bytes || batch.len() == 1);
                    prop_assert!(batch.chunks.is_sorted_by_key(|chunk| chunk.partition));
                    for chunk in &batch.chunks {
                        prop_assert!(chunk.from < chunk.to);
                        prop_assert_eq!(stored.get(&chunk.partition), Some(&chunk.from), "a chunk joins its predecessor");
                        prop_assert!(chunk.records().all(|record| (chunk.from..chunk.to).contains(&record.offset)));
                        stored.insert(chunk.partition, chunk.to);
                    }
                }
            }
            for feed in shared.lock().feeds.values() {
                prop_assert_eq!(feed.events, feed.segments.iter().map(Chunk::len).sum::<usize>());
                prop_assert_eq!(feed.bytes, feed.segments.iter().map(Chunk::byte_len).sum::<usize>());
            }
        }
    }
    // Proves: P3
    #[test]
    fn every_record_is_handed_over_once_and_whole_however_batches_are_cut(
        records in proptest::collection::vec((0i32..3, 0i64..3, 0usize..3, 0usize..40), 1..60),
        // A segment is closed at 1 MiB: a few records of this size go over the edge.
        large in proptest::option::of(0usize..60),
        takes in proptest::collection::vec((1usize..20, 1usize..400), 1..8),
    ) {
        let shared = Shared::new(&options(1 << 30));
        for partition in 0..3 {
            start(&shared, partition, 0);
        }
        let mut next = [0i64; 3];
        let mut written = Vec::new();
        for (number, (partition, gap, key, length)) in records.into_iter().enumerate() {
            let offset = next[partition as usize] + gap;
            next[partition as usize] = offset + 1;
            let length = if large.is_some_and(|from| (from..from + 4).contains(&number)) { 700 << 10 } else { length };
            let key = (key > 0).then(|| vec![b'k'; key - 1]);
            let value = (length > 0).then(|| vec![number as u8; length - 1]);
            let raw = RawRecord {
                partition,
                offset,
                timestamp_ms: (number % 2 == 0).then_some(number as i64),
                key: key.as_deref(),
                value: value.as_deref(),
                headers: if number % 3 == 0 { br#"[["a",null]]"# } else { b"" },
            };
            shared.accept([raw]);
            // A repeat, as after a reconnection.
            shared.accept([raw]);
            written.push(owned(&raw));
        }
        let mut handed = Vec::new();
        for (events, bytes) in takes.iter().cycle() {
            if !has_records(&shared) {
                break;
            }
            handed.extend(batch(&shared, &limits(*events, *bytes)).records().map(|record| owned(&record)));
        }
        written.sort_by_key(|record| (record.0, record.1));
        handed.sort_by_key(|record| (record.0, record.1));
        prop_assert!(written == handed, "{} records went in, {} came out", written.len(), handed.len());
    }
}

/// What happens while the loop asks for batches of two shares of four partitions.
#[derive(Debug, Clone)]
enum Turn {
    Records(Partition, usize),
    End(Partition),
    Revoke(Partition),
    /// Milliseconds.
    Pass(u64),
    /// The loop asks for these shares anew, whatever it has waited for.
    Ask(bool, bool, usize),
}

fn turn() -> impl Strategy<Value = Turn> {
    prop_oneof![
        6 => (0..4, 1usize..12).prop_map(|(partition, count)| Turn::Records(partition, count)),
        1 => (0..4).prop_map(Turn::End),
        1 => (0..4).prop_map(Turn::Revoke),
        3 => (0u64..8).prop_map(Turn::Pass),
        6 => (any::<bool>(), any::<bool>(), 1usize..15).prop_map(|(even, odd, events)| Turn::Ask(even, odd, events)),
    ]
}

/// Whether the loop would be woken; takes the wake-up.
fn is_woken(shared: &Shared) -> bool {
    use futures::FutureExt;
    shared.wake.notified().now_or_never().is_some()
}

proptest! {
    // Proves: P3
    #[test]
    fn whoever_waits_for_some_partitions_is_woken_for_those_alone_and_never_missed(
        turns in proptest::collection::vec(turn(), 1..80)
    ) {
        let shared = shared();
        let mut next = BTreeMap::new();
        let mut taken: BTreeMap<Partition, i64> = BTreeMap::new();
        for partition in 0..4 {
            start(&shared, partition, 0);
            next.insert(partition, 0i64);
            taken.insert(partition, 0);
        }
        let share = |index| Share { index, of: 2 };
        let mut now = Instant::now();
        // What the loop waits for and until when, while it does.
        let mut waiting: Option<(Vec<Ask>, Option<Instant>)> = None;
        let mut asks: Vec<Ask> = Vec::new();
        for turn in turns {
            match turn {
                Turn::Records(partition, count) => {
                    let Some(next) = next.get_mut(&partition) else { continue };
                    shared.accept((*next..*next + count as i64).map(|offset| record(partition, offset, b"x")));
                    *next += count as i64;
                }
                Turn::End(partition) => shared.reached_end(partition, None),
                Turn::Revoke(partition) => {
                    shared.revoked(&[partition]);
                    next.remove(&partition);
                }
                Turn::Pass(milliseconds) => now += Duration::from_millis(milliseconds),
                Turn::Ask(even, odd, max_events) => {
                    let wanted = [(even, 0), (odd, 1)].into_iter().filter(|(wanted, _)| *wanted);
                    asks = wanted.map(|(_, index)| Ask { share: share(index), limits: limits(max_events, 1000) }).collect();
                    // It asks at once, whether it was woken or not.
                    waiting = Some((asks.clone(), Some(now)));
                }
            }
            let Some((_, until)) = waiting.take() else { continue };
            let woken = is_woken(&shared);
            match shared.poll(&asks, now) {
                Answer::Later(due) => {
                    prop_assert!(
                        woken || until.is_some_and(|until| until <= now) || due == until,
                        "nobody told the loop that there is something at {due:?}, it sleeps until {until:?}"
                    );
                    waiting = Some((asks.clone(), due));
                }
                Answer::Now(polled) => {
                    prop_assert!(woken || until.is_some_and(|until| until <= now), "the loop sleeps on: {polled:?}");
                    if let Polled::Batch(batch) = polled {
                        let of = batch.chunks[0].partition % 2;
                        prop_assert!(batch.chunks.iter().all(|chunk| chunk.partition % 2 == of), "of one share");
                        let ask = asks.iter().find(|ask| ask.share == share(of)).expect("it was asked for");
                        prop_assert!(!batch.is_empty() && batch.len() <= ask.limits.max_events);
                        for chunk in &batch.chunks {
                            prop_assert_eq!(taken.insert(chunk.partition, chunk.to), Some(chunk.from));
                        }
                    }
                }
            }
        }
        // Nothing is lost by having been asked for in whatever way: all of what is still ours comes.
        while has_records(&shared) {
            now += Duration::from_secs(1);
            let asks = [0, 1].map(|index| Ask { share: share(index), limits: limits(5, 1000) });
            if let Answer::Now(Polled::Batch(batch)) = shared.poll(&asks, now) {
                for chunk in &batch.chunks {
                    prop_assert_eq!(taken.insert(chunk.partition, chunk.to), Some(chunk.from));
                }
            }
        }
        for (partition, next) in next {
            prop_assert_eq!(taken[&partition], next);
        }
    }
}

#[test]
fn an_event_after_a_quiet_while_is_handed_over_at_once_and_those_right_after_it_wait_for_each_other() {
    let shared = shared();
    start(&shared, 0, 0);
    let (begun, wait) = (Instant::now(), Duration::from_millis(5));
    let asks = [Ask::any(limits(3, 1000))];
    shared.accept([record(0, 0, b"x")]);
    assert!(matches!(shared.poll(&asks, begun), Answer::Now(Polled::Batch(batch)) if batch.len() == 1));
    shared.accept([record(0, 1, b"x")]);
    assert!(matches!(shared.poll(&asks, begun), Answer::Later(Some(due)) if due == begun + wait));
    shared.accept([record(0, 2, b"x")]);
    assert!(matches!(shared.poll(&asks, begun + wait), Answer::Now(Polled::Batch(batch)) if batch.len() == 2));
    // A full one doesn't wait.
    shared.accept((3..6).map(|offset| record(0, offset, b"x")));
    assert!(matches!(shared.poll(&asks, begun + wait), Answer::Now(Polled::Batch(batch)) if batch.len() == 3));
}

#[test]
fn of_two_shares_that_are_ready_the_one_that_has_waited_longer_comes_first() {
    let shared = shared();
    let mut seen = Vec::new();
    for partition in 0..2 {
        start(&shared, partition, 0);
        shared.accept((0..10).map(|offset| record(partition, offset, b"x")));
    }
    let asks = [0, 1].map(|index| Ask { share: Share { index, of: 2 }, limits: limits(3, 1000) });
    let begun = Instant::now();
    for step in 0..6 {
        let Answer::Now(Polled::Batch(batch)) = shared.poll(&asks, begun + Duration::from_millis(step)) else {
            panic!()
        };
        seen.push(batch.chunks[0].partition);
    }
    assert_eq!(seen, [0, 1, 0, 1, 0, 1]);
}

type Owned = (Partition, i64, Option<i64>, Option<Vec<u8>>, Option<Vec<u8>>, Vec<u8>);

fn owned(record: &RawRecord<'_>) -> Owned {
    let bytes = |part: Option<&[u8]>| part.map(<[u8]>::to_vec);
    let (key, value) = (bytes(record.key), bytes(record.value));
    (record.partition, record.offset, record.timestamp_ms, key, value, record.headers.to_vec())
}
