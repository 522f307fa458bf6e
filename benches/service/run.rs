//! Runs of the program itself on a backlog: started, watched from outside by the positions it stores, stopped, and what it left compared
//! with the fold.

use std::time::{Duration, Instant};

use afterimage::demo::outcome;
use afterimage::demo::server::{Flavour, PrivateServer};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use crate::kafka::Broker;
use crate::load::{Load, Wanted};
use crate::mysql::Database;
use crate::process::{Running, Workspace};
use crate::shape::{Shape, digest};
use crate::usage::{Usage, memory_mib};

/// How long a run may make no progress.
const PATIENCE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(10);

/// What was seen from outside at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    /// Seconds since the partitions were adopted.
    pub at: f64,
    pub events: f64,
    pub resident_mib: f64,
}

/// One run.
#[derive(Debug, Clone, Default)]
pub struct Run {
    /// Applied between the first and the last moment.
    pub events: f64,
    /// Of them, those that reached the table: upserted or deleted.
    pub rows: f64,
    /// From partitions adopted to everything applied.
    pub seconds: f64,
    /// From the start of the process until its partitions were adopted.
    pub starting: f64,
    pub seen: Vec<Seen>,
    pub peak_mib: f64,
    pub usage: Usage,
    /// As the service itself counts: transactions, and milliseconds at the stations.
    pub transactions: f64,
    pub decode_ms: f64,
    pub sql_ms: f64,
    pub sink_ms: f64,
}

impl Run {
    /// Events applied until `at` seconds after adoption; of the batch that was under way then, its share.
    pub fn events_until(&self, at: f64) -> f64 {
        let (mut before, mut done) = (0.0, 0.0);
        for seen in &self.seen {
            if seen.at > at {
                return done + (seen.events - done) * (at - before) / (seen.at - before);
            }
            (before, done) = (seen.at, seen.events);
        }
        done
    }

    /// Resident MiB once `events` were applied.
    pub fn resident_after(&self, events: f64) -> f64 {
        self.seen.iter().find(|seen| seen.events >= events).or(self.seen.last()).map_or(0.0, |seen| seen.resident_mib)
    }

    pub fn events_per_second(&self) -> f64 {
        self.events / self.seconds
    }

    pub fn rows_per_second(&self) -> f64 {
        self.rows / self.seconds
    }
}

/// How a run differs from the shipped settings.
#[derive(Debug, Clone, Default)]
pub struct Variant {
    pub lanes: Option<u32>,
    /// Pipelines of the same topic in one process, 0 being 1.
    pub pipelines: usize,
    /// Name of the process's log line level and the like.
    pub environment: Vec<(&'static str, &'static str)>,
}

/// Whether the config knows how many lanes to use.
pub fn knows_lanes() -> bool {
    afterimage::config::keys::SECTIONS
        .iter()
        .any(|section| section.path == "pipelines.*" && section.key("lanes").is_some())
}

/// A database with the shape's table and ours, and a workspace whose config names it.
pub async fn prepare_database(server: &PrivateServer, shape: Shape) -> (Database, Workspace) {
    let database = Database::create(server).await;
    let workspace = workspace(&database, shape, "127.0.0.1:9", "none", &Variant::default());
    make_tables(server, &database, &workspace, shape).await;
    (database, workspace)
}

async fn make_tables(server: &PrivateServer, database: &Database, workspace: &Workspace, shape: Shape) {
    if let Some(ddl) = shape.create_table(server.flavour() == Flavour::MariaDb) {
        database.execute(&ddl).await;
    }
    let migrated = workspace.run(&["migrate"]);
    assert_eq!(migrated.code(), 0, "{migrated:?}");
}

fn workspace(database: &Database, shape: Shape, brokers: &str, topic: &str, variant: &Variant) -> Workspace {
    let mut config = format!(
        "[kafka]\nbrokers = \"{brokers}\"\ngroup = \"{}\"\n[mysql]\nurl = \"{}\"\n[http]\nenabled = false\n",
        database.name, database.url
    );
    let pipeline = shape.pipeline();
    for number in 0..variant.pipelines.max(1) {
        let suffix = if number == 0 { String::new() } else { format!("_{number}") };
        let lanes = variant.lanes.map_or_else(String::new, |lanes| format!("lanes = {lanes}\n"));
        // Further lines of `[pipelines.*]`, to try settings.
        let tried = std::env::var("SETTINGS").unwrap_or_default();
        config += &format!(
            "[pipelines.{pipeline}{suffix}]\ntopic = \"{topic}\"\ntable = \"{}{suffix}\"\ngroup = \"{}{suffix}\"\n\
             queries = \"queries/{pipeline}\"\nschemas = \"schemas/{pipeline}\"\n{}{lanes}{tried}\n",
            shape.table(),
            database.name,
            shape.config()
        );
        if shape == Shape::Users {
            config += &format!(
                "[pipelines.{pipeline}{suffix}.lookups.countries]\nfile = \"queries/users/lookups/countries.csv\"\nkey = [\"code\"]\n"
            );
        }
    }
    let workspace = Workspace::new(&config);
    shape.write_files(&workspace);
    workspace
}

