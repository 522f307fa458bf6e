//! Sends records to a topic: each to its own partition, with its own timestamp, in order and once.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{BaseRecord, NoCustomPartitioner, Producer, ProducerContext, ThreadedProducer};

use super::OwnedRecord;
use crate::error::{Error, Kind, Result};

/// How long the last records may take to be acknowledged.
const FLUSH: Duration = Duration::from_secs(60);
/// Records between two calls of `progress`.
const PROGRESS_EVERY: u64 = 1000;

/// Remembers the first record that the brokers would not take.
#[derive(Default)]
struct Deliveries {
    failed: Mutex<Option<Error>>,
}

impl ClientContext for Deliveries {}

impl ProducerContext<NoCustomPartitioner> for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let Err((error, message)) = result else { return };
        let place = format!("topic {:?} partition {}", message.topic(), message.partition());
        let mut failed = self.failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        failed.get_or_insert_with(|| unavailable("a record was not delivered", error.clone()).at(place));
    }
}

impl Deliveries {
    fn check(&self) -> Result<()> {
        let failed = self.failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        failed.map_or(Ok(()), Err)
    }
}

/// Sends `records` to `topic`, at most `rate` per second, and waits until all are acknowledged; yields how many. `progress` is told the
/// number sent so far. Blocks: call it on a thread of its own.
///
/// Fails with [`Kind::BrokerUnavailable`] on the first record that can't be delivered; offsets are those of the records only where the topic was empty.
pub fn produce(
    brokers: &str,
    topic: &str,
    properties: &BTreeMap<String, String>,
    records: impl IntoIterator<Item = OwnedRecord>,
    rate: Option<u64>,
    mut progress: impl FnMut(u64),
) -> Result<u64> {
    let mut config = ClientConfig::new();
    config.set("linger.ms", "5").set("compression.type", "zstd").set("queue.buffering.max.kbytes", "65536");
    for (name, value) in properties {
        config.set(name, value);
    }
    config.set("bootstrap.servers", brokers).set("enable.idempotence", "true").set("acks", "all");
    let producer: ThreadedProducer<Deliveries> = config
        .create_with_context(Deliveries::default())
        .map_err(|error| Error::new(Kind::Config, "the producer's properties are not accepted").source(error))?;

    let start = Instant::now();
    let mut sent = 0;
    for record in records {
        if let Some(rate) = rate {
            let due = start + Duration::from_secs_f64(sent as f64 / rate.max(1) as f64);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        send(&producer, topic, &record)?;
        sent += 1;
        if sent % PROGRESS_EVERY == 0 || rate.is_some_and(|rate| rate < PROGRESS_EVERY) {
            producer.context().check()?;
            progress(sent);
        }
    }
    producer.flush(FLUSH).map_err(|error| unavailable("not all records were acknowledged", error))?;
    producer.context().check()?;
    progress(sent);
    Ok(sent)
}

/// Puts one record into the producer's queue, waiting while it is full.
fn send(producer: &ThreadedProducer<Deliveries>, topic: &str, record: &OwnedRecord) -> Result<()> {
    let mut message = BaseRecord::<[u8], [u8]>::to(topic).partition(record.partition);
    if let Some(timestamp) = record.timestamp_ms {
        message = message.timestamp(timestamp);
    }
    if let Some(key) = &record.key {
        message = message.key(key);
    }
    if let Some(value) = &record.value {
        message = message.payload(value);
    }
    loop {
        match producer.send(message) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), unsent)) => {
                message = unsent;
                producer.context().check()?;
                std::thread::sleep(Duration::from_millis(1));
            }
            Err((error, _)) => {
                return Err(unavailable(&format!("topic {topic:?} partition {}: can't send", record.partition), error));
            }
        }
    }
}

fn unavailable(what: &str, error: KafkaError) -> Error {
    Error::new(Kind::BrokerUnavailable, what)
        .remedy("check that the brokers run and the topic has that partition")
        .source(error)
}
