//! The config file, `afterimage.toml`: read, checked, defaults applied, units resolved, variables filled in.
//!
//! In: the file and the environment. Out: a [`Config`] that holds nothing half-checked, with warnings, or every fault at once,
//! each with its place and a remedy. Unknown keys are faults (P6). Models, schemas, lookups and servers are looked at by others.
//! Nothing here shows a secret: neither `Debug` nor a fault's text.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::DeTable;

pub use kafka::{Properties, REFUSED};
pub(crate) use names::pipeline as pipeline_name_fault;
pub use secret::Secret;
pub use variables::Environment;

use crate::diagnostic::{Diagnostic, has_errors};
use crate::error::{Error, Kind, Result};
use reader::{Reader, code};

pub mod kafka;
pub mod keys;
mod lookups;
mod names;
mod reader;
mod secret;
mod sections;
pub mod units;
mod url;
mod variables;

#[cfg(test)]
mod tests;

/// A whole config file.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it was read from, as given.
    pub path: PathBuf,
    pub kafka: Kafka,
    pub mysql: MySql,
    pub http: Http,
    pub log: Log,
    /// By name; at least one.
    pub pipelines: BTreeMap<String, Pipeline>,
}

#[derive(Debug, Clone)]
pub struct Kafka {
    /// `host:port`, several separated by commas.
    pub brokers: String,
    /// Group of every pipeline that sets none of its own.
    pub group: String,
    pub properties: Properties,
}

#[derive(Debug, Clone)]
pub struct MySql {
    /// Name or address, an IPv6 address without brackets.
    pub host: String,
    pub port: u16,
    pub user: String,
    pub password: Secret,
    /// Where the password was read from, if from a file.
    pub password_file: Option<PathBuf>,
    pub database: String,
    pub tls: Tls,
    pub connect_timeout: Duration,
}

/// How the connection to MySQL is protected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tls {
    /// Plain text: on loopback, or because `allow_insecure` says so.
    Off,
    /// Certificate and host name are checked, against the authorities in `ca_file` or the public ones.
    Verified { ca_file: Option<PathBuf> },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http {
    pub enabled: bool,
    pub listen: SocketAddr,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    pub format: LogFormat,
    pub level: LogLevel,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// One topic kept as one table.
#[derive(Debug, Clone)]
pub struct Pipeline {
    pub name: String,
    pub topic: String,
    pub table: String,
    /// Key columns of the table, in its order; at least one.
    pub key: Vec<String>,
    /// Consumer group: the pipeline's own, or `kafka.group`.
    pub group: String,
    pub version: VersionBy,
    pub timestamp_unit: TimestampUnit,
    pub on_error: OnError,
    /// Folder of the models.
    pub queries: PathBuf,
    /// Folder of the schema files.
    pub schemas: PathBuf,
    pub max_future_skew: Duration,
    pub tombstone_retention: Duration,
    pub batch: Batch,
    pub max_refused: MaxRefused,
    /// At least 1.
    pub lanes: usize,
    pub metrics_interval: Duration,
    pub shutdown_timeout: Duration,
    /// By the name that models select from.
    pub lookups: BTreeMap<String, Lookup>,
}

/// What decides which of two events of a key is the newer one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VersionBy {
    /// Event time, then partition and offset.
    EventTime,
    /// Partition and offset alone.
    Arrival,
}

/// Unit of the event's `timestamp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimestampUnit {
    Second,
    Millisecond,
    Microsecond,
    Nanosecond,
}

/// What a refused event does to later ones (P5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnError {
    /// Later events of its key wait behind it.
    HoldKey,
    /// Later events pass.
    SkipEvent,
    /// The pipeline stops.
    Stop,
}

/// Limits of one micro-batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    pub max_events: usize,
    pub max_bytes: usize,
    pub max_wait: Duration,
}

