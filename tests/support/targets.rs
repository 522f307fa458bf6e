//! What is fuzzed: one function per reader of untrusted text, each from bytes to nothing, or to a panic where a promise is broken.
//!
//! `tests/fuzz.rs` looks for bytes that break them, guided by coverage; `tests/corpus.rs` runs them over everything that was ever worth
//! keeping, with every other test.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use afterimage::config::{Config, Pipeline};
use afterimage::decode::{Changes, DecodeOptions, Decoded, Decoder, Keyed, TimestampUnit, events_schema};
use afterimage::diagnostic::{Diagnostic, has_errors, render};
use afterimage::error::Kind;
use afterimage::generate::{read_events_file, write_ndjson};
use afterimage::hold::HoldSet;
use afterimage::oracle::{self, Expected, Settings};
use afterimage::record::RawRecord;
use afterimage::schema::SourceSchema;
use afterimage::schema::compat::differences;
use afterimage::schema::infer::infer;
use afterimage::sql::{Engine, Input, LookupTable};
use afterimage::workbench;
use afterimage::workbench::test::{self, CaseReport, Failure, Options, update};
use arrow::array::{Array, AsArray, RecordBatch, StructArray};
use arrow::datatypes::{DataType, Date32Type, Field, FieldRef, Fields, TimestampNanosecondType};
use tempfile::TempDir;

use super::world;

/// From bytes to nothing, or to a panic.
pub type Target = fn(&[u8]);

/// The targets by name, which is also the name of a folder in `tests/corpus`.
pub const ALL: [(&str, Target); 8] = [
    ("config", config),
    ("decode", decode),
    ("events", events),
    ("fixture", fixture),
    ("lookup", lookup),
    ("models", models),
    ("records", records),
    ("schema", schema),
];

pub fn named(name: &str) -> Option<Target> {
    ALL.iter().find(|(known, _)| *known == name).map(|(_, target)| *target)
}

const KAFKA_MS: i64 = 1_700_000_000_000;
const GOOD: &[u8] = br#"{"op":"c","before":null,"after":{"userId":"good","name":"Ada"},"timestamp":1700000000000}"#;

fn raw(offset: i64, value: &[u8]) -> RawRecord<'_> {
    let timestamp_ms = Some(KAFKA_MS);
    RawRecord { partition: 0, offset, timestamp_ms, key: None, value: Some(value), headers: b"" }
}

/// A payload between two good ones: the decoder and the fold agree about it in everything that decoding decides.
fn decode(data: &[u8]) {
    thread_local! {
        static DECODER: RefCell<(Decoder, Settings)> = RefCell::new((world::users_decoder(), wide()));
    }
    DECODER.with_borrow_mut(|(decoder, settings)| {
        let decoded = decoder.decode([raw(0, GOOD), raw(1, data), raw(2, GOOD)]).expect("bad records are no error");
        let expected = oracle::fold(settings.clone(), [raw(1, data)]);
        let refused = decoded.refused.len();
        assert_eq!(decoded.events.num_rows() + refused, 3, "P4");
        assert_eq!((decoded.salvage.num_rows(), decoded.ignored.len()), (refused, 0), "P4");
        let last = decoded.events.num_rows() - 1;
        assert_eq!(decoded.events.slice(0, 1).columns()[..4], decoded.events.slice(last, 1).columns()[..4], "P5");
        assert!(decoded.unmapped.values().all(|count| *count == 1), "{:?}", decoded.unmapped);
        agree(&decoded, &expected);
    });
}

/// Settings under which the fold refuses an event only for what decoding refuses it.
fn wide() -> Settings {
    Settings { max_chars: usize::MAX, hold: false, ..world::settings(false) }
}

