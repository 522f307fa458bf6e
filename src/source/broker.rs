//! Questions to the brokers besides reading: which cluster is this, what does the topic look like, where do its partitions end?
//!
//! A client of its own without a group. Its calls block inside librdkafka, so they run on tokio's threads for blocking work and
//! end after a timeout. Errors are [`Kind::BrokerUnavailable`]: ask again later.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::{properties, topic_id};
use crate::error::{Error, Kind, Result};
use crate::position::Partition;

/// A client for questions. Cheap to clone.
#[derive(Clone)]
pub struct Broker {
    client: Arc<BaseConsumer<Quiet>>,
    timeout: Duration,
}

/// A topic as the brokers describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicDescription {
    /// Differs from that of a topic that was deleted and created anew; `None` where the brokers don't tell.
    pub id: Option<String>,
    /// Ascending.
    pub partitions: Vec<Partition>,
}

/// Where a partition begins and ends: it holds the offsets `low..high` (without holes only as far as nothing was compacted).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watermarks {
    pub partition: Partition,
    pub low: i64,
    /// Under `read_committed`: the last stable offset, that is where the oldest open transaction begins.
    pub high: i64,
}

impl Broker {
    /// # Errors
    /// [`Kind::Config`] for a property that librdkafka doesn't accept. Nothing is connected yet.
    pub fn new(brokers: &str, properties: &BTreeMap<String, String>, timeout: Duration) -> Result<Self> {
        let mut config = properties::connection(brokers, properties)?;
        config.set("isolation.level", "read_committed").set("allow.auto.create.topics", "false");
        // Membership is for the source.
        config.remove("group.instance.id").remove("group.protocol");
        config.set("client.id", "afterimage-inspect").set_log_level(RDKafkaLogLevel::Warning);
        let client = config.create_with_context(Quiet::default()).map_err(properties::not_accepted)?;
        Ok(Self { client: Arc::new(client), timeout })
    }

    /// The cluster's id; `None` where the brokers have none.
    ///
    /// # Errors
    /// [`Kind::BrokerUnavailable`].
    pub async fn cluster_id(&self) -> Result<Option<String>> {
        self.ask("cluster id", |client, timeout| {
            // A null id may mean "no answer", which only another question can tell.
            match client.client().fetch_cluster_id(timeout) {
                Some(id) => Ok(Some(id)),
                None => client.fetch_metadata(None, timeout).map(|_| None),
            }
        })
        .await
    }

    /// The topic, or `None` if there is none of this name.
    ///
    /// # Errors
    /// [`Kind::BrokerUnavailable`].
    pub async fn topic(&self, topic: &str) -> Result<Option<TopicDescription>> {
        let name = topic.to_owned();
        self.ask(&format!("topic `{topic}`"), move |client, timeout| {
            let metadata = client.fetch_metadata(Some(&name), timeout)?;
            let Some(found) = metadata.topics().iter().find(|found| found.name() == name) else { return Ok(None) };
            if let Some(code) = found.error().map(RDKafkaErrorCode::from) {
                let missing = [RDKafkaErrorCode::UnknownTopicOrPartition, RDKafkaErrorCode::UnknownTopic];
                return if missing.contains(&code) { Ok(None) } else { Err(KafkaError::MetadataFetch(code)) };
            }
            let mut partitions: Vec<_> = found.partitions().iter().map(|partition| partition.id()).collect();
            if partitions.is_empty() {
                return Ok(None);
            }
            partitions.sort_unstable();
            // The one that has just answered; unknown while it is but an address of the config.
            let answered = Some(metadata.orig_broker_id()).filter(|id| *id >= 0);
            let broker = answered.or_else(|| metadata.brokers().first().map(|broker| broker.id())).unwrap_or(-1);
            Ok(Some(TopicDescription { id: topic_id::topic_id(client.client(), &name, broker, timeout)?, partitions }))
        })
        .await
    }

    /// Where `partitions` begin and end, in the order given.
    ///
    /// # Errors
    /// [`Kind::BrokerUnavailable`], also for a partition that doesn't exist.
    pub async fn watermarks(&self, topic: &str, partitions: &[Partition]) -> Result<Vec<Watermarks>> {
        let name = topic.to_owned();
        let partitions = partitions.to_vec();
        self.ask(&format!("ends of topic `{topic}`"), move |client, timeout| {
            let ask = |partition| {
                let (low, high) = client.fetch_watermarks(&name, partition, timeout)?;
                Ok(Watermarks { partition, low, high })
            };
            partitions.into_iter().map(ask).collect()
        })
        .await
    }

    /// Runs a blocking question; `what` is what is asked for.
    async fn ask<T: Send + 'static>(
        &self,
        what: &str,
        question: impl FnOnce(&BaseConsumer<Quiet>, Duration) -> Result<T, KafkaError> + Send + 'static,
    ) -> Result<T> {
        let (client, timeout) = (Arc::clone(&self.client), self.timeout);
        let work = move || {
            let answer = question(&client, timeout);
            // Serves log lines and errors, which would pile up; there is nothing else in this queue.
            while let Some(event) = client.poll(Duration::ZERO) {
                drop(event);
            }
            let reason = client.context().take_reason();
            answer.map_err(|error| (error, reason))
        };
        let failed =
            |error: tokio::task::JoinError| Error::new(Kind::Bug, "a question to Kafka has panicked").source(error);
        tokio::task::spawn_blocking(work).await.map_err(failed)?.map_err(|(error, reason)| {
            let reason = reason.map(|reason| format!("; last heard: {reason}")).unwrap_or_default();
            Error::new(Kind::BrokerUnavailable, format!("Kafka doesn't tell the {what}{reason}"))
                .remedy("check [kafka] and that Kafka is running")
                .source(error)
        })
    }
}

/// Keeps the last error's text, which says more than the code of a failed question.
#[derive(Default)]
pub(super) struct Quiet {
    reason: Mutex<Option<String>>,
}

impl Quiet {
    pub(super) fn take_reason(&self) -> Option<String> {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl ClientContext for Quiet {
    fn log(&self, _: RDKafkaLogLevel, facility: &str, line: &str) {
        tracing::debug!(target: "librdkafka", facility, line);
    }

    fn error(&self, _: KafkaError, reason: &str) {
        *self.reason.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason.to_owned());
    }
}

impl ConsumerContext for Quiet {}
