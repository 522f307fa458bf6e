//! The polling thread: owns the client, moves records into the shared buffer, carries out what the loop wants.
//!
//! A partition that the group assigns is acknowledged to the group but not put into the client's own assignment before the
//! loop has named its offset: librdkafka then never has a reason to look for one (committed offset, reset policy), and
//! neither pausing nor seeking nor a stale prefetched record can matter. Reading it from elsewhere takes it out of the client
//! and puts it in again, which also is the only way to revive a partition after an offset out of range.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::oneshot;

use super::buffer::{Change, Heals, Shared};
use super::pressure::Pressure;
use super::statistics::Statistics;
use super::{SourceOptions, headers, properties};
use crate::error::{Error, Kind, Result};
use crate::failpoint::failpoint;
use crate::position::Partition;
use crate::record::RawRecord;

/// How long a poll waits when nothing arrives: bounds how late the loop's wishes are carried out.
const POLL: Duration = Duration::from_millis(10);
/// Records that are moved under one lock, at most.
const BURST: usize = 512;
/// Commits for lag tools are not sent more often than this: librdkafka starts no partition while one is under way.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);
/// Before a client that has died is replaced, and before a failed change is tried again.
const RETRY: Duration = Duration::from_secs(1);
const WATERMARK_TIMEOUT: Duration = Duration::from_secs(2);

type Client = BaseConsumer<Context>;

/// Creates the client, so that a bad property is an error here, and starts the thread. `done` is sent (or dropped) at its end.
pub(super) fn spawn(
    options: SourceOptions,
    shared: Arc<Shared>,
    done: oneshot::Sender<()>,
) -> Result<thread::JoinHandle<()>> {
    let config = properties::consumer(&options)?;
    let client = connect(&config, &shared)?;
    let body = move || {
        let _alarm = Alarm(Arc::clone(&shared));
        run(client, &config, &shared);
        // Nobody may be waiting any more.
        let _ = done.send(());
    };
    thread::Builder::new()
        .name(format!("kafka {}", options.topic))
        .spawn(body)
        .map_err(|error| Error::new(Kind::Bug, "can't start the thread that polls Kafka").source(error))
}

/// Wakes the loop if the thread panics: it would wait forever otherwise.
struct Alarm(Arc<Shared>);

impl Drop for Alarm {
    fn drop(&mut self) {
        if thread::panicking() {
            let error = Error::new(Kind::Bug, "the thread that polls Kafka has panicked");
            self.0.trouble("panic".to_owned(), Heals::WithRecords, error);
        }
    }
}

fn connect(config: &ClientConfig, shared: &Arc<Shared>) -> Result<Client> {
    let context = Context { shared: Arc::clone(shared) };
    let client: Client = config.create_with_context(context).map_err(properties::not_accepted)?;
    client.subscribe(&[shared.topic()]).map_err(|error| {
        Error::new(Kind::Config, format!("can't subscribe to topic `{}`", shared.topic())).source(error)
    })?;
    Ok(client)
}

/// Reads until the loop closes the source; replaces a client that has died.
fn run(first: Client, config: &ClientConfig, shared: &Arc<Shared>) {
    let mut client = Some(first);
    loop {
        if let Some(alive) = client.take() {
            let Err(death) = read(&alive, shared) else {
                // Leaves the group; the caller of close waits for that no longer than its deadline.
                drop(alive);
                return;
            };
            tracing::warn!(topic = shared.topic(), error = %death, "kafka client is replaced");
            shared.revoked_all();
            shared.trouble("client".to_owned(), Heals::WithRecords, death);
            drop(alive);
        }
        let until = Instant::now() + RETRY;
        while Instant::now() < until {
            if shared.is_closing() {
                return;
            }
            thread::sleep(POLL);
        }
        match connect(config, shared) {
            Ok(next) => client = Some(next),
            Err(error) => shared.trouble("client".to_owned(), Heals::WithRecords, error),
        }
    }
}

/// Polls until closing (`Ok`) or until the client is beyond repair (`Err`).
fn read(client: &Client, shared: &Shared) -> Result<()> {
    let mut header_json = Vec::new();
    let mut last_commit = Instant::now();
    let mut retry_at: Option<Instant> = None;
    let mut waits = false;
    loop {
        if shared.take_attention() || retry_at.is_some_and(|at| Instant::now() >= at) {
            if shared.is_closing() {
                // Leaving the group waits for it.
                commit(client, shared);
                return Ok(());
            }
            if shared.take_rejoin() {
                rejoin(client, shared);
            }
            retry_at = carry_out(client, shared).then(|| Instant::now() + RETRY);
        }
        let pressure = shared.pressure(Instant::now());
        relieve(client, shared, &pressure);
        if pressure.wait && !waits {
            tracing::debug!(topic = shared.topic(), "reading waits for room in the buffer");
        }
        waits = pressure.wait;
        if waits {
            shared.wait_for_room(POLL);
        } else if let Some(error) = poll(client, shared, &mut header_json) {
            fault(client, shared, error)?;
        }
        if last_commit.elapsed() >= COMMIT_INTERVAL {
            failpoint!("in_poll");
            last_commit = Instant::now();
            commit(client, shared);
            shared.doubt_trouble();
        }
    }
}

