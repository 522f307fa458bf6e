//! A real Kafka broker (KRaft, one node), topics with names of their own, and producers whose outcome is known.

use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use afterimage::demo::process::{ServerCommand, tail, words};
use afterimage::demo::server::free_port;
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};
use tempfile::TempDir;

use super::process::{signal, wait};

const PATIENCE: Duration = Duration::from_secs(30);
const START_DEADLINE: Duration = Duration::from_secs(120);

/// A record to produce; tests say themselves in which partition it lies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    pub partition: i32,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    /// Milliseconds; the time of producing if absent.
    pub timestamp: Option<i64>,
    pub headers: Vec<(String, Vec<u8>)>,
}

impl Message {
    pub fn new(partition: i32, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Self {
        Self { partition, key: Some(key.into()), value: Some(value.into()), ..Self::default() }
    }

    /// Kafka's own delete marker: a key without a value.
    pub fn tombstone(partition: i32, key: impl Into<Vec<u8>>) -> Self {
        Self { partition, key: Some(key.into()), ..Self::default() }
    }

    pub fn at(mut self, timestamp: i64) -> Self {
        self.timestamp = Some(timestamp);
        self
    }

    pub fn header(mut self, name: &str, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }
}

/// A running (or stopped, or killed) broker with a directory of its own.
pub struct Broker {
    port: u16,
    child: Mutex<Option<Child>>,
    libraries: PathBuf,
    home: TempDir,
}

impl Broker {
    /// Formats a log directory in `home`, starts a broker on free ports, and waits until it answers.
    pub async fn start(libraries: &Path, home: TempDir, properties: &[&str]) -> Self {
        Self::start_formatted(libraries, home, properties, &[]).await
    }

    /// The same with further arguments for formatting, e.g. to add users. In `properties`, `{PORT}` and `{CONTROLLER}` stand for
    /// the ports that were chosen.
    pub async fn start_formatted(libraries: &Path, home: TempDir, properties: &[&str], arguments: &[&str]) -> Self {
        assert!(libraries.is_dir(), "no Kafka in {}: run scripts/setup test", libraries.display());
        let port = free_port().unwrap();
        let broker = Self { port, child: Mutex::default(), libraries: libraries.to_owned(), home };
        let controller = free_port().unwrap();
        let config = broker.properties(controller, properties);
        let config = config.replace("{PORT}", &port.to_string()).replace("{CONTROLLER}", &controller.to_string());
        std::fs::write(broker.home.path().join("server.properties"), config).unwrap();
        std::fs::write(broker.home.path().join("log4j2.xml"), LOGGING).unwrap();
        let cluster = cluster_id();
        let mut format = vec!["kafka.tools.StorageTool", "format", "-t", &cluster, "-c", "server.properties"];
        format.extend(arguments);
        let mut formatting = broker.java(&format).spawn().unwrap();
        let status = wait(&mut formatting, START_DEADLINE);
        assert!(status.is_some_and(|status| status.success()), "Kafka's format failed\n{}", broker.log_tail());
        broker.start_again().await;
        broker
    }

