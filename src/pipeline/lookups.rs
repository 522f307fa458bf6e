//! The lookups of a running pipeline: loaded before it reads its first event, then kept up to date beside the loop.
//!
//! Reading and indexing happens on threads of their own; the loop takes what is ready, between two batches. What can't be refreshed
//! keeps its last good rows and says so: once in the log per change of that state, and in the status, with its age. [`Lookups::load`]
//! returns when all of them are there; [`Lookups::refresh`] never waits.

mod topic;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::datatypes::DataType;
use futures::FutureExt;
use serde::Serialize;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use self::topic::{News, Topic};
use super::health::{Health, State};
use crate::diagnostic::Diagnostic;
use crate::error::{Error, Kind, Result};
use crate::file_mark::Look;
use crate::sink;
use crate::sink::session::Connector;
use crate::source::FollowOptions;
use crate::sql::{Engine, LookupTable};

/// How soon what was read is taken up.
const TAKE: Duration = Duration::from_millis(100);
const LOOK_AT_FILES: Duration = Duration::from_secs(1);
/// Before something that couldn't be read is tried again.
const AGAIN: Duration = Duration::from_secs(2);
/// Records that a lookup made fail are tried again at most every so often, and never for more than a fifth of the time.
const RETRY: Duration = Duration::from_secs(5);
const RETRY_SHARE: u32 = 4;

/// A lookup and where it comes from.
#[derive(Debug, Clone)]
pub struct Lookup {
    pub name: String,
    pub key: Vec<String>,
    pub origin: Origin,
}

#[derive(Debug, Clone)]
pub enum Origin {
    /// Read again when it changes.
    File(PathBuf),
    /// Asked again every so often.
    MySql { query: String, refresh: Duration },
    /// Followed as it grows.
    Topic { options: FollowOptions, columns: Vec<(String, DataType)> },
}

/// What status and metrics show of a lookup.
#[derive(Debug, Clone, Default, Serialize)]
pub struct LookupStatus {
    /// `file`, `mysql` or `topic`.
    pub source: &'static str,
    pub rows: usize,
    pub bytes: usize,
    /// Counts the changes since the start.
    pub version: u64,
    /// When the rows in use came, RFC 3339; empty until then.
    pub loaded_at: String,
    /// Since the source was last looked at with success.
    pub age_seconds: Option<f64>,
    #[serde(skip)]
    pub looked: Option<Instant>,
    /// Only of a topic: records between here and its end.
    pub lag_records: Option<i64>,
    /// While it is being loaded: how far.
    pub loading: Option<String>,
    pub bad_records: u64,
    pub refresh_failures: u64,
    /// Why it can't be refreshed at present; empty where it can.
    pub last_error: String,
}

/// All rows of a lookup that is a topic, as it is now; blocks. For tools: nothing is followed.
///
/// # Errors
/// [`Kind::Bug`] for a lookup that is none; else as the brokers say.
pub fn topic_rows(lookup: &Lookup) -> Result<LookupTable> {
    match &lookup.origin {
        Origin::Topic { options, columns } => topic::read(lookup, options, columns),
        _ => Err(Error::new(Kind::Bug, format!("lookup {} is no topic", lookup.name))),
    }
}

/// What came of reading a lookup beside the loop.
enum Outcome {
    Same,
    New(Arc<LookupTable>),
    /// The server doesn't answer, or refuses.
    Away(Error),
    Faulty(Vec<Diagnostic>),
}

struct Entry {
    lookup: Lookup,
    status: LookupStatus,
    /// When it is due again.
    due: Instant,
    job: Option<(JoinHandle<Outcome>, Instant)>,
    /// Of a file: as it was when it was last read.
    seen: Option<Look>,
    topic: Option<Topic>,
    /// Loaded, and not yet in an engine.
    first: Option<Arc<LookupTable>>,
}

/// All lookups of a pipeline.
pub struct Lookups {
    pipeline: String,
    connector: Connector,
    health: Health,
    entries: Vec<Entry>,
    retry: Retry,
}

/// When records that failed because of a lookup are tried again.
struct Retry {
    wanted: bool,
    not_before: Instant,
    /// Since when they are being tried.
    began: Option<Instant>,
}