/// Moves what is there into the buffer, at most [`BURST`] records under one lock; returns what came instead of a record.
fn poll(client: &Client, shared: &Shared, header_json: &mut Vec<u8>) -> Option<KafkaError> {
    let mut messages: Vec<BorrowedMessage<'_>> = Vec::new();
    let mut wait = POLL;
    let mut fault = None;
    while messages.len() < BURST && fault.is_none() {
        match client.poll(wait) {
            Some(Ok(message)) => messages.push(message),
            Some(Err(error)) => fault = Some(error),
            None => break,
        }
        wait = Duration::ZERO;
    }
    accept(&messages, shared, header_json);
    fault
}

fn accept(messages: &[BorrowedMessage<'_>], shared: &Shared, header_json: &mut Vec<u8>) {
    if messages.is_empty() {
        return;
    }
    header_json.clear();
    let mut ends = Vec::with_capacity(messages.len());
    for message in messages {
        if let Some(headers) = message.headers() {
            headers::write(headers, header_json);
        }
        ends.push(header_json.len());
    }
    let mut start = 0;
    shared.accept(messages.iter().zip(ends).map(|(message, end)| RawRecord {
        partition: message.partition(),
        offset: message.offset(),
        timestamp_ms: message.timestamp().to_millis(),
        key: message.key(),
        value: message.payload(),
        headers: header_json.get(std::mem::replace(&mut start, end)..end).unwrap_or_default(),
    }));
}

/// Other than closing, giving the subscription up tells the group so even for a static member.
fn rejoin(client: &Client, shared: &Shared) {
    client.unsubscribe();
    if let Err(error) = client.subscribe(&[shared.topic()]) {
        let error = Error::new(Kind::BrokerUnavailable, "can't join the group again").source(error);
        shared.trouble("client".to_owned(), Heals::WithRecords, error);
    }
}

/// Carries out what the loop wants; returns whether something has to be tried again.
fn carry_out(client: &Client, shared: &Shared) -> bool {
    let mut again = false;
    for change in shared.changes() {
        match carry_out_one(client, shared, &change) {
            Ok(in_client) => shared.carried_out(&change, in_client),
            Err(error) => {
                tracing::warn!(
                    topic = shared.topic(), partition = change.assignment.partition, from = change.from, error = %error,
                    "partition can't be started or stopped, trying again"
                );
                again = true;
            }
        }
    }
    again
}

/// Returns whether the partition is in the client's assignment now.
fn carry_out_one(client: &Client, shared: &Shared, change: &Change) -> KafkaResult<bool> {
    let partition = change.assignment.partition;
    let plain = list(shared.topic(), &[partition]);
    if change.remove {
        client.incremental_unassign(&plain)?;
        // Remembered at once: if the next step fails, the partition must not be taken out a second time.
        shared.carried_out(change, false);
    }
    let Some(from) = change.from else { return Ok(false) };
    let mut at = TopicPartitionList::new();
    at.add_partition_offset(shared.topic(), partition, Offset::Offset(from))?;
    client.incremental_assign(&at)?;
    // A pause outlives the assignment it was made for.
    if let Err(error) = client.resume(&plain) {
        tracing::warn!(topic = shared.topic(), partition, error = %error, "partition can't be resumed");
    }
    tracing::info!(topic = shared.topic(), partition, from, "partition started");
    Ok(true)
}

/// Pauses and resumes partitions as the buffer demands.
fn relieve(client: &Client, shared: &Shared, pressure: &Pressure) {
    let topic = shared.topic();
    // Both fail for unknown partitions only, which aren't read either.
    if !pressure.pause.is_empty() {
        tracing::debug!(topic, partitions = ?pressure.pause, "reading pauses");
        if let Err(error) = client.pause(&list(topic, &pressure.pause)) {
            tracing::warn!(topic, partitions = ?pressure.pause, error = %error, "partitions can't be paused");
        }
    }
    if !pressure.resume.is_empty() {
        tracing::debug!(topic, partitions = ?pressure.resume, "reading goes on");
        if let Err(error) = client.resume(&list(topic, &pressure.resume)) {
            tracing::warn!(topic, partitions = ?pressure.resume, error = %error, "partitions can't be resumed");
        }
    }
}

fn commit(client: &Client, shared: &Shared) {
    let applied = shared.take_applied();
    if applied.is_empty() {
        return;
    }
    let mut offsets = TopicPartitionList::with_capacity(applied.len());
    for (partition, to) in applied {
        if offsets.add_partition_offset(shared.topic(), partition, Offset::Offset(to)).is_err() {
            shared.count_commit_error();
        }
    }
    if client.commit(&offsets, CommitMode::Async).is_err() {
        shared.count_commit_error();
    }
}

/// Deals with what a poll returned instead of a record; `Err` if the client is beyond repair.
fn fault(client: &Client, shared: &Shared, error: KafkaError) -> Result<()> {
    match error {
        KafkaError::PartitionEOF(partition) => {
            shared.recovered();
            shared.reached_end(partition, position(client, shared.topic(), partition));
        }
        KafkaError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset) => find_lost(client, shared),
        // Reported with its text through Context::error, unless it is the end.
        KafkaError::MessageConsumption(_) | KafkaError::MessageConsumptionFatal(_) => {
            if let Some((_, reason)) = client.client().fatal_error() {
                let what = format!("Kafka ended this client's membership: {reason}");
                let remedy = "a new client joins by itself; if this repeats, two instances have one group.instance.id";
                return Err(Error::new(Kind::BrokerUnavailable, what).remedy(remedy));
            }
        }
        other => {
            let error = Error::new(Kind::BrokerUnavailable, "can't read from Kafka").source(other);
            shared.trouble("poll".to_owned(), Heals::WithRecords, error);
        }
    }
    Ok(())
}

