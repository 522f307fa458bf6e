//! The source on a real broker: positions, aborted transactions, retention, topics created anew, new partitions, members that
//! come and go, brokers that do.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use afterimage::error::Kind;
use afterimage::position::{OffsetRange, Partition};
use afterimage::record::RawBatch;
use afterimage::source::{
    Ask, Assignment, BatchLimits, Broker, Found, Polled, Source, SourceOptions, Stored, Verdict, position_check,
};

use crate::support::kafka::{Broker as Kafka, Message};
use crate::support::servers;

const PATIENCE: Duration = Duration::from_secs(60);
const LIMITS: BatchLimits = BatchLimits { max_events: 10_000, max_bytes: 8 << 20, max_wait: Duration::from_millis(5) };

fn options(kafka: &Kafka, topic: &str) -> SourceOptions {
    let properties = [("topic.metadata.refresh.interval.ms", "1000"), ("session.timeout.ms", "6000")];
    SourceOptions {
        brokers: kafka.brokers(),
        group: format!("group of {topic}"),
        topic: topic.to_owned(),
        properties: properties.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        client_id: "test".to_owned(),
        buffer_bytes: 16 << 20,
    }
}

fn inspector(kafka: &Kafka) -> Broker {
    Broker::new(&kafka.brokers(), &BTreeMap::new(), Duration::from_secs(10)).unwrap()
}

/// Plain messages whose value is their number.
fn messages(partition: Partition, count: usize) -> Vec<Message> {
    (0..count).map(|number| Message::new(partition, "k", number.to_string())).collect()
}

/// A member of the group that keeps positions as the loop and MySQL would: it starts every assigned partition at its stored
/// position and stores the end of each batch, if the batch joins the stored position.
struct Member {
    source: Source,
    assigned: BTreeMap<Partition, Assignment>,
    ended: BTreeSet<Partition>,
    lost: Vec<(Partition, String)>,
    troubles: Vec<String>,
}

/// What the members share: the stored positions and every offset that was applied.
#[derive(Default)]
struct Store {
    positions: BTreeMap<Partition, i64>,
    applied: BTreeMap<Partition, Vec<i64>>,
}

impl Store {
    fn total(&self) -> usize {
        self.applied.values().map(Vec::len).sum()
    }

    /// Compare-and-swap per partition, as the sink does it; a chunk that doesn't join is fenced.
    fn apply(&mut self, batch: &RawBatch) -> Vec<OffsetRange> {
        let mut applied = Vec::new();
        for chunk in &batch.chunks {
            let stored = self.positions.entry(chunk.partition).or_insert(0);
            if *stored == chunk.from {
                *stored = chunk.to;
                self.applied.entry(chunk.partition).or_default().extend(chunk.records().map(|record| record.offset));
                applied.push(chunk.range());
            }
        }
        applied
    }

    fn assert_complete(&self, partitions: i32, count: i64) {
        for partition in 0..partitions {
            let offsets = self.applied.get(&partition).cloned().unwrap_or_default();
            assert_eq!(offsets, (0..count).collect::<Vec<_>>(), "partition {partition}");
        }
    }
}

impl Member {
    fn new(options: SourceOptions) -> Self {
        Self {
            source: Source::start(options).unwrap(),
            assigned: BTreeMap::new(),
            ended: BTreeSet::new(),
            lost: Vec::new(),
            troubles: Vec::new(),
        }
    }

    /// Serves the source for a moment.
    async fn turn(&mut self, store: &mut Store) {
        let Ok(polled) = tokio::time::timeout(Duration::from_millis(50), self.source.next(&[Ask::any(LIMITS)])).await
        else {
            return;
        };
        match polled {
            Polled::Assigned(assignments) => {
                for assignment in assignments {
                    self.assigned.insert(assignment.partition, assignment);
                    let from = store.positions.get(&assignment.partition).copied().unwrap_or(0);
                    self.source.position(assignment, from);
                }
            }
            Polled::Revoked(partitions) => self.assigned.retain(|partition, _| !partitions.contains(partition)),
            Polled::Batch(batch) => {
                self.ended.retain(|partition| batch.chunks.iter().all(|chunk| chunk.partition != *partition));
                let applied = store.apply(&batch);
                self.source.acknowledge(&applied);
            }
            Polled::AtEnd(ends) => self.ended.extend(ends.iter().map(|end| end.partition)),
            Polled::PositionLost { assignment, what } => {
                self.assigned.insert(assignment.partition, assignment);
                self.lost.push((assignment.partition, what));
            }
            Polled::Trouble(error) => self.troubles.push(error.to_string()),
            Polled::Recovered => self.troubles.clear(),
        }
    }

