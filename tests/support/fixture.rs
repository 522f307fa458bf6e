//! The shipped cases, and a few that the shipped models can't pass as they are, for comparison with the independent fold and for real
//! servers: `queries/users/tests/*.yaml` and `tests/fixtures/*.yaml`, read as `afterimage test` reads them.
//!
//! A case is taken that says everything: table, tombstones, quarantine, evidence, sums and unmapped fields, of an empty database. What
//! is not expected must not be there, and a count that isn't given is 0.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use afterimage::config::{OnError, VersionBy};
use afterimage::diagnostic::has_errors;
use afterimage::generate::OwnedRecord;
use afterimage::oracle::{Late, Place, Row, Sums};
use afterimage::workbench::fixture::{self, Case, Cells, Node};

const NS_PER_MS: i64 = 1_000_000;

/// One case.
#[derive(Debug, Clone)]
pub struct Fixture {
    pub name: String,
    /// What the case shows.
    pub about: String,
    pub partitions: i32,
    /// `hold_key` or `skip_event`, as in the config.
    pub on_error: &'static str,
    /// `event_time` or `arrival`, as in the config.
    pub version: &'static str,
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
#[derive(Debug, Clone, Default)]
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

/// All fixtures that say everything, by name.
pub fn all() -> Vec<Fixture> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut fixtures = Vec::new();
    for folder in ["queries/users/tests", "tests/fixtures"] {
        let (cases, faults) = fixture::load(&root.join(folder));
        assert!(!has_errors(&faults), "{faults:#?}");
        fixtures.extend(cases.iter().filter_map(whole));
    }
    fixtures
}

/// The case as a fixture, if it says everything.
fn whole(case: &Case) -> Option<Fixture> {
    let (given, expect) = (&case.given, &case.expect);
    let empty =
        given.table.is_empty() && given.tombstones.is_empty() && given.held.is_empty() && given.lookups.is_empty();
    let (Some(table), Some(tombstones), Some(quarantine)) = (&expect.table, &expect.tombstones, &expect.quarantine)
    else {
        return None;
    };
    let (Some(out_of_order), Some(totals), Some(unmapped)) = (&expect.out_of_order, &expect.sums, &expect.unmapped)
    else {
        return None;
    };
    let expect = Expectation {
        table: table.items.iter().map(table_row).collect(),
        tombstones: tombstones.items.iter().map(scalar).collect(),
        quarantine: quarantine.items.iter().map(quarantined).collect(),
        out_of_order: out_of_order.items.iter().map(late).collect(),
        sums: totals.items.iter().map(|(partition, counts)| (*partition, sums(counts))).collect(),
        unmapped: unmapped.items.iter().map(|count| (count.name.text.clone(), count.count)).collect(),
    };
    let mut batches = given.batches.clone();
    for record in batches.iter_mut().flatten() {
        record.timestamp_ms = Some(fixture::kafka_timestamp_ms(record, 1000));
    }
    let partitions = batches.iter().flatten().map(|record| record.partition + 1).max().unwrap_or(1);
    let on_error = match case.settings.on_error {
        None | Some(OnError::HoldKey) => "hold_key",
        Some(OnError::SkipEvent) => "skip_event",
        Some(OnError::Stop) => return None,
    };
    let version = if case.settings.version == Some(VersionBy::Arrival) { "arrival" } else { "event_time" };
    let (name, about) = (case.name.clone(), case.about.clone());
    empty.then_some(Fixture { name, about, partitions, on_error, version, batches, expect })
}

/// A value as text, also one that is repeated.
fn scalar(node: &Node) -> String {
    if let (Some(text), Some(times)) = (node.get("repeat"), node.get("times")) {
        return scalar(text).repeat(scalar(times).parse().unwrap());
    }
    node.text().unwrap_or_else(|| panic!("{:?} {}", node.span, node.kind())).to_owned()
}

fn number<T: std::str::FromStr<Err: std::fmt::Debug>>(node: &Node) -> T {
    scalar(node).parse().unwrap()
}

/// Whole rows only: a cell that isn't named is a fault of the case.
fn table_row(row: &Cells) -> (String, Row) {
    let cell = |name: &str| row.node.get(name).unwrap_or_else(|| panic!("line {}: no {name}", row.node.span.line));
    let text = |name: &str| Some(cell(name)).filter(|node| !node.is_null()).map(scalar);
    let columns = Row {
        name: text("name"),
        email: text("email"),
        country: text("country"),
        country_name: text("country_name"),
        region: text("region"),
        cdc_ts: number::<i64>(cell("cdc_ts")) * NS_PER_MS,
        cdc_partition: number(cell("cdc_partition")),
        cdc_offset: number(cell("cdc_offset")),
    };
    (scalar(cell("user_id")), columns)
}

fn quarantined(record: &fixture::Quarantined) -> (Place, ExpectedQuarantine) {
    let text = |wanted: &str| record.texts.iter().find(|(name, ..)| *name == wanted).map(|(_, text, _)| text.clone());
    let users = record.keys.as_ref().map(|keys| keys.items.iter().map(scalar).collect());
    let state = text("state").expect("a state");
    (
        (record.partition, record.offset),
        ExpectedQuarantine { state, stage: text("stage"), reason: text("reason"), users },
    )
}

fn late(event: &fixture::Late) -> ((i32, i64, String), Late) {
    let ns = |wanted: &str| {
        let node = event.numbers.iter().find(|(name, _)| *name == wanted).expect("a time");
        number::<i64>(&node.1) * NS_PER_MS
    };
    let user = event.key.iter().map(|(_, node)| scalar(node)).collect();
    ((event.partition, event.offset, user), Late { ts_ns: ns("ts"), known_ns: ns("known_ts") })
}

fn sums(counts: &[fixture::Count]) -> Sums {
    let count = |wanted: &str| counts.iter().find(|count| count.name.text == wanted).map_or(0, |count| count.count);
    Sums {
        read: count("read"),
        ignored: count("ignored"),
        refused: count("refused"),
        held: count("held"),
        accepted: count("accepted"),
        changes: count("changes"),
    }
}
