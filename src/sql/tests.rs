//! The station as a whole, on the shipped models and on models with a fault in them.

mod analyses;
mod batches;
mod checks;
mod empty_join;
mod explain;
mod fold;
mod latest_rule;
mod lookups;
mod nested;
mod reuse;
mod running_rule;

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, BinaryArray, Int32Array, Int64Array, RecordBatch, StringArray, StructArray,
    TimestampMillisecondArray, TimestampNanosecondArray,
};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Field, Fields, Int32Type, Int64Type, Schema, SchemaRef, TimeUnit};

use super::{Engine, Input, LookupFrom, LookupSpec, ModelSpec, VersionBy};
use crate::diagnostic::Diagnostic;
use crate::error::Result;
use crate::hold::{HoldSet, Key, Pending, PendingState};
use crate::position::{Partition, Position, Version};
use crate::work::{Evaluation, OutOfOrder, Refusal, Stage};

/// A row image: userId, name, email, country.
type Image = [Option<&'static str>; 4];

/// An event as decode would hand it over.
#[derive(Debug, Clone)]
struct Event {
    op: &'static str,
    before: Option<Image>,
    after: Option<Image>,
    /// Seconds.
    ts: i64,
    partition: Partition,
    offset: i64,
}

fn user(id: &'static str, country: Option<&'static str>) -> Image {
    [Some(id), Some("Name"), None, country]
}

fn upsert(id: &'static str, country: Option<&'static str>, ts: i64, offset: i64) -> Event {
    Event { op: "u", before: None, after: Some(user(id, country)), ts, partition: 0, offset }
}

fn delete(id: &'static str, ts: i64, offset: i64) -> Event {
    Event { op: "d", before: Some(user(id, None)), after: None, ts, partition: 0, offset }
}

fn rename(old: &'static str, new: &'static str, country: Option<&'static str>, ts: i64, offset: i64) -> Event {
    Event { op: "u", before: Some(user(old, country)), after: Some(user(new, country)), ts, partition: 0, offset }
}

fn image_fields() -> Fields {
    ["userId", "name", "email", "country"].map(|name| Field::new(name, DataType::Utf8, true)).to_vec().into()
}

fn events_schema() -> SchemaRef {
    let image = DataType::Struct(image_fields());
    Arc::new(Schema::new(vec![
        Field::new("op", DataType::Utf8, false),
        Field::new("before", image.clone(), true),
        Field::new("after", image, true),
        Field::new("ts", DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into())), false),
        Field::new("_topic", DataType::Utf8, false),
        Field::new("_partition", DataType::Int32, false),
        Field::new("_offset", DataType::Int64, false),
        Field::new("_kafka_ts", DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())), true),
        Field::new("_key", DataType::Binary, true),
        Field::new("_schema_version", DataType::Int32, false),
    ]))
}

fn images(images: &[Option<Image>]) -> ArrayRef {
    let columns = (0..4).map(|column| {
        let values: StringArray = images.iter().map(|image| image.and_then(|image| image[column])).collect();
        Arc::new(values) as ArrayRef
    });
    let present: NullBuffer = images.iter().map(Option::is_some).collect();
    Arc::new(StructArray::new(image_fields(), columns.collect(), Some(present)))
}

fn batch(events: &[Event]) -> RecordBatch {
    let of = |part: fn(&Event) -> Option<Image>| images(&events.iter().map(part).collect::<Vec<_>>());
    let columns: Vec<ArrayRef> = vec![
        Arc::new(events.iter().map(|event| Some(event.op)).collect::<StringArray>()),
        of(|event| event.before),
        of(|event| event.after),
        Arc::new(
            TimestampNanosecondArray::from_iter_values(events.iter().map(|event| event.ts * 1_000_000_000))
                .with_timezone("UTC"),
        ),
        Arc::new(events.iter().map(|_| Some("user_cdc")).collect::<StringArray>()),
        Arc::new(Int32Array::from_iter_values(events.iter().map(|event| event.partition))),
        Arc::new(Int64Array::from_iter_values(events.iter().map(|event| event.offset))),
        Arc::new(TimestampMillisecondArray::new_null(events.len()).with_timezone("UTC")),
        Arc::new(BinaryArray::new_null(events.len())),
        Arc::new(Int32Array::from_iter_values(events.iter().map(|_| 1))),
    ];
    RecordBatch::try_new(events_schema(), columns).unwrap()
}

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn spec() -> ModelSpec {
    let queries = repository().join("queries/users");
    let countries = LookupFrom::File(queries.join("lookups/countries.csv"));
    ModelSpec {
        name: "users".into(),
        queries,
        key: vec!["user_id".into()],
        version: VersionBy::EventTime,
        hold_keys: true,
        lookups: vec![LookupSpec { name: "countries".into(), key: vec!["code".into()], from: countries }],
    }
}

async fn prepare(spec: &ModelSpec) -> Result<(Engine, Vec<Diagnostic>), Vec<Diagnostic>> {
    Engine::prepare(spec, events_schema(), None).await
}

async fn shipped() -> Engine {
    prepare(&spec()).await.unwrap().0
}

/// A copy of the shipped models with some files replaced or added.
fn edited(files: &[(&str, &str)]) -> (tempfile::TempDir, ModelSpec) {
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(repository().join("queries/users")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "sql") {
            std::fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
        }
    }
    for (name, sql) in files {
        std::fs::write(dir.path().join(format!("{name}.sql")), sql).unwrap();
    }
    let spec = ModelSpec { queries: dir.path().to_owned(), ..spec() };
    (dir, spec)
}

