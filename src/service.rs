//! The service: from a config to running pipelines, each on a thread of its own, and an orderly end.
//!
//! A pipeline that halts never takes another one with it (P5). The first request to stop lets open transactions finish within a
//! deadline, the second one ends the process at once; either way nothing is lost, because starting is recovering.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, watch as signal};

use self::standby::Standby;
use crate::config::{self, Config};
use crate::decode::{DecodeOptions, Decoder, TimestampUnit, events_schema};
use crate::diagnostic::{Diagnostic, has_errors};
use crate::error::{Error, Kind, Result};
use crate::failpoint::failpoint;
use crate::generation::{Fingerprint, Generation};
use crate::pipeline::health::{Health, State};
use crate::pipeline::reload::{Definition, Reload};
use crate::pipeline::{BreakerLimits, Ended, Lookups, Pipeline, Settings, Stations};
use crate::schema::{SourceSchema, compat};
use crate::sink::Sink;
use crate::sink::positions::Owner;
use crate::sink::session::{Address, Connector};
use crate::source::{BatchLimits, Broker, Source, SourceOptions};
use crate::sql::{Engine, LookupFrom, LookupSpec, LookupTable, ModelSpec, VersionBy};

mod definition;
mod lookups;
mod standby;
mod watch;

use self::lookups::{load_into, lookups, no_rows};
pub use self::lookups::{read_tables, read_topics};
pub use self::watch::define_anew as define;

/// Loaded lookups, by name.
type LookupTables = BTreeMap<String, Arc<LookupTable>>;

/// Lookups that were loaded so long ago are loaded again before anything is read.
const FRESH: Duration = Duration::from_secs(5);

/// How one pipeline ended.
pub type Outcome = (String, Result<Ended>);

/// What tells the definition of a pipeline, as its files are now, from all others.
pub fn fingerprint(pipeline: &config::Pipeline) -> Fingerprint {
    definition::marks(pipeline).whole
}

/// This process as an owner of a pipeline's partitions; of no generation yet.
pub fn owner(pipeline: &config::Pipeline) -> Owner {
    Owner {
        pipeline: pipeline.name.clone(),
        topic: pipeline.topic.clone(),
        token: rand::RngExt::random(&mut rand::rng()),
        name: instance_name(),
        generation: Generation::default(),
    }
}

/// All pipelines of a config, running.
pub struct Service {
    stop: signal::Sender<bool>,
    ended: mpsc::UnboundedReceiver<Outcome>,
    running: usize,
    grace: Duration,
    pub health: Vec<Health>,
    /// Each asks one pipeline to look at its files.
    looks: Vec<Arc<Notify>>,
}

/// Loads schema and models of one pipeline and plans them; `tables` are lookups that were read elsewhere, also such as have a file.
pub async fn prepare(
    pipeline: &config::Pipeline,
    tables: &BTreeMap<String, arrow::array::RecordBatch>,
) -> std::result::Result<(SourceSchema, Engine, Vec<Diagnostic>), Vec<Diagnostic>> {
    finished(examine(pipeline, tables).await)
}

/// As [`prepare`], with lookups in whatever form they are there.
async fn prepare_with(
    pipeline: &config::Pipeline,
    tables: &BTreeMap<String, LookupFrom>,
) -> std::result::Result<(SourceSchema, Engine, Vec<Diagnostic>), Vec<Diagnostic>> {
    finished(examine_with(pipeline, tables).await)
}

fn finished(examined: Examined) -> std::result::Result<(SourceSchema, Engine, Vec<Diagnostic>), Vec<Diagnostic>> {
    match (examined.schema, examined.engine) {
        (Some(schema), Some(engine)) => Ok((schema, *engine, examined.faults)),
        _ => Err(examined.faults),
    }
}

/// What came of loading and planning one pipeline.
#[derive(Debug, Default)]
pub struct Examined {
    pub schema: Option<SourceSchema>,
    /// `None` where a fault refuses it, or something isn't known.
    pub engine: Option<Box<Engine>>,
    pub faults: Vec<Diagnostic>,
    /// Models that couldn't be planned though nothing is said against them.
    pub unplanned: Vec<String>,
}

/// As [`prepare`], as far as that is possible: a broken schema doesn't hide faults of models, nor an unread lookup those of others.
pub async fn examine(pipeline: &config::Pipeline, tables: &BTreeMap<String, arrow::array::RecordBatch>) -> Examined {
    let tables = tables.iter().map(|(name, rows)| (name.clone(), LookupFrom::Table(rows.clone()))).collect();
    examine_with(pipeline, &tables).await
}