impl Lookups {
    pub fn new(pipeline: &str, connector: Connector, health: Health, lookups: Vec<Lookup>) -> Self {
        let now = Instant::now();
        let entry = |lookup: Lookup| {
            let source = match &lookup.origin {
                Origin::File(_) => "file",
                Origin::MySql { .. } => "mysql",
                Origin::Topic { .. } => "topic",
            };
            // Before it is read: what changes from here on is a change.
            let seen = match &lookup.origin {
                Origin::File(path) => Some(Look::at(path)),
                _ => None,
            };
            let status = LookupStatus { source, ..LookupStatus::default() };
            Entry { lookup, status, due: now, job: None, seen, topic: None, first: None }
        };
        let entries = lookups.into_iter().map(entry).collect();
        let retry = Retry { wanted: false, not_before: now, began: None };
        Self { pipeline: pipeline.to_owned(), connector, health, entries, retry }
    }

    /// Reads all that aren't files (the planner reads those) and waits until every one is there; `None` if asked to stop meanwhile.
    ///
    /// # Errors
    /// [`Kind::Config`] for rows that can't be a lookup.
    pub async fn load(
        &mut self,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<Option<BTreeMap<String, Arc<LookupTable>>>> {
        if self.entries.iter().any(Entry::must_be_loaded) {
            let names: Vec<&str> = self.entries.iter().map(|entry| entry.lookup.name.as_str()).collect();
            tracing::info!(pipeline = self.pipeline, lookups = names.join(", "), "loading lookups");
        }
        loop {
            for entry in &mut self.entries {
                entry.load(&self.pipeline, &self.connector)?;
            }
            self.publish();
            let missing: Vec<String> =
                self.entries.iter().filter(|entry| entry.must_be_loaded()).map(Entry::waits_for).collect();
            if missing.is_empty() {
                break;
            }
            let away = self.entries.iter().any(|entry| !entry.status.last_error.is_empty());
            let state = if away { State::Waiting } else { State::Starting };
            self.health.enter(state, &format!("loading lookups: {}", missing.join("; ")));
            tokio::select! {
                () = tokio::time::sleep(TAKE) => {}
                _ = stop.changed() => return Ok(None),
            }
        }
        let loaded = self.entries.iter_mut().filter_map(|entry| Some((entry.lookup.name.clone(), entry.first.take()?)));
        Ok(Some(loaded.collect()))
    }

    /// Notes what an engine has been planned with.
    pub fn loaded_into(&mut self, engine: &Engine) {
        let tables = engine.lookup_tables();
        for entry in &mut self.entries {
            if let Some(table) = tables.get(&entry.lookup.name) {
                entry.status.looked.get_or_insert_with(Instant::now);
                entry.note_table(table);
            }
        }
        self.publish();
    }

    /// Another engine runs, planned over what the sources had then: what couldn't be used before may fit now.
    pub(super) fn planned_anew(&mut self) {
        for entry in self.entries.iter_mut().filter(|entry| !entry.status.last_error.is_empty()) {
            (entry.seen, entry.due) = (None, Instant::now());
        }
    }

    /// When there is something to do next.
    pub(super) fn next_due(&self) -> Instant {
        let now = Instant::now();
        let quick = self.entries.iter().any(|entry| entry.job.is_some() || entry.topic.is_some());
        let soonest = self.entries.iter().map(|entry| entry.due).min().unwrap_or(now + LOOK_AT_FILES);
        if quick { now + TAKE } else { soonest.clamp(now + TAKE, now + LOOK_AT_FILES) }
    }

    /// Puts what is ready into `engine`, and starts to read what is due. Never waits.
    pub(super) fn refresh(&mut self, engine: &mut Engine) {
        for entry in &mut self.entries {
            let news = match entry.topic.is_some() {
                true => entry.take_changes(&self.pipeline, engine),
                false => entry.take_job(&self.pipeline, engine),
            };
            if news {
                self.retry.wanted = true;
                if let Some(table) = engine.lookup_tables().get(&entry.lookup.name) {
                    entry.note_table(table);
                }
            }
            entry.begin_if_due(&self.connector, engine);
        }
        self.publish();
    }

    /// Whether records that the models refused are to be tried again now.
    pub(super) fn is_retry_due(&self) -> bool {
        self.retry.wanted && Instant::now() >= self.retry.not_before
    }

    /// They are being tried; changes from now on are for the next time.
    pub(super) fn retry_begun(&mut self) {
        (self.retry.wanted, self.retry.began) = (false, Some(Instant::now()));
    }

    /// They have been: the longer it took, the longer until the next time.
    pub(super) fn retry_ended(&mut self) {
        if let Some(began) = self.retry.began.take() {
            self.retry.not_before = Instant::now() + RETRY.max(began.elapsed() * RETRY_SHARE);
        }
    }

    /// The database couldn't tell which.
    pub(super) fn retry_failed(&mut self) {
        self.retry = Retry { wanted: true, began: None, not_before: Instant::now() + AGAIN };
    }

    fn publish(&self) {
        self.health.update(|snapshot| {
            snapshot.lookups =
                self.entries.iter().map(|entry| (entry.lookup.name.clone(), entry.status.clone())).collect();
        });
    }
}

impl Entry {
    fn must_be_loaded(&self) -> bool {
        !matches!(self.lookup.origin, Origin::File(_)) && self.first.is_none()
    }

