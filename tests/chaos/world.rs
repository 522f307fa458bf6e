//! Everything that a plan acts upon: servers, a topic, a database behind a proxy, instances of the service.
//!
//! One loop owns all of it: it carries out steps, and between them heals what is due and starts instances that died. An end that nobody
//! caused is a violation.

use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};

use afterimage::demo::server::PrivateServer;
use afterimage::generate::{OwnedRecord, Records};
use afterimage::oracle::Settings;
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use super::audit;
use super::ledger::Ledger;
use super::plan::Plan;
use crate::support::kafka::{Broker, Message};
use crate::support::mysql::Database;
use crate::support::outcome;
use crate::support::process::{Running, Workspace, signal};
use crate::support::proxy::Proxy;
use crate::support::rig::{self, Variant};
use crate::support::servers;

/// A server that all runs share, or one of the run's own, which it may break.
pub enum Lent<T: 'static> {
    Shared(&'static T),
    Own(Box<T>),
}

impl<T> Deref for Lent<T> {
    type Target = T;

    fn deref(&self) -> &T {
        match self {
            Self::Shared(shared) => shared,
            Self::Own(own) => own,
        }
    }
}

impl<T> Lent<T> {
    pub fn own(&mut self) -> &mut T {
        match self {
            Self::Own(own) => own.deref_mut(),
            Self::Shared(_) => panic!("a plan without servers of its own breaks them"),
        }
    }
}

/// One place for an instance of the service: whoever runs there now.
pub struct Instance {
    pub name: String,
    pub running: Option<Running>,
    /// `FAILPOINTS` of the lives to come.
    pub failpoints: VecDeque<String>,
    /// It was told to end, or to die at a place.
    pub may_end: bool,
    /// A guest does not come back.
    pub guest: bool,
    /// Its own account at the database, so that the database knows who writes.
    account: Account,
}

#[derive(Clone)]
struct Account {
    user: String,
    password: String,
}

/// What ends a fault that lasts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heal {
    Wake(u32),
    EndGuest(String),
    Blackhole,
    Away,
    Server,
    WakeServer,
    ReadOnly,
    Broker,
    WakeBroker,
}

pub struct World {
    pub plan: Plan,
    pub server: Lent<PrivateServer>,
    pub broker: Lent<Broker>,
    pub database: Database,
    pub proxy: Proxy,
    pub workspace: Workspace,
    pub topic: String,
    pub partitions: i32,
    pub ledger: Arc<Mutex<Ledger>>,
    pub instances: Vec<Instance>,
    pub heals: Vec<(Instant, Heal)>,
    pub records: Records,
    /// Records of partitions that aren't there yet.
    pub deferred: Vec<OwnedRecord>,
    /// Others who hold locks.
    pub others: JoinSet<()>,
    /// An earlier copy of the database server's data.
    pub earlier: Option<tempfile::TempDir>,
    pub faults: usize,
    pub lives: usize,
    pub violations: Vec<String>,
}

impl World {
    pub async fn new(plan: Plan) -> Self {
        let (server, broker) = if plan.own_servers {
            // MySQL's default, and most of what is staged then takes another way.
            let options: &[&str] = if plan.seed.is_multiple_of(2) { &["--local-infile=0"] } else { &[] };
            let server = servers::start_private(plan.flavour, options).await;
            (Lent::Own(Box::new(server)), Lent::Own(Box::new(servers::start_private_kafka(&[]).await)))
        } else {
            (Lent::Shared(servers::shared(plan.flavour).await), Lent::Shared(servers::kafka().await))
        };
        let database = Database::create(&server).await;
        let proxy = Proxy::start(server.port());
        let url = format!(
            "mysql://${{MYSQL_USER:-{}}}:${{MYSQL_PASSWORD:-{}}}@127.0.0.1:{}/{}",
            server.account(),
            server.password(),
            proxy.port(),
            database.name
        );
        let topic = broker.create_topic(plan.partitions, &[("retention.ms", "-1")]).await;
        let variant = variant(&plan);
        let workspace = Workspace::new(&rig::config(&broker.brokers(), &topic, &url, &variant));
        let migrated = workspace.run(&["migrate"]);
        assert_eq!(migrated.code(), 0, "{migrated:?}");
        audit::install(&mut database.connect().await).await.unwrap();
        let mut instances = Vec::new();
        for number in 0..plan.instances {
            instances.push(Instance::new(format!("instance-{number}"), false, &database).await);
        }
        Self {
            partitions: plan.partitions,
            ledger: Arc::new(Mutex::new(Ledger::new(variant.settings))),
            records: plan.workload.records(),
            plan,
            server,
            broker,
            database,
            proxy,
            workspace,
            topic,
            instances,
            heals: Vec::new(),
            deferred: Vec::new(),
            others: JoinSet::new(),
            earlier: None,
            faults: 0,
            lives: 0,
            violations: Vec::new(),
        }
    }

