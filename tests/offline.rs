//! Decoder and models together, without any server, against the independent fold: table, quarantine with its users, evidence and sums
//! are the same for every workload and however it is cut into batches.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use afterimage::decode::{DecodeOptions, Decoder, TimestampUnit, events_schema};
use afterimage::generate::{Mix, OwnedRecord, Workload};
use afterimage::hold::{HoldSet, Key, Pending, PendingState};
use afterimage::oracle::{self, Expected, Late, Quarantined, Row, Settings};
use afterimage::position::{Partition, Version};
use afterimage::schema::SourceSchema;
use afterimage::sql::{Engine, Input, LookupFrom, LookupSpec, ModelSpec, VersionBy};
use afterimage::work::Evaluation;
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type};

/// What a service keeps between batches, the tables it would write, and what they come to.
struct World {
    decoder: Decoder,
    engine: Engine,
    holds: HoldSet,
    high_water_ns: BTreeMap<Partition, i64>,
    /// Rows and tombstones.
    table: BTreeMap<String, (Version, Option<Row>)>,
    found: Expected,
}

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

impl World {
    async fn new(hold_keys: bool) -> Self {
        let schema = SourceSchema::load(&repository("schemas/users")).expect("the shipped schema");
        let options = DecodeOptions {
            topic: "user_cdc".into(),
            timestamp_unit: TimestampUnit::Ms,
            max_future_skew: Duration::from_secs(3600),
        };
        let countries = LookupFrom::File(repository("queries/users/lookups/countries.csv"));
        let spec = ModelSpec {
            name: "users".into(),
            queries: repository("queries/users"),
            key: vec!["user_id".into()],
            version: VersionBy::EventTime,
            hold_keys,
            lookups: vec![LookupSpec { name: "countries".into(), key: vec!["code".into()], from: countries }],
        };
        let (engine, _) = Engine::prepare(&spec, events_schema(&schema), None).await.expect("the shipped models");
        Self {
            decoder: Decoder::new(&schema, options),
            engine,
            holds: HoldSet::default(),
            high_water_ns: BTreeMap::new(),
            table: BTreeMap::new(),
            found: Expected::default(),
        }
    }

    async fn run(&mut self, records: &[OwnedRecord]) {
        let mut records = records.to_vec();
        records.sort_by_key(|record| (record.partition, record.offset));
        let decoded = self.decoder.decode(records.iter().map(OwnedRecord::as_raw)).unwrap();
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
        let evaluation = self.engine.evaluate(input).await.unwrap();
        self.keep_evidence(&evaluation).await;
        self.keep_rows(&evaluation.latest);
        self.keep_quarantine(&evaluation);
        self.keep_sums(&evaluation);
    }

    async fn keep_evidence(&mut self, evaluation: &Evaluation) {
        let stored = |row: usize| self.table.get(&user_id(&evaluation.latest, row)).map(|(version, _)| *version);
        let known: Vec<_> = evaluation.suspects.iter().map(|row| (*row, stored(*row))).collect();
        for late in self.engine.evidence(&known).await.unwrap() {
            let place = (late.position.partition, late.position.offset, user(&late.key));
            self.found.out_of_order.insert(place, Late { ts_ns: late.ts_ns, known_ns: late.known.ts_ns });
        }
    }

    fn keep_rows(&mut self, latest: &RecordBatch) {
        for row in 0..latest.num_rows() {
            let (version, image) = image(latest, row);
            let stored = self.table.entry(user_id(latest, row)).or_insert((version, image.clone()));
            if version > stored.0 {
                *stored = (version, image);
            }
        }
    }

    fn keep_quarantine(&mut self, evaluation: &Evaluation) {
        let refused = evaluation.refused.iter().map(|refusal| (refusal.position, &refusal.keys, Some(refusal.stage)));
        let held = evaluation.held.iter().map(|held| (held.position, &held.keys, None));
        for (position, keys, stage) in refused.chain(held) {
            let state = if stage.is_some() { PendingState::Refused } else { PendingState::Held };
            self.holds.insert(position, Pending { keys: keys.clone(), state });
            let record = Quarantined {
                state: if stage.is_some() { "refused" } else { "held" }.to_owned(),
                stage: stage.map(|stage| stage.name().to_owned()),
                users: keys.iter().map(user).collect(),
            };
            self.found.quarantine.insert((position.partition, position.offset), record);
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
            let top = self.high_water_ns.entry(sums.partition).or_insert(i64::MIN);
            *top = (*top).max(sums.high_water_ns.unwrap_or(i64::MIN));
        }
    }

    fn into_found(mut self) -> Expected {
        let rows = self.table.into_iter().filter_map(|(user, (_, row))| Some((user, row?)));
        self.found.rows = rows.collect();
        self.found
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
fn user(key: &Key) -> String {
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

/// Where the two sides differ, a few lines of each kind.
fn differences(expected: &Expected, found: &Expected) -> Vec<String> {
    let mut lines = oracle::differences("row", &expected.rows, &found.rows, 5);
    lines.extend(oracle::differences("out of order", &expected.out_of_order, &found.out_of_order, 5));
    lines.extend(oracle::differences("sums of partition", &expected.sums, &found.sums, 5));
    let places: BTreeSet<_> = expected.quarantine.keys().chain(found.quarantine.keys()).collect();
    let differing = places.into_iter().filter(|place| expected.quarantine.get(place) != found.quarantine.get(place));
    lines.extend(differing.take(5).map(|place| {
        format!(
            "quarantine {place:?}: expected {:?}, found {:?}",
            expected.quarantine.get(place),
            found.quarantine.get(place)
        )
    }));
    lines
}

async fn compare(mix: fn() -> Mix, hold: bool) {
    let countries = oracle::read_countries(&repository("queries/users/lookups/countries.csv")).unwrap();
    for (seed, events, cut) in [(1, 400, 1), (2, 3000, 13), (3, 3000, 500), (4, 3000, 3000), (5, 20_000, 9000)] {
        let workload = Workload { events, users: 60, partitions: 3, seed, mix: mix(), ..Workload::default() };
        let records: Vec<OwnedRecord> = workload.records().collect();
        let settings = Settings { hold, ..Settings::users(countries.clone()) };
        let expected = oracle::fold(settings, records.iter().map(OwnedRecord::as_raw));
        let mut world = World::new(hold).await;
        for batch in records.chunks(cut) {
            world.run(batch).await;
        }
        let lines = differences(&expected, &world.into_found());
        assert!(lines.is_empty(), "seed {seed}, batches of {cut}:\n{}", lines.join("\n"));
        assert!(events < 3000 || !expected.rows.is_empty(), "the workload proves nothing");
    }
}

#[tokio::test]
async fn a_lively_workload_comes_to_the_fold() {
    compare(Mix::default, true).await;
}

#[tokio::test]
async fn trouble_everywhere_comes_to_the_fold() {
    compare(Mix::harsh, true).await;
}

#[tokio::test]
async fn an_orderly_stream_comes_to_the_fold() {
    compare(Mix::orderly, true).await;
}

#[tokio::test]
async fn trouble_everywhere_comes_to_the_fold_when_nobody_waits() {
    compare(Mix::harsh, false).await;
}
