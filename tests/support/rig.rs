//! A topic, a database and a workspace: everything for one pipeline `users`, as an operator would set it up.

use std::time::Duration;

use afterimage::demo::server::PrivateServer;
use afterimage::generate::OwnedRecord;
use afterimage::oracle::{self, Expected, Settings};

use super::kafka::{Broker, Message};
use super::mysql::Database;
use super::outcome;
use super::process::{Running, Workspace};
use super::proxy::Proxy;
use super::servers;

/// How the pipeline of a rig differs from the shipped one.
#[derive(Debug, Clone)]
pub struct Variant {
    pub partitions: i32,
    /// Further lines of `[pipelines.users]`.
    pub pipeline: String,
    /// Further lines of `[kafka.properties]`.
    pub kafka: String,
    /// Further lines of `[mysql]`.
    pub mysql: String,
    /// Lines of `[http]`.
    pub http: String,
    pub settings: Settings,
}

impl Default for Variant {
    fn default() -> Self {
        Self {
            partitions: 2,
            pipeline: String::new(),
            kafka: String::new(),
            mysql: String::new(),
            http: "enabled = false".to_owned(),
            settings: outcome::settings(),
        }
    }
}

/// See the module page.
pub struct Rig {
    pub broker: &'static Broker,
    pub topic: String,
    pub database: Database,
    pub workspace: Workspace,
    pub variant: Variant,
    /// All records written so far, as the topic has them.
    pub written: Vec<OwnedRecord>,
}

impl Rig {
    pub async fn new(server: &PrivateServer, variant: Variant) -> Self {
        let database = Database::create(server).await;
        let url = database.url.clone();
        Self::behind(database, &url, variant).await
    }

    /// The same with another address for the service, e.g. a proxy's.
    pub async fn behind(database: Database, url: &str, variant: Variant) -> Self {
        Self::on(servers::kafka().await, database, url, variant).await
    }

    /// The same with a proxy in between.
    pub async fn behind_a_proxy(server: &PrivateServer, variant: Variant) -> (Self, Proxy) {
        let database = Database::create(server).await;
        let proxy = Proxy::start(server.port());
        let url = server.url_through(proxy.port(), &database.name);
        (Self::behind(database, &url, variant).await, proxy)
    }

    /// The same on another broker.
    pub async fn on(broker: &'static Broker, database: Database, url: &str, variant: Variant) -> Self {
        // Generated events are years old: the broker would expire them. Large ones are none of its business either.
        let configs = [("retention.ms", "-1"), ("max.message.bytes", "100000000")];
        let topic = broker.create_topic(variant.partitions, &configs).await;
        let workspace = Workspace::new(&config(&broker.brokers(), &topic, url, &variant));
        if variant.settings.arrival {
            // The shipped one orders by event time, which nothing may do then.
            let latest = std::fs::read_to_string(workspace.path().join("queries/users/latest.sql")).unwrap();
            let by_arrival = latest.replace("ORDER BY ts DESC, _partition", "ORDER BY _partition");
            assert_ne!(by_arrival, latest);
            workspace.write("queries/users/latest.sql", &by_arrival);
        }
        let rig = Self { broker, topic, database, workspace, variant, written: Vec::new() };
        let migrated = rig.workspace.run(&["migrate"]);
        assert_eq!(migrated.code(), 0, "{migrated:?}");
        rig
    }

    /// Writes records to the topic; their offsets become what the topic gives them.
    pub async fn write(&mut self, records: impl IntoIterator<Item = OwnedRecord>) {
        let records: Vec<OwnedRecord> = records.into_iter().collect();
        let messages = records.iter().map(|record| Message {
            partition: record.partition,
            key: record.key.clone(),
            value: record.value.clone(),
            timestamp: record.timestamp_ms,
            headers: Vec::new(),
        });
        let offsets = self.broker.produce(&self.topic, messages.collect()).await;
        for (record, offset) in records.into_iter().zip(offsets) {
            self.written.push(OwnedRecord { offset, ..record });
        }
    }

    /// What the fold says of everything written so far.
    pub fn expected(&self) -> Expected {
        let mut records: Vec<&OwnedRecord> = self.written.iter().collect();
        records.sort_by_key(|record| (record.partition, record.offset));
        oracle::fold(self.variant.settings.clone(), records.into_iter().map(OwnedRecord::as_raw))
    }

    /// Waits until a query about the database yields one wanted number.
    pub async fn wait_for(&self, query: &str, wanted: i64, deadline: Duration) {
        let started = std::time::Instant::now();
        loop {
            let found = self.database.number(query).await;
            if found == wanted {
                return;
            }
            assert!(started.elapsed() < deadline, "{query} yields {found}, not {wanted}, after {deadline:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Runs until caught up; it must end well within `deadline`.
    pub async fn catch_up(&self, name: &str, deadline: Duration) {
        let mut running = self.workspace.start(name, &["run", "--until-caught-up"]);
        running.wait_for_code(0, deadline).await;
    }

    pub fn start(&self, name: &str) -> Running {
        self.workspace.start(name, &["run"])
    }

    /// Everything as the fold says.
    pub async fn assert_as_folded(&self) {
        outcome::assert_as_folded(&self.database, &self.expected()).await;
    }

    /// The sums balance (P4), whatever stands in the tables.
    pub async fn assert_sums_balance(&self) {
        outcome::read(&self.database).await;
    }

    /// Waits until every record written is behind the stored positions.
    pub async fn wait_until_applied(&self, deadline: Duration) {
        let goal: i64 = self.expected().next_offset.values().sum();
        let started = std::time::Instant::now();
        loop {
            let at = self.database.number("SELECT COALESCE(SUM(next_offset), 0) FROM afterimage_positions").await;
            if at >= goal {
                return;
            }
            assert!(started.elapsed() < deadline, "positions stand at {at} of {goal} after {deadline:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// The config of a rig.
pub fn config(brokers: &str, topic: &str, url: &str, variant: &Variant) -> String {
    format!(
        r#"[kafka]
brokers = "{brokers}"
group = "{topic}"
[kafka.properties]
{kafka}
[mysql]
url = "{url}"
{mysql}
[http]
{http}
[pipelines.users]
topic = "{topic}"
table = "enriched_user"
key = ["user_id"]
max_refused = {{ share = "100%", window = "1m", min_events = 1000000 }}
{pipeline}
[pipelines.users.lookups.countries]
file = "queries/users/lookups/countries.csv"
key = ["code"]
"#,
        kafka = variant.kafka,
        mysql = variant.mysql,
        http = variant.http,
        pipeline = variant.pipeline,
    )
}