    /// Heals what is due and starts who is missing.
    pub async fn tend(&mut self) {
        let now = Instant::now();
        let (due, later) = std::mem::take(&mut self.heals).into_iter().partition(|(when, _)| *when <= now);
        self.heals = later;
        let due: Vec<(Instant, Heal)> = due;
        for (_, heal) in due {
            self.heal(heal).await;
        }
        for number in 0..self.instances.len() {
            self.tend_instance(number);
        }
        self.instances.retain(|instance| !instance.guest || instance.running.is_some());
    }

    fn tend_instance(&mut self, number: usize) {
        let instance = &mut self.instances[number];
        if let Some(running) = &mut instance.running {
            let Some(status) = running.ended() else { return };
            if let Some(what) = unexpected(status, instance.may_end) {
                self.violations.push(format!("{} {what}\n{}", instance.name, running.tail()));
            }
            if running.log().contains("bug:") {
                self.violations.push(format!("{} reports a bug\n{}", instance.name, running.tail()));
            }
            instance.running = None;
        }
        if !instance.guest {
            self.start(number);
        }
    }

    /// Starts an instance with the next of its failpoints.
    pub fn start(&mut self, number: usize) {
        let instance = &mut self.instances[number];
        let failpoints = instance.failpoints.pop_front();
        instance.may_end = failpoints.is_some();
        let Account { user, password } = instance.account.clone();
        let mut environment =
            vec![("INSTANCE", instance.name.clone()), ("MYSQL_USER", user), ("MYSQL_PASSWORD", password)];
        environment.extend(failpoints.map(|failpoints| ("FAILPOINTS", failpoints)));
        let environment: Vec<(&str, &str)> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
        instance.running = Some(self.workspace.start_with(&instance.name, &["run"], &environment));
        self.lives += 1;
    }

    pub fn heal_after(&mut self, time: Duration, heal: Heal) {
        self.heals.push((Instant::now() + time, heal));
    }

    async fn heal(&mut self, heal: Heal) {
        match heal {
            Heal::Wake(pid) => {
                let running = self.instances.iter_mut().filter_map(|instance| instance.running.as_mut());
                if let Some(running) = running.filter(|running| running.pid() == pid).find_map(Running::alive) {
                    running.resume();
                }
            }
            Heal::EndGuest(name) => {
                for guest in self.instances.iter_mut().filter(|instance| instance.name == name) {
                    guest.may_end = true;
                    guest.running.as_mut().into_iter().for_each(Running::kill);
                }
            }
            Heal::Blackhole => self.proxy.blackhole(false),
            Heal::Away => self.proxy.refuse(false),
            Heal::Server => self.server.own().start_again().await.unwrap(),
            Heal::WakeServer => signal(self.server.pid().unwrap(), libc::SIGCONT),
            Heal::ReadOnly => self.database.execute("SET GLOBAL read_only = 0").await,
            Heal::Broker => self.broker.own().start_again().await,
            Heal::WakeBroker => self.broker.resume(),
        }
    }

    /// Whether a fault that lasts is still on.
    pub fn suffers(&self, from: &[Heal]) -> bool {
        self.heals.iter().any(|(_, heal)| from.contains(heal))
    }

    /// Ends such faults now: what comes next needs a server that answers.
    pub async fn heal_now(&mut self, wanted: &[Heal]) {
        let (now, later) = std::mem::take(&mut self.heals).into_iter().partition(|(_, heal)| wanted.contains(heal));
        self.heals = later;
        let now: Vec<(Instant, Heal)> = now;
        for (_, heal) in now {
            self.heal(heal).await;
        }
    }

    /// Everything that a plan has done is undone; instances live on as they are.
    pub async fn heal_all(&mut self) {
        for (_, heal) in std::mem::take(&mut self.heals) {
            self.heal(heal).await;
        }
        for instance in &mut self.instances {
            instance.failpoints.clear();
            // It may have stopped at a place only now.
            instance.running.as_mut().and_then(Running::alive).into_iter().for_each(|running| running.resume());
        }
        self.proxy.disarm();
        self.proxy.blackhole(false);
        self.proxy.refuse(false);
    }

