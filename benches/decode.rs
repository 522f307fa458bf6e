//! Events per second through the decoder, beside two references measured in the same run: `serde_json::Value` per event (a parse
//! that keeps nothing in columns) and a plain check that the bytes are JSON (the floor).
//!
//! `cargo bench --bench decode`, or `cargo bench --profile dev --bench decode` to reuse the build of the tests. One thread, wall time;
//! read the ratios, the absolute figures depend on the machine. Figures go to `BENCH_JSON`, one JSON object a line, where that names a
//! file.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use afterimage::decode::{DecodeOptions, Decoder, TimestampUnit};
use afterimage::record::RawRecord;
use afterimage::schema::SourceSchema;
use criterion::{Criterion, Throughput};

/// As in the program itself.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BASE_MS: i64 = 1_700_000_000_000;
/// Time spent per figure, after a third of it to warm up.
const BUDGET: Duration = Duration::from_millis(1500);

fn main() {
    let schema = match SourceSchema::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas/users")) {
        Ok(schema) => schema,
        Err(faults) => {
            eprintln!("the shipped schema has faults: {faults:?}");
            std::process::exit(1);
        }
    };
    let directory = directory();
    let mut criterion = Criterion::default()
        .configure_from_args()
        .output_directory(&directory)
        .without_plots()
        .sample_size(20)
        .warm_up_time(BUDGET / 3)
        .measurement_time(BUDGET);
    for (label, bad_share) in [("", 0), (", 1 % bad", 100)] {
        for events in [500, 8_192, 65_536] {
            let what = format!("decode: batches of {events}{label}");
            let payloads = payloads(events, bad_share);
            let mut decoder = Decoder::new(
                &schema,
                DecodeOptions {
                    topic: "user_cdc".into(),
                    timestamp_unit: TimestampUnit::Ms,
                    max_future_skew: Duration::from_secs(3600),
                },
            );
            let mut group = criterion.benchmark_group(format!("decode {events} {bad_share}"));
            group.throughput(Throughput::Elements(events as u64));
            group.bench_function("decoder", |bencher| {
                bencher.iter(|| {
                    let decoded = decoder.decode(records(&payloads)).ok();
                    decoded.map_or(0, |decoded| decoded.events.num_rows() + decoded.refused.len())
                });
            });
            group.bench_function("value", |bencher| {
                bencher.iter(|| payloads.iter().filter_map(|payload| value(payload)).filter(|v| v.is_object()).count());
            });
            group.bench_function("check", |bencher| {
                bencher.iter(|| payloads.iter().filter(|payload| check(payload)).count());
            });
            group.finish();
            let rate =
                |method: &str| median_ns(&directory, events, bad_share, method).map(|ns| events as f64 * 1e9 / ns);
            if let (Some(decoded), Some(parsed)) = (rate("decoder"), rate("value")) {
                figure(&what, decoded, decoded / parsed);
            }
        }
    }
    criterion.final_summary();
}

/// Where criterion keeps what it measured.
fn directory() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    target.join("criterion")
}

/// The median of a batch's time, as criterion noted it just now; `None` where a filter left it out.
fn median_ns(directory: &Path, events: usize, bad_share: usize, method: &str) -> Option<f64> {
    let file = directory.join(format!("decode {events} {bad_share}/{method}/new/estimates.json"));
    let estimates: serde_json::Value = serde_json::from_slice(&std::fs::read(file).ok()?).ok()?;
    estimates.get("median")?.get("point_estimate")?.as_f64()
}

fn value(payload: &[u8]) -> Option<serde_json::Value> {
    serde_json::from_str(std::str::from_utf8(payload).ok()?).ok()
}

fn check(payload: &[u8]) -> bool {
    std::str::from_utf8(payload).is_ok_and(|text| serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok())
}

fn records(payloads: &[Vec<u8>]) -> impl Iterator<Item = RawRecord<'_>> {
    payloads.iter().enumerate().map(|(offset, payload)| RawRecord {
        partition: 0,
        offset: offset as i64,
        timestamp_ms: Some(BASE_MS),
        key: Some(b"123456"),
        value: Some(payload),
        headers: b"",
    })
}

/// Notes a rate beside that of `serde_json::Value`.
fn figure(what: &str, value: f64, ratio: f64) {
    let Some(path) = std::env::var_os("BENCH_JSON") else { return };
    let (unit, reference) = ("events/s", "serde_json::Value per event");
    let line =
        serde_json::json!({ "what": what, "value": value, "unit": unit, "reference": reference, "ratio": ratio });
    let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
    if let Err(error) = file.and_then(|mut file| writeln!(file, "{line}")) {
        eprintln!("{what} isn't noted: {error}");
    }
}

/// `events` changes of users, about 290 bytes each; every `bad_share`-th lacks its key, if not 0.
fn payloads(events: usize, bad_share: usize) -> Vec<Vec<u8>> {
    (0..events)
        .map(|number| {
            let user = |generation: usize| {
                let id = number * 7919 % events;
                let key = if bad_share > 0 && number % bad_share == 7 { "id" } else { "userId" };
                format!(
                    r#"{{"{key}":"{id:08}","name":"Alice Maria Smith the {generation}th","email":"alice.smith.{id}@example.org","country":"DE"}}"#
                )
            };
            let (op, before, after) = match number % 10 {
                0..3 => ("c", "null".to_owned(), user(1)),
                3..9 => ("u", user(1), user(2)),
                _ => ("d", user(2), "null".to_owned()),
            };
            let timestamp = BASE_MS - (number % 1000) as i64;
            format!(r#"{{"op":"{op}","before":{before},"after":{after},"timestamp":{timestamp}}}"#).into_bytes()
        })
        .collect()
}
