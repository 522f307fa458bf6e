//! The demo: the whole road on servers of its own, compared with an independent fold at the end.
//!
//! Needs a MySQL or MariaDB server program on the PATH and nothing else: the broker is librdkafka's embedded one, queries and schema
//! are compiled in. What it runs is the service as shipped, on a config written for the occasion.

mod broker;
pub mod outcome;
mod playground;
pub mod process;
mod progress;
pub mod server;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use self::broker::EmbeddedBroker;
use self::progress::Progress;
use self::server::{PrivateServer, Program};
use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::generate::Workload;
use crate::oracle::{self, Expected};
use crate::pipeline::health::Health;
use crate::record::OwnedRecord;
use crate::service::{self, Service};
use crate::sink::migrate;

/// Partitions of the demo's topic: so many that none outgrows what the embedded broker keeps (5 MiB each).
const PARTITIONS: i32 = 8;
const TOPIC: &str = "user_cdc";

/// What to show.
#[derive(Debug, Clone)]
pub struct Options {
    pub program: Program,
    pub events: u64,
    pub seed: u64,
    /// Leave everything up until Ctrl-C.
    pub keep: bool,
    /// Where to put config, models and schema; a temporary folder otherwise. Changes then trickle in for as long as it stays up.
    pub folder: Option<PathBuf>,
}

/// How the comparison came out.
#[derive(Debug)]
pub struct Comparison {
    pub expected: Expected,
    pub faults: Vec<String>,
}

/// Runs the demo; prints to standard output.
pub async fn run(options: &Options) -> Result<Comparison> {
    let home = Home::new(options.folder.as_deref())?;
    say!("starting a private {} and an embedded broker", options.program.version);
    let server_home = tempfile::Builder::new().prefix("afterimage-demo-db-").tempdir_in("/var/tmp");
    let server_home = server_home.map_err(|error| trouble("no folder for the database").source(error))?;
    let mut server = PrivateServer::start(&options.program, server_home, &[]).await?;
    let broker = EmbeddedBroker::start(TOPIC, PARTITIONS)?;
    let config = set_up(home.path(), &server, &broker).await?;

    let workload =
        Workload { events: u64::MAX, users: 5_000, partitions: PARTITIONS, seed: options.seed, ..Workload::default() };
    let mut more = workload.records();
    let records: Vec<OwnedRecord> = more.by_ref().take(usize::try_from(options.events).unwrap_or(usize::MAX)).collect();
    let service = start(&config).await?;
    let health = service.health.first().cloned().ok_or_else(|| trouble("no pipeline was started"))?;
    joined(&health).await?;
    say!(
        "streaming {} changes of {} users: late, repeated, key-changing, failing ones among them",
        records.len(),
        workload.users
    );
    let started = Instant::now();
    // Paced, so that there is something to see; a tenth of what it could take.
    let rate = (options.events / 8).max(500);
    stream(&broker, &records, rate, &health, &server).await?;
    say!("all applied {:.1} s after the first was sent", started.elapsed().as_secs_f64());

    let comparison = compare(&server, &records).await?;
    summary(&records, &health, &comparison);
    if options.folder.is_some() {
        playground::stay(home.path(), &config, &broker, service.health.clone(), (&records, more)).await?;
    } else if options.keep {
        keep(home.path(), &server).await;
    }
    service.stop();
    tokio::time::sleep(Duration::from_millis(300)).await;
    server.stop().await;
    Ok(comparison)
}

/// The folder with config, models and schema.
enum Home {
    Temporary(TempDir),
    /// Somebody's own: it stays.
    Given(PathBuf),
}

impl Home {
    fn new(folder: Option<&Path>) -> Result<Self> {
        match folder {
            Some(folder) => playground::empty_folder(folder).map(Self::Given),
            None => {
                let home = tempfile::Builder::new().prefix("afterimage-demo-").tempdir();
                home.map(Self::Temporary).map_err(|error| trouble("no temporary folder").source(error))
            }
        }
    }

    fn path(&self) -> &Path {
        match self {
            Self::Temporary(folder) => folder.path(),
            Self::Given(folder) => folder,
        }
    }
}

/// Writes what a user would write, creates the database, migrates it.
async fn set_up(home: &Path, server: &PrivateServer, broker: &EmbeddedBroker) -> Result<Config> {
    for (file, text) in playground::SHIPPED.iter().copied() {
        write(&home.join(file), text)?;
    }
    playground::write_secret(&home.join("mysql-password"), server.password())?;
    let path = home.join("afterimage.toml");
    let text = format!(
        "#:schema docs/json-schema/config.json\n\n[kafka]\nbrokers = \"{}\"\n\n[mysql]\nurl = \"mysql://{}@127.0.0.1:{}/afterimage\"\npassword_file = \"mysql-password\"\n\n[http]\nlisten = \"127.0.0.1:{}\"\n\n[pipelines.users]\ntopic = \"{TOPIC}\"\n\
         table = \"enriched_user\"\nkey = [\"user_id\"]\nversion = \"event_time\"\ntimestamp_unit = \"ms\"\non_error = \"hold_key\"\n\
         metrics_interval = \"2s\"\n\n\
         [pipelines.users.lookups.countries]\nfile = \"queries/users/lookups/countries.csv\"\nkey = [\"code\"]\n",
        broker.addresses(),
        server.account(),
        server.port(),
        server::free_port()?,
    );
    write(&path, &text)?;
    let mut connection = server.connect().await?;
    mysql_async::prelude::Queryable::query_drop(&mut connection, "CREATE DATABASE afterimage")
        .await
        .map_err(database)?;
    let (config, _) = Config::load(&path, &|_| None).map_err(|faults| first(&faults))?;
    let mut session = service::connector(&config).connect().await?;
    let mut targets = Vec::new();
    for pipeline in config.pipelines.values() {
        let (_, engine, _) = service::prepare(pipeline, &BTreeMap::new()).await.map_err(|faults| first(&faults))?;
        targets.push(engine.derive_target(&pipeline.table));
    }
    let statements = migrate::plan(&mut session, &targets).await?;
    migrate::run(&mut session, &statements).await?;
    Ok(config)
}