    fn waits_for(&self) -> String {
        let name = &self.lookup.name;
        let source = match &self.lookup.origin {
            Origin::File(path) => path.display().to_string(),
            Origin::MySql { .. } => "a query on MySQL".to_owned(),
            Origin::Topic { options, .. } => format!("topic `{}`", options.topic),
        };
        match self.status.last_error.as_str() {
            "" => format!("{name} from {source}"),
            error => format!("{name}: {error}"),
        }
    }

    /// One step towards the first rows.
    fn load(&mut self, pipeline: &str, connector: &Connector) -> Result<()> {
        if !self.must_be_loaded() {
            return Ok(());
        }
        if let Origin::Topic { options, columns } = &self.lookup.origin {
            let topic = match &mut self.topic {
                Some(topic) => topic,
                none => none.insert(Topic::start(&self.lookup, options, columns)?),
            };
            while let Some(news) = topic.next() {
                if let News::Loaded(table) = news {
                    self.first = Some(table);
                    break;
                }
            }
            self.note_topic(pipeline);
            return match self.topic.as_mut().and_then(|topic| topic.ended()) {
                Some(error) if self.first.is_none() => Err(error.at(format!("lookup {}", self.lookup.name))),
                _ => Ok(()),
            };
        }
        match self.finished() {
            Some((Outcome::New(table), began)) => {
                self.succeeded(pipeline, began);
                self.first = Some(table);
                if let Origin::MySql { refresh, .. } = &self.lookup.origin {
                    self.due = began + *refresh;
                }
            }
            Some((Outcome::Faulty(faults), _)) => return Err(unusable(faults)),
            Some((Outcome::Away(error), _)) => {
                self.failed(pipeline, &error.to_string());
                self.due = Instant::now() + AGAIN;
            }
            Some((Outcome::Same, _)) => {}
            None if self.job.is_none() && Instant::now() >= self.due => self.begin(connector, None),
            None => {}
        }
        Ok(())
    }

    /// Reads it beside the loop, and compares it with `current`.
    fn begin(&mut self, connector: &Connector, current: Option<Arc<LookupTable>>) {
        let (lookup, connector) = (self.lookup.clone(), connector.clone());
        let job = tokio::task::spawn_blocking(move || {
            let read = match &lookup.origin {
                Origin::File(path) => LookupTable::from_file(&lookup.name, &lookup.key, path),
                Origin::MySql { query, .. } => match query_rows(&connector, query) {
                    Ok(chunks) => LookupTable::from_batches(&lookup.name, &lookup.key, chunks),
                    Err(error) => return Outcome::Away(error),
                },
                Origin::Topic { .. } => return Outcome::Same,
            };
            match read {
                Ok(table) if current.is_some_and(|current| current.same_rows(&table)) => Outcome::Same,
                Ok(table) => Outcome::New(Arc::new(table)),
                Err(faults) => Outcome::Faulty(faults),
            }
        });
        self.job = Some((job, Instant::now()));
    }

    /// What came of the reading that is done, and when it began.
    fn finished(&mut self) -> Option<(Outcome, Instant)> {
        let (job, began) = self.job.as_mut()?;
        let (outcome, began) = (job.now_or_never()?, *began);
        self.job = None;
        let dead = |error| Error::new(Kind::Bug, "reading a lookup has panicked").source(error);
        Some((outcome.unwrap_or_else(|error| Outcome::Away(dead(error))), began))
    }

