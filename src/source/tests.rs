//! The source against librdkafka's mock cluster: what needs neither a real log nor a real coordinator.
//! What does (aborted transactions, retention, topics created anew, two members) is tested on a real broker.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use super::*;
use crate::error::Kind;

const TOPIC: &str = "user_cdc";
const PATIENCE: Duration = Duration::from_secs(60);
const LIMITS: BatchLimits = BatchLimits { max_events: 1000, max_bytes: 1 << 20, max_wait: Duration::from_millis(5) };

type Cluster = MockCluster<'static, DefaultProducerContext>;

fn cluster(partitions: i32) -> Cluster {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic(TOPIC, partitions, 1).unwrap();
    cluster
}

fn options(cluster: &Cluster) -> SourceOptions {
    SourceOptions {
        brokers: cluster.bootstrap_servers(),
        group: "afterimage".into(),
        topic: TOPIC.into(),
        properties: BTreeMap::from([("reconnect.backoff.max.ms".into(), "200".into())]),
        client_id: "test".into(),
        buffer_bytes: 1 << 20,
    }
}

fn producer(cluster: &Cluster) -> BaseProducer {
    ClientConfig::new().set("bootstrap.servers", cluster.bootstrap_servers()).create().unwrap()
}

/// Appends so many records to `partition`; the value is the record's number.
fn produce(producer: &BaseProducer, partition: i32, count: usize) {
    for number in 0..count {
        let value = number.to_string();
        let mut record = BaseRecord::<str, str>::to(TOPIC).partition(partition).key("k").payload(&value);
        while let Err((_, again)) = producer.send(record) {
            record = again;
            producer.poll(Duration::from_millis(10));
        }
    }
    producer.flush(PATIENCE).unwrap();
}