async fn examine_with(pipeline: &config::Pipeline, tables: &BTreeMap<String, LookupFrom>) -> Examined {
    // Every version counts: events of the older ones are in the topic still.
    let mut faults = compat::check(&pipeline.schemas);
    let schema = match SourceSchema::load(&pipeline.schemas) {
        Ok(schema) => Some(schema),
        Err(more) => {
            faults.extend(more.into_iter().filter(|fault| !faults.contains(fault)).collect::<Vec<_>>());
            None
        }
    };
    let spec = model_spec(pipeline, tables);
    let known = |name: &&str| !spec.lookups.iter().any(|lookup| lookup.name == **name);
    let unknown: Vec<&str> = pipeline.lookups.keys().map(String::as_str).filter(known).collect();
    let events = schema.as_ref().map(events_schema);
    let examined = Engine::examine(&spec, events, &unknown, None).await;
    faults.extend(examined.faults);
    Examined { schema, engine: examined.engine, faults, unplanned: examined.unplanned }
}

/// What is in `tables` is taken from there. Otherwise a file is read, a topic has the columns that are declared and no rows, and a query
/// is left out: its columns aren't known.
fn model_spec(pipeline: &config::Pipeline, tables: &BTreeMap<String, LookupFrom>) -> ModelSpec {
    let lookups = pipeline.lookups.iter().filter_map(|(name, lookup)| {
        let from = match (&lookup.from, tables.get(name)) {
            (_, Some(given)) => given.clone(),
            (config::LookupFrom::File(path), None) => LookupFrom::File(path.clone()),
            (config::LookupFrom::Topic { columns, .. }, None) => LookupFrom::Table(no_rows(columns)),
            (config::LookupFrom::MySql { .. }, None) => return None,
        };
        Some(LookupSpec { name: name.clone(), key: lookup.key.clone(), from })
    });
    ModelSpec {
        name: pipeline.name.clone(),
        queries: pipeline.queries.clone(),
        key: pipeline.key.clone(),
        version: match pipeline.version {
            config::VersionBy::EventTime => VersionBy::EventTime,
            config::VersionBy::Arrival => VersionBy::Arrival,
        },
        hold_keys: pipeline.on_error == config::OnError::HoldKey,
        lookups: lookups.collect(),
    }
}

/// Unit of the time that a pipeline's events carry.
pub fn timestamp_unit(pipeline: &config::Pipeline) -> TimestampUnit {
    match pipeline.timestamp_unit {
        config::TimestampUnit::Second => TimestampUnit::S,
        config::TimestampUnit::Millisecond => TimestampUnit::Ms,
        config::TimestampUnit::Microsecond => TimestampUnit::Us,
        config::TimestampUnit::Nanosecond => TimestampUnit::Ns,
    }
}

/// The decoder of one pipeline.
pub fn decoder(pipeline: &config::Pipeline, schema: &SourceSchema) -> Decoder {
    let timestamp_unit = timestamp_unit(pipeline);
    let topic = Arc::from(pipeline.topic.as_str());
    Decoder::new(schema, DecodeOptions { topic, timestamp_unit, max_future_skew: pipeline.max_future_skew })
}

/// How to reach MySQL; the password is read anew at every connect.
pub fn connector(config: &Config) -> Connector {
    let mysql = config.mysql.clone();
    let connect_timeout = mysql.connect_timeout;
    let address = move || {
        let (tls, ca_file) = match &mysql.tls {
            config::Tls::Off => (false, None),
            config::Tls::Verified { ca_file } => (true, ca_file.clone()),
        };
        Ok(Address {
            host: mysql.host.clone(),
            port: mysql.port,
            user: mysql.user.clone(),
            password: mysql.current_password()?.expose().to_owned(),
            database: mysql.database.clone(),
            tls,
            ca_file,
        })
    };
    Connector { address: Arc::new(address), connect_timeout, statement_timeout: Duration::from_secs(30) }
}

