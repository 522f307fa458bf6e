//! The road without servers: decoder and engine as one instance has them, and the tables that it would write.
//!
//! [`Tables`] is what a database keeps, [`Instance`] what a process keeps in memory. A batch is evaluated by an instance and then
//! applied to the tables as a whole, or not at all. What comes out is compared with the independent fold.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use afterimage::decode::{DecodeOptions, Decoder, TimestampUnit, events_schema};
use afterimage::generate::OwnedRecord;
use afterimage::hold::{HoldSet, Key, Pending, PendingState};
use afterimage::oracle::{self, Expected, Late, Quarantined, Row, Settings};
use afterimage::position::{Partition, Position, Version};
use afterimage::schema::SourceSchema;
use afterimage::sql::{Engine, Input, LookupFrom, LookupSpec, ModelSpec, VersionBy};
use afterimage::work::Evaluation;
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type};

/// What stands in the database.
#[derive(Debug, Clone, Default)]
pub struct Tables {
    /// Rows and tombstones: a key's newest version, and its row unless that version is a delete.
    pub rows: BTreeMap<String, (Version, Option<Row>)>,
    pub pending: BTreeMap<Position, Pending>,
    pub high_water_ns: BTreeMap<Partition, i64>,
    pub next_offset: BTreeMap<Partition, i64>,
    /// Quarantine, evidence and sums.
    found: Expected,
}

/// What a process keeps in memory.
pub struct Instance {
    decoder: Decoder,
    engine: Engine,
    holds: HoldSet,
    high_water_ns: BTreeMap<Partition, i64>,
}

pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The shipped pipeline's settings for the fold.
pub fn settings(hold: bool) -> Settings {
    let countries = oracle::read_countries(&repository("queries/users/lookups/countries.csv")).unwrap();
    Settings { hold, ..Settings::users(countries) }
}

/// The shipped schema.
pub fn users_schema() -> SourceSchema {
    SourceSchema::load(&repository("schemas/users")).expect("the shipped schema")
}

/// A decoder as the shipped pipeline has it.
pub fn users_decoder() -> Decoder {
    let options = DecodeOptions {
        topic: "user_cdc".into(),
        timestamp_unit: TimestampUnit::Ms,
        max_future_skew: Duration::from_secs(3600),
    };
    Decoder::new(&users_schema(), options)
}

/// The shipped pipeline's models, in `queries`.
pub fn users_spec(queries: PathBuf, hold_keys: bool) -> ModelSpec {
    let countries = LookupFrom::File(repository("queries/users/lookups/countries.csv"));
    ModelSpec {
        name: "users".into(),
        queries,
        key: vec!["user_id".into()],
        version: VersionBy::EventTime,
        hold_keys,
        lookups: vec![LookupSpec { name: "countries".into(), key: vec!["code".into()], from: countries }],
    }
}

impl Instance {
    pub async fn new(hold_keys: bool) -> Self {
        let spec = users_spec(repository("queries/users"), hold_keys);
        let (engine, _) =
            Engine::prepare(&spec, events_schema(&users_schema()), None).await.expect("the shipped models");
        let (holds, high_water_ns) = (HoldSet::default(), BTreeMap::new());
        Self { decoder: users_decoder(), engine, holds, high_water_ns }
    }

    /// Forgets everything and reads back what the tables know of `partitions`: a start, a recovery, a rebalance.
    pub fn recover(&mut self, tables: &Tables, partitions: &BTreeSet<Partition>) {
        self.holds = HoldSet::default();
        let mine = tables.pending.iter().filter(|(position, _)| partitions.contains(&position.partition));
        for (position, pending) in mine {
            self.holds.insert(*position, pending.clone());
        }
        let mine = tables.high_water_ns.iter().filter(|(partition, _)| partitions.contains(partition));
        self.high_water_ns = mine.map(|(partition, top)| (*partition, *top)).collect();
    }