    /// `127.0.0.1:port`, the same over restarts.
    pub fn brokers(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn pid(&self) -> Option<u32> {
        self.child.lock().unwrap().as_ref().map(Child::id)
    }

    pub fn log_tail(&self) -> String {
        tail(&self.log(), 30)
    }

    /// Starts a stopped or killed broker again, with the same port and logs, and waits until it answers.
    pub async fn start_again(&self) {
        self.kill();
        let child = self.java(&["-Xmx1g", "kafka.Kafka", "server.properties"]).spawn().unwrap();
        *self.child.lock().unwrap() = Some(child);
        let until = Instant::now() + START_DEADLINE;
        while !self.answers().await {
            let ended = self.child.lock().unwrap().as_mut().and_then(|child| child.try_wait().unwrap());
            assert!(ended.is_none() && Instant::now() < until, "no broker ({ended:?})\n{}", self.log_tail());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// An orderly shutdown.
    pub fn stop(&self) {
        if let Some(child) = self.child.lock().unwrap().as_mut() {
            signal(child.id(), libc::SIGTERM);
            wait(child, Duration::from_secs(60));
        }
        self.kill();
    }

    pub fn kill(&self) {
        if let Some(mut child) = self.child.lock().unwrap().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// A copy of the log directory of a stopped broker, for [`Broker::restore`].
    pub fn save(&self) -> TempDir {
        let copy = super::servers::scratch("kafka-copy-");
        super::servers::copy(&self.home.path().join("data"), &copy.path().join("data"));
        copy
    }

    /// Sets a stopped broker back to an earlier state of its log directory.
    pub fn restore(&self, copy: TempDir) {
        let data = self.home.path().join("data");
        std::fs::remove_dir_all(&data).unwrap();
        super::servers::copy(&copy.path().join("data"), &data);
    }

    /// Stands still (SIGSTOP): connections stay open and nothing answers.
    pub fn pause(&self) {
        signal(self.pid().unwrap(), libc::SIGSTOP);
    }

    pub fn resume(&self) {
        signal(self.pid().unwrap(), libc::SIGCONT);
    }

    /// Makes a topic with a name of its own and waits until it can be used. `configs` such as `("cleanup.policy", "compact")`.
    pub async fn create_topic(&self, partitions: i32, configs: &[(&str, &str)]) -> String {
        let name = format!("topic_{:016x}", rand::random::<u64>());
        self.create_topic_named(&name, partitions, configs).await;
        name
    }

    /// The same with a given name. A name that was deleted a moment ago may take some time to become free.
    pub async fn create_topic_named(&self, name: &str, partitions: i32, configs: &[(&str, &str)]) {
        let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
        for (key, value) in configs {
            topic = topic.set(key, value);
        }
        let until = Instant::now() + PATIENCE;
        loop {
            let outcome = self.admin().create_topics([&topic], &options()).await.unwrap().remove(0);
            match outcome {
                Ok(_) => break,
                Err((_, RDKafkaErrorCode::TopicAlreadyExists)) if Instant::now() < until => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err((_, code)) => panic!("topic {name} is not created: {code}"),
            }
        }
        self.wait_for_partitions(name, partitions).await;
    }

    /// Sets a topic's configs to exactly these, and an unlimited `retention.ms` unless they say otherwise.
    pub async fn configure_topic(&self, name: &str, configs: &[(&str, &str)]) {
        let mut change = AlterConfig::new(ResourceSpecifier::Topic(name)).set("retention.ms", "-1");
        for (key, value) in configs {
            change = change.set(key, value);
        }
        let outcome = self.admin().alter_configs([&change], &options()).await.unwrap().remove(0);
        assert!(outcome.is_ok(), "topic {name} is not configured: {outcome:?}");
    }

    /// Offsets of the records that a partition holds now, as a reader of committed records gets them.
    pub async fn records(&self, name: &str, partition: i32) -> Vec<i64> {
        let mut config = self.client_config();
        config.set("group.id", "reader").set("enable.auto.commit", "false").set("enable.partition.eof", "true");
        let name = name.to_owned();
        blocking(move || {
            let consumer: BaseConsumer = config.create().unwrap();
            let mut from = TopicPartitionList::new();
            from.add_partition_offset(&name, partition, Offset::Beginning).unwrap();
            consumer.assign(&from).unwrap();
            let mut offsets = Vec::new();
            loop {
                match consumer.poll(PATIENCE).expect("the end of the partition") {
                    Ok(message) => offsets.push(message.offset()),
                    Err(KafkaError::PartitionEOF(_)) => return offsets,
                    Err(error) => panic!("{name} can't be read: {error}"),
                }
            }
        })
        .await
    }

    /// Deletes a topic and waits until it is gone.
    pub async fn delete_topic(&self, name: &str) {
        let outcome = self.admin().delete_topics(&[name], &options()).await.unwrap().remove(0);
        assert!(outcome.is_ok(), "topic {name} is not deleted: {outcome:?}");
        self.wait_for_partitions(name, 0).await;
    }

    /// Raises the number of partitions to `total` and waits until the new ones have a leader.
    pub async fn add_partitions(&self, name: &str, total: i32) {
        let partitions = NewPartitions::new(name, usize::try_from(total).unwrap());
        let outcome = self.admin().create_partitions([&partitions], &options()).await.unwrap().remove(0);
        assert!(outcome.is_ok(), "no partitions added to {name}: {outcome:?}");
        self.wait_for_partitions(name, total).await;
    }

    /// Deletes the records of a partition before `before`, as retention would.
    pub async fn delete_records(&self, name: &str, partition: i32, before: i64) {
        let mut offsets = TopicPartitionList::new();
        offsets.add_partition_offset(name, partition, Offset::Offset(before)).unwrap();
        let outcome = self.admin().delete_records(&offsets, &options()).await.unwrap();
        let answer = outcome.find_partition(name, partition).unwrap();
        answer.error().unwrap_or_else(|error| panic!("records of {name} are not deleted: {error}"));
        assert_eq!(answer.offset(), Offset::Offset(before));
    }

    /// Offsets of a partition: the first that is there, and the one that the next record gets.
    pub async fn watermarks(&self, name: &str, partition: i32) -> (i64, i64) {
        let (consumer, name) = (self.consumer(), name.to_owned());
        blocking(move || consumer.fetch_watermarks(&name, partition, PATIENCE).unwrap()).await
    }

    /// Appends messages in order and waits until all are stored; yields their offsets. All or nothing but a panic.
    pub async fn produce(&self, topic: &str, messages: Vec<Message>) -> Vec<i64> {
        let (config, topic) = (self.producer_config(), topic.to_owned());
        blocking(move || {
            let producer: BaseProducer<Deliveries> = config.create_with_context(Deliveries::default()).unwrap();
            for (number, message) in messages.iter().enumerate() {
                send(&producer, &topic, message, number);
            }
            producer.flush(Duration::from_secs(120)).unwrap();
            producer.context().offsets(messages.len())
        })
        .await
    }

    /// A producer whose messages can be read once its transaction is committed, and never if it is aborted.
    pub async fn transactional_producer(&self) -> TransactionalProducer {
        self.transactional_producer_with_timeout(Duration::from_secs(600)).await
    }

    /// The same; the broker aborts a transaction that takes longer than `timeout`.
    pub async fn transactional_producer_with_timeout(&self, timeout: Duration) -> TransactionalProducer {
        let mut config = self.producer_config();
        config.set("transactional.id", format!("test-{:016x}", rand::random::<u64>()));
        config.set("transaction.timeout.ms", timeout.as_millis().to_string()).set("message.timeout.ms", "5000");
        blocking(move || {
            let producer: BaseProducer<Deliveries> = config.create_with_context(Deliveries::default()).unwrap();
            producer.init_transactions(PATIENCE).unwrap();
            TransactionalProducer { producer }
        })
        .await
    }

    /// Commits offsets for a group without members, as an operator's reset does.
    pub async fn commit_offsets(&self, group: &str, topic: &str, offsets: &[(i32, i64)]) {
        let mut config = self.client_config();
        config.set("group.id", group);
        let mut list = TopicPartitionList::new();
        for (partition, offset) in offsets {
            list.add_partition_offset(topic, *partition, Offset::Offset(*offset)).unwrap();
        }
        blocking(move || {
            let consumer: BaseConsumer = config.create().unwrap();
            let until = Instant::now() + PATIENCE;
            // Members that were killed are part of the group until their session times out.
            while let Err(error) = consumer.commit(&list, CommitMode::Sync) {
                assert!(Instant::now() < until, "offsets can't be reset: {error}");
                std::thread::sleep(Duration::from_millis(200));
            }
        })
        .await;
    }

    /// The offset that a group has committed at the broker; `None` if there is none.
    pub async fn committed(&self, group: &str, topic: &str, partition: i32) -> Option<i64> {
        let mut config = self.client_config();
        config.set("group.id", group);
        let topic = topic.to_owned();
        blocking(move || {
            let consumer: BaseConsumer = config.create().unwrap();
            let mut partitions = TopicPartitionList::new();
            partitions.add_partition(&topic, partition);
            let until = Instant::now() + PATIENCE;
            let committed = loop {
                match consumer.committed_offsets(partitions.clone(), PATIENCE) {
                    Ok(committed) => break committed,
                    // A new broker takes a moment to make the topic of committed offsets.
                    Err(error) if Instant::now() > until => panic!("no committed offsets: {error}"),
                    Err(_) => std::thread::sleep(Duration::from_millis(100)),
                }
            };
            match committed.find_partition(&topic, partition).unwrap().offset() {
                Offset::Offset(offset) => Some(offset),
                _ => None,
            }
        })
        .await
    }

    fn properties(&self, controller: u16, properties: &[&str]) -> String {
        let (port, data) = (self.port, self.home.path().join("data").display().to_string());
        format!(
            "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:{controller}\n\
             listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
             advertised.listeners=PLAINTEXT://127.0.0.1:{port}\ncontroller.listener.names=CONTROLLER\n\
             listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT\nlog.dirs={data}\n\
             auto.create.topics.enable=false\noffsets.topic.replication.factor=1\noffsets.topic.num.partitions=4\n\
             transaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\n\
             transaction.state.log.num.partitions=4\nshare.coordinator.state.topic.replication.factor=1\n\
             share.coordinator.state.topic.min.isr=1\ngroup.initial.rebalance.delay.ms=0\n\
             group.min.session.timeout.ms=1000\n{}\n",
            properties.join("\n")
        )
    }

    fn java(&self, arguments: &[&str]) -> ServerCommand {
        let class_path = self.libraries.join("*");
        let logging = format!("-Dlog4j2.configurationFile=file:{}", self.home.path().join("log4j2.xml").display());
        let mut command = words(&["java".as_ref(), "-cp".as_ref(), class_path.as_os_str()]);
        command.extend(words(&["-XX:+UseSerialGC", "-Xshare:auto", logging.as_str()]));
        command.extend(words(arguments));
        let directory = self.home.path().to_owned();
        ServerCommand { words: command, environment: Vec::new(), directory, log: self.log() }
    }

    /// Whether the broker serves clients.
    async fn answers(&self) -> bool {
        let consumer = self.consumer();
        blocking(move || {
            consumer.fetch_metadata(None, Duration::from_secs(1)).is_ok_and(|metadata| !metadata.brokers().is_empty())
        })
        .await
    }

    /// Waits until a topic has `count` partitions that have a leader; 0: until it is gone.
    async fn wait_for_partitions(&self, topic: &str, count: i32) {
        let (consumer, topic) = (self.consumer(), topic.to_owned());
        blocking(move || {
            let until = Instant::now() + PATIENCE;
            loop {
                let metadata = consumer.fetch_metadata(Some(&topic), PATIENCE).unwrap();
                let partitions = metadata.topics()[0].partitions();
                let led = partitions.iter().filter(|partition| partition.leader() >= 0).count();
                if i32::try_from(led) == Ok(count) && partitions.len() == led {
                    return;
                }
                assert!(Instant::now() < until, "{topic} has {led} usable partitions, not {count}");
                std::thread::sleep(Duration::from_millis(20));
            }
        })
        .await;
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.client_config().create().unwrap()
    }

    fn consumer(&self) -> BaseConsumer {
        self.client_config().create().unwrap()
    }

    fn producer_config(&self) -> ClientConfig {
        let mut config = self.client_config();
        config.set("enable.idempotence", "true").set("linger.ms", "2");
        config.set("queue.buffering.max.messages", "1000000").set("message.max.bytes", "100000000");
        config
    }

    fn client_config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.brokers());
        // Brokers that are stopped on purpose would fill the tests' output with reports about it.
        config.set("log_level", "0");
        config
    }

    fn log(&self) -> PathBuf {
        self.home.path().join("log")
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A producer with one transaction after the other.
pub struct TransactionalProducer {
    producer: BaseProducer<Deliveries>,
}

impl TransactionalProducer {
    /// Appends messages and commits: they can be read from then on.
    pub async fn commit(self, topic: &str, messages: Vec<Message>) -> Self {
        self.transaction(topic, messages, |producer| producer.commit_transaction(PATIENCE)).await
    }

    /// Appends messages and aborts: they take up offsets, and nobody who reads committed records sees them.
    pub async fn abort(self, topic: &str, messages: Vec<Message>) -> Self {
        self.transaction(topic, messages, |producer| producer.abort_transaction(PATIENCE)).await
    }

    /// Appends messages and leaves the transaction open: nothing behind them can be read until it ends. Goes on until
    /// [`TransactionalProducer::finish`], or until the transaction times out; a dropped producer ends nothing.
    pub async fn hang(self, topic: &str, messages: Vec<Message>) -> Self {
        self.transaction(topic, messages, |_| Ok(())).await
    }

    /// Commits what [`TransactionalProducer::hang`] left open.
    pub async fn finish(self) -> Self {
        blocking(move || {
            self.producer.commit_transaction(PATIENCE).unwrap();
            self
        })
        .await
    }

    async fn transaction(
        self,
        topic: &str,
        messages: Vec<Message>,
        end: impl FnOnce(&BaseProducer<Deliveries>) -> Result<(), KafkaError> + Send + 'static,
    ) -> Self {
        let topic = topic.to_owned();
        blocking(move || {
            self.producer.begin_transaction().unwrap();
            for (number, message) in messages.iter().enumerate() {
                send(&self.producer, &topic, message, number);
            }
            // All are stored before the end, so that an abort has something to abort.
            self.producer.flush(PATIENCE).unwrap();
            self.producer.context().offsets(messages.len());
            end(&self.producer).unwrap();
            self
        })
        .await
    }
}

/// What became of each message, by its number.
#[derive(Default)]
struct Deliveries {
    outcomes: Mutex<Vec<(usize, Result<i64, KafkaError>)>>,
}

impl Deliveries {
    /// The offsets of `expected` messages in the order of sending; forgets them.
    fn offsets(&self, expected: usize) -> Vec<i64> {
        let mut outcomes = std::mem::take(&mut *self.outcomes.lock().unwrap());
        outcomes.sort_by_key(|(number, _)| *number);
        assert_eq!(outcomes.len(), expected, "messages are missing");
        outcomes
            .into_iter()
            .map(|(number, outcome)| outcome.unwrap_or_else(|e| panic!("message {number}: {e}")))
            .collect()
    }
}

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Box<usize>;

    fn delivery(&self, result: &DeliveryResult<'_>, number: Box<usize>) {
        let outcome = match result {
            Ok(message) => Ok(message.offset()),
            Err((error, _)) => Err(error.clone()),
        };
        self.outcomes.lock().unwrap().push((*number, outcome));
    }
}

fn send(producer: &BaseProducer<Deliveries>, topic: &str, message: &Message, number: usize) {
    let mut record: BaseRecord<'_, [u8], [u8], Box<usize>> =
        BaseRecord::with_opaque_to(topic, Box::new(number)).partition(message.partition);
    record.key = message.key.as_deref();
    record.payload = message.value.as_deref();
    record.timestamp = message.timestamp;
    if !message.headers.is_empty() {
        record.headers = Some(
            message
                .headers
                .iter()
                .fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value: Some(value) })),
        );
    }
    while let Err((error, returned)) = producer.send(record) {
        assert_eq!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::QueueFull), "message {number}: {error}");
        producer.poll(Duration::from_millis(10));
        record = returned;
    }
}

/// librdkafka's calls block; the test's own runtime goes on meanwhile.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

fn options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(PATIENCE)).request_timeout(Some(PATIENCE))
}

/// A cluster id as Kafka makes them: 16 random bytes in URL-safe base 64 without padding, not starting with a dash.
fn cluster_id() -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let bits = rand::random::<u128>();
    // 21 letters carry 126 bits; the last one carries two, at its upper end.
    let mut id: String = (0..21).map(|place| LETTERS[(bits >> (6 * place) & 63) as usize] as char).collect();
    id.push(LETTERS[((bits >> 126) as usize) << 4] as char);
    if id.starts_with('-') { id.replacen('-', "A", 1) } else { id }
}

const LOGGING: &str = r#"<Configuration status="WARN">
  <Appenders>
    <Console name="console" target="SYSTEM_OUT"><PatternLayout pattern="[%d] %p %m (%c)%n"/></Console>
  </Appenders>
  <Loggers>
    <Root level="WARN"><AppenderRef ref="console"/></Root>
  </Loggers>
</Configuration>
"#;
