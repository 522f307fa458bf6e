//! Lookups: what loading one costs in time and memory, from each source, and what a batch costs by the lookup's size.
//!
//! Loading runs in a process of its own per source: the growth of its resident memory at the peak, over the rows' Arrow bytes, is the
//! figure that is promised to stay below 2. Batches run through the shipped models, those against few rows and those against many taking
//! turns: by the lookup's index and, where the SQL is worded so that the index can't be used, by the planner's own hash join. The ratio of
//! the two sizes says whether the cost follows the lookup. What the machine asks for as many loads from memory that far away, if none
//! of them waits for another, stands beside it: less can't be had.
//!
//! `make bench`, or `cargo bench --profile dev --bench lookup`. `LOOKUP_ROWS` changes the size (5,000,000), `LOOKUP_FROM=csv,topic`
//! picks sources; `mysql` and `topic` start real servers, take minutes, and run only where they are named. `BENCH_JSON` names a file
//! that gets a line of JSON per figure.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a bench fails by panicking")]
#![allow(
    dead_code,
    unused_macros,
    unreachable_pub,
    reason = "servers are those of the tests, which have more than this needs"
)]

// Servers as the tests have them.
#[path = "../tests/support/kafka.rs"]
mod kafka;
#[path = "../tests/support/mysql.rs"]
mod mysql;
#[path = "../tests/support/process.rs"]
mod process;
#[path = "../tests/support/servers.rs"]
mod servers;
#[path = "../tests/support/world.rs"]
mod world;

use std::collections::{BTreeMap, HashSet};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use afterimage::decode::events_schema;
use afterimage::generate::OwnedRecord;
use afterimage::hold::HoldSet;
use afterimage::pipeline::lookups::topic_rows;
use afterimage::pipeline::{Lookup, Origin};
use afterimage::sink::lookup::read_chunks;
use afterimage::source::FollowOptions;
use afterimage::sql::{Engine, Input, LookupFrom, LookupSpec, LookupTable};
use arrow::array::{ArrayRef, Decimal128Array, RecordBatch, StringArray};
use arrow::datatypes::DataType;
use kafka::Message;
use mysql::Database;

/// As in the program itself: its memory is what is measured.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SOURCES: [&str; 5] = ["csv", "parquet", "ndjson", "mysql", "topic"];

fn rows() -> usize {
    std::env::var("LOOKUP_ROWS").ok().and_then(|text| text.parse().ok()).unwrap_or(5_000_000)
}

fn main() {
    if let Ok(case) = std::env::var("LOOKUP_CASE") {
        return load(&case, &std::env::var("LOOKUP_AT").unwrap());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        println!(
            "{:<10} {:>10} {:>8} {:>12} {:>12} {:>8} {:>8}",
            "source", "rows", "s", "arrow MB", "peak MB", "peak", "rest"
        );
        let wanted = std::env::var("LOOKUP_FROM").unwrap_or_else(|_| SOURCES[..3].join(","));
        let folder = servers::scratch("bench-lookup-");
        for source in SOURCES.iter().filter(|source| wanted.split(',').any(|wanted| wanted == **source)) {
            let at = write(source, folder.path()).await;
            let me = std::env::current_exe().unwrap();
            let done = Command::new(me).env("LOOKUP_CASE", source).env("LOOKUP_AT", at).status().unwrap();
            assert!(done.success());
        }
    });
    println!(
        "\n{:<10} {:>7} {:>16} {:>16} {:>7} {:>16} {:>16} {:>7}",
        "join", "events", "enriched 1k us", "enriched us", "ratio", "whole batch 1k", "whole batch us", "ratio"
    );
    for (how, indexed) in [("by index", true), ("by hash", false)] {
        let mut small = runtime.block_on(engine(1_000, indexed));
        let mut large = runtime.block_on(engine(rows(), indexed));
        for events in [500, 8_192] {
            let (of_small, of_large) = runtime.block_on(joins(&mut small, &mut large, events));
            let ratios = [of_large[0] / of_small[0], of_large[1] / of_small[1]];
            println!(
                "{how:<10} {events:>7} {:>16.1} {:>16.1} {:>6.2}x {:>16.1} {:>16.1} {:>6.2}x",
                of_small[0], of_large[0], ratios[0], of_small[1], of_large[1], ratios[1]
            );
            for (nth, what) in [(0, "enriched"), (1, "the models")] {
                let what = format!("{what}, {events} events, {} rows against 1,000, {how}", rows());
                figure(&what, of_large[nth], "us", of_small[nth], ratios[nth]);
            }
        }
    }
    let floor = floor(500, 320 << 20);
    println!("\n500 loads from 320 MB, none waiting for another: {floor:.1} us");
    figure("500 independent loads from 320 MB", floor, "us", floor, 1.0);
}