    /// Decodes `records` and runs the models over them; changes nothing that outlives the call.
    pub async fn evaluate(&mut self, records: &[OwnedRecord]) -> Evaluation {
        let mut records: Vec<&OwnedRecord> = records.iter().collect();
        records.sort_by_key(|record| (record.partition, record.offset));
        let decoded = self.decoder.decode(records.into_iter().map(OwnedRecord::as_raw)).unwrap();
        let decode_refused: Vec<_> = decoded.refused.iter().map(|refusal| refusal.to_refusal()).collect();
        let input = Input {
            events: decoded.events,
            salvage: decoded.salvage,
            decode_refused: &decode_refused,
            ignored: &decoded.ignored,
            forced: &[],
            holds: &self.holds,
            rerun: &HashSet::new(),
            high_water_ns: &self.high_water_ns,
            partitions: &[],
        };
        self.engine.evaluate(input).await.unwrap()
    }

    /// One batch along the road, into `tables`.
    pub async fn run(&mut self, tables: &mut Tables, records: &[OwnedRecord]) {
        let evaluation = self.evaluate(records).await;
        self.apply(tables, &evaluation, records).await;
    }

    /// Applies a batch that was evaluated.
    pub async fn apply(&mut self, tables: &mut Tables, evaluation: &Evaluation, records: &[OwnedRecord]) {
        let stored = |row: usize| tables.rows.get(&user_id(&evaluation.latest, row)).map(|(version, _)| *version);
        let known: Vec<_> = evaluation.suspects.iter().map(|row| (*row, stored(*row))).collect();
        for late in self.engine.evidence(&evaluation.suspicion, &known).await.unwrap() {
            let place = (late.position.partition, late.position.offset, user(&late.key));
            tables.found.out_of_order.insert(place, Late { ts_ns: late.ts_ns, known_ns: late.known.ts_ns });
        }
        tables.apply(evaluation, records);
        self.advance(evaluation);
    }

    /// Memory follows what was applied.
    fn advance(&mut self, evaluation: &Evaluation) {
        for (position, pending, _) in quarantined(evaluation) {
            self.holds.insert(position, pending);
        }
        for sums in &evaluation.sums {
            let top = self.high_water_ns.entry(sums.partition).or_insert(i64::MIN);
            *top = (*top).max(sums.high_water_ns.unwrap_or(i64::MIN));
        }
    }
}

/// Records of `evaluation` that go into quarantine, with the stage of the refused ones.
fn quarantined(evaluation: &Evaluation) -> impl Iterator<Item = (Position, Pending, Option<&'static str>)> {
    let refused = evaluation.refused.iter().map(|refusal| {
        let pending = Pending { keys: refusal.keys.clone(), state: PendingState::Refused };
        (refusal.position, pending, Some(refusal.stage.name()))
    });
    let held = evaluation.held.iter().map(|held| {
        let pending = Pending { keys: held.keys.clone(), state: PendingState::Held };
        (held.position, pending, None)
    });
    refused.chain(held)
}

impl Tables {
    fn apply(&mut self, evaluation: &Evaluation, records: &[OwnedRecord]) {
        self.keep_rows(&evaluation.latest);
        for (position, pending, stage) in quarantined(evaluation) {
            let record = Quarantined {
                state: if stage.is_some() { "refused" } else { "held" }.to_owned(),
                stage: stage.map(str::to_owned),
                users: pending.keys.iter().map(user).collect(),
            };
            self.found.quarantine.insert((position.partition, position.offset), record);
            self.pending.insert(position, pending);
        }
        self.keep_sums(evaluation);
        for record in records {
            let next = self.next_offset.entry(record.partition).or_default();
            *next = (*next).max(record.offset + 1);
        }
    }

    fn keep_rows(&mut self, latest: &RecordBatch) {
        for row in 0..latest.num_rows() {
            let (version, image) = image(latest, row);
            let stored = self.rows.entry(user_id(latest, row)).or_insert((version, image.clone()));
            if version > stored.0 {
                *stored = (version, image);
            }
        }
    }

