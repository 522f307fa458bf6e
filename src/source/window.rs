//! A stretch of a topic, read once: for people who try models on what really came.
//!
//! In: which partitions, from where to where. Out: the records in between as [`OwnedRecord`]s, in an order that a service might have
//! read them in. Partitions are assigned, never subscribed to, and only committed records are read: no group is joined, no offset is
//! committed, and whoever works on the topic doesn't notice. What is asked for is read whole or refused, never cut in silence.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};

use super::{Broker, Watermarks, properties};
use crate::error::{Error, Kind, Result};
use crate::position::Partition;
use crate::record::OwnedRecord;

/// A bound of a window within each partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Offset(i64),
    /// The first record of this Kafka timestamp or later, milliseconds since 1970 UTC.
    Time(i64),
}

/// What of each partition is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Span {
    /// So many records before the end.
    Last(usize),
    /// From a place on, up to another or to the end.
    Between { from: Place, to: Option<Place> },
}

/// What to read.
#[derive(Debug, Clone)]
pub struct Window {
    pub brokers: String,
    pub properties: BTreeMap<String, String>,
    /// Named to the brokers, because who may read a topic is often told by the group; never joined.
    pub group: String,
    pub topic: String,
    /// All, where empty.
    pub partitions: Vec<Partition>,
    pub span: Span,
}

/// More than this at once is a rebuild, not a look.
const MAX_RECORDS: usize = 2_000_000;
const MAX_BYTES: usize = 1 << 30;
/// How long brokers may keep silent.
const PATIENCE: Duration = Duration::from_secs(20);

/// Reads `window`.
///
/// # Errors
/// [`Kind::Config`] for a topic or partition that doesn't exist, a place that no partition has and a window that is too large;
/// [`Kind::BrokerUnavailable`] where Kafka doesn't answer.
pub async fn read(window: Window) -> Result<Vec<OwnedRecord>> {
    let broker = Broker::new(&window.brokers, &window.properties, PATIENCE)?;
    let partitions = partitions(&broker, &window).await?;
    let ends = broker.watermarks(&window.topic, &partitions).await?;
    let work = move || {
        let client = client(&window)?;
        let read = match window.span {
            Span::Last(count) => last(&client, &window.topic, &ends, count),
            Span::Between { from, to } => between(&client, &window.topic, &ends, from, to),
        };
        read.map(interleaved)
    };
    let failed = |error: tokio::task::JoinError| Error::new(Kind::Bug, "reading a topic has panicked").source(error);
    tokio::task::spawn_blocking(work).await.map_err(failed)?
}

async fn partitions(broker: &Broker, window: &Window) -> Result<Vec<Partition>> {
    let topic = &window.topic;
    let found = broker.topic(topic).await?.ok_or_else(|| {
        Error::new(Kind::Config, format!("there is no topic `{topic}` on {}", window.brokers))
            .remedy("name an existing one as `topic` of the pipeline, or give a file with --events")
    })?;
    if window.partitions.is_empty() {
        return Ok(found.partitions);
    }
    match window.partitions.iter().find(|partition| !found.partitions.contains(partition)) {
        Some(unknown) => {
            let known: Vec<String> = found.partitions.iter().map(ToString::to_string).collect();
            let what = format!("topic `{topic}` has no partition {unknown}");
            Err(Error::new(Kind::Config, what).remedy(format!("it has {}", known.join(", "))))
        }
        None => Ok(window.partitions.clone()),
    }
}

fn client(window: &Window) -> Result<BaseConsumer> {
    let mut config = properties::connection(&window.brokers, &window.properties)?;
    // Membership is for the source.
    config.remove("group.instance.id").remove("group.protocol");
    config.set("group.id", &window.group).set("client.id", "afterimage-look");
    config.set("isolation.level", "read_committed").set("enable.partition.eof", "true");
    config.set("enable.auto.commit", "false").set("enable.auto.offset.store", "false");
    config.set("auto.offset.reset", "error").set("allow.auto.create.topics", "false");
    config.create().map_err(properties::not_accepted)
}