/// Reads until `enough` says so of what came last.
async fn read<T>(source: &mut Source, mut enough: impl FnMut(&Source, Polled) -> Option<T>) -> T {
    let reading = async {
        loop {
            let polled = source.next(&[Ask::any(LIMITS)]).await;
            if let Some(found) = enough(source, polled) {
                return found;
            }
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("what is waited for happens in time")
}

/// Waits for so many assigned partitions.
async fn assigned(source: &mut Source, count: usize) -> Vec<Assignment> {
    let mut all = Vec::new();
    read(source, |_, polled| {
        if let Polled::Assigned(assignments) = polled {
            all.extend(assignments);
        }
        (all.len() >= count).then(|| std::mem::take(&mut all))
    })
    .await
}

/// Reads until every started partition has been handed over to its end; the offsets of each partition.
async fn to_end(source: &mut Source, partitions: usize) -> BTreeMap<Partition, Vec<i64>> {
    let mut offsets: BTreeMap<Partition, Vec<i64>> = BTreeMap::new();
    let mut ended = std::collections::BTreeSet::new();
    read(source, |_, polled| {
        match polled {
            Polled::Batch(batch) => {
                for record in batch.records() {
                    offsets.entry(record.partition).or_default().push(record.offset);
                }
            }
            Polled::AtEnd(ends) => ended.extend(ends.iter().map(|end| end.partition)),
            other => panic!("unexpected {other:?}"),
        }
        (ended.len() >= partitions).then(|| std::mem::take(&mut offsets))
    })
    .await
}

#[tokio::test]
async fn partitions_are_read_from_the_positions_that_the_loop_names() {
    let cluster = cluster(2);
    let producer = producer(&cluster);
    produce(&producer, 0, 10);
    produce(&producer, 1, 10);
    let mut source = Source::start(options(&cluster)).unwrap();
    let assignments = assigned(&mut source, 2).await;
    assert!(
        tokio::time::timeout(Duration::from_millis(300), source.next(&[Ask::any(LIMITS)])).await.is_err(),
        "nothing is read yet"
    );
    for assignment in assignments {
        source.position(assignment, if assignment.partition == 0 { 0 } else { 7 });
    }
    let offsets = to_end(&mut source, 2).await;
    assert_eq!(offsets, BTreeMap::from([(0, (0..10).collect()), (1, (7..10).collect())]));
    assert!(source.close(PATIENCE).await);
}

#[tokio::test]
async fn a_partition_is_read_again_from_an_earlier_position_and_stands_still_when_halted() {
    let cluster = cluster(1);
    let producer = producer(&cluster);
    produce(&producer, 0, 100);
    let mut source = Source::start(options(&cluster)).unwrap();
    let assignment = assigned(&mut source, 1).await[0];
    for from in [50, 20, 0, 99, 100, 3] {
        source.position(assignment, from);
        let offsets = to_end(&mut source, 1).await;
        assert_eq!(offsets.get(&0).cloned().unwrap_or_default(), (from..100).collect::<Vec<_>>());
    }
    source.halt(0);
    produce(&producer, 0, 5);
    assert!(
        tokio::time::timeout(Duration::from_millis(300), source.next(&[Ask::any(LIMITS)])).await.is_err(),
        "it is halted"
    );
    source.position(assignment, 100);
    assert_eq!(to_end(&mut source, 1).await, BTreeMap::from([(0, (100..105).collect())]));
}

#[tokio::test]
async fn keys_values_headers_and_timestamps_arrive_as_they_were_sent() {
    let cluster = cluster(1);
    let producer = producer(&cluster);
    let headers = OwnedHeaders::new().insert(Header { key: "trace", value: Some("7") });
    let full = BaseRecord::to(TOPIC).partition(0).key("k").payload("v").timestamp(1234).headers(headers);
    producer.send(full).map_err(|(error, _)| error).unwrap();
    producer.send(BaseRecord::<str, str>::to(TOPIC).partition(0).key("")).map_err(|(error, _)| error).unwrap();
    producer.send(BaseRecord::<str, str>::to(TOPIC).partition(0).payload("")).map_err(|(error, _)| error).unwrap();
    producer.flush(PATIENCE).unwrap();
    let mut source = Source::start(options(&cluster)).unwrap();
    let assignment = assigned(&mut source, 1).await[0];
    source.position(assignment, 0);
    let mut seen = Vec::new();
    read(&mut source, |_, polled| {
        let Polled::Batch(batch) = polled else { return None };
        for record in batch.records() {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            seen.push((record.key.map(text), record.value.map(text), text(record.headers), record.timestamp_ms));
        }
        (seen.len() == 3).then_some(())
    })
    .await;
    assert_eq!(seen[0], (Some("k".into()), Some("v".into()), r#"[["trace","7"]]"#.into(), Some(1234)));
    assert_eq!((&seen[1].0, &seen[1].1, &seen[1].2), (&Some(String::new()), &None, &String::new()));
    assert_eq!((&seen[2].0, &seen[2].1), (&None, &Some(String::new())));
}

#[tokio::test]
async fn an_offset_that_kafka_does_not_hold_stops_that_partition_and_no_other() {
    let cluster = cluster(2);
    let producer = producer(&cluster);
    produce(&producer, 0, 10);
    produce(&producer, 1, 10);
    let mut source = Source::start(options(&cluster)).unwrap();
    let assignments = assigned(&mut source, 2).await;
    let lost = *assignments.iter().find(|assignment| assignment.partition == 1).unwrap();
    for assignment in &assignments {
        source.position(*assignment, if assignment.partition == 1 { 5000 } else { 0 });
    }
    let mut records = 0;
    let mut report = None;
    read(&mut source, |_, polled| {
        match polled {
            Polled::Batch(batch) => records += batch.records().filter(|record| record.partition == 0).count(),
            Polled::PositionLost { assignment, what } => report = Some((assignment, what)),
            other => assert!(matches!(other, Polled::AtEnd(_)), "unexpected {other:?}"),
        }
        (records == 10 && report.is_some()).then_some(())
    })
    .await;
    let (anew, what) = report.unwrap();
    assert!(anew.partition == 1 && anew.generation > lost.generation);
    assert!(what.contains("offset 5000") && what.contains("0 to 10"), "{what}");
    // It can be revived, and the other one is still read.
    source.position(anew, 9);
    produce(&producer, 0, 1);
    let mut seen = Vec::new();
    read(&mut source, |_, polled| {
        if let Polled::Batch(batch) = polled {
            seen.extend(batch.records().map(|record| (record.partition, record.offset)));
        }
        (seen.len() == 2).then_some(())
    })
    .await;
    seen.sort_unstable();
    assert_eq!(seen, [(0, 10), (1, 9)]);
}

#[tokio::test]
async fn brokers_that_are_down_are_trouble_and_nothing_is_lost_or_repeated() {
    let cluster = cluster(1);
    let producer = producer(&cluster);
    produce(&producer, 0, 10);
    let mut source = Source::start(options(&cluster)).unwrap();
    let assignment = assigned(&mut source, 1).await[0];
    source.position(assignment, 0);
    assert_eq!(to_end(&mut source, 1).await[&0].len(), 10);
    cluster.broker_down(-1).unwrap();
    let error = read(&mut source, |_, polled| match polled {
        Polled::Trouble(error) => Some(error),
        _ => None,
    })
    .await;
    assert_eq!(error.kind, Kind::BrokerUnavailable);
    assert!(error.what.contains("no Kafka broker can be reached"), "{error}");
    cluster.broker_up(-1).unwrap();
    read(&mut source, |_, polled| matches!(polled, Polled::Recovered).then_some(())).await;
    produce(&producer, 0, 5);
    let mut seen = Vec::new();
    read(&mut source, |source, polled| {
        match polled {
            Polled::Batch(batch) => seen.extend(batch.records().map(|record| record.offset)),
            // A coordinator that was away may cost the membership; the loop would ask MySQL.
            Polled::Assigned(assignments) => source.position(assignments[0], 10 + seen.len() as i64),
            _ => {}
        }
        (seen.len() >= 5).then_some(())
    })
    .await;
    assert_eq!(seen, (10..15).collect::<Vec<_>>());
}

#[tokio::test]
async fn failing_offset_commits_are_only_counted() {
    let cluster = cluster(1);
    let producer = producer(&cluster);
    produce(&producer, 0, 10);
    let mut source = Source::start(options(&cluster)).unwrap();
    let assignment = assigned(&mut source, 1).await[0];
    source.position(assignment, 0);
    to_end(&mut source, 1).await;
    let errors = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED; 3];
    cluster.request_errors(RDKafkaApiKey::OffsetCommit, &errors);
    for to in 1..=10 {
        source.acknowledge(&[OffsetRange { partition: 0, from: to - 1, to }]);
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
    assert!(source.stats().commit_errors > 0);
    produce(&producer, 0, 1);
    assert_eq!(to_end(&mut source, 1).await[&0], [10]);
}

#[tokio::test]
async fn a_full_buffer_pauses_reading_without_losing_or_repeating_a_record() {
    let cluster = cluster(2);
    let producer = producer(&cluster);
    produce(&producer, 0, 3000);
    produce(&producer, 1, 3000);
    let mut source = Source::start(SourceOptions { buffer_bytes: 500 * 45, ..options(&cluster) }).unwrap();
    for assignment in assigned(&mut source, 2).await {
        source.position(assignment, 0);
    }
    let mut pauses = 0;
    let mut offsets: BTreeMap<Partition, Vec<i64>> = BTreeMap::new();
    let small = BatchLimits { max_events: 50, ..LIMITS };
    while offsets.values().map(Vec::len).sum::<usize>() < 6000 {
        let polled = tokio::time::timeout(PATIENCE, source.next(&[Ask::any(small)])).await.unwrap();
        pauses += usize::from(source.stats().paused);
        assert!(source.stats().buffered_events < 1000, "polling goes on but records must not pile up");
        if let Polled::Batch(batch) = polled {
            for record in batch.records() {
                offsets.entry(record.partition).or_default().push(record.offset);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    assert!(pauses > 0, "the buffer was never full");
    let all: Vec<i64> = (0..3000).collect();
    assert_eq!(offsets, BTreeMap::from([(0, all.clone()), (1, all)]));
}

#[tokio::test]
async fn an_unknown_property_is_an_error_at_the_start() {
    let cluster = cluster(1);
    let mut options = options(&cluster);
    options.properties.insert("auto.offset.reset".into(), "latest".into());
    let error = Source::start(options).err().unwrap();
    assert_eq!(error.kind, Kind::Config);
    assert!(error.what.contains("auto.offset.reset"), "{error}");
}

#[tokio::test]
async fn closing_ends_within_its_deadline_even_if_no_broker_answers() {
    let cluster = cluster(1);
    let mut source = Source::start(options(&cluster)).unwrap();
    let assignment = assigned(&mut source, 1).await[0];
    source.position(assignment, 0);
    cluster.broker_down(-1).unwrap();
    let begun = Instant::now();
    source.close(Duration::from_secs(2)).await;
    assert!(begun.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn questions_to_the_mock_cluster_are_answered_as_far_as_it_can() {
    let cluster = cluster(3);
    produce(&producer(&cluster), 1, 4);
    let broker = Broker::new(&cluster.bootstrap_servers(), &BTreeMap::new(), Duration::from_secs(5)).unwrap();
    let topic = broker.topic(TOPIC).await.unwrap().unwrap();
    assert_eq!(topic.partitions, [0, 1, 2]);
    let ends = broker.watermarks(TOPIC, &[2, 1]).await.unwrap();
    assert_eq!(ends, [Watermarks { partition: 2, low: 0, high: 0 }, Watermarks { partition: 1, low: 0, high: 4 }]);
    assert!(broker.cluster_id().await.unwrap().is_some());
}

#[tokio::test]
async fn questions_that_nobody_answers_are_errors_with_a_reason() {
    let broker = Broker::new("127.0.0.1:9", &BTreeMap::new(), Duration::from_millis(500)).unwrap();
    for error in
        [broker.topic(TOPIC).await.err(), broker.watermarks(TOPIC, &[0]).await.err(), broker.cluster_id().await.err()]
    {
        let error = error.unwrap();
        assert_eq!(error.kind, Kind::BrokerUnavailable);
        assert!(!error.remedy.is_empty());
    }
}