fn agree(decoded: &Decoded, expected: &Expected) {
    let quarantined = expected.quarantine.get(&(0, 1));
    let refused = quarantined.is_some_and(|record| record.stage.as_deref() == Some("decode"));
    assert_eq!(!decoded.refused.is_empty(), refused, "{:?}, but the fold has {quarantined:?}", decoded.refused);
    let rows = if refused { &decoded.salvage } else { &decoded.events };
    let row = usize::from(!refused);
    let [upserted, deleted] = users(rows, row);
    let named: BTreeSet<String> = upserted.iter().chain(&deleted).cloned().collect();
    if let Some(record) = quarantined {
        assert_eq!(named, record.users, "users that the record names");
        return;
    }
    assert_eq!(upserted.as_ref(), expected.rows.keys().next(), "whose row it writes");
    assert_eq!(deleted.as_ref(), expected.tombstones.keys().next(), "whom it deletes");
    let ts = rows.column_by_name("ts").unwrap().as_primitive::<TimestampNanosecondType>().value(row);
    for row_of in expected.rows.values() {
        let after = rows.column_by_name("after").unwrap().as_struct();
        let found = ["name", "email", "country"].map(|field| text(after, field, row));
        assert_eq!(found, [row_of.name.clone(), row_of.email.clone(), row_of.country.clone()]);
        assert_eq!(ts, row_of.cdc_ts);
    }
    assert!(expected.tombstones.values().all(|version| version.0 == ts));
}

/// Who is written and who is deleted, as the model `changes` has it.
fn users(rows: &RecordBatch, row: usize) -> [Option<String>; 2] {
    let ops = rows.column_by_name("op").unwrap().as_string::<i32>();
    let user = |image| text(rows.column_by_name(image).unwrap().as_struct(), "userId", row);
    let (before, after) = (user("before"), user("after"));
    match ops.is_valid(row).then(|| ops.value(row)) {
        None => [None, None],
        Some("d") => [None, before],
        Some("u") if before != after => [after, before],
        Some(_) => [after, None],
    }
}

fn text(image: &StructArray, field: &str, row: usize) -> Option<String> {
    let values = image.column_by_name(field).unwrap().as_string::<i32>();
    (image.is_valid(row) && values.is_valid(row)).then(|| values.value(row).to_owned())
}

thread_local! {
    /// For readers that want a file.
    static FOLDER: TempDir = tempfile::tempdir().unwrap();
}

fn in_file<T>(name: &str, data: &[u8], read: impl FnOnce(&Path) -> T) -> T {
    FOLDER.with(|folder| {
        let path = folder.path().join(name);
        std::fs::write(&path, data).unwrap();
        read(&path)
    })
}

/// Faults are there for a reason, point into the text and can be shown.
fn sound(faults: &[Diagnostic], text: &str) {
    let lines: Vec<&str> = text.split('\n').collect();
    for fault in faults {
        assert!(fault.code.len() == 6 && fault.code.starts_with("AI0"), "{fault:?}");
        assert!(!fault.message.is_empty(), "{fault:?}");
        let Some(span) = fault.span else { continue };
        assert!((span.line, span.column) <= (span.end_line, span.end_column), "{fault:?}");
        for (line, column) in [(span.line, span.column), (span.end_line, span.end_column)] {
            // One past the last character, and one past the last line where the text ends with a line break.
            let width = lines.get(line.wrapping_sub(1)).map_or(0, |line| line.chars().count());
            assert!(line >= 1 && line <= lines.len() + 1, "{fault:?}: there are {} lines", lines.len());
            assert!(column >= 1 && column <= width + 2, "{fault:?}: the line has {width} characters");
        }
    }
    for color in [false, true] {
        render(faults, &mut std::io::sink(), color).unwrap();
    }
}

/// A config file.
fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    // Half of all variables are set.
    let environment = |name: &str| name.len().is_multiple_of(2).then(|| name.to_lowercase());
    in_file("afterimage.toml", data, |path| match Config::parse(text, path, &environment) {
        Ok((config, warnings)) => {
            assert!(!has_errors(&warnings));
            assert!(!config.pipelines.is_empty());
            sound(&warnings, text);
        }
        Err(faults) => {
            assert!(has_errors(&faults));
            sound(&faults, text);
        }
    });
}

