//! What a pipeline is doing, for `status`, `/readyz` and the log: one value, written by the loop, read by anyone.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

use crate::decode::OTHER_FIELDS;
use crate::diagnostic::{Diagnostic, Severity};
use crate::position::Partition;
use crate::sink::positions::SumChanges;

/// More different names than this are no fields but values in the wrong place; the rest counts as one.
const MAX_UNMAPPED: usize = 1000;

/// Where a pipeline stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Starting,
    Running,
    /// Something outside is missing (brokers, database, an operator's grant); goes on by itself.
    Waiting,
    /// Stopped until an operator acts.
    Halted,
    Stopped,
}

/// A snapshot; see [`Health`].
#[derive(Debug, Clone, Serialize)]
pub struct Snapshot {
    pub pipeline: String,
    pub state: State,
    /// Since when, RFC 3339.
    pub since: String,
    /// Why it waits or halted; empty while it runs.
    pub reason: String,
    pub owned: Vec<Partition>,
    /// Partitions that halted by themselves while the others go on, with the reason.
    pub halted: BTreeMap<Partition, String>,
    pub lag_records: Option<i64>,
    pub freshness_ms: Option<i64>,
    pub buffered_bytes: usize,
    pub transactions: u64,
    pub retries: u64,
    /// Sums since this process started; the tables hold the exact ones.
    pub totals: SumChanges,
    pub out_of_order: u64,
    /// Fields that no schema knows, with how many events carried them.
    pub unmapped: BTreeMap<String, u64>,
    /// Of the definition that runs; 0 until it is registered.
    pub generation: i64,
    pub fingerprint: String,
    pub reload: Files,
}

/// How the files on disk stand to what runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Files {
    pub state: FileState,
    /// Since when, RFC 3339.
    pub since: String,
    /// Why they aren't what runs.
    pub faults: Vec<FileFault>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FileState {
    /// They are what runs.
    Current,
    /// They are being judged, or wait for database or target; taken up by itself.
    Pending,
    /// They have faults: what runs goes on as it is.
    Refused,
}

/// A fault of a file, as a [`Diagnostic`] says it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileFault {
    pub code: &'static str,
    pub file: Option<String>,
    pub line: Option<usize>,
    pub column: Option<usize>,
    pub message: String,
    pub help: Option<String>,
}

impl FileFault {
    fn new(fault: &Diagnostic) -> Self {
        Self {
            code: fault.code,
            file: fault.file.as_deref().map(|file| file.display().to_string()),
            line: fault.span.map(|span| span.line),
            column: fault.span.map(|span| span.column),
            message: fault.message.clone(),
            help: fault.help.clone(),
        }
    }
}

/// One line per fault of files that are looked at while the pipeline runs.
pub fn log_faults(pipeline: &str, faults: &[Diagnostic]) {
    for fault in faults {
        let FileFault { code, file, line, column, message, help } = FileFault::new(fault);
        match fault.severity {
            Severity::Error => tracing::error!(pipeline, code, file, line, column, help, "{message}"),
            Severity::Warning => tracing::warn!(pipeline, code, file, line, column, help, "{message}"),
        }
    }
}

impl Snapshot {
    /// Counts fields that no schema knows; yields those that are seen for the first time. Their number is bounded, whatever
    /// events carry: beyond it they go by [`OTHER_FIELDS`].
    pub fn count_unmapped(&mut self, counts: &BTreeMap<String, u64>) -> Vec<String> {
        let mut news = Vec::new();
        for (field, count) in counts {
            let known = self.unmapped.contains_key(field);
            let name = if known || self.unmapped.len() < MAX_UNMAPPED { field.as_str() } else { OTHER_FIELDS };
            let total = self.unmapped.entry(name.to_owned()).or_insert_with(|| {
                news.push(name.to_owned());
                0
            });
            *total += count;
        }
        news
    }
}

/// Shared handle to one pipeline's [`Snapshot`].
#[derive(Debug, Clone)]
pub struct Health(Arc<Mutex<Snapshot>>);

impl Health {
    pub fn new(pipeline: &str) -> Self {
        Self(Arc::new(Mutex::new(Snapshot {
            pipeline: pipeline.to_owned(),
            state: State::Starting,
            since: now(),
            reason: String::new(),
            owned: Vec::new(),
            halted: BTreeMap::new(),
            lag_records: None,
            freshness_ms: None,
            buffered_bytes: 0,
            transactions: 0,
            retries: 0,
            totals: SumChanges::default(),
            out_of_order: 0,
            unmapped: BTreeMap::new(),
            generation: 0,
            fingerprint: String::new(),
            reload: Files { state: FileState::Current, since: now(), faults: Vec::new() },
        })))
    }

    pub fn snapshot(&self) -> Snapshot {
        self.lock().clone()
    }

    /// Changes figures; no log.
    pub fn update(&self, change: impl FnOnce(&mut Snapshot)) {
        change(&mut self.lock());
    }

    /// Notes how the files stand to what runs; yields whether that is news.
    pub fn files(&self, state: FileState, faults: &[Diagnostic]) -> bool {
        let faults: Vec<FileFault> = faults.iter().map(FileFault::new).collect();
        let mut snapshot = self.lock();
        if snapshot.reload.state == state && snapshot.reload.faults == faults {
            return false;
        }
        let since = if snapshot.reload.state == state { snapshot.reload.since.clone() } else { now() };
        snapshot.reload = Files { state, since, faults };
        true
    }

    /// Enters `state`; logs one line when state or reason changed.
    pub fn enter(&self, state: State, reason: &str) {
        let mut snapshot = self.lock();
        if snapshot.state == state && snapshot.reason == reason {
            return;
        }
        let was_waiting_since = (snapshot.state == State::Waiting).then(|| snapshot.since.clone());
        if snapshot.state != state {
            snapshot.since = now();
        }
        snapshot.state = state;
        reason.clone_into(&mut snapshot.reason);
        let (pipeline, since) = (snapshot.pipeline.as_str(), snapshot.since.as_str());
        match state {
            State::Waiting => tracing::warn!(pipeline, since, reason, "waiting"),
            State::Halted => tracing::error!(pipeline, since, reason, "halted"),
            State::Running => tracing::info!(pipeline, waited_since = was_waiting_since, "running"),
            State::Starting | State::Stopped => tracing::info!(pipeline, ?state, "pipeline changed state"),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Snapshot> {
        // A panic elsewhere must not hide the state that explains it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn now() -> String {
    jiff::Timestamp::now().round(jiff::Unit::Millisecond).unwrap_or_else(|_| jiff::Timestamp::now()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    // Proves: P6, R62
    #[test]
    fn a_million_names_of_fields_take_no_more_room_than_a_thousand() {
        let health = Health::new("users");
        let mut warned = 0;
        for batch in 0..4000 {
            let names = (0..250).map(|field| (format!("field {batch} {field}"), 1));
            let counts: BTreeMap<String, u64> = names.chain([("phone".to_owned(), 1)]).collect();
            health.update(|snapshot| warned += snapshot.count_unmapped(&counts).len());
        }
        let unmapped = health.snapshot().unmapped;
        assert_eq!((unmapped.len(), warned), (MAX_UNMAPPED + 1, MAX_UNMAPPED + 1));
        assert_eq!(unmapped["phone"], 4000, "what came early keeps its own count");
        assert_eq!(unmapped.values().sum::<u64>(), 4000 * 251, "nothing goes uncounted");
    }
}
