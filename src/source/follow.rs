//! A topic read whole and then followed, by this instance alone: for a table that every instance keeps in memory.
//!
//! In: a topic. Out: every committed record of every partition, from the first that Kafka still has, in the order of each partition. It
//! is no member of a group and commits nothing; a restart reads the topic again. What it promises (P6): a topic that was deleted and
//! created anew, and records that were deleted before they were read, are errors ([`Kind::PositionLost`]) and end the reading;
//! brokers that are away are errors that pass ([`Kind::BrokerUnavailable`]). Calls block.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};

use super::broker::Quiet;
use super::{properties, topic_id};
use crate::error::{Error, Kind, Result};
use crate::position::Partition;
use crate::record::RawRecord;

/// Between two looks at the ends of the partitions and at the topic's id.
const LOOK: Duration = Duration::from_secs(3);
/// How long brokers may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK_PATIENCE: Duration = Duration::from_secs(3);

/// How to reach the topic.
#[derive(Debug, Clone)]
pub struct FollowOptions {
    pub brokers: String,
    pub properties: BTreeMap<String, String>,
    /// Given to the client, which asks for one; never joined.
    pub group: String,
    pub topic: String,
    pub client_id: String,
}

/// How far the reading is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Offsets read and offsets to read up to where the topic ended when the reading began.
    pub read: i64,
    pub goal: i64,
    /// Offsets between here and the end, as of the last look.
    pub lag: i64,
}

/// See the module page.
pub struct Follower {
    client: BaseConsumer<Quiet>,
    topic: String,
    id: Option<String>,
    partitions: BTreeMap<Partition, Place>,
    look_at: Instant,
    /// When brokers last told the ends.
    pub looked: Instant,
    /// Why nothing can be read, as far as is known; `None` once something could be.
    pub trouble: Option<String>,
}

/// Where one partition stands.
#[derive(Debug, Clone, Copy)]
struct Place {
    low: i64,
    /// Where it ended at first.
    goal: i64,
    /// Behind the last record.
    next: i64,
    /// Its end as of the last look.
    end: i64,
    /// Nothing has come since its end was reached, and what the end was when that was noticed.
    at_end: bool,
    end_reached: Option<i64>,
    /// The goal is reached: once and for all.
    loaded: bool,
}

impl Follower {
    /// Finds the topic and begins to read it. The warnings are news that an operator should see.
    ///
    /// # Errors
    /// [`Kind::BrokerUnavailable`], also where there is no such topic yet; [`Kind::Config`] for a property that isn't accepted.
    pub fn open(options: &FollowOptions) -> Result<(Self, Vec<String>)> {
        let config = properties::follower(options)?;
        let context = Quiet::default();
        let mut config = config;
        config.set_log_level(RDKafkaLogLevel::Warning);
        let client: BaseConsumer<Quiet> = config.create_with_context(context).map_err(properties::not_accepted)?;
        let mut follower = Self {
            client,
            topic: options.topic.clone(),
            id: None,
            partitions: BTreeMap::new(),
            look_at: Instant::now(),
            looked: Instant::now(),
            trouble: None,
        };
        let (partitions, id) = follower.describe(PATIENCE)?;
        follower.id = id;
        let mut warnings = Vec::new();
        for partition in partitions {
            let place = follower.begin(partition)?;
            if place.low > 0 {
                warnings.push(format!(
                    "topic `{}` partition {partition}: its first {} offsets are gone; rows that only they mention will be missing",
                    options.topic, place.low
                ));
            }
        }
        follower.look_at = Instant::now() + LOOK;
        follower.looked = Instant::now();
        Ok((follower, warnings))
    }