/// A line of JSON for whoever collects figures.
fn figure(what: &str, value: f64, unit: &str, reference: f64, ratio: f64) {
    let Ok(path) = std::env::var("BENCH_JSON") else { return };
    let line = serde_json::json!({"what": what, "value": value, "unit": unit, "reference": reference, "ratio": ratio});
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
    writeln!(file, "{line}").unwrap();
}

/// The median time of so many loads from random places of so many bytes, in us.
fn floor(loads: usize, bytes: usize) -> f64 {
    let memory: Vec<u64> = (0..bytes as u64 / 8).collect();
    let mut seed = 88_172_645_463_325_252_u64;
    let mut times: Vec<f64> = (0..101)
        .map(|_| {
            let places: Vec<usize> = (0..loads)
                .map(|_| {
                    seed ^= seed << 13;
                    seed ^= seed >> 7;
                    seed ^= seed << 17;
                    seed as usize % memory.len()
                })
                .collect();
            let began = Instant::now();
            std::hint::black_box(places.iter().fold(0_u64, |sum, place| sum.wrapping_add(memory[*place])));
            began.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn code(row: usize) -> String {
    format!("k{row}")
}

fn name(row: usize) -> String {
    format!("country number {row}")
}

const REGIONS: [&str; 4] = ["Europe", "Asia", "Africa", "Oceania"];

/// Puts the rows where the source is; yields what the other process has to know.
async fn write(source: &str, folder: &Path) -> String {
    let path = folder.join(format!("it.{source}"));
    match source {
        "csv" | "ndjson" => {
            let mut out = BufWriter::new(std::fs::File::create(&path).unwrap());
            if source == "csv" {
                writeln!(out, "code,name,region,rate").unwrap();
            }
            for row in 0..rows() {
                let (code, name, region, rate) = (code(row), name(row), REGIONS[row % 4], row % 1000);
                match source {
                    "csv" => writeln!(out, "{code},{name},{region},{rate}.25").unwrap(),
                    _ => writeln!(
                        out,
                        "{{\"code\":\"{code}\",\"name\":\"{name}\",\"region\":\"{region}\",\"rate\":{rate}.25}}"
                    )
                    .unwrap(),
                }
            }
        }
        "parquet" => {
            let mut writer: Option<parquet::arrow::ArrowWriter<std::fs::File>> = None;
            for from in (0..rows()).step_by(100_000) {
                let batch = batch(from..rows().min(from + 100_000));
                let writer = writer.get_or_insert_with(|| {
                    parquet::arrow::ArrowWriter::try_new(std::fs::File::create(&path).unwrap(), batch.schema(), None)
                        .unwrap()
                });
                writer.write(&batch).unwrap();
            }
            writer.unwrap().close().unwrap();
        }
        "mysql" => {
            let database = Database::create(servers::mysql().await).await;
            for statement in [
                "CREATE TABLE d (d INT)".to_owned(),
                "INSERT INTO d VALUES (0),(1),(2),(3),(4),(5),(6),(7),(8),(9)".to_owned(),
                "CREATE TABLE big (code VARCHAR(20), name VARCHAR(60), region VARCHAR(20), rate DECIMAL(10,2))"
                    .to_owned(),
            ] {
                database.execute(&statement).await;
            }
            let numbers = "SELECT a.d + 10*b.d + 100*c.d + 1000*e.d + 10000*f.d + 100000*g.d AS n FROM d a, d b, d c, d e, d f, d g";
            for million in 0..rows().div_ceil(1_000_000) {
                let n = format!("n + {}", million * 1_000_000);
                let values = format!(
                    "CONCAT('k', {n}), CONCAT('country number ', {n}), ELT(1 + n % 4, 'Europe', 'Asia', 'Africa', 'Oceania'), n % 1000 + 0.25"
                );
                database
                    .execute(&format!("INSERT INTO big SELECT {values} FROM ({numbers}) x WHERE {n} < {}", rows()))
                    .await;
            }
            // Dropped, it would be gone before it is read.
            return std::mem::ManuallyDrop::new(database).url.clone();
        }
        _ => {
            let broker = servers::kafka().await;
            let topic = broker.create_topic(2, &[("cleanup.policy", "compact")]).await;
            for from in (0..rows()).step_by(200_000) {
                let messages = (from..rows().min(from + 200_000)).map(|row| {
                    let (name, region, rate) = (name(row), REGIONS[row % 4], row % 1000);
                    let value = format!("{{\"name\":\"{name}\",\"region\":\"{region}\",\"rate\":{rate}.25}}");
                    Message::new((row % 2) as i32, code(row), value)
                });
                broker.produce(&topic, messages.collect()).await;
            }
            return format!("{}/{topic}", broker.brokers());
        }
    }
    path.display().to_string()
}

fn batch(range: std::ops::Range<usize>) -> RecordBatch {
    let text = |of: fn(usize) -> String| Arc::new(StringArray::from_iter_values(range.clone().map(of))) as ArrayRef;
    let rate = Decimal128Array::from_iter_values(range.clone().map(|row| (row % 1000) as i128 * 100 + 25));
    RecordBatch::try_from_iter([
        ("code", text(code)),
        ("name", text(name)),
        ("region", text(|row| REGIONS[row % 4].to_owned())),
        ("rate", Arc::new(rate.with_precision_and_scale(10, 2).unwrap()) as ArrayRef),
    ])
    .unwrap()
}

/// Loads one lookup and prints what it cost.
fn load(source: &str, at: &str) {
    let key = ["code".to_owned()];
    // The allocator's own beginnings aren't the lookup's.
    drop(LookupTable::from_batches("it", &key, vec![batch(0..1000)]).unwrap());
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let (before, began) = (resident("VmRSS:"), Instant::now());
    let table = match source {
        "mysql" => from_mysql(at, &key),
        "topic" => from_topic(at, &key),
        _ => LookupTable::from_file("it", &key, &PathBuf::from(at)).unwrap(),
    };
    let took = began.elapsed();
    let (peak, rest) = (resident("VmHWM:") - before, resident("VmRSS:") - before);
    let columns = table.batches().unwrap();
    let columns = columns.iter().flat_map(RecordBatch::columns);
    let arrow: usize = columns.map(|column| column.to_data().get_slice_memory_size().unwrap()).sum();
    let (mb, times) = (|bytes: usize| bytes as f64 / 1e6, |bytes: usize| bytes as f64 / arrow as f64);
    println!(
        "{source:<10} {:>10} {:>8.1} {:>12.1} {:>12.1} {:>7.2}x {:>7.2}x",
        table.num_rows(),
        took.as_secs_f64(),
        mb(arrow),
        mb(peak),
        times(peak),
        times(rest)
    );
    figure(&format!("memory at the peak of loading a lookup, {source}"), mb(peak), "MB", mb(arrow), times(peak));
    figure(&format!("memory of a loaded lookup, {source}"), mb(rest), "MB", mb(arrow), times(rest));
    figure(&format!("loading {} rows of a lookup, {source}", table.num_rows()), took.as_secs_f64(), "s", 0.0, 0.0);
}

fn from_mysql(url: &str, key: &[String]) -> LookupTable {
    let connector = mysql::connector(url);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let chunks = runtime.block_on(read_chunks(&connector, "SELECT code, name, region, rate FROM big")).unwrap();
    LookupTable::from_batches("it", key, chunks).unwrap()
}

fn from_topic(at: &str, key: &[String]) -> LookupTable {
    let (brokers, topic) = at.split_once('/').unwrap();
    let options = FollowOptions {
        brokers: brokers.to_owned(),
        properties: BTreeMap::new(),
        group: "bench".to_owned(),
        topic: topic.to_owned(),
        client_id: "bench".to_owned(),
    };
    let column = |name: &str, kind| (name.to_owned(), kind);
    let columns = ["code", "name", "region"].map(|name| column(name, DataType::Utf8));
    let columns = columns.into_iter().chain([column("rate", DataType::Decimal128(10, 2))]).collect();
    topic_rows(&Lookup { name: "it".to_owned(), key: key.to_vec(), origin: Origin::Topic { options, columns } })
        .unwrap()
}

/// A line of this process's status, in bytes.
fn resident(line: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let found = status.lines().find_map(|it| it.strip_prefix(line)).unwrap();
    found.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

/// The shipped models over a lookup of this size; `indexed`, or worded so that the index can't be used.
async fn engine(size: usize, indexed: bool) -> Engine {
    let folder = servers::scratch("bench-models-");
    servers::copy(&world::repository("queries/users"), folder.path());
    if !indexed {
        let model = folder.path().join("enriched.sql");
        let sql = std::fs::read_to_string(&model).unwrap();
        let other = sql.replace("ON l.code = c.country", "ON l.code IS NOT DISTINCT FROM c.country");
        assert_ne!(sql, other);
        std::fs::write(&model, other).unwrap();
    }
    let from = LookupFrom::Table(batch(0..size));
    let lookups = vec![LookupSpec { name: "countries".into(), key: vec!["code".into()], from }];
    let spec = afterimage::sql::ModelSpec { lookups, ..world::users_spec(folder.path().to_owned(), true) };
    let (engine, _) = Engine::prepare(&spec, events_schema(&world::users_schema()), None).await.unwrap();
    let took = engine.verdicts().filter(|(model, _)| *model == "enriched").all(|(_, verdict)| verdict.took);
    assert_eq!(took, indexed);
    engine
}

/// The median time of `enriched`, and of all models, over batches with a tenth of misses, in us: for the one engine and the other.
async fn joins(small: &mut Engine, large: &mut Engine, events: usize) -> ([f64; 2], [f64; 2]) {
    let mut decoder = world::users_decoder();
    let mut engines = [(small, 1_000, [vec![], vec![]]), (large, rows(), [vec![], vec![]])];
    for round in 0..41 {
        for (engine, size, [of_enriched, of_all]) in &mut engines {
            let records = records(events, round, *size);
            let decoded = decoder.decode(records.iter().map(OwnedRecord::as_raw)).unwrap();
            let input = Input {
                events: decoded.events,
                salvage: decoded.salvage,
                decode_refused: &[],
                ignored: &[],
                forced: &[],
                holds: &HoldSet::default(),
                rerun: &HashSet::new(),
                high_water_ns: &BTreeMap::new(),
                partitions: &[0],
            };
            engine.keep_rows();
            let began = Instant::now();
            engine.evaluate(input).await.unwrap();
            of_all.push(began.elapsed().as_secs_f64() * 1e6);
            let (_, rows, took) = engine.tables().find(|(model, _, _)| *model == "enriched").unwrap();
            assert_eq!(rows.num_rows(), events);
            of_enriched.push(took.as_secs_f64() * 1e6);
        }
    }
    let medians = engines.map(|(_, _, times)| {
        times.map(|mut times| {
            times.sort_by(f64::total_cmp);
            times[times.len() / 2]
        })
    });
    (medians[0], medians[1])
}

fn records(events: usize, round: usize, size: usize) -> Vec<OwnedRecord> {
    let record = |event: usize| {
        let pick = (event * 2_654_435_761 + round * 40_503_000_017) % size;
        let country = if event.is_multiple_of(10) { "none".to_owned() } else { code(pick) };
        let value = format!(
            "{{\"op\":\"c\",\"before\":null,\"after\":{{\"userId\":\"u{event}\",\"name\":\"n\",\"country\":\"{country}\"}},\"timestamp\":1700000000000}}"
        );
        OwnedRecord {
            partition: 0,
            offset: event as i64,
            timestamp_ms: Some(1_700_000_000_000),
            key: None,
            value: Some(value.into_bytes()),
        }
    };
    (0..events).map(record).collect()
}