/// When too much is refused to go on.
#[derive(Debug, Clone, PartialEq)]
pub struct MaxRefused {
    /// From 0 to 1; above it the pipeline stops.
    pub share: f64,
    pub window: Duration,
    /// Fewer events within the window never stop it.
    pub min_events: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lookup {
    pub from: LookupFrom,
    /// Columns that identify a row; at least one.
    pub key: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LookupFrom {
    File(PathBuf),
    MySql {
        query: String,
        refresh: Duration,
    },
    /// A compacted topic; what its records hold, in the order written.
    Topic {
        topic: String,
        columns: Vec<(String, arrow::datatypes::DataType)>,
    },
}

/// A config file as far as it could be read.
#[derive(Debug, Default)]
pub struct Partial {
    /// All of it; `None` where a fault refuses the start.
    pub config: Option<Config>,
    /// Pipelines that are sound in themselves, whatever the rest is.
    pub pipelines: BTreeMap<String, Pipeline>,
    /// Names of pipelines that aren't.
    pub unread: Vec<String>,
    pub faults: Vec<Diagnostic>,
}

impl Config {
    /// Reads the file at `path`. Errors: every fault that was found.
    pub fn load(path: &Path, environment: &Environment<'_>) -> Result<(Self, Vec<Diagnostic>), Vec<Diagnostic>> {
        Self::load_partly(path, environment).whole()
    }

    /// Like [`Config::load`], of `text` that stands in the file at `path`.
    pub fn parse(
        text: &str,
        path: &Path,
        environment: &Environment<'_>,
    ) -> Result<(Self, Vec<Diagnostic>), Vec<Diagnostic>> {
        Self::parse_partly(text, path, environment).whole()
    }

    /// Reads what can be read of the file at `path`, so that what it names can be checked too.
    pub fn load_partly(path: &Path, environment: &Environment<'_>) -> Partial {
        let fault = match std::fs::read(path).map(String::from_utf8) {
            Ok(Ok(text)) => return Self::parse_partly(&text, path, environment),
            Ok(Err(_)) => Diagnostic::error(code::UNREADABLE, "the config file is not UTF-8").file(path),
            Err(error) => {
                let what = format!("cannot read the config file {}: {error}", path.display());
                let help = "give its path with --config; docs/afterimage.toml is one to start from";
                Diagnostic::error(code::UNREADABLE, what).help(help)
            }
        };
        Partial { faults: vec![fault], ..Partial::default() }
    }

    fn parse_partly(text: &str, path: &Path, environment: &Environment<'_>) -> Partial {
        let (document, broken) = DeTable::parse_recoverable(text);
        let reader = Reader::new(text, path, environment);
        let read = sections::config(&reader, document.get_ref());
        let syntax = broken.iter().map(|error| {
            let span = error.span().map(|place| reader.span(&place));
            Diagnostic::error(code::SYNTAX, error.message()).file(path).span(span)
        });
        let syntax: Vec<Diagnostic> = syntax.collect();
        let mut faults = reader.into_faults();
        let mut unread = read.unread;
        if !syntax.is_empty() {
            faults.retain(|fault| still_true(fault, &syntax));
            faults.splice(0..0, syntax);
            // Keys may have been lost with a broken line: what a pipeline then seems to say is not what it says.
            unread.extend(read.pipelines.keys().cloned());
            return Partial { config: None, pipelines: BTreeMap::new(), unread, faults };
        }
        if read.config.is_none() && !has_errors(&faults) {
            faults.push(Diagnostic::error(code::UNREADABLE, "the config file cannot be used").file(path));
        }
        let config = read.config.filter(|_| !has_errors(&faults));
        Partial { config, pipelines: read.pipelines, unread, faults }
    }
}

impl Partial {
    fn whole(self) -> Result<(Config, Vec<Diagnostic>), Vec<Diagnostic>> {
        match self.config {
            Some(config) => Ok((config, self.faults)),
            None => Err(self.faults),
        }
    }
}

/// Whether `fault` stands on its own beside syntax errors: what is missing may only have been lost with the rest of a broken line.
fn still_true(fault: &Diagnostic, syntax: &[Diagnostic]) -> bool {
    let Some(span) = fault.span else { return false };
    let broken = |error: &Diagnostic| error.span.is_none_or(|at| at.line <= span.end_line && span.line <= at.end_line);
    fault.code != code::MISSING_KEY && !syntax.iter().any(broken)
}

/// The process's own environment, for [`Config::load`].
pub fn process_environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

impl MySql {
    /// The password as it is now: `password_file` is read again, so that a rotated password needs no restart.
    pub fn current_password(&self) -> Result<Secret> {
        let Some(path) = &self.password_file else { return Ok(self.password.clone()) };
        read_password(path).map_err(|error| {
            Error::new(Kind::SinkUnavailable, format!("cannot read mysql.password_file {}", path.display()))
                .remedy("put the password there, readable by this process")
                .source(error)
        })
    }
}

/// The password in the file at `path`, without the line break at its end.
fn read_password(path: &Path) -> std::io::Result<Secret> {
    let text = std::fs::read_to_string(path)?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(Secret::new(text.strip_suffix('\r').unwrap_or(text)))
}

/// Whether `host` is this machine, so that nobody listens on the way.
pub fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}