/// Where the client stands in `partition`. Other than the last record's offset this counts the marks of transactions.
fn position(client: &Client, topic: &str, partition: Partition) -> Option<i64> {
    let positions = client.position().ok()?;
    match positions.find_partition(topic, partition)?.offset() {
        Offset::Offset(offset) => Some(offset),
        _ => None,
    }
}

/// Some partition's offset is out of range; the client's error doesn't say which. Asks the brokers for the limits of those being
/// read, which takes a moment but is rare. If none is out of range (a truncated log that has grown again) all are suspects.
fn find_lost(client: &Client, shared: &Shared) {
    let mut lost = Vec::new();
    let mut unknown = Vec::new();
    for (partition, next) in shared.reading() {
        match client.fetch_watermarks(shared.topic(), partition, WATERMARK_TIMEOUT) {
            Ok((low, high)) if next < low || next > high => lost.push((
                partition,
                format!(
                    "topic `{}` partition {partition}: offset {next} is to be read next but Kafka holds {low} to {high}",
                    shared.topic()
                ),
            )),
            Ok(_) => {}
            Err(error) => {
                unknown.push((partition, format!("topic `{}` partition {partition}: {error}", shared.topic())));
            }
        }
    }
    if lost.is_empty() && unknown.is_empty() {
        lost.extend(shared.reading().into_iter().map(|(partition, next)| {
            let what = "Kafka refused the offset of some partition of this topic (truncated log), possibly of this one";
            (partition, format!("topic `{}` partition {partition} at offset {next}: {what}", shared.topic()))
        }));
    }
    for (partition, what) in lost.into_iter().chain(unknown) {
        tracing::warn!(topic = shared.topic(), partition, what, "position lost");
        shared.lost(partition, what);
    }
}

fn list(topic: &str, partitions: &[Partition]) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for partition in partitions {
        list.add_partition(topic, *partition);
    }
    list
}

/// The client's callbacks. All are called by the polling thread, inside of a poll.
pub(super) struct Context {
    shared: Arc<Shared>,
}

