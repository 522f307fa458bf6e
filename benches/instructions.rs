//! Instructions per event on the hot paths, counted by valgrind: a figure that comes out the same on a busy machine, where no clock does.
//!
//! Each case runs in a process of its own under `callgrind`, which counts inside one function only. What it counts stands beside what
//! was recorded in `benches/instructions.txt`, marked where they differ by more than 5 %; `UPDATE=1` records anew. Cache misses and the
//! processor's own parallelism don't show here: these are no times.
//!
//! `make instructions`. Says so and ends well where there is no valgrind.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a bench fails by panicking")]
#![allow(dead_code, unreachable_pub, reason = "the road is that of the tests, which has more than this needs")]

#[path = "../tests/support/world.rs"]
mod world;

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use afterimage::decode::{Decoded, events_schema};
use afterimage::generate::OwnedRecord;
use afterimage::hold::HoldSet;
use afterimage::sink::{Lines, Marks};
use afterimage::sql::{Engine, Input, LookupFrom, LookupSpec, ModelSpec};
use afterimage::work::Evaluation;
use arrow::array::{ArrayRef, RecordBatch, StringArray};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Differences beyond it are marked.
const TOLERANCE: f64 = 0.05;
/// Rounds that are counted, after one that isn't where that can be told apart.
const ROUNDS: usize = 4;
const MEASURED: &str = "*instructions::measured*";
const JOIN: &str = "*sql::index_join::exec::Join::batch*";

/// A case: its name, the function inside of which instructions are counted, events per round.
struct Case(&'static str, &'static str, usize);

const CASES: [Case; 4] = [
    Case("decode", MEASURED, 1_000),
    Case("models", MEASURED, 500),
    Case("index_join_100k", JOIN, 500),
    Case("encode", MEASURED, 1_000),
];

fn main() {
    if let Ok(case) = std::env::var("INSTRUCTIONS_CASE") {
        return run(&case, &tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap());
    }
    if Command::new("valgrind").arg("--version").output().is_err() {
        println!("instructions: skipped, there is no valgrind (Debian: apt-get install valgrind)");
        return;
    }
    let file = world::repository("benches/instructions.txt");
    let recorded = recorded(&file);
    println!("{:<18} {:>22} {:>12} {:>9}", "", "instructions per event", "recorded", "");
    let mut counted = Vec::new();
    for Case(name, function, events) in CASES {
        let now = count(name, function) as f64 / (events * ROUNDS) as f64;
        let before = recorded.get(name).copied();
        let change = before.map(|before| now / before - 1.0);
        let mark = match change {
            Some(change) if change.abs() > TOLERANCE => format!("{:+.1} %  <--", change * 100.0),
            Some(change) => format!("{:+.1} %", change * 100.0),
            None => "new".to_owned(),
        };
        println!("{name:<18} {now:>22.1} {:>12} {mark:>9}", before.map_or(String::new(), |it| format!("{it:.1}")));
        figure(name, now, before.unwrap_or(now));
        counted.push((name, now));
    }
    if std::env::var("UPDATE").is_ok_and(|value| value == "1") {
        let mut text =
            "# Instructions per event, of the crate at optimisation level 3: UPDATE=1 make instructions\n".to_owned();
        for (name, now) in counted {
            text.push_str(&format!("{name} {now:.1}\n"));
        }
        std::fs::write(&file, text).unwrap();
    }
}

fn recorded(file: &PathBuf) -> BTreeMap<String, f64> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let lines = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once(' '));
    lines.map(|(name, figure)| (name.to_owned(), figure.trim().parse().unwrap())).collect()
}

/// A line of JSON for whoever collects figures.
fn figure(name: &str, now: f64, before: f64) {
    use std::io::Write;
    let Ok(path) = std::env::var("BENCH_JSON") else { return };
    let (what, ratio) = (format!("instructions per event, {name}"), now / before);
    let line = serde_json::json!({"what": what, "value": now, "unit": "Ir", "reference": before, "ratio": ratio});
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
    writeln!(file, "{line}").unwrap();
}

/// What callgrind counts inside `function` while the case runs.
fn count(case: &str, function: &str) -> u64 {
    let done = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", &format!("--toggle-collect={function}")])
        .arg(std::env::current_exe().unwrap())
        .env("INSTRUCTIONS_CASE", case)
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{case} under valgrind: {told}");
    let collected = told.lines().find_map(|line| line.split_once("Collected : ")).map(|(_, count)| count.trim());
    let count = collected.and_then(|count| count.parse().ok()).unwrap_or_default();
    assert!(count > 0, "{case}: nothing ran inside {function}: {told}");
    count
}

