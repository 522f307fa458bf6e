//! Reads `tests/fixtures/*.toml`: what is written to a topic, cut into batches, and what must stand in the database afterwards.
//!
//! An event is a line of JSON, or a table with `value` (or `hex`, or `null = true`) and any of `partition`, `key`, `kafka_ts` (ms) and
//! `repeat` (puts a text many times where its mark stands). Offsets count from 0 in each partition, as they do on a new topic. All
//! that is not expected must not be there: rows, quarantine, evidence, counts.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use afterimage::generate::OwnedRecord;
use afterimage::oracle::{Late, Place, Row, Sums};
use serde::Deserialize;

/// Kafka timestamp of events that give none: ten minutes after the second in which the events of the fixtures begin.
const KAFKA_TS_MS: i64 = 1_700_000_600_000;
const NS_PER_MS: i64 = 1_000_000;

/// One case.
#[derive(Debug, Clone)]
pub struct Fixture {
    /// The file's name without its ending.
    pub name: String,
    /// What the case shows.
    pub about: String,
    pub partitions: i32,
    /// `hold_key` or `skip_event`, as in the config.
    pub on_error: String,
    /// `event_time` or `arrival`, as in the config.
    pub version: String,
    pub batches: Vec<Vec<OwnedRecord>>,
    pub expect: Expectation,
}

/// What must stand in the database once all batches are applied, however they were cut.
#[derive(Debug, Clone)]
pub struct Expectation {
    /// `enriched_user` by `user_id`.
    pub table: BTreeMap<String, Row>,
    /// Users without a row whose tombstone must be there.
    pub tombstones: BTreeSet<String>,
    pub quarantine: BTreeMap<Place, ExpectedQuarantine>,
    /// By partition, offset and user.
    pub out_of_order: BTreeMap<(i32, i64, String), Late>,
    pub sums: BTreeMap<i32, Sums>,
    /// Fields that no schema knows, with the number of events that have them.
    pub unmapped: BTreeMap<String, u64>,
}

/// A record that must be in quarantine.
#[derive(Debug, Clone)]
pub struct ExpectedQuarantine {
    /// `refused` or `held`.
    pub state: String,
    /// Of a refused one `decode`, `model` or `target`.
    pub stage: Option<String>,
    /// What the reason (or the column it names) must contain, any case.
    pub reason: Option<String>,
    /// Users that it keeps waiting; `None` where that is not checked.
    pub users: Option<BTreeSet<String>>,
}

impl Fixture {
    /// All records, in the order in which they are written.
    pub fn records(&self) -> impl Iterator<Item = &OwnedRecord> {
        self.batches.iter().flatten()
    }
}

/// All fixtures, by name.
pub fn all() -> Vec<Fixture> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().filter(|path| path.extension().is_some_and(|ending| ending == "toml")).map(|path| load(path)).collect()
}