impl Context {
    /// A line that only librdkafka's log holds: the topic was deleted and created anew. It comes before any record of the new
    /// one; without it the client would go on at the same offset in different records.
    fn notice_other_topic(&self, line: &str) {
        let mark = format!("Topic {} changed id from ", self.shared.topic());
        let Some(ids) = line.find(&mark).and_then(|at| line.get(at + mark.len()..)) else { return };
        // At the first sight of a topic the old id is zero.
        if ids.starts_with("AAAAAAAAAAAAAAAAAAAAAA") {
            return;
        }
        let topic = self.shared.topic();
        tracing::warn!(topic, ids, "topic was deleted and created anew");
        for partition in self.shared.partitions() {
            let what =
                format!("topic `{topic}` partition {partition}: the topic was deleted and created anew (id {ids})");
            self.shared.lost(partition, what);
        }
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        match level {
            RDKafkaLogLevel::Debug => self.notice_other_topic(line),
            // Commits are sent without asking for an answer, so that only the log tells of a failure.
            _ if facility == "COMMITFAIL" => {
                tracing::debug!(target: "librdkafka", facility, line);
                self.shared.count_commit_error();
            }
            // Failing connections are reported as trouble once; the lines repeat at every attempt.
            _ if facility == "FAIL" || facility == "ERROR" => tracing::debug!(target: "librdkafka", facility, line),
            RDKafkaLogLevel::Info | RDKafkaLogLevel::Notice => tracing::debug!(target: "librdkafka", facility, line),
            RDKafkaLogLevel::Warning
            | RDKafkaLogLevel::Error
            | RDKafkaLogLevel::Critical
            | RDKafkaLogLevel::Alert
            | RDKafkaLogLevel::Emerg => tracing::warn!(target: "librdkafka", facility, line),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let Some(code) = error.rdkafka_error_code() else { return };
        if let Some((heals, trouble)) = trouble(code, reason, self.shared.topic()) {
            self.shared.trouble(code.to_string(), heals, trouble);
        }
    }

    fn stats_raw(&self, json: &[u8]) {
        let Some(statistics) = Statistics::parse(json) else { return };
        for (partition, end) in statistics.ends(self.shared.topic()) {
            self.shared.set_end(partition, end);
        }
        self.shared.set_topic_partitions(statistics.partitions(self.shared.topic()));
        if statistics.any_broker_up() {
            self.shared.connected();
        }
    }
}

impl ConsumerContext for Context {
    fn rebalance(&self, client: &BaseConsumer<Self>, what: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        let topic = self.shared.topic();
        let named: Vec<Partition> = partitions.elements().iter().map(|element| element.partition()).collect();
        if what == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            tracing::info!(topic, partitions = ?named, "partitions assigned");
            // Accepts the assignment without giving the client anything to read yet.
            if let Err(error) = client.incremental_assign(&TopicPartitionList::new()) {
                tracing::warn!(topic, error = %error, "assignment can't be acknowledged");
            }
            if !named.is_empty() {
                self.shared.recovered();
                self.shared.assigned(&named);
            }
            return;
        }
        tracing::info!(topic, partitions = ?named, lost = client.assignment_lost(), "partitions revoked");
        let in_client = self.shared.revoked(&named);
        // Called also with nothing to take out: the group waits for it.
        if let Err(error) = client.incremental_unassign(&list(topic, &in_client)) {
            tracing::warn!(topic, error = %error, "revocation can't be acknowledged");
        }
    }
}

/// What an error event means for the operator and what ends it; `None` for those that pass by themselves or are dealt with
/// elsewhere.
fn trouble(code: RDKafkaErrorCode, reason: &str, topic: &str) -> Option<(Heals, Error)> {
    let (heals, what, remedy) = match code {
        // One connection lost: others may do, and if not, AllBrokersDown follows.
        RDKafkaErrorCode::BrokerTransportFailure
        | RDKafkaErrorCode::PartitionEOF
        | RDKafkaErrorCode::AutoOffsetReset
        | RDKafkaErrorCode::Fatal
        | RDKafkaErrorCode::FencedInstanceId
        | RDKafkaErrorCode::OperationTimedOut
        | RDKafkaErrorCode::PollExceeded => return None,
        RDKafkaErrorCode::AllBrokersDown => (
            Heals::WithConnection,
            "no Kafka broker can be reached".to_owned(),
            "check `brokers` in [kafka] and that Kafka is running",
        ),
        RDKafkaErrorCode::Resolve => (
            Heals::WithConnection,
            format!("a broker's name can't be resolved: {reason}"),
            "check `brokers` in [kafka] and the name service",
        ),
        RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed => (
            Heals::WithConnection,
            format!("Kafka refuses the credentials: {reason}"),
            "check sasl.mechanism, sasl.username and sasl.password in [kafka.properties]",
        ),
        RDKafkaErrorCode::SSL => (
            Heals::WithConnection,
            format!("no secure connection to Kafka: {reason}"),
            "the broker's certificate may be expired, be for another name than `brokers` in [kafka] says, or be signed by an authority \
             that ssl.ca.location doesn't hold; or the port isn't for security.protocol",
        ),
        RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic => (
            Heals::WithRecords,
            format!("topic `{topic}` does not exist"),
            "create the topic, or mend `topic` in the pipeline; it is picked up as soon as it exists",
        ),
        RDKafkaErrorCode::TopicAuthorizationFailed => (
            Heals::WithRecords,
            format!("Kafka refuses reading topic `{topic}`"),
            "grant READ and DESCRIBE on the topic",
        ),
        RDKafkaErrorCode::GroupAuthorizationFailed => (
            Heals::WithRecords,
            "Kafka refuses joining the group".to_owned(),
            "grant READ on the group, or set another `group` in [kafka]",
        ),
        other => (Heals::WithRecords, format!("Kafka reports a fault: {other}: {reason}"), ""),
    };
    Some((heals, Error::new(Kind::BrokerUnavailable, what).remedy(remedy)))
}
