//! Fixtures: cases of `afterimage test`, written in YAML beside the models, as `queries/<pipeline>/tests/*.yaml`.
//!
//! In: a folder. Out: [`Case`]s as they are written, every name and value with its place, and every fault at once. Nothing is known of
//! models and columns here: [`bind`] looks at that, against a planned engine. Whatever the bytes, nothing panics.
//!
//! [`keys`] describes the format; [`json_schema`] has it for editors.

pub mod bind;
pub mod cell;
pub mod columns;
mod events;
mod keys;
mod read;
pub mod yaml;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::time::Duration;

pub use self::keys::{Kind, Section, json_schema};
pub use self::yaml::{Content, Meaning, Node};
use crate::config::{OnError, Pipeline, VersionBy};
use crate::diagnostic::{Diagnostic, Span};
use crate::generate::own_timestamp_ms;
use crate::position::Partition;
use crate::record::OwnedRecord;

/// Codes of faults in fixtures.
pub mod code {
    pub const UNREADABLE: &str = "AI0501";
    pub const SYNTAX: &str = "AI0502";
    pub const UNKNOWN_KEY: &str = "AI0503";
    pub const MISSING_KEY: &str = "AI0504";
    pub const WRONG_TYPE: &str = "AI0505";
    pub const TWICE: &str = "AI0506";
    pub const SAME_NAME: &str = "AI0507";
    pub const BAD_EVENT: &str = "AI0508";
    pub const UNKNOWN_MODEL: &str = "AI0509";
    pub const UNKNOWN_COLUMN: &str = "AI0510";
    pub const MISFIT: &str = "AI0511";
    pub const LOOKUP: &str = "AI0512";
    pub const NO_SUCH_BATCH: &str = "AI0513";
    pub const OFFSETS: &str = "AI0514";
    pub const KEY: &str = "AI0515";
    pub const NOTHING_EXPECTED: &str = "AI0516";
    pub const FAILS: &str = "AI0517";
}

/// One case, as written.
#[derive(Debug, Clone)]
pub struct Case {
    pub file: PathBuf,
    /// The file's name without its ending, and behind a slash the case's own name where the file has several.
    pub name: String,
    pub about: String,
    pub span: Span,
    pub settings: Settings,
    pub given: Given,
    pub expect: Expect,
}

/// The pipeline's settings as far as a case has its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    pub on_error: Option<OnError>,
    pub version: Option<VersionBy>,
    pub max_future_skew: Option<Duration>,
}

#[derive(Debug, Clone, Default)]
pub struct Given {
    /// A record without a Kafka timestamp has its event's own time.
    pub batches: Vec<Vec<OwnedRecord>>,
    pub lookups: Vec<(Word, Part<Cells>)>,
    pub table: Vec<Cells>,
    pub tombstones: Vec<Node>,
    pub held: Vec<Node>,
}

/// What must come of it; `None` isn't looked at.
#[derive(Debug, Clone, Default)]
pub struct Expect {
    pub models: Vec<ModelRows>,
    pub table: Option<Part<Cells>>,
    pub tombstones: Option<Part<Node>>,
    pub quarantine: Option<Part<Quarantined>>,
    pub out_of_order: Option<Part<Late>>,
    pub sums: Option<Part<(Partition, Vec<Count>)>>,
    pub unmapped: Option<Part<Count>>,
    pub error: Option<Word>,
}

/// A section of the file and what it holds.
#[derive(Debug, Clone)]
pub struct Part<T> {
    pub node: Node,
    pub items: Vec<T>,
}

/// A name or another text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    pub text: String,
    pub span: Span,
}

/// A row: columns and values.
#[derive(Debug, Clone)]
pub struct Cells {
    pub node: Node,
    pub cells: Vec<(Word, Node)>,
}

#[derive(Debug, Clone)]
pub struct ModelRows {
    pub model: Word,
    /// From 1 on.
    pub batch: Option<(usize, Span)>,
    pub ordered: bool,
    pub rows: Part<Cells>,
}