    /// Hands records to `take` until nothing comes for `wait`, or until `most` came. Yields how many did. Brokers that are away are
    /// [`trouble`](Self::trouble): go on calling.
    ///
    /// # Errors
    /// [`Kind::PositionLost`]: it is over.
    pub fn read(&mut self, wait: Duration, most: usize, mut take: impl FnMut(&RawRecord<'_>)) -> Result<usize> {
        let mut count = 0;
        while count < most {
            match self.client.poll(if count == 0 { wait } else { Duration::ZERO }) {
                None => break,
                Some(Ok(message)) => {
                    let (partition, offset) = (message.partition(), message.offset());
                    take(&RawRecord {
                        partition,
                        offset,
                        timestamp_ms: message.timestamp().to_millis(),
                        key: message.key(),
                        value: message.payload(),
                        headers: b"",
                    });
                    if let Some(place) = self.partitions.get_mut(&partition) {
                        place.next = offset + 1;
                        place.loaded |= place.next >= place.goal;
                        (place.at_end, place.end_reached) = (false, None);
                    }
                    self.trouble = None;
                    count += 1;
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    if let Some(place) = self.partitions.get_mut(&partition) {
                        (place.at_end, place.loaded) = (true, true);
                    }
                    self.trouble = None;
                }
                Some(Err(error)) => self.note(error)?,
            }
        }
        if Instant::now() >= self.look_at {
            match self.look() {
                Ok(()) => self.trouble = None,
                Err(error) if error.kind == Kind::BrokerUnavailable => self.trouble = Some(error.to_string()),
                Err(error) => return Err(error),
            }
            self.look_at = Instant::now() + LOOK;
        }
        Ok(count)
    }

    /// Whether everything that was there at first has been handed over.
    pub fn is_loaded(&self) -> bool {
        self.partitions.values().all(|place| place.loaded)
    }

    pub fn progress(&self) -> Progress {
        let mut progress = Progress::default();
        for place in self.partitions.values() {
            let goal = place.goal - place.low;
            progress.goal += goal;
            progress.read += if place.loaded { goal } else { (place.next - place.low).clamp(0, goal) };
            progress.lag += match (place.at_end, place.end_reached) {
                (true, Some(reached)) => (place.end - reached).max(0),
                (true, None) => 0,
                (false, _) => (place.end - place.next).max(0),
            };
        }
        progress
    }

    /// The topic's partitions and id.
    fn describe(&self, timeout: Duration) -> Result<(Vec<Partition>, Option<String>)> {
        let asked = || -> KafkaResult<Option<(Vec<Partition>, Option<String>)>> {
            let metadata = self.client.fetch_metadata(Some(&self.topic), timeout)?;
            let Some(found) = metadata.topics().iter().find(|found| found.name() == self.topic) else {
                return Ok(None);
            };
            let missing = [RDKafkaErrorCode::UnknownTopicOrPartition, RDKafkaErrorCode::UnknownTopic];
            match found.error().map(RDKafkaErrorCode::from) {
                Some(code) if missing.contains(&code) => return Ok(None),
                Some(code) => return Err(KafkaError::MetadataFetch(code)),
                None => {}
            }
            let mut partitions: Vec<Partition> = found.partitions().iter().map(|partition| partition.id()).collect();
            partitions.sort_unstable();
            let answered = Some(metadata.orig_broker_id()).filter(|id| *id >= 0);
            let broker = answered.or_else(|| metadata.brokers().first().map(|broker| broker.id())).unwrap_or(-1);
            let id = topic_id::topic_id(self.client.client(), &self.topic, broker, timeout)?;
            Ok(Some((partitions, id)))
        };
        match asked() {
            Ok(Some((partitions, id))) if !partitions.is_empty() => Ok((partitions, id)),
            Ok(_) => Err(Error::new(Kind::BrokerUnavailable, format!("topic `{}` does not exist", self.topic))
                .remedy("create it, or correct `topic` of the lookup")),
            Err(error) => Err(self.away(&error.to_string())),
        }
    }

    /// Begins to read a partition at the first record that there is.
    fn begin(&mut self, partition: Partition) -> Result<Place> {
        let ends = self.client.fetch_watermarks(&self.topic, partition, PATIENCE);
        let (low, high) = ends.map_err(|error| self.away(&error.to_string()))?;
        let mut list = TopicPartitionList::new();
        let begun = list
            .add_partition_offset(&self.topic, partition, Offset::Offset(low))
            .and_then(|()| self.client.incremental_assign(&list));
        begun.map_err(|error| self.away(&error.to_string()))?;
        let loaded = low >= high;
        let place = Place { low, goal: high, next: low, end: high, at_end: loaded, end_reached: None, loaded };
        self.partitions.insert(partition, place);
        Ok(place)
    }

    fn note(&mut self, error: KafkaError) -> Result<()> {
        let lost = [RDKafkaErrorCode::OffsetOutOfRange, RDKafkaErrorCode::AutoOffsetReset];
        if error.rdkafka_error_code().is_some_and(|code| lost.contains(&code)) {
            // Names the range, or the new topic, if brokers tell.
            match self.look() {
                Err(error) if error.kind == Kind::PositionLost => return Err(error),
                _ => {}
            }
            return Err(self.lost("Kafka doesn't hold the records that come next".to_owned()));
        }
        self.trouble = Some(self.away(&error.to_string()).to_string());
        Ok(())
    }

    /// Asks for the partitions' ends, for new partitions, and whether it is the same topic still.
    fn look(&mut self) -> Result<()> {
        let (partitions, id) = self.describe(LOOK_PATIENCE)?;
        if let (Some(old), Some(new)) = (&self.id, &id)
            && old != new
        {
            return Err(self.lost(format!("it was deleted and created anew: its id is {new}, it was {old}")));
        }
        if partitions.len() < self.partitions.len() {
            return Err(self.lost("it has fewer partitions than before: it was deleted and created anew".to_owned()));
        }
        for partition in partitions {
            if !self.partitions.contains_key(&partition) {
                self.begin(partition)?;
                tracing::warn!(
                    topic = self.topic,
                    partition,
                    "a lookup's topic has a new partition: keys that moved count as they come"
                );
                continue;
            }
            let ends = self.client.fetch_watermarks(&self.topic, partition, LOOK_PATIENCE);
            let (low, high) = ends.map_err(|error| self.away(&error.to_string()))?;
            let Some(place) = self.partitions.get_mut(&partition) else { continue };
            if low > place.next && !place.at_end {
                let (next, count) = (place.next, low - place.next);
                return Err(self.lost(format!(
                    "partition {partition}: offsets {next} to {} ({count} offsets) were deleted before they were read",
                    low - 1
                )));
            }
            place.end = high;
            if place.at_end && place.end_reached.is_none() {
                place.end_reached = Some(high);
            }
        }
        self.looked = Instant::now();
        Ok(())
    }

    fn away(&self, what: &str) -> Error {
        let heard = self.client.context().take_reason().map(|reason| format!("; last heard: {reason}"));
        let what = format!("topic `{}` can't be read: {what}{}", self.topic, heard.unwrap_or_default());
        Error::new(Kind::BrokerUnavailable, what).remedy("check [kafka] and that Kafka is running")
    }

    fn lost(&self, what: String) -> Error {
        Error::new(Kind::PositionLost, what)
            .at(format!("topic `{}`", self.topic))
            .remedy("restart to read it from its beginning; the rows that were read stay until then")
    }
}