    fn keep_sums(&mut self, evaluation: &Evaluation) {
        for sums in &evaluation.sums {
            let (classes, changes) = (sums.classes, sums.changes);
            assert_eq!(classes.read, classes.ignored + classes.refused + classes.held + classes.accepted, "P4");
            assert_eq!(changes.changes, changes.upserted + changes.deleted + changes.superseded, "P4");
            let total = self.found.sums.entry(sums.partition).or_default();
            total.read += classes.read;
            total.ignored += classes.ignored;
            total.refused += classes.refused;
            total.held += classes.held;
            total.accepted += classes.accepted;
            total.changes += changes.changes;
            if let Some(ts_ns) = sums.high_water_ns {
                let top = self.high_water_ns.entry(sums.partition).or_insert(ts_ns);
                *top = (*top).max(ts_ns);
            }
        }
    }

    /// All that stands in the tables, in the form of the fold.
    pub fn found(&self) -> Expected {
        let rows = self.rows.iter().filter_map(|(user, (_, row))| Some((user.clone(), row.clone()?)));
        let gone = self.rows.iter().filter(|(_, (_, row))| row.is_none());
        Expected {
            rows: rows.collect(),
            tombstones: gone.map(|(user, (at, _))| (user.clone(), (at.ts_ns, at.partition, at.offset))).collect(),
            next_offset: self.next_offset.clone(),
            ..self.found.clone()
        }
    }
}

fn text(batch: &RecordBatch, column: &str, row: usize) -> Option<String> {
    let values = batch.column_by_name(column).unwrap().as_string::<i32>();
    values.is_valid(row).then(|| values.value(row).to_owned())
}

fn user_id(latest: &RecordBatch, row: usize) -> String {
    text(latest, "user_id", row).unwrap()
}

/// The only part of a key.
pub fn user(key: &Key) -> String {
    serde_json::from_str::<[String; 1]>(&key.0).unwrap().concat()
}

fn image(latest: &RecordBatch, row: usize) -> (Version, Option<Row>) {
    let long = |name: &str| latest.column_by_name(name).unwrap().as_primitive::<Int64Type>().value(row);
    let partition = latest.column_by_name("cdc_partition").unwrap().as_primitive::<Int32Type>().value(row);
    let version = Version { ts_ns: long("cdc_ts"), partition, offset: long("cdc_offset") };
    let deleted = latest.column_by_name("_deleted").unwrap().as_boolean().value(row);
    let image = Row {
        name: text(latest, "name", row),
        email: text(latest, "email", row),
        country: text(latest, "country", row),
        country_name: text(latest, "country_name", row),
        region: text(latest, "region", row),
        cdc_ts: version.ts_ns,
        cdc_partition: version.partition,
        cdc_offset: version.offset,
    };
    (version, (!deleted).then_some(image))
}

/// The fold of `records`, which may come in any order.
pub fn fold(settings: &Settings, records: &[OwnedRecord]) -> Expected {
    let mut records: Vec<&OwnedRecord> = records.iter().collect();
    records.sort_by_key(|record| (record.partition, record.offset));
    oracle::fold(settings.clone(), records.into_iter().map(OwnedRecord::as_raw))
}

/// Where rows, tombstones, quarantine and sums differ, a few lines of each kind.
pub fn state_differences(expected: &Expected, found: &Expected) -> Vec<String> {
    let mut lines = oracle::differences("row", &expected.rows, &found.rows, 5);
    let (stand, stood) = (expected.standing_tombstones(), found.standing_tombstones());
    lines.extend(oracle::differences("tombstone", &stand, &stood, 5));
    lines.extend(oracle::differences("quarantine", &expected.quarantine, &found.quarantine, 5));
    lines.extend(oracle::differences("sums of partition", &expected.sums, &found.sums, 5));
    lines
}

/// As [`state_differences`], and where the evidence differs.
pub fn differences(expected: &Expected, found: &Expected) -> Vec<String> {
    let mut lines = state_differences(expected, found);
    lines.extend(oracle::differences("out of order", &expected.out_of_order, &found.out_of_order, 5));
    lines
}