/// A schema file, and an event read by it.
fn schema(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let read = in_file("1.json", data, |path| SourceSchema::parse(1, path, text));
    let schema = match read {
        Ok(schema) => schema,
        Err(faults) => {
            assert!(has_errors(&faults));
            return sound(&faults, text);
        }
    };
    let options =
        DecodeOptions { topic: "t".into(), timestamp_unit: TimestampUnit::Us, max_future_skew: Default::default() };
    let mut decoder = Decoder::new(&schema, options);
    let image = members(&schema.fields);
    let event = format!(r#"{{"op":"u","before":{{}},"after":{{{image}}},"timestamp":1}}"#);
    let decoded = decoder.decode([raw(0, event.as_bytes()), raw(1, GOOD)]).expect("bad records are no error");
    assert_eq!(decoded.events.num_rows() + decoded.refused.len(), 2, "P4");
    assert_eq!(decoded.events.schema(), events_schema(&schema));
    // What we write of it is the same schema, which may follow itself; and what is inferred from its event only adds.
    let again = SourceSchema::parse(1, Path::new("1.json"), &schema.text()).expect("our own text");
    assert_eq!((&again.fields, &again.breaking.len()), (&schema.fields, &schema.breaking.len()));
    assert!(differences(&schema, &again).is_empty(), "{:?}", differences(&schema, &again));
    if let Ok(next) = infer([event.as_bytes()], &[], Some(&schema)) {
        let next = SourceSchema::parse(2, Path::new("2.json"), &next.text()).expect("our own text");
        assert!(differences(&schema, &next).iter().all(|difference| !difference.is_breaking()), "{next:?}");
    }
}

/// The members of an object with something for each field that its type takes, for some of them.
fn members(fields: &Fields) -> String {
    let member = |field: &FieldRef| format!("{}:{}", serde_json::Value::from(field.name().as_str()), value(field));
    fields.iter().map(member).collect::<Vec<_>>().join(",")
}

fn value(field: &Field) -> String {
    match field.data_type() {
        DataType::Struct(fields) => format!("{{{}}}", members(fields)),
        DataType::List(items) => format!("[{0},null,{0}]", value(items)),
        kind if kind.is_numeric() => "1".to_owned(),
        _ => r#""2024-02-29""#.to_owned(),
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    }
    RUNTIME.with(|runtime| runtime.block_on(future))
}

/// A lookup's file: the first byte says of which kind it is, and whether it begins as it should.
fn lookup(data: &[u8]) {
    thread_local! {
        static ENGINE: RefCell<Engine> = RefCell::new(block_on(async {
            let spec = world::users_spec(world::repository("queries/users"), true);
            Engine::prepare(&spec, events_schema(&world::users_schema()), None).await.expect("the shipped models").0
        }));
    }
    let Some((kind, data)) = data.split_first() else { return };
    let (name, data) = match kind % 8 {
        0..=2 => ("lookup.csv", [b"code,name,region\n", data].concat()),
        3 | 4 => ("lookup.csv", data.to_vec()),
        5 | 6 => ("lookup.ndjson", data.to_vec()),
        _ => ("lookup.parquet", data.to_vec()),
    };
    let read = in_file(name, &data, |path| ENGINE.with_borrow_mut(|engine| engine.reload_lookup("countries", path)));
    if let Err(faults) = read {
        assert!(has_errors(&faults));
        sound(&faults, &String::from_utf8_lossy(&data));
    }
}

fn keyed_record<'r>(key: &'r [u8], value: Option<&'r [u8]>) -> RawRecord<'r> {
    RawRecord { key: Some(key), value, ..raw(0, b"") }
}

/// A record of a lookup's topic between two good ones: taken or refused, and the others are what they are without it. The first byte
/// says how many of the others are the record's key.
fn records(data: &[u8]) {
    let Some((length, data)) = data.split_first() else { return };
    let (key, value) = data.split_at(data.len().min(usize::from(*length)));
    let columns = [("code", DataType::Utf8), ("day", DataType::Date32), ("rate", DataType::Decimal128(10, 4))];
    let columns = columns.map(|(name, kind)| (name.to_owned(), kind));
    for names in [vec!["code".to_owned()], vec!["day".to_owned()], vec!["code".to_owned(), "rate".to_owned()]] {
        let mut keyed = Keyed::new(&columns, &names);
        let good = |keyed: &mut Keyed, day: &str| {
            let value = format!("{{\"code\":\"DE\",\"day\":\"{day}\",\"rate\":1}}");
            keyed.push(&keyed_record(b"{}", Some(value.as_bytes()))).expect("a good record");
        };
        good(&mut keyed, "2024-01-01");
        let taken = [Some(value), None].map(|value| usize::from(keyed.push(&keyed_record(key, value)).is_ok()));
        good(&mut keyed, "2024-01-02");
        let Changes { rows, deleted } = keyed.take().expect("what was taken can be put together");
        assert_eq!((rows.num_rows(), deleted.len()), (2 + taken[0] + taken[1], rows.num_rows()));
        let days = rows.column(1).as_primitive::<Date32Type>();
        assert_eq!((days.value(0), days.value(rows.num_rows() - 1)), (19_723, 19_724));
        for name in &names {
            assert_eq!(rows.column_by_name(name).map(|column| column.null_count()), Some(0), "no key is NULL");
        }
        let mut table = LookupTable::from_batches("it", &names, vec![rows.slice(0, 0)]).expect("an empty table");
        table.apply(rows, &deleted).expect("rows of its own columns");
    }
}

/// Events in a file, as `preview` reads them; what can be read can be written and read again.
fn events(data: &[u8]) {
    let Ok(records) = in_file("events.ndjson", data, |path| read_events_file(path, 1000)) else { return };
    let mut written = Vec::new();
    write_ndjson(&mut written, records.iter().cloned()).unwrap();
    let again = in_file("again.ndjson", &written, |path| read_events_file(path, 1000));
    match again {
        Ok(again) => assert_eq!(again, records),
        Err(error) => panic!("what was written can't be read: {error}"),
    }
}

/// A fixture: refused with a reason, or it runs, and what it expects can be brought up to date so that it passes.
fn fixture(data: &[u8]) {
    thread_local! {
        static USERS: (Pipeline, TempDir) = users_in_a_folder();
    }
    USERS.with(|(pipeline, folder)| {
        let file = folder.path().join("queries/users/tests/case.yaml");
        std::fs::write(&file, data).unwrap();
        let text = String::from_utf8_lossy(data);
        let report = block_on(test::run(pipeline, &BTreeMap::new(), &Options::default()));
        sound(&report.faults, text.strip_prefix('\u{feff}').unwrap_or(&text));
        assert!(report.faults.iter().all(|fault| fault.code.starts_with("AI05")), "{:?}", report.faults);
        // Columns that exist no more are no fault where the file is updated.
        let unknown = report.faults.iter().any(|fault| fault.code == workbench::fixture::code::UNKNOWN_COLUMN);
        let report = match unknown {
            true => block_on(test::run(pipeline, &BTreeMap::new(), &Options { update: true, ..Options::default() })),
            false => report,
        };
        let (cases, faults) = fixture_of(&file, data);
        assert!(has_errors(&faults) || cases > 0, "neither a case nor a fault");
        let only_rows = |case: &&CaseReport| case.failures.iter().all(|failure| matches!(failure, Failure::Section(_)));
        let cases: Vec<&CaseReport> = report.cases.iter().filter(only_rows).collect();
        if has_errors(&report.faults)
            || cases.len() < report.cases.len()
            || cases.iter().all(|case| case.failures.is_empty() && gone(case).is_empty())
        {
            return;
        }
        match update::rewrite(&file, &cases) {
            Ok(changed) => assert!(changed, "a case fails, and nothing is to be updated"),
            // Few ways of writing a cell can't be taken out, and that is said.
            Err(error) => {
                let by_hand = error.kind() == std::io::ErrorKind::InvalidData;
                assert!(by_hand && cases.iter().any(|case| !gone(case).is_empty()), "{error}");
                return;
            }
        }
        let again = block_on(test::run(pipeline, &BTreeMap::new(), &Options::default()));
        let updated = std::fs::read_to_string(&file).unwrap();
        assert!(again.good(), "after --update {:?} {:?}:\n{updated}", again.faults, again.cases);
    });
}

fn gone(case: &CaseReport) -> &[workbench::fixture::bind::Gone] {
    case.outcome.as_ref().map_or(&[], |outcome| &outcome.gone)
}

fn fixture_of(file: &Path, data: &[u8]) -> (usize, Vec<Diagnostic>) {
    let (cases, faults) = workbench::fixture::parse(file, data);
    (cases.len(), faults)
}

/// The shipped pipeline in a folder of its own, without its cases.
fn users_in_a_folder() -> (Pipeline, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let queries = folder.path().join("queries/users");
    std::fs::create_dir_all(queries.join("tests")).unwrap();
    for name in MODELS {
        let name = format!("{name}.sql");
        std::fs::copy(world::repository("queries/users").join(&name), queries.join(&name)).unwrap();
    }
    let text = std::fs::read_to_string(world::repository("docs/afterimage.toml")).unwrap();
    let environment = |_: &str| Some("x".to_owned());
    let config = Config::parse(&text, &world::repository("afterimage.toml"), &environment);
    let mut pipeline = config.expect("the shipped config").0.pipelines["users"].clone();
    pipeline.queries = queries;
    (pipeline, folder)
}

/// The models that may be replaced, by the first byte.
const MODELS: [&str; 6] = ["accepted", "changes", "enriched", "latest", "metrics", "out_of_order"];

/// One of the shipped models in another wording: refused with a reason, or it runs.
fn models(data: &[u8]) {
    thread_local! {
        static SHIPPED: TempDir = shipped_models();
        static BATCH: Decoded = some_events();
    }
    let Some((which, sql)) = data.split_first() else { return };
    let Ok(sql) = std::str::from_utf8(sql) else { return };
    let name = format!("{}.sql", MODELS[usize::from(*which) % MODELS.len()]);
    SHIPPED.with(|shipped| {
        let file = shipped.path().join(&name);
        let before = std::fs::read(&file).unwrap();
        std::fs::write(&file, sql).unwrap();
        let spec = world::users_spec(shipped.path().to_owned(), true);
        let outcome = block_on(Engine::prepare(&spec, events_schema(&world::users_schema()), None));
        match outcome {
            Err(faults) => {
                assert!(has_errors(&faults));
                let (here, elsewhere): (Vec<_>, Vec<_>) =
                    faults.into_iter().partition(|fault| fault.file.as_deref() == Some(file.as_path()));
                sound(&here, sql);
                assert!(elsewhere.iter().all(|fault| !fault.message.is_empty()));
            }
            Ok((mut engine, warnings)) => {
                assert!(!has_errors(&warnings));
                BATCH.with(|batch| run(&mut engine, batch));
            }
        }
        std::fs::write(&file, before).unwrap();
    });
}

fn shipped_models() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in MODELS {
        let name = format!("{name}.sql");
        std::fs::copy(world::repository("queries/users").join(&name), folder.path().join(&name)).unwrap();
    }
    folder
}

