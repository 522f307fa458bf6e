//! Events per second through the decoder, beside two references measured in the same run: `serde_json::Value` per event (a parse
//! that keeps nothing in columns) and a plain check that the bytes are JSON (the floor).
//!
//! `cargo bench --bench decode`, or `cargo bench --profile dev --bench decode` to reuse the build of the tests. One thread, medians
//! of wall time; read the ratios, the absolute figures depend on the machine. Figures go to `BENCH_JSON`, one JSON object a line, where
//! that names a file.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use afterimage::decode::{DecodeOptions, Decoder, TimestampUnit};
use afterimage::record::RawRecord;
use afterimage::schema::SourceSchema;

/// As in the program itself.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BASE_MS: i64 = 1_700_000_000_000;
/// Time spent per figure.
const BUDGET: Duration = Duration::from_millis(1500);

fn main() {
    let schema = match SourceSchema::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas/users")) {
        Ok(schema) => schema,
        Err(faults) => {
            eprintln!("the shipped schema has faults: {faults:?}");
            std::process::exit(1);
        }
    };
    println!("{:<34} {:>8} {:>14} {:>10}", "method", "events", "events/s", "MB/s");
    for (label, bad_share) in [("", 0), (", 1 % bad", 100)] {
        for events in [500, 8_192, 65_536] {
            let payloads = payloads(events, bad_share);
            let mut decoder = Decoder::new(
                &schema,
                DecodeOptions {
                    topic: "user_cdc".into(),
                    timestamp_unit: TimestampUnit::Ms,
                    max_future_skew: Duration::from_secs(3600),
                },
            );
            let decoded = report(&format!("decoder{label}"), &payloads, || {
                let decoded = decoder.decode(records(&payloads)).ok();
                decoded.map_or(0, |decoded| decoded.events.num_rows() + decoded.refused.len())
            });
            let parsed = report(&format!("serde_json::Value{label}"), &payloads, || {
                payloads.iter().map(|payload| usize::from(value(payload).is_some_and(|value| value.is_object()))).sum()
            });
            report(&format!("JSON check only{label}"), &payloads, || {
                payloads.iter().map(|payload| usize::from(check(payload))).sum()
            });
            figure(&format!("decode: batches of {events}{label}"), decoded, decoded / parsed);
        }
    }
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

/// Prints and yields the median rate of `run` over `payloads`, in events per second.
fn report(method: &str, payloads: &[Vec<u8>], mut run: impl FnMut() -> usize) -> f64 {
    let bytes: usize = payloads.iter().map(Vec::len).sum();
    let mut times = Vec::new();
    let started = Instant::now();
    while started.elapsed() < BUDGET || times.len() < 5 {
        let begun = Instant::now();
        std::hint::black_box(run());
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    let median = times.get(times.len() / 2).map_or(f64::NAN, Duration::as_secs_f64);
    let (events_per_s, mb_per_s) = (payloads.len() as f64 / median, bytes as f64 / median / 1e6);
    println!("{method:<34} {:>8} {events_per_s:>14.0} {mb_per_s:>10.0}", payloads.len());
    events_per_s
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