/// What is counted: nothing of it may move into the caller.
#[inline(never)]
fn measured<T>(work: impl FnOnce() -> T) -> T {
    std::hint::black_box(work())
}

fn run(case: &str, runtime: &tokio::runtime::Runtime) {
    match case {
        "decode" => {
            let records = records(1_000, germany);
            let mut decoder = world::users_decoder();
            for round in 0..=ROUNDS {
                let mut work = || decoder.decode(records.iter().map(OwnedRecord::as_raw)).unwrap().events.num_rows();
                assert_eq!(if round == 0 { work() } else { measured(work) }, 1_000);
            }
        }
        "models" | "index_join_100k" => {
            let mut engine = runtime.block_on(engine((case != "models").then_some(100_000)));
            let far = |nth: usize| format!("k{}", nth * 7_919 % 100_000);
            let records = if case == "models" { records(500, germany) } else { records(500, far) };
            let mut decoder = world::users_decoder();
            // The join is counted wherever it runs.
            for round in usize::from(case != "models")..=ROUNDS {
                let decoded = decoder.decode(records.iter().map(OwnedRecord::as_raw)).unwrap();
                let mut work = || runtime.block_on(evaluate(&mut engine, &decoded)).latest.num_rows();
                assert!((if round == 0 { work() } else { measured(work) }) > 0);
            }
        }
        "encode" => {
            let mut engine = runtime.block_on(engine(None));
            let records = records(1_000, germany);
            let decoded = world::users_decoder().decode(records.iter().map(OwnedRecord::as_raw)).unwrap();
            let rows = runtime.block_on(evaluate(&mut engine, &decoded)).latest;
            assert_eq!(rows.num_rows(), 1_000);
            let target = engine.derive_target("enriched_user");
            let numbers: Vec<usize> = (0..rows.num_rows()).collect();
            for round in 0..=ROUNDS {
                let work = || Lines::encode(&target, &rows, Marks::default(), &numbers).unwrap().len();
                assert!((if round == 0 { work() } else { measured(work) }) > 0);
            }
        }
        other => panic!("no such case: {other}"),
    }
}

async fn evaluate(engine: &mut Engine, decoded: &Decoded) -> Evaluation {
    let input = Input {
        events: decoded.events.clone(),
        salvage: decoded.salvage.clone(),
        decode_refused: &[],
        ignored: &[],
        forced: &[],
        holds: &HoldSet::default(),
        rerun: &HashSet::new(),
        high_water_ns: &BTreeMap::new(),
        partitions: &[0],
    };
    engine.evaluate(input).await.unwrap()
}

/// The shipped models, with a lookup of so many countries or the shipped one.
async fn engine(countries: Option<usize>) -> Engine {
    let mut spec: ModelSpec = world::users_spec(world::repository("queries/users"), true);
    if let Some(countries) = countries {
        let text = |of: fn(usize) -> String| StringArray::from_iter_values((0..countries).map(of));
        let rows = RecordBatch::try_from_iter([
            ("code", Arc::new(text(|nth| format!("k{nth}"))) as ArrayRef),
            ("name", Arc::new(text(|nth| format!("country number {nth}")))),
            ("region", Arc::new(text(|nth| format!("region {}", nth % 9)))),
        ]);
        let from = LookupFrom::Table(rows.unwrap());
        spec.lookups = vec![LookupSpec { name: "countries".into(), key: vec!["code".into()], from }];
    }
    Engine::prepare(&spec, events_schema(&world::users_schema()), None).await.unwrap().0
}

fn germany(_: usize) -> String {
    "DE".to_owned()
}

/// Changes of as many users, about 290 bytes each.
fn records(events: usize, country: impl Fn(usize) -> String) -> Vec<OwnedRecord> {
    let record = |nth: usize| {
        let country = country(nth);
        let user = |generation: usize| {
            format!(
                r#"{{"userId":"{nth:08}","name":"Alice Maria Smith the {generation}th","email":"alice.smith.{nth}@example.org","country":"{country}"}}"#
            )
        };
        let (op, before, after) = match nth % 10 {
            0..3 => ("c", "null".to_owned(), user(1)),
            3..9 => ("u", user(1), user(2)),
            _ => ("d", user(2), "null".to_owned()),
        };
        let value = format!(r#"{{"op":"{op}","before":{before},"after":{after},"timestamp":1700000000000}}"#);
        OwnedRecord {
            partition: 0,
            offset: nth as i64,
            timestamp_ms: Some(1_700_000_000_000),
            key: Some(b"123456".to_vec()),
            value: Some(value.into_bytes()),
        }
    };
    (0..events).map(record).collect()
}
