//! Brokers that die, stand still, answer with errors or late, and coordinators that move.

use std::collections::BTreeMap;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use afterimage::error::Kind;
use afterimage::generate::{self, OwnedRecord};
use afterimage::oracle;
use afterimage::source::Broker;
use rdkafka::bindings::rd_kafka_resp_err_t as Code;
use rdkafka::mocking::{MockCluster, MockCoordinator};
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::RDKafkaApiKey as Api;

use super::{LONG, QUICK, SMALL, count, finish, harsh, orderly, quick};
use crate::support::mysql::Database;
use crate::support::outcome;
use crate::support::process::{Running, Workspace};
use crate::support::rig::{Rig, Variant, config};
use crate::support::servers::{self, PrivateKafka};

/// A rig on a broker of its own.
async fn on_a_private_broker(variant: Variant) -> (Rig, PrivateKafka) {
    let kafka = PrivateKafka::start(&[]).await;
    let database = Database::create(servers::mariadb().await).await;
    let url = database.url.clone();
    (Rig::on(kafka.0, database, &url, variant).await, kafka)
}

// Proves: P3, R43
#[tokio::test(flavor = "multi_thread")]
async fn brokers_killed_again_and_again_and_restarted_in_order_cost_no_record() {
    let (mut rig, kafka) = on_a_private_broker(quick(2)).await;
    let mut running = rig.start("run");
    let mut records = harsh(6_000, 2, 401);
    for round in 0..3 {
        rig.write(records.by_ref().take(2_000)).await;
        // In the middle of the work, or not: killed twice, stopped once.
        if round == 1 {
            kafka.0.stop();
        } else {
            kafka.0.kill();
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        kafka.0.start_again().await;
        rig.wait_until_applied(LONG).await;
        assert!(running.is_running(), "{}", running.tail());
    }
    finish(running).await;
    rig.assert_as_folded().await;
}

// Proves: P3, R43
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_stands_still_for_a_minute_and_one_that_is_away_cost_no_record() {
    let (mut rig, kafka) = on_a_private_broker(quick(2)).await;
    let mut running = rig.start("run");
    let mut records = harsh(6_000, 2, 403);
    rig.write(records.by_ref().take(2_000)).await;
    // Longer than the session and than requests may take.
    kafka.0.pause();
    tokio::time::sleep(Duration::from_secs(65)).await;
    kafka.0.resume();
    rig.write(records.by_ref().take(2_000)).await;
    rig.wait_until_applied(LONG).await;
    kafka.0.kill();
    running.wait_for_log("no Kafka broker can be reached", LONG).await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    kafka.0.start_again().await;
    rig.write(records).await;
    rig.wait_until_applied(LONG).await;
    assert!(running.is_running(), "{}", running.tail());
    finish(running).await;
    rig.assert_as_folded().await;
}

type Order = Box<dyn FnOnce(&MockCluster<'static, DefaultProducerContext>) + Send>;

/// librdkafka's mock cluster of two brokers on a thread of its own, with a pipeline `users` on it. It speaks Kafka's protocol and
/// does as it is told: answers with errors, answers late, moves coordinators.
struct Mock {
    orders: mpsc::Sender<Order>,
    brokers: String,
    topic: String,
    database: Database,
    workspace: Workspace,
    written: Vec<OwnedRecord>,
}

impl Mock {
    async fn start(partitions: i32, properties: &str) -> Self {
        let topic = format!("topic_{:016x}", rand::random::<u64>());
        let (orders, todo) = mpsc::channel::<Order>();
        let (ready, started) = mpsc::channel();
        let name = topic.clone();
        std::thread::spawn(move || {
            let cluster = MockCluster::new(2).unwrap();
            cluster.create_topic(&name, partitions, 2).unwrap();
            ready.send(cluster.bootstrap_servers()).unwrap();
            for order in todo {
                order(&cluster);
            }
        });
        let brokers = started.recv().unwrap();
        let database = Database::create(servers::mysql().await).await;
        let variant = Variant { kafka: properties.to_owned(), pipeline: SMALL.to_owned(), ..Variant::default() };
        let workspace = Workspace::new(&config(&brokers, &topic, &database.url, &variant));
        let migrated = workspace.run(&["migrate"]);
        assert_eq!(migrated.code(), 0, "{migrated:?}");
        Self { orders, brokers, topic, database, workspace, written: Vec::new() }
    }

    fn tell(&self, order: impl FnOnce(&MockCluster<'static, DefaultProducerContext>) + Send + 'static) {
        let (done, finished) = mpsc::channel();
        self.order(move |cluster| {
            order(cluster);
            done.send(()).unwrap();
        });
        finished.recv().unwrap();
    }

    /// The same without waiting until it is done.
    fn order(&self, order: impl FnOnce(&MockCluster<'static, DefaultProducerContext>) + Send + 'static) {
        self.orders.send(Box::new(order)).unwrap();
    }

    /// The next requests of this kind are answered with these errors, one each.
    fn fail(&self, api: Api, errors: &[Code]) {
        let errors = errors.to_vec();
        self.tell(move |cluster| cluster.request_errors(api, &errors));
    }

    async fn write(&mut self, records: impl Iterator<Item = OwnedRecord>) {
        let records: Vec<OwnedRecord> = records.collect();
        let (brokers, topic, sent) = (self.brokers.clone(), self.topic.clone(), records.clone());
        let produced = tokio::task::spawn_blocking(move || {
            generate::produce(&brokers, &topic, &BTreeMap::new(), sent, None, |_| ()).unwrap();
        });
        produced.await.unwrap();
        for record in records {
            let offset = self.written.iter().filter(|known| known.partition == record.partition).count() as i64;
            self.written.push(OwnedRecord { offset, ..record });
        }
    }

    fn start_instance(&self, name: &str) -> Running {
        self.workspace.start(name, &["run"])
    }

    fn expected(&self) -> oracle::Expected {
        let mut records: Vec<&OwnedRecord> = self.written.iter().collect();
        records.sort_by_key(|record| (record.partition, record.offset));
        oracle::fold(outcome::settings(), records.into_iter().map(OwnedRecord::as_raw))
    }

    async fn wait_until_applied(&self, running: &mut Running) {
        let goal: i64 = self.expected().next_offset.values().sum();
        let started = Instant::now();
        loop {
            let at = self.database.number("SELECT COALESCE(SUM(next_offset), 0) FROM afterimage_positions").await;
            if at >= goal {
                return;
            }
            assert!(running.is_running() && started.elapsed() < LONG, "{at} of {goal}\n{}", running.tail());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

// Proves: P3, P5, R44
#[tokio::test(flavor = "multi_thread")]
async fn errors_on_any_request_cost_no_record_and_are_over_when_they_are_over() {
    use Code::*;
    let mut mock = Mock::start(3, QUICK).await;
    let mut records = harsh(8_000, 3, 411);
    mock.write(records.by_ref().take(500)).await;
    let mut running = mock.start_instance("run");
    mock.wait_until_applied(&mut running).await;
    let faults: [(Api, &[Code]); 7] = [
        (
            Api::Fetch,
            &[RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION, RD_KAFKA_RESP_ERR_UNKNOWN, RD_KAFKA_RESP_ERR__TRANSPORT],
        ),
        (Api::ListOffsets, &[RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE, RD_KAFKA_RESP_ERR__TRANSPORT]),
        (
            Api::OffsetCommit,
            &[
                RD_KAFKA_RESP_ERR_NOT_COORDINATOR,
                RD_KAFKA_RESP_ERR_ILLEGAL_GENERATION,
                RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID,
            ],
        ),
        (Api::Heartbeat, &[RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID, RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS]),
        (Api::Heartbeat, &[RD_KAFKA_RESP_ERR_ILLEGAL_GENERATION, RD_KAFKA_RESP_ERR_NOT_COORDINATOR]),
        (Api::JoinGroup, &[RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS, RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID]),
        (Api::FindCoordinator, &[RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE, RD_KAFKA_RESP_ERR__TRANSPORT]),
    ];
    for (api, errors) in faults {
        mock.fail(api, errors);
        // Makes the member join again, so that each kind of request is sent.
        mock.fail(Api::Heartbeat, &[RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID]);
        mock.write(records.by_ref().take(500)).await;
        mock.wait_until_applied(&mut running).await;
    }
    // Metadata: the topic is refused for some seconds, and a member joins meanwhile.
    for code in [RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE, RD_KAFKA_RESP_ERR_NO_ERROR] {
        let topic = mock.topic.clone();
        mock.tell(move |cluster| cluster.topic_error(&topic, code).unwrap());
        mock.fail(Api::Heartbeat, &[RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID]);
        tokio::time::sleep(Duration::from_secs(4)).await;
    }
    mock.write(records).await;
    mock.wait_until_applied(&mut running).await;
    finish(running).await;
    outcome::assert_as_folded(&mock.database, &mock.expected()).await;
}

// Proves: P3, P6, R44, R51
#[tokio::test(flavor = "multi_thread")]
async fn a_topics_id_that_the_brokers_fail_to_tell_is_no_topic_without_one() {
    let mock = Mock::start(1, QUICK).await;
    let broker = Broker::new(&mock.brokers, &BTreeMap::new(), Duration::from_secs(10)).unwrap();
    let known = broker.topic(&mock.topic).await.unwrap().unwrap();
    assert!(known.id.is_some(), "{known:?}");
    // The topic's description and the question for its id are requests of their own; the topic is refused and allowed by turns, so
    // that now and then one of the two fails alone.
    let (asked, mut failed) = (300, 0);
    for turn in 0..asked {
        let topic = mock.topic.clone();
        let delay = Duration::from_micros(turn % 30 * 50);
        mock.order(move |cluster| {
            std::thread::sleep(delay);
            cluster.topic_error(&topic, Code::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED).unwrap();
            std::thread::sleep(Duration::from_millis(3));
            cluster.topic_error(&topic, Code::RD_KAFKA_RESP_ERR_NO_ERROR).unwrap();
        });
        match broker.topic(&mock.topic).await {
            Ok(found) => assert_eq!(found.as_ref(), Some(&known), "turn {turn}"),
            Err(error) => {
                assert_eq!(error.kind, Kind::BrokerUnavailable, "{error}");
                failed += 1;
            }
        }
    }
    mock.tell(|_| ());
    assert!(failed > 0 && failed < asked, "{failed} of {asked} questions failed");
    assert_eq!(broker.topic(&mock.topic).await.unwrap(), Some(known));
}

// Proves: P6, R44
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_pipeline_says_that_it_runs_again_once_an_error_is_over() {
    let mut mock = Mock::start(1, QUICK).await;
    mock.write(orderly(100, 1, 413)).await;
    let mut running = mock.start_instance("run");
    mock.wait_until_applied(&mut running).await;
    // Reading is refused for a moment, as while somebody edits ACLs; nobody writes meanwhile or later.
    mock.fail(Api::Fetch, &[Code::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED; 3]);
    running.wait_for_log("waiting", LONG).await;
    let started = Instant::now();
    let recovered = |log: &str| log.rfind("waited_since") > log.rfind("waiting");
    while !recovered(&running.log()) {
        assert!(started.elapsed() < Duration::from_secs(60), "it says that it waits for ever\n{}", running.tail());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    finish(running).await;
}

// Proves: P3, R44
#[tokio::test(flavor = "multi_thread")]
async fn brokers_that_answer_after_five_seconds_are_slow_and_nothing_else() {
    // With the default session timeout, of which a heartbeat takes a good part.
    let mut mock = Mock::start(4, "").await;
    mock.write(orderly(500, 4, 415)).await;
    let mut running = mock.start_instance("run");
    mock.wait_until_applied(&mut running).await;
    running.pause();
    mock.write(orderly(2_000, 4, 417)).await;
    mock.tell(|cluster| {
        for broker in [1, 2] {
            cluster.broker_round_trip_time(broker, Duration::from_secs(5)).unwrap();
        }
    });
    running.resume();
    mock.wait_until_applied(&mut running).await;
    mock.tell(|cluster| {
        for broker in [1, 2] {
            cluster.broker_round_trip_time(broker, Duration::ZERO).unwrap();
        }
    });
    assert_eq!(count(&running, "partitions revoked"), 0, "{}", running.tail());
    finish(running).await;
    outcome::assert_as_folded(&mock.database, &mock.expected()).await;
}

// Proves: P3, R45
#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_moves_in_the_middle_of_rebalances_costs_nothing() {
    let mut mock = Mock::start(4, QUICK).await;
    let mut records = harsh(8_000, 4, 419);
    mock.write(records.by_ref().take(1_000)).await;
    let mut first = mock.start_instance("first");
    let mut second = None;
    for round in 0..6 {
        let (group, broker) = (mock.topic.clone(), 1 + round % 2);
        mock.tell(move |cluster| cluster.coordinator(MockCoordinator::Group(group), broker).unwrap());
        second = match second.take() {
            None => Some(mock.start_instance(&format!("second-{round}"))),
            Some(gone) => {
                drop::<Running>(gone);
                None
            }
        };
        mock.write(records.by_ref().take(1_000)).await;
        tokio::time::sleep(Duration::from_millis(1_500)).await;
    }
    mock.write(records).await;
    mock.wait_until_applied(&mut first).await;
    finish(first).await;
    outcome::assert_as_folded(&mock.database, &mock.expected()).await;
}
