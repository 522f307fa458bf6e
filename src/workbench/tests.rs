use std::path::{Path, PathBuf};

use datafusion::common::ScalarValue;

use super::*;
use crate::config::Config;
use crate::generate::{Mix, Workload};
use crate::hold::Key;
use crate::oracle::{self, Settings};
use crate::sink::positions::SumChanges;

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The shipped pipeline.
pub(super) fn users() -> config::Pipeline {
    let environment = |name: &str| (name == "MYSQL_PASSWORD").then(|| "x".to_owned());
    let path = repository("docs/afterimage.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let (config, _) = Config::parse(&text, &repository("afterimage.toml"), &environment).unwrap();
    config.pipelines["users"].clone()
}

async fn bench() -> Bench {
    Bench::prepare(&users(), &BTreeMap::new()).await.unwrap().0
}

fn key(user: &str) -> Key {
    Key(serde_json::json!([user]).to_string().into())
}

fn event(offset: i64, value: &str) -> OwnedRecord {
    let value = Some(value.as_bytes().to_vec());
    OwnedRecord { partition: 0, offset, timestamp_ms: Some(1_700_000_600_000), key: None, value }
}

fn upsert(offset: i64, user: &str, name: &str, ts: i64) -> OwnedRecord {
    event(
        offset,
        &format!(r#"{{"op":"u","before":null,"after":{{"userId":"{user}","name":"{name}"}},"timestamp":{ts}}}"#),
    )
}

fn delete(offset: i64, user: &str, ts: i64) -> OwnedRecord {
    event(offset, &format!(r#"{{"op":"d","before":{{"userId":"{user}"}},"after":null,"timestamp":{ts}}}"#))
}

fn name_of(tables: &Tables, user: &str) -> Option<ScalarValue> {
    tables.rows.get(&key(user)).map(|row| row.cells[1].clone())
}

/// Lines that tell all that the tables hold, for comparison with the fold's.
fn lines(tables: &Tables) -> Vec<String> {
    let names: Vec<&str> = tables.columns().fields().iter().map(|field| field.name().as_str()).collect();
    let mut lines = Vec::new();
    for (key, row) in &tables.rows {
        let cells: Vec<String> = names.iter().zip(&row.cells).map(|(name, cell)| format!("{name}={cell:?}")).collect();
        lines.push(format!("row {key} {:?} {}", row.version, cells.join(" ")));
    }
    lines.extend(tables.standing_tombstones().map(|(key, version)| format!("gone {key} {version:?}")));
    for (position, record) in &tables.quarantine {
        let stage = record.why.as_ref().map(|why| why.stage.name());
        let mut keys: Vec<&str> = record.keys.iter().map(|key| &*key.0).collect();
        keys.sort_unstable();
        lines.push(format!("quarantine {position} {} {stage:?} {keys:?}", record.state()));
    }
    for ((position, key), late) in &tables.out_of_order {
        lines.push(format!("late {position} {key} {} {}", late.ts_ns, late.known.ts_ns));
    }
    for (partition, sums) in &tables.sums {
        let SumChanges { read, ignored, refused, held, accepted, changes, .. } = sums;
        lines.push(format!("sums {partition} {read} {ignored} {refused} {held} {accepted} {changes}"));
    }
    lines
}

/// The same lines of the fold's outcome.
fn folded_lines(expected: &oracle::Expected) -> Vec<String> {
    let version = |(ts_ns, partition, offset)| Version { ts_ns, partition, offset };
    let position = |(partition, offset)| Position { partition, offset };
    let mut lines = Vec::new();
    for (user, row) in &expected.rows {
        let oracle::Row { name, email, country, country_name, region, .. } = row.clone();
        let cells = [
            ("user_id", Some(user.clone())),
            ("name", name),
            ("email", email),
            ("country", country),
            ("country_name", country_name),
            ("region", region),
        ];
        let cells: Vec<String> = cells.map(|(name, text)| format!("{name}={:?}", ScalarValue::Utf8(text))).into();
        lines.push(format!("row {} {:?} {}", key(user), version(row.version()), cells.join(" ")));
    }
    let gone = expected.standing_tombstones();
    lines.extend(gone.into_iter().map(|(user, at)| format!("gone {} {:?}", key(&user), version(at))));
    for (place, record) in &expected.quarantine {
        let mut keys: Vec<String> = record.users.iter().map(|user| key(user).to_string()).collect();
        keys.sort_unstable();
        let (state, stage) = (&record.state, record.stage.as_deref());
        lines.push(format!("quarantine {} {state} {stage:?} {keys:?}", position(*place)));
    }
    for ((partition, offset, user), late) in &expected.out_of_order {
        let place = position((*partition, *offset));
        lines.push(format!("late {place} {} {} {}", key(user), late.ts_ns, late.known_ns));
    }
    for (partition, sums) in &expected.sums {
        let oracle::Sums { read, ignored, refused, held, accepted, changes } = sums;
        lines.push(format!("sums {partition} {read} {ignored} {refused} {held} {accepted} {changes}"));
    }
    lines
}

// Proves: P1, P4
#[tokio::test]
async fn the_tables_hold_what_the_independent_fold_comes_to_wherever_batches_are_cut() {
    let countries = oracle::read_countries(&repository("queries/users/lookups/countries.csv")).unwrap();
    let mut bench = bench().await;
    for (seed, cut) in [(1, 7), (2, 100), (3, 2_000)] {
        let workload = Workload { events: 2_000, users: 100, seed, mix: Mix::harsh(), ..Workload::default() };
        let records: Vec<OwnedRecord> = workload.records().collect();
        bench.start(bench.empty().unwrap());
        for batch in records.chunks(cut) {
            bench.run(batch).await.unwrap();
        }
        let mut sorted: Vec<&OwnedRecord> = records.iter().collect();
        sorted.sort_by_key(|record| (record.partition, record.offset));
        let expected = oracle::fold(Settings::users(countries.clone()), sorted.into_iter().map(OwnedRecord::as_raw));
        let (mut expected, mut found) = (folded_lines(&expected), lines(bench.tables()));
        expected.sort();
        found.sort();
        assert!(expected.len() > 100, "the workload says too little: {} lines", expected.len());
        for kind in ["row", "gone", "quarantine", "late", "sums"] {
            assert!(expected.iter().any(|line| line.starts_with(kind)), "no {kind} in the workload");
        }
        similar(&expected, &found);
    }
}

fn similar(expected: &[String], found: &[String]) {
    let missing: Vec<&String> = expected.iter().filter(|line| !found.contains(line)).take(5).collect();
    let extra: Vec<&String> = found.iter().filter(|line| !expected.contains(line)).take(5).collect();
    assert!(missing.is_empty() && extra.is_empty(), "missing: {missing:#?}\nextra: {extra:#?}");
}

#[tokio::test]
async fn each_write_says_what_becomes_of_it() {
    let mut bench = bench().await;
    let turn = bench.run(&[upsert(0, "1", "Ada", 1_700_000_000_000), delete(1, "2", 1_700_000_000_000)]).await.unwrap();
    let kinds = |turn: &Turn| turn.writes.iter().map(|write| write.kind).collect::<Vec<_>>();
    assert_eq!(kinds(&turn), [WriteKind::Insert, WriteKind::Delete]);
    let turn = bench.run(&[upsert(2, "1", "Eve", 1_700_000_000_001), upsert(3, "2", "Bo", 1_699_999_999_999)]).await;
    let turn = turn.unwrap();
    assert_eq!(kinds(&turn), [WriteKind::Update, WriteKind::Superseded]);
    assert_eq!(turn.writes[0].before.as_ref().map(|row| row.cells[1].clone()), Some(ScalarValue::from("Ada")));
    assert_eq!(name_of(bench.tables(), "1"), Some(ScalarValue::from("Eve")));
    assert_eq!(name_of(bench.tables(), "2"), None, "a late update doesn't bring a deleted row back");
    let sums = bench.tables().sums[&0];
    assert_eq!((sums.changes, sums.upserted, sums.deleted, sums.superseded), (4, 2, 1, 1));
    assert_eq!(turn.model("latest").map(RecordBatch::num_rows), Some(2));
}

#[tokio::test]
async fn it_goes_on_from_tables_that_stand() {
    let mut bench = bench().await;
    let mut tables = bench.empty().unwrap();
    let mut cells: Vec<ScalarValue> = vec![ScalarValue::from("1"), ScalarValue::from("Ada")];
    cells.resize(tables.columns().fields().len(), ScalarValue::Utf8(None));
    let version = |offset| Version { ts_ns: 1_700_000_000_000_000_000, partition: 0, offset };
    tables.rows.insert(key("1"), Row { version: version(5), cells });
    tables.tombstones.insert(key("2"), version(6));
    let waits = Quarantined { keys: vec![key("3")], why: None, record: None };
    tables.quarantine.insert(Position { partition: 0, offset: 7 }, waits);
    bench.start(tables);
    let older = 1_699_999_999_999;
    bench.run(&[upsert(10, "1", "X", older), upsert(11, "2", "X", older), upsert(12, "3", "X", older)]).await.unwrap();
    assert_eq!(name_of(bench.tables(), "1"), Some(ScalarValue::from("Ada")));
    assert_eq!(name_of(bench.tables(), "2"), None);
    let held = &bench.tables().quarantine[&Position { partition: 0, offset: 12 }];
    assert_eq!((held.state(), held.keys.as_slice()), ("held", [key("3")].as_slice()));
}

#[tokio::test]
async fn an_equal_version_writes_again_and_a_tombstone_of_the_same_event_wins() {
    let bench = bench().await;
    let mut tables = bench.empty().unwrap();
    let version = Version { ts_ns: 0, partition: 0, offset: 0 };
    let cells = vec![ScalarValue::from("Ada"); tables.columns().fields().len()];
    tables.rows.insert(key("1"), Row { version, cells });
    let latest = bench.engine().no_rows().unwrap();
    let staged = |deleted| tables::Staged { keys: vec![key("1")], versions: vec![version], deleted: vec![deleted] };
    let schema = latest.schema();
    let nulls = schema.fields().iter().map(|field| arrow::array::new_null_array(field.data_type(), 1));
    let fields: Vec<_> = schema.fields().iter().map(|field| (**field).clone().with_nullable(true)).collect();
    let one =
        RecordBatch::try_new(std::sync::Arc::new(arrow::datatypes::Schema::new(fields)), nulls.collect()).unwrap();
    tables.merge(&staged(false), &one).unwrap();
    assert_eq!(name_of(&tables, "1"), Some(ScalarValue::Utf8(None)), "it writes again");
    tables.merge(&staged(true), &one).unwrap();
    assert!(!tables.rows.contains_key(&key("1")));
    assert!(row_keys(&latest, 1).unwrap().is_empty());
}

#[tokio::test]
async fn under_stop_a_refusal_applies_nothing_of_its_batch() {
    let pipeline = config::Pipeline { on_error: OnError::Stop, ..users() };
    let (mut bench, _) = Bench::prepare(&pipeline, &BTreeMap::new()).await.unwrap();
    let error = bench.run(&[upsert(0, "1", "Ada", 1_700_000_000_000), event(1, "{")]).await.unwrap_err();
    assert_eq!(error.kind, Kind::RecordRefused);
    assert!(bench.tables().rows.is_empty() && bench.tables().sums.is_empty());
}