fn some_events() -> Decoded {
    let events: [&[u8]; 4] = [
        GOOD,
        br#"{"op":"u","before":{"userId":"1"},"after":{"userId":"2","country":"XX"},"timestamp":1600000000000}"#,
        br#"{"op":"d","before":{"userId":"good"},"after":null,"timestamp":1700000000001}"#,
        br#"{"op":"r","before":null,"after":{"userId":"2","email":"","country":"DE"},"timestamp":1}"#,
    ];
    let records = events.iter().zip(0..).map(|(value, offset)| raw(offset, value));
    world::users_decoder().decode(records).unwrap()
}

/// What a model yields may break its contract; it may not break us.
fn run(engine: &mut Engine, batch: &Decoded) {
    let input = Input {
        events: batch.events.clone(),
        salvage: batch.salvage.clone(),
        decode_refused: &[],
        ignored: &[],
        forced: &[],
        holds: &HoldSet::default(),
        rerun: &Default::default(),
        high_water_ns: &BTreeMap::new(),
        partitions: &[0],
    };
    match block_on(engine.evaluate(input)) {
        Ok(evaluation) => {
            for sums in &evaluation.sums {
                let (classes, changes) = (sums.classes, sums.changes);
                assert_eq!(classes.read, classes.ignored + classes.refused + classes.held + classes.accepted, "P4");
                assert_eq!(changes.changes, changes.upserted + changes.deleted + changes.superseded, "P4");
            }
            let known: Vec<_> = evaluation.suspects.iter().map(|row| (*row, None)).collect();
            if let Err(error) = block_on(engine.evidence(&evaluation.suspicion, &known)) {
                assert_eq!(error.kind, Kind::Model, "{error}");
            }
        }
        Err(error) => assert_eq!(error.kind, Kind::Model, "{error}"),
    }
}