    async fn until(&mut self, store: &mut Store, mut enough: impl FnMut(&Self, &Store) -> bool) {
        let begun = Instant::now();
        while !enough(self, store) {
            assert!(
                begun.elapsed() < PATIENCE,
                "not in time: assigned {:?}, ended {:?}, lost {:?}, troubles {:?}, {:?}, applied {}",
                self.assigned,
                self.ended,
                self.lost,
                self.troubles,
                self.source.stats(),
                store.total()
            );
            self.turn(store).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_record_arrives_once_and_in_order_and_its_end_and_what_was_applied_are_told() {
    let kafka = servers::kafka().await;
    let topic = kafka.create_topic(3, &[]).await;
    for partition in 0..3 {
        kafka.produce(&topic, messages(partition, 20_000)).await;
    }
    let mut store = Store::default();
    let mut member = Member::new(options(kafka, &topic));
    member.until(&mut store, |member, _| member.ended.len() == 3).await;
    store.assert_complete(3, 20_000);
    // What was applied is told to the group, for lag tools, again and again.
    for count in [20_000, 20_001, 20_002] {
        let begun = Instant::now();
        while kafka.committed(&options(kafka, &topic).group, &topic, 1).await != Some(count) {
            assert!(begun.elapsed() < PATIENCE, "no advisory commit");
            member.turn(&mut store).await;
        }
        kafka.produce(&topic, messages(1, 1)).await;
    }
    assert!(member.source.close(PATIENCE).await);
}

// Proves: P3, R47
#[tokio::test(flavor = "multi_thread")]
async fn committed_offsets_of_the_group_are_never_read() {
    let kafka = servers::kafka().await;
    let topic = kafka.create_topic(1, &[]).await;
    kafka.produce(&topic, messages(0, 100)).await;
    let mut store = Store::default();
    let mut member = Member::new(options(kafka, &topic));
    member.until(&mut store, |member, _| member.ended.len() == 1).await;
    member.source.close(PATIENCE).await;
    assert_eq!(
        kafka.committed(&options(kafka, &topic).group, &topic, 0).await,
        Some(100),
        "closing commits what is left"
    );
    // The database was restored to an earlier state.
    let mut store = Store { positions: BTreeMap::from([(0, 40)]), ..Store::default() };
    let mut member = Member::new(options(kafka, &topic));
    member.until(&mut store, |member, _| member.ended.len() == 1).await;
    assert_eq!(store.applied[&0], (40..100).collect::<Vec<_>>());
}

// Proves: P1, R54
#[tokio::test(flavor = "multi_thread")]
async fn records_of_aborted_transactions_never_arrive_and_the_end_is_reached_behind_them() {
    let kafka = servers::kafka().await;
    let topic = kafka.create_topic(1, &[]).await;
    let producer = kafka.transactional_producer().await;
    let producer = producer.commit(&topic, messages(0, 5)).await;
    let producer = producer.abort(&topic, messages(0, 7)).await;
    let producer = producer.commit(&topic, messages(0, 3)).await;
    producer.abort(&topic, messages(0, 2)).await;
    let mut store = Store::default();
    let mut member = Member::new(options(kafka, &topic));
    member.until(&mut store, |member, _| member.ended.len() == 1).await;
    // Each transaction ends with a record of its own: 5+1, 7+1, 3+1, 2+1.
    assert_eq!(store.applied[&0], [0, 1, 2, 3, 4, 14, 15, 16]);
    let ends = inspector(kafka).watermarks(&topic, &[0]).await.unwrap();
    assert_eq!((ends[0].low, ends[0].high), (0, 21));
    assert_eq!(store.positions[&0], 17);
}

// Proves: P6, R50
#[tokio::test(flavor = "multi_thread")]
async fn records_deleted_before_they_were_read_stop_that_partition_with_the_lost_range() {
    let kafka = servers::kafka().await;
    let topic = kafka.create_topic(2, &[]).await;
    kafka.produce(&topic, messages(0, 50)).await;
    kafka.produce(&topic, messages(1, 50)).await;
    kafka.delete_records(&topic, 1, 30).await;
    let mut store = Store { positions: BTreeMap::from([(1, 10)]), ..Store::default() };
    let mut member = Member::new(options(kafka, &topic));
    member.until(&mut store, |member, _| member.ended.contains(&0) && !member.lost.is_empty()).await;
    let (partition, what) = &member.lost[0];
    assert!(*partition == 1 && what.contains("offset 10") && what.contains("30 to 50"), "{what}");
    assert_eq!(store.applied.keys().collect::<Vec<_>>(), [&0]);
    let ends = inspector(kafka).watermarks(&topic, &[1]).await.unwrap()[0];
    let found = Found { low: ends.low, high: ends.high, partitions: 2, ..Found::default() };
    let stored = Stored { next_offset: Some(10), partitions: 2, ..Stored::default() };
    let Verdict::Halt(error) = position_check(&topic, 1, &stored, &found) else { panic!("it must halt") };
    assert!(error.kind == Kind::PositionLost && error.what.contains("offsets 10 to 29"), "{error}");
    // An operator accepts the gap.
    store.positions.insert(1, 30);
    member.source.position(member.assigned[&1], 30);
    member.until(&mut store, |member, _| member.ended.contains(&1)).await;
    assert_eq!(store.applied[&1], (30..50).collect::<Vec<_>>());
}

// Proves: P6, R51
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_created_anew_while_it_is_read_is_noticed_before_a_record_of_it_arrives() {
    let kafka = servers::kafka().await;
    // The metadata is rarely refreshed, so that the client learns of it in the worst way: from a fetch.
    let topic = kafka.create_topic(2, &[]).await;
    kafka.produce(&topic, messages(0, 20)).await;
    let mut store = Store::default();
    let mut rarely = options(kafka, &topic);
    rarely.properties.insert("topic.metadata.refresh.interval.ms".into(), "60000".into());
    let mut member = Member::new(rarely);
    member.until(&mut store, |member, _| member.ended.len() == 2).await;
    let broker = inspector(kafka);
    let old = broker.topic(&topic).await.unwrap().unwrap();
    kafka.delete_topic(&topic).await;
    kafka.create_topic_named(&topic, 2, &[]).await;
    // Longer than the old one: the stored position fits into it.
    kafka.produce(&topic, messages(0, 500)).await;
    let new = broker.topic(&topic).await.unwrap().unwrap();
    assert!(old.id.is_some() && new.id.is_some() && old.id != new.id, "{old:?} {new:?}");
    let before = member.assigned.clone();
    member.until(&mut store, |member, _| !member.lost.is_empty() || member.assigned.get(&0) != before.get(&0)).await;
    for _ in 0..20 {
        if !member.lost.is_empty() {
            member.turn(&mut store).await;
        }
    }
    // Either the position was lost, or the partition was assigned anew and the loop compares the topic's id.
    assert!(
        store.applied[&0].len() == 20 || member.lost.is_empty(),
        "{} records, lost {:?}",
        store.total(),
        member.lost
    );
    if let Some((_, what)) = member.lost.first() {
        assert!(what.contains("created anew") || what.contains("Kafka holds"), "{what}");
    }
}

// Proves: P3, R53
#[tokio::test(flavor = "multi_thread")]
async fn new_partitions_are_found_while_reading() {
    let kafka = servers::kafka().await;
    let topic = kafka.create_topic(1, &[]).await;
    kafka.produce(&topic, messages(0, 10)).await;
    let mut store = Store::default();
    let mut member = Member::new(options(kafka, &topic));
    member.until(&mut store, |member, _| member.ended.len() == 1).await;
    kafka.add_partitions(&topic, 3).await;
    for partition in 1..3 {
        kafka.produce(&topic, messages(partition, 10)).await;
    }
    member.until(&mut store, |_, store| store.total() == 30).await;
    store.assert_complete(3, 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_does_not_exist_is_trouble_until_it_does() {
    let kafka = servers::kafka().await;
    let topic = format!("late_{:016x}", rand::random::<u64>());
    let mut store = Store::default();
    let mut member = Member::new(options(kafka, &topic));
    member.until(&mut store, |member, _| !member.troubles.is_empty()).await;
    assert!(
        member.troubles[0].contains("does not exist") && member.troubles[0].contains(&topic),
        "{:?}",
        member.troubles
    );
    assert_eq!(inspector(kafka).topic(&topic).await.unwrap(), None);
    kafka.create_topic_named(&topic, 1, &[]).await;
    kafka.produce(&topic, messages(0, 10)).await;
    member.until(&mut store, |member, store| store.total() == 10 && member.troubles.is_empty()).await;
}

// Proves: P3, R46
#[tokio::test(flavor = "multi_thread")]
async fn members_come_and_go_and_nothing_is_applied_twice_or_skipped() {
    let kafka = servers::kafka().await;
    let topic = kafka.create_topic(6, &[]).await;
    let mut store = Store::default();
    let mut first = Member::new(options(kafka, &topic));
    let mut second: Option<Member> = None;
    let mut shared = 0;
    for round in 0..8 {
        for partition in 0..6 {
            kafka.produce(&topic, messages(partition, 500)).await;
        }
        match round % 4 {
            1 => second = Some(Member::new(options(kafka, &topic))),
            3 => assert!(second.take().unwrap().source.close(PATIENCE).await),
            _ => {}
        }
        let begun = Instant::now();
        while store.total() < 6 * 500 * (round + 1) {
            assert!(begun.elapsed() < PATIENCE, "round {round}: {} applied", store.total());
            first.turn(&mut store).await;
            if let Some(second) = &mut second {
                second.turn(&mut store).await;
                shared += usize::from(first.assigned.len() == 3 && second.assigned.len() == 3);
            }
        }
    }
    assert!(shared > 0, "the two never shared the partitions");
    store.assert_complete(6, 4000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_owner_of_a_static_identity_costs_the_client_but_not_the_source() {
    let kafka = servers::kafka().await;
    let topic = kafka.create_topic(1, &[]).await;
    kafka.produce(&topic, messages(0, 10)).await;
    let mut fixed = options(kafka, &topic);
    fixed.properties.insert("group.instance.id".into(), "one".into());
    let mut store = Store::default();
    let mut first = Member::new(fixed.clone());
    first.until(&mut store, |member, _| member.ended.len() == 1).await;
    let second = Member::new(fixed);
    first.until(&mut store, |member, _| !member.troubles.is_empty() && member.assigned.is_empty()).await;
    assert!(first.troubles[0].contains("group.instance.id"), "{:?}", first.troubles);
    second.source.close(PATIENCE).await;
    kafka.produce(&topic, messages(0, 10)).await;
    first.until(&mut store, |member, store| store.total() == 20 && member.troubles.is_empty()).await;
    store.assert_complete(1, 20);
}

// Proves: P3, R43
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_killed_and_started_again_costs_no_record() {
    let kafka = servers::start_private_kafka(&[]).await;
    let topic = kafka.create_topic(2, &[]).await;
    let mut store = Store::default();
    let mut member = Member::new(options(&kafka, &topic));
    for round in 0i64..2 {
        for partition in 0..2 {
            kafka.produce(&topic, messages(partition, 1000)).await;
        }
        member.until(&mut store, |_, store| store.total() as i64 == 2000 * (round + 1)).await;
        kafka.kill();
        member.until(&mut store, |member, _| !member.troubles.is_empty()).await;
        kafka.start_again().await;
        member.until(&mut store, |member, _| member.troubles.is_empty()).await;
    }
    store.assert_complete(2, 2000);
}

#[tokio::test(flavor = "multi_thread")]
async fn back_pressure_costs_no_record_however_often_it_strikes() {
    let kafka = servers::kafka().await;
    let topic = kafka.create_topic(4, &[]).await;
    for partition in 0..4 {
        kafka.produce(&topic, messages(partition, 30_000)).await;
    }
    let mut store = Store::default();
    let mut member = Member::new(SourceOptions { buffer_bytes: 2_000 * 60, ..options(kafka, &topic) });
    let mut pauses = 0;
    let small = BatchLimits { max_events: 700, ..LIMITS };
    let begun = Instant::now();
    while store.total() < 120_000 {
        assert!(begun.elapsed() < PATIENCE, "{} records", store.total());
        match tokio::time::timeout(PATIENCE, member.source.next(&[Ask::any(small)])).await.unwrap() {
            Polled::Assigned(assignments) => assignments.iter().for_each(|new| member.source.position(*new, 0)),
            Polled::Batch(batch) => {
                store.apply(&batch);
                pauses += usize::from(member.source.stats().paused);
            }
            _ => {}
        }
    }
    assert!(pauses > 0, "the buffer was never full");
    store.assert_complete(4, 30_000);
}