async fn start(config: &Config) -> Result<Service> {
    Service::start(config, false).await.map_err(|faults| first(&faults))
}

/// Waits until the service has been given all partitions, which takes a moment in a fresh group.
async fn joined(health: &Health) -> Result<()> {
    say!("waiting for the service to join the consumer group");
    let give_up = Instant::now() + Duration::from_secs(60);
    while health.snapshot().owned.len() < PARTITIONS as usize {
        if Instant::now() > give_up {
            return Err(trouble("the service was given no partitions"));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Sends all records and waits until the positions are behind the last of them.
async fn stream(
    broker: &EmbeddedBroker,
    records: &[OwnedRecord],
    rate: u64,
    health: &Health,
    server: &PrivateServer,
) -> Result<()> {
    let progress = Progress::new(records.len() as u64);
    let producing = broker.produce(TOPIC, records.to_vec(), rate);
    tokio::pin!(producing);
    let mut produced = false;
    let mut connection = server.connect().await?;
    mysql_async::prelude::Queryable::query_drop(&mut connection, "USE afterimage").await.map_err(database)?;
    let give_up = Instant::now() + Duration::from_secs(120 + records.len() as u64 / rate.max(1));
    loop {
        tokio::select! {
            sent = &mut producing, if !produced => {
                sent?;
                produced = true;
            }
            () = tokio::time::sleep(Duration::from_millis(250)) => {}
        }
        let counts =
            "SELECT (SELECT COUNT(*) FROM enriched_user), (SELECT COALESCE(SUM(n_read), 0) FROM afterimage_positions)";
        let counts: Option<(u64, u64)> =
            mysql_async::prelude::Queryable::query_first(&mut connection, counts).await.map_err(database)?;
        let (rows, read) = counts.unwrap_or_default();
        let snapshot = health.snapshot();
        progress.show(read, rows, &snapshot);
        if produced && read >= records.len() as u64 {
            progress.finish();
            return Ok(());
        }
        if Instant::now() > give_up || snapshot.state == crate::pipeline::health::State::Halted {
            progress.finish();
            let what = format!(
                "{read} of {} records applied, then no more: {:?} {}",
                records.len(),
                snapshot.state,
                snapshot.reason
            );
            return Err(trouble(what));
        }
    }
}

/// The fold against what stands in the database.
async fn compare(server: &PrivateServer, records: &[OwnedRecord]) -> Result<Comparison> {
    let mut ordered: Vec<&OwnedRecord> = records.iter().collect();
    ordered.sort_by_key(|record| (record.partition, record.offset));
    let expected = oracle::fold(outcome::settings(), ordered.into_iter().map(OwnedRecord::as_raw));
    let mut connection = server.connect().await?;
    mysql_async::prelude::Queryable::query_drop(&mut connection, "USE afterimage").await.map_err(database)?;
    let found = outcome::read(&mut connection).await.map_err(database)?;
    let faults = outcome::faults(&expected, &found);
    Ok(Comparison { expected, faults })
}

fn summary(records: &[OwnedRecord], health: &Health, comparison: &Comparison) {
    let totals = health.snapshot().totals;
    let expected = &comparison.expected;
    say!(
        "\nread {} = ignored {} + refused {} + held {} + accepted {}",
        totals.read,
        totals.ignored,
        totals.refused,
        totals.held,
        totals.accepted
    );
    say!(
        "changes {} = upserted {} + deleted {} + superseded {}",
        totals.changes,
        totals.upserted,
        totals.deleted,
        totals.superseded
    );
    say!(
        "in quarantine {} records; out of order {} events, each listed with both positions",
        expected.quarantine.len(),
        expected.out_of_order.len()
    );
    say!(
        "compared with an independent fold of the {} records: {} rows, {} quarantined, {} out of order, {} tombstones: {} differences",
        records.len(),
        expected.rows.len(),
        expected.quarantine.len(),
        expected.out_of_order.len(),
        expected.standing_tombstones().len(),
        comparison.faults.len()
    );
    for fault in &comparison.faults {
        say!("  {fault}");
    }
}

async fn keep(home: &Path, server: &PrivateServer) {
    let config = home.join("afterimage.toml");
    say!("\neverything stays up until Ctrl-C. Look around, e.g.:");
    say!("  afterimage status --config {}", config.display());
    say!("  afterimage quarantine list --config {}", config.display());
    say!(
        "  mysql --host=127.0.0.1 --port={} --user={} --password=... afterimage   (it is in mysql-password, beside the config)",
        server.port(),
        server.account()
    );
    playground::interrupted().await;
}

fn write(path: &Path, text: &str) -> Result<()> {
    let written = path.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| std::fs::write(path, text));
    written.map_err(|error| trouble(format!("cannot write {}", path.display())).source(error))
}

fn first(faults: &[crate::diagnostic::Diagnostic]) -> Error {
    trouble(faults.first().map_or_else(String::new, |fault| format!("[{}] {}", fault.code, fault.message)))
}

fn database(error: mysql_async::Error) -> Error {
    trouble("the private database does not answer").source(error)
}

fn trouble(what: impl Into<String>) -> Error {
    Error::new(Kind::SinkUnavailable, what)
}