    fn begin_if_due(&mut self, connector: &Connector, engine: &Engine) {
        let now = Instant::now();
        if self.job.is_some() || self.topic.is_some() || now < self.due {
            return;
        }
        match &self.lookup.origin {
            Origin::File(path) => {
                self.due = now + LOOK_AT_FILES;
                let found = Look::at(path);
                if self.seen.as_ref().is_some_and(|seen| seen.is_still(&found)) {
                    // A file that can't be used isn't looked at with success.
                    if self.status.last_error.is_empty() {
                        self.status.looked = Some(now);
                    }
                    return;
                }
                self.seen = Some(found);
            }
            Origin::MySql { refresh, .. } => self.due = now + *refresh,
            Origin::Topic { .. } => return,
        }
        let current = engine.lookup_tables().remove(&self.lookup.name);
        self.begin(connector, current);
    }

    /// Takes up what was read; whether any row differs.
    fn take_job(&mut self, pipeline: &str, engine: &mut Engine) -> bool {
        let Some((outcome, began)) = self.finished() else { return false };
        let put = match outcome {
            Outcome::Same => Ok(false),
            Outcome::New(table) => engine.put_lookup(&self.lookup.name, table).map(|()| true).map_err(words),
            Outcome::Faulty(faults) => Err(words(faults)),
            Outcome::Away(error) => Err(error.to_string()),
        };
        match put {
            Ok(news) => {
                self.succeeded(pipeline, began);
                news
            }
            Err(reason) => {
                self.failed(pipeline, &reason);
                false
            }
        }
    }

    /// Applies what the topic has brought; whether any row differs.
    fn take_changes(&mut self, pipeline: &str, engine: &mut Engine) -> bool {
        let mut news = false;
        while let Some(News::Changes(changes)) = self.topic.as_mut().and_then(Topic::next) {
            match engine.change_lookup(&self.lookup.name, changes.rows, &changes.deleted) {
                Ok(changed) => news |= changed > 0,
                Err(faults) => self.failed(pipeline, &words(faults)),
            }
        }
        self.note_topic(pipeline);
        news
    }

    /// The status as the topic's reader tells it.
    fn note_topic(&mut self, pipeline: &str) {
        let Some(topic) = &self.topic else { return };
        let told = topic.told();
        self.status.loading = told.loading;
        self.status.lag_records = told.lag;
        self.status.bad_records = told.bad_records;
        self.status.looked = told.looked;
        match told.trouble {
            Some(reason) if self.status.last_error.is_empty() => self.failed(pipeline, &reason),
            Some(reason) => self.status.last_error = reason,
            None => self.good_again(pipeline),
        }
    }

    fn succeeded(&mut self, pipeline: &str, looked: Instant) {
        self.status.looked = Some(looked);
        self.good_again(pipeline);
    }

    fn good_again(&mut self, pipeline: &str) {
        if !std::mem::take(&mut self.status.last_error).is_empty() {
            tracing::info!(pipeline, lookup = self.lookup.name, "lookup is refreshed again");
        }
    }

    fn failed(&mut self, pipeline: &str, reason: &str) {
        self.status.refresh_failures += 1;
        let was_good = self.status.last_error.is_empty();
        reason.clone_into(&mut self.status.last_error);
        let lookup = self.lookup.name.as_str();
        if was_good && self.status.version > 0 {
            tracing::error!(pipeline, lookup, reason, "lookup not replaced, the last good one stays");
        } else if was_good {
            tracing::warn!(pipeline, lookup, reason, "lookup can't be loaded yet");
        }
    }

    fn note_table(&mut self, table: &LookupTable) {
        self.status.rows = table.num_rows();
        self.status.bytes = table.byte_len();
        self.status.version += 1;
        self.status.loaded_at = super::health::now();
    }
}

/// The rows of a query, on a runtime of this thread's own.
fn query_rows(connector: &Connector, query: &str) -> Result<Vec<arrow::array::RecordBatch>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Error::new(Kind::Bug, "no runtime to read a lookup").source(error))?;
    runtime.block_on(sink::lookup::read_chunks(connector, query))
}

fn words(faults: Vec<Diagnostic>) -> String {
    let messages: Vec<String> = faults.into_iter().map(|fault| fault.message).collect();
    messages.join("; ")
}

fn unusable(faults: Vec<Diagnostic>) -> Error {
    let code = faults.first().map(|fault| fault.code).unwrap_or_default();
    Error::new(Kind::Config, format!("[{code}] {}", words(faults)))
        .remedy("mend its rows and start again; `afterimage check --online` shows all faults")
}