/// A topic on its way into a database.
pub struct Service<'a> {
    server: &'a PrivateServer,
    broker: &'a Broker,
    load: &'a Load,
    pub workspace: Workspace,
    pub database: Database,
    pipelines: usize,
    variant: Variant,
    watcher: Conn,
}

impl<'a> Service<'a> {
    pub async fn prepare(
        server: &'a PrivateServer,
        broker: &'a Broker,
        load: &'a Load,
        topic: &str,
        variant: &Variant,
    ) -> Self {
        let database = Database::create(server).await;
        let workspace = workspace(&database, load.shape, &broker.brokers(), topic, variant);
        make_tables(server, &database, &workspace, load.shape).await;
        let watcher = database.connect().await;
        let pipelines = variant.pipelines.max(1);
        Self { server, broker, load, workspace, database, pipelines, variant: variant.clone(), watcher }
    }

    /// Starts it; returns once the partitions are adopted, with how long that took.
    pub async fn start(&mut self) -> (Running, f64) {
        let before = self.look().await.epochs;
        let began = Instant::now();
        let mut running = self.workspace.start_with("run", &["run"], &self.variant.environment);
        let partitions = self.load.partitions as usize * self.pipelines;
        loop {
            let look = self.look().await;
            if look.partitions == partitions && look.epochs >= before + partitions as f64 {
                return (running, began.elapsed().as_secs_f64());
            }
            assert!(running.is_running() && began.elapsed() < PATIENCE, "nothing is adopted\n{}", running.tail());
            tokio::time::sleep(POLL).await;
        }
    }

    /// Starts it, waits until `goal` events of the topic are applied, and stops it.
    pub async fn run_until(&mut self, goal: u64) -> Run {
        let goal = (goal * self.pipelines as u64) as f64;
        let first = self.look().await;
        let metrics = self.metrics().await;
        let (mut running, starting) = self.start().await;
        let usage = || Usage::of(Some(running.pid()), self.server.pid(), self.broker.pid());
        let (began, before) = (Instant::now(), usage());
        let mut run = Run { starting, ..Run::default() };
        let mut moved = Instant::now();
        let mut last = first;
        loop {
            let look = self.look().await;
            let seen = Seen {
                at: began.elapsed().as_secs_f64(),
                events: look.events - first.events,
                resident_mib: memory_mib(running.pid(), "VmRSS:"),
            };
            if look.events > last.events {
                run.seen.push(seen);
                (last, moved) = (look, Instant::now());
            }
            if look.events >= goal {
                break;
            }
            assert!(
                running.is_running() && moved.elapsed() < PATIENCE,
                "it stands still at {look:?}\n{}",
                running.tail()
            );
            tokio::time::sleep(POLL).await;
        }
        run.seconds = began.elapsed().as_secs_f64();
        run.usage = Usage::of(Some(running.pid()), self.server.pid(), self.broker.pid()).since(before);
        (run.events, run.rows) = (last.events - first.events, last.rows - first.rows);
        run.peak_mib = memory_mib(running.pid(), "VmHWM:");
        running.terminate();
        running.wait_for_code(0, Duration::from_secs(60)).await;
        let counted: Vec<f64> =
            self.metrics().await.iter().zip(metrics).map(|(after, before)| after - before).collect();
        [run.transactions, run.decode_ms, run.sql_ms, run.sink_ms] = counted.try_into().unwrap();
        run
    }

    /// Waits until `goal` events of the topic are applied.
    pub async fn wait_for(&mut self, goal: u64, running: &mut Running) {
        let began = Instant::now();
        while self.look().await.events < goal as f64 {
            assert!(running.is_running() && began.elapsed() < 5 * PATIENCE, "it doesn't get there\n{}", running.tail());
            tokio::time::sleep(POLL).await;
        }
    }