#[derive(Debug, Clone)]
pub struct Quarantined {
    pub node: Node,
    pub partition: Partition,
    pub offset: i64,
    /// What is looked at besides `keys`: key of the section and text.
    pub texts: Vec<(&'static str, String, Node)>,
    pub keys: Option<Part<Node>>,
}

#[derive(Debug, Clone)]
pub struct Late {
    pub node: Node,
    pub partition: Partition,
    pub offset: i64,
    /// `ts`, `known_ts` and `known_offset`, as far as they are given.
    pub numbers: Vec<(&'static str, Node)>,
    /// Columns of the key.
    pub key: Vec<(Word, Node)>,
}

/// A number under a name.
#[derive(Debug, Clone)]
pub struct Count {
    pub name: Word,
    pub count: u64,
    pub node: Node,
}

impl Settings {
    /// The pipeline with these settings instead of its own.
    pub fn over(&self, pipeline: &Pipeline) -> Pipeline {
        let mut pipeline = pipeline.clone();
        pipeline.on_error = self.on_error.unwrap_or(pipeline.on_error);
        pipeline.version = self.version.unwrap_or(pipeline.version);
        pipeline.max_future_skew = self.max_future_skew.unwrap_or(pipeline.max_future_skew);
        pipeline
    }
}

/// Kafka timestamp of records whose event has no time that a broker would take: ten minutes after 1 700 000 000 s.
const KAFKA_TS_MS: i64 = 1_700_000_600_000;

/// The first millisecond of the year 2100.
const TOO_LATE_MS: i64 = 4_102_444_800_000;

/// Kafka timestamp of a record, milliseconds since 1970: the one that is written, or else the event's own time, of which
/// `ticks_per_second` make a second.
pub fn kafka_timestamp_ms(record: &OwnedRecord, ticks_per_second: i64) -> i64 {
    let own = || record.value.as_deref().and_then(|value| own_timestamp_ms(value, ticks_per_second));
    let own = || own().filter(|own| (0..TOO_LATE_MS).contains(own));
    record.timestamp_ms.or_else(own).unwrap_or(KAFKA_TS_MS)
}

/// The folder of a pipeline's fixtures.
pub fn folder(pipeline: &Pipeline) -> PathBuf {
    pipeline.queries.join("tests")
}

/// All cases in a folder, by file, and every fault. A folder that isn't there has none.
pub fn load(folder: &Path) -> (Vec<Case>, Vec<Diagnostic>) {
    let (mut cases, mut faults) = (Vec::new(), Vec::new());
    let mut paths: Vec<PathBuf> = match std::fs::read_dir(folder) {
        Ok(entries) => entries.filter_map(|entry| Some(entry.ok()?.path())).collect(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return (cases, faults),
        Err(error) => {
            let what = format!("the folder {} can't be read: {error}", folder.display());
            return (cases, vec![Diagnostic::error(code::UNREADABLE, what)]);
        }
    };
    let is_yaml = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "yaml" || ending == "yml");
    let hidden = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
    paths.retain(|path| is_yaml(path) && !hidden(path));
    paths.sort();
    for path in paths {
        match std::fs::read(&path) {
            Ok(bytes) => {
                let (more, wrong) = parse(&path, &bytes);
                cases.extend(more);
                faults.extend(wrong);
            }
            Err(error) => {
                let what = format!("the fixture can't be read: {error}");
                faults.push(Diagnostic::error(code::UNREADABLE, what).file(&path));
            }
        }
    }
    (cases, faults)
}

/// The cases of one file that can be read, and every fault.
pub fn parse(path: &Path, bytes: &[u8]) -> (Vec<Case>, Vec<Diagnostic>) {
    let unreadable = |what: &str| (Vec::new(), vec![Diagnostic::error(code::UNREADABLE, what).file(path)]);
    if bytes.len() > yaml::MAX_BYTES {
        return unreadable("the fixture is larger than 4 MiB");
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => read::cases(path, text.strip_prefix('\u{feff}').unwrap_or(text)),
        Err(_) => unreadable("the fixture is not UTF-8"),
    }
}