impl Service {
    /// Prepares all pipelines and starts them. Every fault of every pipeline at once; warnings are logged.
    pub async fn start(config: &Config, until_caught_up: bool) -> std::result::Result<Self, Vec<Diagnostic>> {
        let (stop, stopped) = signal::channel(false);
        let (report, ended) = mpsc::unbounded_channel();
        let mut faults = Vec::new();
        for pipeline in config.pipelines.values().filter(|pipeline| !needs_tables(pipeline)) {
            match prepare(pipeline, &BTreeMap::new()).await {
                Ok((_, _, warnings)) => log_warnings(&pipeline.name, &warnings),
                Err(more) => faults.extend(more),
            }
        }
        if has_errors(&faults) {
            return Err(faults);
        }
        let (mut health, mut looks) = (Vec::new(), Vec::new());
        for pipeline in config.pipelines.values() {
            let own = Health::new(&pipeline.name);
            health.push(own.clone());
            let look = Arc::new(Notify::new());
            looks.push(Arc::clone(&look));
            let plan = Plan { config: config.clone(), pipeline: pipeline.clone(), until_caught_up, look };
            let (stopped, report) = (stopped.clone(), report.clone());
            let name = pipeline.name.clone();
            let spawned = std::thread::Builder::new().name(format!("pipeline-{name}")).spawn(move || {
                let outcome = caught(&own.clone(), || on_own_runtime(plan, own, stopped));
                // Nobody listens any more only if the process is ending.
                let _ = report.send((name, outcome));
            });
            if let Err(error) = spawned {
                return Err(vec![Diagnostic::error("AI0400", format!("cannot start a thread: {error}"))]);
            }
        }
        let grace = config.pipelines.values().map(|pipeline| pipeline.shutdown_timeout).max().unwrap_or_default();
        Ok(Self { stop, ended, running: config.pipelines.len(), grace, health, looks })
    }

    /// The next pipeline to end; `None` when all have.
    pub async fn next_ended(&mut self) -> Option<Outcome> {
        if self.running == 0 {
            return None;
        }
        let outcome = self.ended.recv().await;
        self.running -= 1;
        outcome
    }

    /// Has all pipelines look at their files now.
    pub fn look(&self) {
        self.looks.iter().for_each(|look| look.notify_one());
    }

    /// Asks all pipelines to stop, and says how long they may take.
    pub fn stop(&self) -> Duration {
        failpoint!("in_shutdown");
        // Pipelines that ended already don't listen.
        let _ = self.stop.send(true);
        self.grace
    }
}

fn needs_tables(pipeline: &config::Pipeline) -> bool {
    pipeline.lookups.values().any(|lookup| matches!(lookup.from, config::LookupFrom::MySql { .. }))
}

fn log_warnings(pipeline: &str, warnings: &[Diagnostic]) {
    for warning in warnings {
        let file = warning.file.as_deref().map(Path::display).map(|path| path.to_string()).unwrap_or_default();
        let line = warning.span.map_or(0, |span| span.line);
        tracing::warn!(pipeline, code = warning.code, file, line, "{}", warning.message);
    }
}

/// A panic as what it is, a fault of ours that ends this pipeline and is told: never a pipeline that seems to run.
fn caught(health: &Health, work: impl FnOnce() -> Result<Ended>) -> Result<Ended> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        let error =
            Error::new(Kind::Bug, "a panic in the pipeline; the log has its place").remedy("restart, and report it");
        health.enter(State::Halted, &error.to_string());
        Err(error)
    })
}

/// What a pipeline's thread starts from.
struct Plan {
    config: Config,
    pipeline: config::Pipeline,
    until_caught_up: bool,
    look: Arc<Notify>,
}

/// One pipeline, one thread, one runtime: its models may keep the thread busy without holding up anybody else.
fn on_own_runtime(plan: Plan, health: Health, stop: signal::Receiver<bool>) -> Result<Ended> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder
        .worker_threads(plan.pipeline.lanes)
        .thread_name(format!("lanes-{}", plan.pipeline.name))
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| Error::new(Kind::Bug, "no runtime for a pipeline").source(error))?;
    let grace = plan.pipeline.shutdown_timeout;
    let mut deadline = stop.clone();
    let outcome = runtime.block_on(async {
        let abandoned = async {
            // A dropped sender means the same as a request.
            let _ = deadline.wait_for(|stop| *stop).await;
            tokio::time::sleep(grace).await;
        };
        tokio::select! {
            outcome = assemble_and_run(plan, health.clone(), stop) => outcome,
            () = abandoned => {
                tracing::warn!("the open transaction was abandoned at the shutdown deadline");
                Ok(Ended::Stopped)
            }
        }
    });
    if let Err(error) = &outcome {
        health.enter(State::Halted, &error.to_string());
    }
    runtime.shutdown_background();
    outcome
}