    /// Puts `rows` rows of other keys into the table, spread over the whole range of keys, in the order of the primary key.
    pub async fn preload(&mut self, rows: u64) {
        // Unhurried: neither server's temporary space nor its undo log is what is measured.
        for statement in [
            "CREATE TABLE digit (d INT)",
            "INSERT INTO digit VALUES (0),(1),(2),(3),(4),(5),(6),(7),(8),(9)",
            "CREATE TABLE thousand AS SELECT a.d + 10*b.d + 100*c.d AS n FROM digit a, digit b, digit c",
        ] {
            self.watcher.query_drop(statement).await.unwrap();
        }
        let step = 500_000.min(rows);
        for from in (0..rows).step_by(step as usize) {
            let upto = rows.min(from + step);
            let statement = format!(
                "INSERT INTO enriched_user SELECT CONCAT(LPAD(HEX(FLOOR(n / {rows} * 4294967296)), 8, '0'), '-', n), CONCAT('User ', n, ' of the Many Names'), \
                 CONCAT('user.', n, '@example.com'), 'DE', 'Germany', 'Europe', 0, 0, 0 FROM (SELECT {from} + 1000*a.n + b.n AS n FROM thousand a, thousand b \
                 WHERE a.n < {}) x WHERE n < {upto} ORDER BY n",
                step.div_ceil(1000)
            );
            self.watcher.query_drop(statement).await.unwrap();
        }
    }

    /// Size of the target with its indexes.
    pub async fn table_mib(&mut self) -> f64 {
        self.watcher.query_drop("ANALYZE TABLE enriched_user").await.unwrap();
        let query = "SELECT (data_length + index_length) / 1048576 + 0e0 FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = 'enriched_user'";
        self.watcher.query_first(query).await.unwrap().unwrap()
    }

    /// As [`Service::verify`] where `preloaded` rows stood before that no event is about.
    pub async fn verify_among_preloaded(&mut self, wanted: &Wanted, preloaded: u64) {
        let (rows, sum) = wanted.digest();
        let query = self.load.shape.digest_query("enriched_user WHERE cdc_ts > 0");
        let found: (u64, u64) = self.watcher.query_first(query).await.unwrap().unwrap();
        assert_eq!(found, (rows, sum), "{}: rows and checksum of what was written", self.load.name);
        let all: u64 = self.watcher.query_first("SELECT COUNT(*) FROM enriched_user").await.unwrap().unwrap();
        assert_eq!(all, rows + preloaded, "{}: rows that no event is about", self.load.name);
    }

    async fn look(&mut self) -> Look {
        // A watcher that waits for the server would delay what it watches for.
        let query = "SELECT COUNT(*), COALESCE(SUM(next_offset), 0), COALESCE(SUM(n_upserted + n_deleted), 0), COALESCE(SUM(owner_epoch), 0) \
                     FROM afterimage_positions";
        let (partitions, events, rows, epochs) = self.watcher.query_first(query).await.unwrap().unwrap();
        Look { partitions, events, rows, epochs }
    }

    /// Sums over the intervals that the service has written.
    async fn metrics(&mut self) -> [f64; 4] {
        let query = "SELECT COALESCE(SUM(transactions), 0) + 0e0, COALESCE(SUM(decode_ms), 0) + 0e0, COALESCE(SUM(sql_ms), 0) + 0e0, \
                     COALESCE(SUM(sink_ms), 0) + 0e0 FROM user_cdc_pipeline_metrics";
        let (transactions, decode, sql, sink) = self.watcher.query_first(query).await.unwrap().unwrap();
        [transactions, decode, sql, sink]
    }

    /// Panics unless the tables hold what the fold says: a fast wrong way is no way.
    pub async fn verify(&mut self, wanted: &Wanted) {
        let whole = if let Wanted::Users(expected) = wanted
            && self.pipelines == 1
        {
            let found = outcome::read(&mut self.watcher).await.unwrap();
            let faults = outcome::faults(expected, &found);
            assert!(faults.is_empty(), "{}: {} differences:\n{}", self.load.name, faults.len(), faults.join("\n"));
            return;
        } else {
            wanted.digest()
        };
        for number in 0..self.pipelines {
            let suffix = if number == 0 { String::new() } else { format!("_{number}") };
            let query = self.load.shape.digest_query(&format!("{}{suffix}", self.load.shape.table()));
            let found: (u64, u64) = self.watcher.query_first(query).await.unwrap().unwrap();
            assert_eq!(found, whole, "{}: rows and checksum of table {number}", self.load.name);
        }
        let query = "SELECT COUNT(*) FROM afterimage_positions WHERE n_read <> n_accepted OR n_changes <> n_upserted + n_deleted + n_superseded";
        let unbalanced: u64 = self.watcher.query_first(query).await.unwrap().unwrap();
        assert_eq!(unbalanced, 0, "{}: sums that don't balance (P4)", self.load.name);
    }
}

impl Wanted {
    fn digest(&self) -> (u64, u64) {
        match self {
            Self::Rows(rows, sum) => (*rows, *sum),
            Self::Users(expected) => digest(expected.rows.iter().map(|(user, row)| {
                let row = row.clone();
                vec![Some(user.clone()), row.name, row.email, row.country, row.country_name, row.region]
            })),
        }
    }
}

/// The positions, summed up.
#[derive(Debug, Clone, Copy)]
struct Look {
    partitions: usize,
    events: f64,
    rows: f64,
    epochs: f64,
}