/// Offsets `from..to` of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stretch {
    partition: Partition,
    from: i64,
    to: i64,
}

type ByPartition = BTreeMap<Partition, Vec<OwnedRecord>>;

/// The last `count` records of each partition. Offsets have holes (compaction, ends of transactions), so that more of them may have
/// to be looked at than there are records.
fn last(client: &BaseConsumer, topic: &str, ends: &[Watermarks], count: usize) -> Result<ByPartition> {
    let mut found = ByPartition::new();
    let mut open: Vec<Watermarks> = ends.to_vec();
    let mut distance = i64::try_from(count).unwrap_or(i64::MAX);
    while !open.is_empty() && count > 0 {
        let stretch = |end: &Watermarks| Stretch {
            partition: end.partition,
            from: end.high.saturating_sub(distance).max(end.low),
            to: end.high,
        };
        let stretches: Vec<Stretch> = open.iter().map(stretch).collect();
        let read = stretch_records(client, topic, &stretches)?;
        for (partition, mut records) in read {
            records.drain(..records.len().saturating_sub(count));
            found.insert(partition, records);
        }
        open.retain(|end| {
            let enough = found.get(&end.partition).is_some_and(|records| records.len() >= count);
            !enough && end.high.saturating_sub(distance) > end.low
        });
        distance = distance.saturating_mul(4);
    }
    Ok(found)
}

fn between(
    client: &BaseConsumer,
    topic: &str,
    ends: &[Watermarks],
    from: Place,
    to: Option<Place>,
) -> Result<ByPartition> {
    let froms = offsets(client, topic, ends, from)?;
    let tos = match to {
        Some(place) => offsets(client, topic, ends, place)?,
        None => ends.iter().map(|end| end.high).collect(),
    };
    let mut stretches = Vec::new();
    for ((end, from), to) in ends.iter().zip(froms).zip(tos) {
        if from < end.low && from < to {
            let what = format!(
                "partition {} of topic `{topic}` begins at offset {}, offset {from} is gone",
                end.partition, end.low
            );
            return Err(Error::new(Kind::Config, what).remedy("begin later, or name another --partition"));
        }
        stretches.push(Stretch { partition: end.partition, from, to: to.min(end.high) });
    }
    stretch_records(client, topic, &stretches)
}

/// Where `place` is in each partition; the end where nothing is as late as that.
fn offsets(client: &BaseConsumer, topic: &str, ends: &[Watermarks], place: Place) -> Result<Vec<i64>> {
    let time = match place {
        Place::Offset(offset) => return Ok(vec![offset; ends.len()]),
        Place::Time(time) => time,
    };
    let mut asked = TopicPartitionList::new();
    for end in ends {
        asked.add_partition_offset(topic, end.partition, Offset::Offset(time)).map_err(broken)?;
    }
    let found = client.offsets_for_times(asked, PATIENCE).map_err(broken)?;
    let offset = |end: &Watermarks| match found.find_partition(topic, end.partition).map(|found| found.offset()) {
        Some(Offset::Offset(offset)) => offset,
        _ => end.high,
    };
    Ok(ends.iter().map(offset).collect())
}

