//! Lookups: what loading one costs in time and memory, from each source, and what a batch's join with one costs by its size.
//!
//! Loading runs in a process of its own per source: the growth of its resident memory at the peak, over the rows' Arrow bytes, is the
//! figure that is promised to stay below 2. Joins run through the shipped models, by the lookup's index and, where the SQL is worded so
//! that the index can't be used, by the planner's own hash join; the ratio of the two sizes says whether the cost follows the lookup.
//!
//! `make bench`, or `cargo bench --profile dev --bench lookup`. `LOOKUP_ROWS` changes the size (5,000,000), `LOOKUP_FROM=csv,parquet`
//! picks sources; `mysql` and `topic` start real servers.

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
use std::time::{Duration, Instant};

use afterimage::decode::events_schema;
use afterimage::generate::OwnedRecord;
use afterimage::hold::HoldSet;
use afterimage::pipeline::lookups::topic_rows;
use afterimage::pipeline::{Lookup, Origin};
use afterimage::sink::lookup::read_chunks;
use afterimage::sink::session::{Address, Connector};
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
        let wanted = std::env::var("LOOKUP_FROM").unwrap_or_else(|_| SOURCES.join(","));
        let folder = servers::scratch("bench-lookup-");
        for source in SOURCES.iter().filter(|source| wanted.split(',').any(|wanted| wanted == **source)) {
            let at = write(source, folder.path()).await;
            let me = std::env::current_exe().unwrap();
            let done = Command::new(me).env("LOOKUP_CASE", source).env("LOOKUP_AT", at).status().unwrap();
            assert!(done.success());
        }
    });
    println!("\n{:<12} {:>10} {:>8} {:>14}", "join", "lookup", "events", "us per batch");
    for (how, indexed) in [("by index", true), ("by hash", false)] {
        for size in [1_000, rows()] {
            let mut engine = runtime.block_on(engine(size, indexed));
            for events in [500, 8_192] {
                let took = runtime.block_on(join(&mut engine, size, events));
                println!("{how:<12} {size:>10} {events:>8} {:>14.1}", took.as_secs_f64() * 1e6);
            }
        }
    }
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
    let arrow = table.arrow_len();
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
}

fn from_mysql(url: &str, key: &[String]) -> LookupTable {
    let opts = mysql_async::Opts::from_url(url).unwrap();
    let address = Address {
        host: opts.ip_or_hostname().to_owned(),
        port: opts.tcp_port(),
        user: opts.user().unwrap().to_owned(),
        password: opts.pass().unwrap_or_default().to_owned(),
        database: opts.db_name().unwrap().to_owned(),
        tls: false,
        ca_file: None,
    };
    let connector = Connector {
        address: Arc::new(move || Ok(address.clone())),
        connect_timeout: Duration::from_secs(10),
        statement_timeout: Duration::from_secs(30),
    };
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

/// The median time of `enriched` over batches with a tenth of misses.
async fn join(engine: &mut Engine, size: usize, events: usize) -> Duration {
    let mut decoder = world::users_decoder();
    let mut times = Vec::new();
    for round in 0..15_usize {
        let records: Vec<OwnedRecord> = (0..events)
            .map(|event| {
                let pick = (event * 2_654_435_761 + round * 97) % size;
                let country = if event % 10 == 0 { "none".to_owned() } else { code(pick) };
                let value = format!("{{\"op\":\"c\",\"before\":null,\"after\":{{\"userId\":\"u{event}\",\"name\":\"n\",\"country\":\"{country}\"}},\"timestamp\":1700000000000}}");
                OwnedRecord {
                    partition: 0,
                    offset: event as i64,
                    timestamp_ms: Some(1_700_000_000_000),
                    key: None,
                    value: Some(value.into_bytes()),
                }
            })
            .collect();
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
        engine.evaluate(input).await.unwrap();
        let (_, rows, took) = engine.tables().find(|(model, _, _)| *model == "enriched").unwrap();
        assert_eq!(rows.num_rows(), events);
        times.push(took);
    }
    times.sort();
    times[times.len() / 2]
}