    /// Writes the next `count` records; those of partitions that aren't there yet have to wait.
    pub async fn write(&mut self, count: usize) {
        self.heal_now(&[Heal::Broker, Heal::WakeBroker]).await;
        let next: Vec<OwnedRecord> = self.records.by_ref().take(count).collect();
        let (now, later): (Vec<_>, Vec<_>) = next.into_iter().partition(|record| record.partition < self.partitions);
        self.deferred.extend(later);
        self.produce(now).await;
    }

    /// The topic gets its last partitions, and they what belongs into them.
    pub async fn grow(&mut self) {
        self.heal_now(&[Heal::Broker, Heal::WakeBroker]).await;
        self.partitions = self.plan.workload.partitions;
        self.broker.add_partitions(&self.topic, self.partitions).await;
        let deferred = std::mem::take(&mut self.deferred);
        self.produce(deferred).await;
    }

    async fn produce(&mut self, records: Vec<OwnedRecord>) {
        if records.is_empty() {
            return;
        }
        // Locked until it is known what the topic holds: nobody may see an event that the ledger lacks.
        let mut ledger = self.ledger.lock().await;
        let offsets = self.broker.produce(&self.topic, records.iter().map(message).collect()).await;
        for (record, offset) in records.into_iter().zip(offsets) {
            ledger.add(OwnedRecord { offset, ..record });
        }
    }

    /// Records that are never committed; they take up offsets.
    pub async fn write_aborted(&mut self, count: usize) {
        self.heal_now(&[Heal::Broker, Heal::WakeBroker]).await;
        let ghosts = (0..count).map(|number| {
            let value = format!(
                r#"{{"op":"c","before":null,"after":{{"userId":"ghost-{number}","name":"Ghost"}},"timestamp":1700000000000}}"#
            );
            Message::new(i32::try_from(number).unwrap() % self.partitions, format!("ghost-{number}"), value)
        });
        let producer = self.broker.transactional_producer().await;
        producer.abort(&self.topic, ghosts.collect()).await;
    }
}

impl Instance {
    pub async fn new(name: String, guest: bool, database: &Database) -> Self {
        // Without the privileges that would let it write to a read-only server.
        let url = database.account("SELECT, INSERT, UPDATE, DELETE, CREATE TEMPORARY TABLES").await;
        let credentials = url.trim_start_matches("mysql://").split('@').next().unwrap();
        let (user, password) = credentials.split_once(':').unwrap();
        let account = Account { user: user.to_owned(), password: password.to_owned() };
        Self { name, running: None, failpoints: VecDeque::new(), may_end: false, guest, account }
    }
}

/// What is wrong with an end: nothing about SIGKILL and an orderly one (or 130, at a second request), where they were asked for. A program
/// that has only just begun does not listen for SIGTERM yet.
fn unexpected(status: ExitStatus, may_end: bool) -> Option<String> {
    match (status.code(), status.signal()) {
        (Some(0 | 130), _) | (_, Some(libc::SIGKILL | libc::SIGTERM)) if may_end => None,
        _ => Some(format!("ended by itself: {status}")),
    }
}

pub fn message(record: &OwnedRecord) -> Message {
    Message {
        partition: record.partition,
        key: record.key.clone(),
        value: record.value.clone(),
        timestamp: record.timestamp_ms,
        headers: Vec::new(),
    }
}

fn variant(plan: &Plan) -> Variant {
    let mut kafka = "\"session.timeout.ms\" = \"3000\"\n\"heartbeat.interval.ms\" = \"500\"\n".to_owned();
    if plan.static_members {
        kafka.push_str("\"group.instance.id\" = \"${INSTANCE:-nobody}\"\n");
    }
    // New partitions must be found within a run.
    kafka.push_str("\"topic.metadata.refresh.interval.ms\" = \"1000\"\n");
    let on_error = if plan.hold { "hold_key" } else { "skip_event" };
    let pipeline = format!(
        "on_error = \"{on_error}\"\nlanes = {}\nbatch = {{ max_events = {}, max_bytes = \"1MiB\", max_wait = \"1ms\" }}",
        plan.lanes, plan.batch
    );
    let settings = Settings { hold: plan.hold, ..outcome::settings() };
    Variant { partitions: plan.partitions, pipeline, kafka, settings, ..Variant::default() }
}
