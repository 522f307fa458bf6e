//! Fixtures: cases of `afterimage test`, written in YAML beside the models, as `queries/<pipeline>/tests/*.yaml`.
//!
//! In: a folder. Out: [`Case`]s as they are written, every name and value with its place, and every fault at once. Nothing is known of
//! models and columns here: [`bind`] looks at that, against a planned engine. Whatever the bytes, nothing panics.
//!
//! [`keys`] describes the format; [`json_schema`] has it for editors.

pub mod bind;
pub mod cell;
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
use crate::generate::OwnedRecord;
use crate::position::Partition;

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

    /// Each code and what it stands for.
    pub const MEANINGS: &[(&str, &str)] = &[
        (UNREADABLE, "a fixture cannot be read, is not UTF-8, or is too large"),
        (SYNTAX, "a fixture is not YAML, or holds what fixtures have no use for"),
        (UNKNOWN_KEY, "unknown key in a fixture"),
        (MISSING_KEY, "a required key is missing in a fixture"),
        (WRONG_TYPE, "a value of the wrong type in a fixture"),
        (TWICE, "a key comes twice in a fixture"),
        (SAME_NAME, "two cases have one name"),
        (BAD_EVENT, "an event in a fixture is no JSON object"),
        (UNKNOWN_MODEL, "a fixture expects rows of a model that doesn't exist"),
        (UNKNOWN_COLUMN, "a fixture names a column that doesn't exist"),
        (MISFIT, "a value in a fixture that its column can't hold"),
        (LOOKUP, "a fixture gives rows of an unknown lookup, or leaves out those of one that isn't in a file"),
        (NO_SUCH_BATCH, "a fixture expects rows of a batch that isn't given"),
        (OFFSETS, "offsets in a fixture don't rise"),
        (KEY, "a row in a fixture lacks its key, or comes twice"),
        (NOTHING_EXPECTED, "warning: a case expects nothing"),
    ];
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