/// The text of a shipped model.
fn sql(name: &str) -> String {
    std::fs::read_to_string(repository().join(format!("queries/users/{name}.sql"))).unwrap()
}

/// What a service keeps between batches, and what its target would hold.
#[derive(Default)]
struct World {
    holds: HoldSet,
    high_water_ns: BTreeMap<Partition, i64>,
    /// Per user: the version, and the row unless deleted (as text).
    table: BTreeMap<String, (Version, Option<String>)>,
    evidence: Vec<OutOfOrder>,
}

impl World {
    /// Runs one batch and applies what comes out.
    async fn run(&mut self, engine: &mut Engine, events: RecordBatch) -> Result<Evaluation> {
        self.run_with(engine, events, &[], &[], &HashSet::new()).await
    }

    async fn run_with(
        &mut self,
        engine: &mut Engine,
        events: RecordBatch,
        bad: &[(Event, &'static str)],
        forced: &[Refusal],
        rerun: &HashSet<Position>,
    ) -> Result<Evaluation> {
        let salvage = batch(&bad.iter().map(|(event, _)| event.clone()).collect::<Vec<_>>());
        let decode_refused: Vec<Refusal> =
            bad.iter().map(|(event, reason)| refusal(event.partition, event.offset, Stage::Decode, reason)).collect();
        let evaluation = engine
            .evaluate(Input {
                events,
                salvage,
                decode_refused: &decode_refused,
                ignored: &[],
                forced,
                holds: &self.holds,
                rerun,
                high_water_ns: &self.high_water_ns,
                partitions: &[],
            })
            .await?;
        let stored = |row: usize| self.table.get(&key_of(&evaluation.latest, row)).map(|(version, _)| *version);
        let known: Vec<_> = evaluation.suspects.iter().map(|row| (*row, stored(*row))).collect();
        self.evidence.extend(engine.evidence(&evaluation.suspicion, &known).await?);
        self.apply(&evaluation, rerun);
        Ok(evaluation)
    }

    fn apply(&mut self, evaluation: &Evaluation, rerun: &HashSet<Position>) {
        for row in 0..evaluation.latest.num_rows() {
            let (version, image) = image_of(&evaluation.latest, row);
            let stored = self.table.entry(key_of(&evaluation.latest, row)).or_insert((version, image.clone()));
            if version > stored.0 {
                *stored = (version, image);
            }
        }
        for position in rerun {
            self.holds.remove(*position);
        }
        for refusal in &evaluation.refused {
            self.holds.insert(refusal.position, Pending { keys: refusal.keys.clone(), state: PendingState::Refused });
        }
        for held in &evaluation.held {
            self.holds.insert(held.position, Pending { keys: held.keys.clone(), state: PendingState::Held });
        }
        for sums in &evaluation.sums {
            let top = self.high_water_ns.entry(sums.partition).or_insert(i64::MIN);
            *top = (*top).max(sums.high_water_ns.unwrap_or(i64::MIN));
        }
    }

    /// Users that the table holds, with their country.
    fn users(&self) -> Vec<String> {
        self.table.iter().filter(|(_, (_, row))| row.is_some()).map(|(user, _)| user.clone()).collect()
    }
}

fn refusal(partition: Partition, offset: i64, stage: Stage, reason: &str) -> Refusal {
    let position = Position { partition, offset };
    Refusal { position, keys: Vec::new(), stage, model: None, column: None, reason: reason.to_owned() }
}

fn text(batch: &RecordBatch, column: &str, row: usize) -> Option<String> {
    let values = batch.column_by_name(column).unwrap().as_string::<i32>();
    use arrow::array::Array;
    values.is_valid(row).then(|| values.value(row).to_owned())
}

fn key_of(latest: &RecordBatch, row: usize) -> String {
    text(latest, "user_id", row).unwrap()
}

fn image_of(latest: &RecordBatch, row: usize) -> (Version, Option<String>) {
    let long = |name: &str| latest.column_by_name(name).unwrap().as_primitive::<Int64Type>().value(row);
    let version = Version {
        ts_ns: long("cdc_ts"),
        partition: latest.column_by_name("cdc_partition").unwrap().as_primitive::<Int32Type>().value(row),
        offset: long("cdc_offset"),
    };
    let deleted = latest.column_by_name("_deleted").unwrap().as_boolean().value(row);
    let columns = ["name", "email", "country", "country_name", "region"];
    let image = columns.map(|column| text(latest, column, row).unwrap_or("-".into())).join("|");
    (version, (!deleted).then_some(image))
}

fn key(text: &str) -> Key {
    Key(text.into())
}

fn offsets<'a>(positions: impl IntoIterator<Item = &'a Position>) -> Vec<i64> {
    positions.into_iter().map(|position| position.offset).collect()
}

fn refused(evaluation: &Evaluation) -> Vec<i64> {
    offsets(evaluation.refused.iter().map(|refusal| &refusal.position))
}

fn held(evaluation: &Evaluation) -> Vec<i64> {
    offsets(evaluation.held.iter().map(|held| &held.position))
}

fn write(dir: &Path, name: &str, content: &str) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, content).unwrap();
    path
}