/// The fixture in one file.
pub fn load(path: &Path) -> Fixture {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let file: File = toml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut next_offset = BTreeMap::new();
    let batches = file.batch.into_iter().map(|batch| {
        let events = batch.events.into_iter();
        events.map(|event| event.into_record(&mut next_offset, path)).collect()
    });
    Fixture {
        name: path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
        about: file.about.trim().replace('\n', " "),
        partitions: file.partitions,
        on_error: file.on_error,
        version: file.version,
        batches: batches.collect(),
        expect: file.expect.into_expectation(),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    about: String,
    #[serde(default = "one")]
    partitions: i32,
    #[serde(default = "hold_key")]
    on_error: String,
    #[serde(default = "event_time")]
    version: String,
    batch: Vec<Batch>,
    expect: Expect,
}

fn one() -> i32 {
    1
}

fn hold_key() -> String {
    "hold_key".to_owned()
}

fn event_time() -> String {
    "event_time".to_owned()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Batch {
    events: Vec<Event>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Event {
    Json(String),
    Record(RecordEntry),
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RecordEntry {
    #[serde(default)]
    partition: i32,
    key: Option<String>,
    kafka_ts: Option<i64>,
    value: Option<String>,
    hex: Option<String>,
    #[serde(default)]
    null: bool,
    repeat: Option<MarkedRepeat>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MarkedRepeat {
    mark: String,
    text: String,
    times: usize,
}

impl Event {
    fn into_record(self, next_offset: &mut BTreeMap<i32, i64>, path: &Path) -> OwnedRecord {
        let entry = match self {
            Self::Json(value) => RecordEntry { value: Some(value), ..RecordEntry::default() },
            Self::Record(entry) => entry,
        };
        let next = next_offset.entry(entry.partition).or_insert(0);
        let offset = *next;
        *next += 1;
        let value = match (entry.value, entry.hex, entry.null) {
            (Some(value), None, false) => {
                let repeat = |at: MarkedRepeat| value.replace(&at.mark, &at.text.repeat(at.times));
                Some(entry.repeat.map_or_else(|| value.clone(), repeat).into_bytes())
            }
            (None, Some(hex), false) => Some(bytes(&hex)),
            (None, None, true) => None,
            _ => panic!("{}: offset {offset}: an event has one of value, hex and null", path.display()),
        };
        OwnedRecord {
            partition: entry.partition,
            offset,
            timestamp_ms: Some(entry.kafka_ts.unwrap_or(KAFKA_TS_MS)),
            key: entry.key.map(String::into_bytes),
            value,
        }
    }
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.chars().map(|digit| digit.to_digit(16).expect("a hex digit") as u8).collect();
    digits.chunks(2).map(|pair| pair[0] * 16 + pair[1]).collect()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expect {
    #[serde(default)]
    table: Vec<TableRow>,
    #[serde(default)]
    tombstones: BTreeSet<String>,
    #[serde(default)]
    quarantine: Vec<QuarantineRow>,
    #[serde(default)]
    out_of_order: Vec<LateRow>,
    #[serde(default)]
    unmapped: BTreeMap<String, u64>,
    sums: BTreeMap<String, SumsRow>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TableRow {
    user_id: Text,
    name: Option<Text>,
    email: Option<Text>,
    country: Option<Text>,
    country_name: Option<Text>,
    region: Option<Text>,
    version: VersionEntry,
}

/// A text, or one so long that nobody wants to read it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Text {
    Plain(String),
    Repeated { repeat: String, times: usize },
}

impl From<Text> for String {
    fn from(text: Text) -> Self {
        match text {
            Text::Plain(text) => text,
            Text::Repeated { repeat, times } => repeat.repeat(times),
        }
    }
}

/// Event time in milliseconds and place of the event whose row stands.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct VersionEntry {
    ts: i64,
    #[serde(default)]
    partition: i32,
    offset: i64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct QuarantineRow {
    #[serde(default)]
    partition: i32,
    offset: i64,
    state: String,
    stage: Option<String>,
    reason: Option<String>,
    users: Option<BTreeSet<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LateRow {
    #[serde(default)]
    partition: i32,
    offset: i64,
    user_id: String,
    /// Milliseconds, like the event's own.
    ts: i64,
    known: i64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
struct SumsRow {
    read: u64,
    ignored: u64,
    refused: u64,
    held: u64,
    accepted: u64,
    changes: u64,
}

impl Expect {
    fn into_expectation(self) -> Expectation {
        let quarantine = self.quarantine.into_iter().map(|row| {
            let QuarantineRow { partition, offset, state, stage, reason, users } = row;
            ((partition, offset), ExpectedQuarantine { state, stage, reason, users })
        });
        let out_of_order = self.out_of_order.into_iter().map(|row| {
            let late = Late { ts_ns: row.ts * NS_PER_MS, known_ns: row.known * NS_PER_MS };
            ((row.partition, row.offset, row.user_id), late)
        });
        let sums = self.sums.into_iter().map(|(partition, row)| {
            let SumsRow { read, ignored, refused, held, accepted, changes } = row;
            let partition = partition.parse().expect("sums are given per partition number");
            (partition, Sums { read, ignored, refused, held, accepted, changes })
        });
        Expectation {
            table: self.table.into_iter().map(TableRow::into_row).collect(),
            tombstones: self.tombstones,
            quarantine: quarantine.collect(),
            out_of_order: out_of_order.collect(),
            sums: sums.collect(),
            unmapped: self.unmapped,
        }
    }
}

impl TableRow {
    fn into_row(self) -> (String, Row) {
        let row = Row {
            name: self.name.map(Into::into),
            email: self.email.map(Into::into),
            country: self.country.map(Into::into),
            country_name: self.country_name.map(Into::into),
            region: self.region.map(Into::into),
            cdc_ts: self.version.ts * NS_PER_MS,
            cdc_partition: self.version.partition,
            cdc_offset: self.version.offset,
        };
        (self.user_id.into(), row)
    }
}