async fn assemble_and_run(plan: Plan, health: Health, mut stop: signal::Receiver<bool>) -> Result<Ended> {
    let Plan { config, pipeline, until_caught_up, look } = plan;
    // Before the files are read: what changes from here on is a change.
    let judged = definition::judged(&pipeline);
    let mut lookups = lookups(&config, &pipeline, &health);
    let Some(tables) = lookups.load(&mut stop).await? else { return Ok(Ended::Stopped) };
    let first = first_definition(&pipeline, tables).await?;
    let mut loaded = Some(lookups);
    let mut definition = Some(first);
    let mut reload = match until_caught_up {
        true => Reload::never(),
        false => watch::start(&config, &pipeline, judged, look)?,
    };
    loop {
        let asked = Instant::now();
        if !until_caught_up {
            let mut standby = Standby { config: &config, pipeline: &pipeline, health: &health, stop: &mut stop };
            definition = standby.turn(definition, &mut reload).await;
        }
        let Some(current) = definition.take() else { return Ok(Ended::Stopped) };
        let lookups = match loaded.take().filter(|_| asked.elapsed() < FRESH) {
            Some(lookups) => lookups,
            None => match load_into(&config, &pipeline, &health, &current.engine, &mut stop).await? {
                Some(lookups) => lookups,
                None => return Ok(Ended::Stopped),
            },
        };
        // Each run of the pipeline is another owner.
        let stations = stations(&config, &pipeline, owner(&pipeline), current, lookups)?;
        let settings = settings(&pipeline, until_caught_up);
        let (ended, line) = Pipeline::new(settings, stations, health.clone(), stop.clone(), reload).run().await;
        match ended {
            Err(error) if error.kind == Kind::Outdated && !until_caught_up => reload = line,
            ended => return ended,
        }
        definition = reload.take_ready();
    }
}

/// What the files say at the start, over the lookups that were loaded.
async fn first_definition(pipeline: &config::Pipeline, tables: LookupTables) -> Result<Definition> {
    let tables = tables.into_iter().map(|(name, table)| (name, LookupFrom::Loaded(table))).collect();
    watch::define(pipeline, &tables).await.map_err(|faults| {
        let first = faults.first().map(|fault| format!("[{}] {}", fault.code, fault.message)).unwrap_or_default();
        Error::new(Kind::Config, first).remedy("run `afterimage check` for all faults with their places")
    })
}

fn settings(pipeline: &config::Pipeline, until_caught_up: bool) -> Settings {
    Settings {
        name: pipeline.name.clone(),
        topic: Arc::from(pipeline.topic.as_str()),
        table: pipeline.table.clone(),
        limits: BatchLimits {
            max_events: pipeline.batch.max_events,
            max_bytes: pipeline.batch.max_bytes,
            max_wait: pipeline.batch.max_wait,
        },
        lanes: pipeline.lanes,
        stop_on_refusal: pipeline.on_error == config::OnError::Stop,
        breaker: BreakerLimits {
            max_share: pipeline.max_refused.share,
            window: pipeline.max_refused.window,
            min_records: pipeline.max_refused.min_events,
        },
        tombstone_retention: pipeline.tombstone_retention,
        metrics_interval: pipeline.metrics_interval,
        until_caught_up,
    }
}

/// The stations of one pipeline; from here on it is a member of its group.
fn stations(
    config: &Config,
    pipeline: &config::Pipeline,
    owner: Owner,
    definition: Definition,
    mut lookups: Lookups,
) -> Result<Stations> {
    lookups.loaded_into(&definition.engine);
    let connector = connector(config);
    let properties: BTreeMap<String, String> = config.kafka.properties.expose().clone();
    let broker = Broker::new(&config.kafka.brokers, &properties, Duration::from_secs(10))?;
    let source = Source::start(SourceOptions {
        brokers: config.kafka.brokers.clone(),
        group: pipeline.group.clone(),
        topic: pipeline.topic.clone(),
        properties,
        client_id: format!("afterimage-{}", pipeline.name),
        buffer_bytes: pipeline.batch.max_bytes.saturating_mul(2),
    })?;
    Ok(Stations {
        source,
        broker,
        decoder: definition.decoder,
        engine: definition.engine,
        marks: definition.marks,
        lookups,
        sink: Sink::new(connector, owner, pipeline.key.clone()),
    })
}

/// Host and process, for people who look at the positions table.
fn instance_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}:{}", host.trim(), std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    // Proves: P5, R60
    #[test]
    fn a_panic_in_a_pipeline_halts_it_by_name() {
        let health = Health::new("users");
        let error = caught(&health, || panic!("on purpose")).unwrap_err();
        assert_eq!(error.kind, Kind::Bug);
        assert_eq!(health.snapshot().state, State::Halted);
    }
}