/// All records of `stretches`.
fn stretch_records(client: &BaseConsumer, topic: &str, stretches: &[Stretch]) -> Result<ByPartition> {
    let mut open: BTreeMap<Partition, i64> = BTreeMap::new();
    let mut assignment = TopicPartitionList::new();
    for stretch in stretches.iter().filter(|stretch| stretch.from < stretch.to) {
        let from = Offset::Offset(stretch.from);
        assignment.add_partition_offset(topic, stretch.partition, from).map_err(broken)?;
        open.insert(stretch.partition, stretch.to);
    }
    let mut read: ByPartition = stretches.iter().map(|stretch| (stretch.partition, Vec::new())).collect();
    client.assign(&assignment).map_err(broken)?;
    let (mut records, mut bytes) = (0, 0);
    let mut heard = Instant::now();
    while !open.is_empty() {
        match client.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => {
                heard = Instant::now();
                let partition = message.partition();
                let Some(to) = open.get(&partition).copied() else { continue };
                if message.offset() < to {
                    records += 1;
                    bytes += message.payload_len() + message.key_len();
                    if records > MAX_RECORDS || bytes > MAX_BYTES {
                        return Err(too_large(topic));
                    }
                    read.entry(partition).or_default().push(owned(&message));
                }
                if message.offset() + 1 >= to {
                    open.remove(&partition);
                }
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                heard = Instant::now();
                open.remove(&partition);
            }
            Some(Err(error)) if is_fatal(&error) => return Err(broken(error)),
            Some(Err(error)) => tracing::debug!(topic, %error, "while reading a window"),
            None => {}
        }
        if heard.elapsed() > PATIENCE {
            let waits: Vec<String> = open.keys().map(ToString::to_string).collect();
            let what = format!("Kafka doesn't send records of topic `{topic}`, partition {}", waits.join(", "));
            return Err(Error::new(Kind::BrokerUnavailable, what).remedy("check [kafka] and that Kafka is running"));
        }
    }
    client.unassign().map_err(broken)?;
    Ok(read)
}

/// Errors that waiting doesn't heal; all others are the client's to get over.
fn is_fatal(error: &KafkaError) -> bool {
    let KafkaError::MessageConsumption(code) = error else {
        return matches!(error, KafkaError::MessageConsumptionFatal(_));
    };
    matches!(
        code,
        RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::UnknownTopicOrPartition
            | RDKafkaErrorCode::UnknownTopic
            | RDKafkaErrorCode::UnknownPartition
            | RDKafkaErrorCode::OffsetOutOfRange
            | RDKafkaErrorCode::AutoOffsetReset
    )
}

fn owned(message: &impl Message) -> OwnedRecord {
    OwnedRecord {
        partition: message.partition(),
        offset: message.offset(),
        timestamp_ms: message.timestamp().to_millis(),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
    }
}

fn too_large(topic: &str) -> Error {
    let what = format!("the window holds more than {MAX_RECORDS} records or 1 GiB of topic `{topic}`");
    Error::new(Kind::Config, what).remedy("narrow it: --topic-last, --from and --to, --partition")
}

fn broken(error: KafkaError) -> Error {
    Error::new(Kind::BrokerUnavailable, "the topic can't be read")
        .remedy("check [kafka], the rights on the topic, and that Kafka is running")
        .source(error)
}

/// One order for all partitions: by Kafka timestamp, as far as the order within each partition leaves a choice.
fn interleaved(read: ByPartition) -> Vec<OwnedRecord> {
    let mut timed: Vec<(i64, OwnedRecord)> = Vec::new();
    for records in read.into_values() {
        let mut latest = i64::MIN;
        for record in records {
            latest = latest.max(record.timestamp_ms.unwrap_or(i64::MIN));
            timed.push((latest, record));
        }
    }
    timed.sort_by_key(|(time, record)| (*time, record.partition, record.offset));
    timed.into_iter().map(|(_, record)| record).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_interleaved_by_time_and_each_keeps_its_order() {
        let record =
            |partition, offset, timestamp_ms| OwnedRecord { partition, offset, timestamp_ms, key: None, value: None };
        let read: ByPartition = [
            (0, vec![record(0, 5, Some(30)), record(0, 6, Some(10)), record(0, 7, Some(40))]),
            (1, vec![record(1, 1, Some(20)), record(1, 2, Some(35)), record(1, 3, None)]),
        ]
        .into();
        let order: Vec<(i32, i64)> =
            interleaved(read).into_iter().map(|record| (record.partition, record.offset)).collect();
        assert_eq!(order, [(1, 1), (0, 5), (0, 6), (1, 2), (1, 3), (0, 7)]);
    }
}
