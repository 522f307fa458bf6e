//! The whole compute path on one core, bytes to rows for the target: decoding, and the shipped `users` models unchanged over it.
//!
//! Per workload: events per second of processor time, beside a reference measured in turn with it (`serde_json::Value` per event, a parse
//! that keeps nothing in columns), and the share of each station and model. The workloads beyond the first are those that tend to
//! have cliffs. At the end: what a batch of 65,536 events adds to the resident memory.
//!
//! `cargo bench --profile dev --bench models`; `MODELS=late,wide` picks workloads by words in their names, `MODELS_MS` is the time for each
//! (1500). Figures go to `BENCH_JSON`, one JSON object a line, where that names a file.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a bench fails by panicking")]

use std::collections::{BTreeMap, HashSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use afterimage::decode::{DecodeOptions, DecodeRefusal, Decoder, TimestampUnit};
use afterimage::hold::{HoldSet, Key, Pending, PendingState};
use afterimage::position::{Partition, Position};
use afterimage::record::{Chunk, RawBatch, RawRecord};
use afterimage::schema::SourceSchema;
use afterimage::sql::{Engine, Input, LookupFrom, LookupSpec, ModelSpec, VersionBy};
use afterimage::work::{Evaluation, Refusal};

/// As in the program itself.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BASE_MS: i64 = 1_700_000_000_000;

/// What a batch is like.
#[derive(Clone)]
struct Workload {
    name: &'static str,
    events: usize,
    partitions: usize,
    /// Share of creates and of deletes, in percent; the rest are updates.
    creates: usize,
    deletes: usize,
    /// Every so many events one is late, bad, or of a key on hold; 0: none.
    late_every: usize,
    bad_every: usize,
    held_percent: usize,
    /// Different users; `hot` of ten events are of the first ten.
    users: usize,
    hot: usize,
    /// Fields of a row besides the shipped four, and the length of each user's name.
    extra: usize,
    name_bytes: usize,
}

const ORDINARY: Workload = Workload {
    name: "ordinary",
    events: 8_192,
    partitions: 4,
    creates: 30,
    deletes: 10,
    late_every: 0,
    bad_every: 0,
    held_percent: 0,
    users: 1_000_000,
    hot: 0,
    extra: 0,
    name_bytes: 29,
};

fn workloads() -> Vec<Workload> {
    vec![
        Workload { name: "ordinary, 1 event", events: 1, partitions: 1, ..ORDINARY },
        Workload { name: "ordinary, 500 events", events: 500, ..ORDINARY },
        ORDINARY,
        Workload { name: "ordinary, 65,536 events", events: 65_536, ..ORDINARY },
        Workload { name: "updates of 50,000 users, 10 % late", creates: 10, users: 50_000, late_every: 10, ..ORDINARY },
        Workload { name: "256 partitions", partitions: 256, ..ORDINARY },
        Workload { name: "200 columns", events: 2_048, extra: 196, ..ORDINARY },
        Workload { name: "names of 10 kB", events: 1_024, name_bytes: 10_000, ..ORDINARY },
        Workload { name: "hot users, 10 % late", hot: 9, late_every: 10, ..ORDINARY },
        Workload { name: "creates only", creates: 100, deletes: 0, ..ORDINARY },
        Workload { name: "deletes only", creates: 0, deletes: 100, ..ORDINARY },
        Workload { name: "all late", late_every: 1, ..ORDINARY },
        Workload { name: "1 % bad", bad_every: 100, ..ORDINARY },
        Workload { name: "30 % on hold", users: 1_000, held_percent: 30, ..ORDINARY },
    ]
}

fn main() {
    let wanted = std::env::var("MODELS").unwrap_or_default();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    println!(
        "{:<36} {:>7} {:>10} {:>10} {:>7} {:>9}  shares",
        "workload", "events", "decode/s", "all/s", "ratio", "ms/batch"
    );
    for workload in workloads() {
        if wanted.split(',').any(|word| workload.name.contains(word)) {
            runtime.block_on(measure(&workload));
        }
    }
    if wanted.is_empty() || wanted.contains("memory") {
        runtime.block_on(memory());
    }
}

/// A pipeline's stations 2 and 3, and batches to put through them.
struct Road {
    decoder: Decoder,
    engine: Engine,
    holds: HoldSet,
    high_water_ns: BTreeMap<Partition, i64>,
    /// With models of its own.
    _folder: tempfile::TempDir,
}

impl Road {
    async fn new(workload: &Workload) -> Self {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = tempfile::tempdir().unwrap();
        let (schemas, queries) = match workload.extra {
            0 => (repository.join("schemas/users"), repository.join("queries/users")),
            extra => wider(repository, folder.path(), extra),
        };
        let schema = SourceSchema::load(&schemas).unwrap();
        let decoder = Decoder::new(
            &schema,
            DecodeOptions {
                topic: "user_cdc".into(),
                timestamp_unit: TimestampUnit::Ms,
                max_future_skew: Duration::from_secs(3600),
            },
        );
        let countries = repository.join("queries/users/lookups/countries.csv");
        let spec = ModelSpec {
            name: "users".to_owned(),
            queries,
            key: vec!["user_id".to_owned()],
            version: VersionBy::EventTime,
            hold_keys: true,
            lookups: vec![LookupSpec {
                name: "countries".to_owned(),
                key: vec!["code".to_owned()],
                from: LookupFrom::File(countries),
            }],
        };
        let (mut engine, _) = Engine::prepare(&spec, decoder.events_schema(), None).await.unwrap();
        if workload.name_bytes > 255 {
            let mut target = engine.derive_target("enriched_user");
            let long = afterimage::target::Holds::Text { max_chars: 65_535, max_bytes: 65_535 };
            target.columns.iter_mut().filter(|column| column.name == "name").for_each(|column| column.holds = long);
            engine.set_target(target).unwrap();
        }
        let mut holds = HoldSet::default();
        for partition in 0..workload.partitions {
            let position = |number: usize| Position { partition: partition as i32, offset: -(number as i64) - 1 };
            for user in (0..workload.users).filter(|user| user % 100 < workload.held_percent) {
                let keys = vec![Key(format!("[\"{user:08}\"]").into())];
                holds.insert(position(user), Pending { keys, state: PendingState::Refused });
            }
        }
        Self { decoder, engine, holds, high_water_ns: BTreeMap::new(), _folder: folder }
    }

    /// One batch.
    async fn batch(&mut self, raw: &RawBatch) -> Evaluation {
        let decoded = self.decoder.decode(raw.records()).unwrap();
        let refused: Vec<Refusal> = decoded.refused.iter().map(DecodeRefusal::to_refusal).collect();
        let partitions: Vec<Partition> = raw.chunks.iter().map(|chunk| chunk.partition).collect();
        let input = Input {
            events: decoded.events,
            salvage: decoded.salvage,
            decode_refused: &refused,
            ignored: &decoded.ignored,
            forced: &[],
            holds: &self.holds,
            rerun: &HashSet::new(),
            high_water_ns: &self.high_water_ns,
            partitions: &partitions,
        };
        let evaluation = self.engine.evaluate(input).await.unwrap();
        if !evaluation.suspects.is_empty() {
            // As it is where nothing was stored of them before.
            let known: Vec<_> = evaluation.suspects.iter().map(|row| (*row, None)).collect();
            std::hint::black_box(self.engine.evidence(&evaluation.suspicion, &known).await.unwrap());
        }
        evaluation
    }
}

async fn measure(workload: &Workload) {
    let budget = std::env::var("MODELS_MS").ok().and_then(|text| text.parse().ok()).unwrap_or(1500);
    let budget: Duration = Duration::from_millis(budget);
    let mut road = Road::new(workload).await;
    let raw = raw(workload);
    let events = raw.len();
    for _ in 0..3 {
        let evaluation = road.batch(&raw).await;
        assert_eq!(evaluation.sums.iter().map(|sums| sums.classes.read).sum::<u64>(), events as u64);
    }
    let (mut all, mut decode, mut reference) = (Spent::default(), Spent::default(), Spent::default());
    let mut models: BTreeMap<String, Vec<Duration>> = BTreeMap::new();
    let started = Instant::now();
    // In turn, so that all of them see the same machine.
    while started.elapsed() < budget {
        let began = cpu();
        for round in Rounds::new() {
            drop(road.batch(&raw).await);
            for (model, took) in road.engine.times().filter(|_| round % 8 == 0) {
                models.entry(model.to_owned()).or_default().push(took);
            }
            all.times += 1;
        }
        all.time += cpu() - began;
        let began = cpu();
        for _ in Rounds::new() {
            std::hint::black_box(road.decoder.decode(raw.records()).unwrap());
            decode.times += 1;
        }
        decode.time += cpu() - began;
        let began = cpu();
        for _ in Rounds::new() {
            std::hint::black_box(raw.records().filter(|record| value(record).is_some()).count());
            reference.times += 1;
        }
        reference.time += cpu() - began;
    }
    let (all, decode, reference) = (all.each(), decode.each(), reference.each());
    let rate = |took: Duration| events as f64 / took.as_secs_f64();
    let share = |took: Duration| took.as_secs_f64() / all.as_secs_f64() * 100.0;
    let mut shares = format!("decode {:.0}", share(decode));
    let mut rest = all.saturating_sub(decode);
    for (model, took) in &mut models {
        let took = median(took);
        rest = rest.saturating_sub(took);
        shares += &format!(", {model} {:.0}", share(took));
    }
    shares += &format!(", engine {:.0} %", share(rest));
    let (name, ratio, ms) = (workload.name, rate(all) / rate(reference), all.as_secs_f64() * 1e3);
    println!("{name:<36} {events:>7} {:>10.0} {:>10.0} {ratio:>7.2} {ms:>9.3}  {shares}", rate(decode), rate(all));
    figure(&format!("compute: {name}"), rate(all), "events/s of one core", "serde_json::Value per event", ratio);
    figure(
        &format!("compute: {name}: decode"),
        rate(decode),
        "events/s of one core",
        "all of compute",
        rate(decode) / rate(all),
    );
    figure(
        &format!("compute: {name}: latency"),
        ms,
        "ms per batch",
        "decode",
        all.as_secs_f64() / decode.as_secs_f64(),
    );
}

/// What batches of the largest size add to the resident memory, at the peak and between two of them.
async fn memory() {
    let workload = Workload { name: "memory", events: 65_536, ..ORDINARY };
    let raw = raw(&workload);
    let mut road = Road::new(&workload).await;
    road.batch(&self::raw(&ORDINARY)).await;
    let (before, _) = resident();
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    for _ in 0..4 {
        drop(road.batch(&raw).await);
    }
    let (after, peak) = resident();
    let megabytes = raw.byte_len() as f64 / 1e6;
    let (peak, rest) = ((peak - before) / 1e3, (after - before) / 1e3);
    println!("memory: a batch of {megabytes:.0} MB adds {peak:.0} MB at the peak, {rest:.0} MB stay");
    figure("compute: memory at the peak, 65,536 events", peak, "MB", "raw bytes of the batch", peak / megabytes);
}

/// Resident memory and its peak, kB.
fn resident() -> (f64, f64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let value = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim_matches([' ', '\t', ':', 'k', 'B']).parse().unwrap()
    };
    (value("VmRSS"), value("VmHWM"))
}

/// Processor time, and how often something was done in it.
#[derive(Default)]
struct Spent {
    time: Duration,
    times: u32,
}

impl Spent {
    fn each(&self) -> Duration {
        self.time / self.times.max(1)
    }
}

/// Counts rounds for long enough that the clock of [`cpu`], which steps with the scheduler's tick, doesn't matter.
struct Rounds {
    began: Instant,
    round: usize,
}

impl Rounds {
    fn new() -> Self {
        Self { began: Instant::now(), round: 0 }
    }
}

impl Iterator for Rounds {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let more = self.began.elapsed() < Duration::from_millis(60);
        self.round += 1;
        more.then_some(self.round - 1)
    }
}

/// Processor time of this thread: others on the machine don't count.
fn cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn figure(what: &str, value: f64, unit: &str, reference: &str, ratio: f64) {
    let Ok(path) = std::env::var("BENCH_JSON") else { return };
    let line = serde_json::json!({
        "what": what, "value": value, "unit": unit, "reference": reference, "ratio": ratio,
    });
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
    writeln!(file, "{line}").unwrap();
}

fn value(record: &RawRecord<'_>) -> Option<serde_json::Value> {
    serde_json::from_str(std::str::from_utf8(record.value?).ok()?).ok()
}

/// A batch of the workload, about 290 bytes an event where nothing else is said.
fn raw(workload: &Workload) -> RawBatch {
    let partitions = workload.partitions;
    let mut chunks: Vec<Chunk> = (0..partitions).map(|partition| Chunk::new(partition as i32, 0)).collect();
    let mut seed = 7_u64;
    let mut next = move |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % below
    };
    for number in 0..workload.events {
        let id = if next(10) < workload.hot { next(10) } else { next(workload.users) };
        let every = |one: usize| one > 0 && number % one == one - 1;
        let op = match next(100) {
            pick if pick < workload.creates => "c",
            pick if pick < workload.creates + workload.deletes => "d",
            _ => "u",
        };
        let bad = every(workload.bad_every);
        let user = |generation: usize| user(workload, id, generation, bad);
        let (before, after) = match op {
            "c" => ("null".to_owned(), user(1)),
            "d" => (user(2), "null".to_owned()),
            _ => (user(1), user(2)),
        };
        let late = if every(workload.late_every) { 1_000_000 - number as i64 * 2 } else { 0 };
        let timestamp = BASE_MS + number as i64 - late.max(0);
        let value = format!(r#"{{"op":"{op}","before":{before},"after":{after},"timestamp":{timestamp}}}"#);
        let key = format!("{id:08}");
        let chunk = &mut chunks[id % partitions];
        chunk.push(RawRecord {
            partition: chunk.partition,
            offset: chunk.to,
            timestamp_ms: Some(timestamp),
            key: Some(key.as_bytes()),
            value: Some(value.as_bytes()),
            headers: b"",
        });
    }
    RawBatch { topic: "user_cdc".into(), chunks, more: false }
}

fn user(workload: &Workload, id: usize, generation: usize, bad: bool) -> String {
    let key = if bad { "id" } else { "userId" };
    let name = format!("Alice Maria Smith the {generation}th{}", "x".repeat(workload.name_bytes.saturating_sub(29)));
    let country = ["DE", "FR", "JP", "BR"][id % 4];
    let mut row =
        format!(r#"{{"{key}":"{id:08}","name":"{name}","email":"alice.smith.{id}@example.org","country":"{country}""#);
    for extra in 0..workload.extra {
        row += &format!(r#","field{extra}":"value {generation} of {extra}""#);
    }
    row + "}"
}

/// The shipped schema and models with so many texts more in a row; yields their folders.
fn wider(repository: &Path, folder: &Path, extra: usize) -> (PathBuf, PathBuf) {
    let names: Vec<String> = (0..extra).map(|extra| format!("field{extra}")).collect();
    let (schemas, queries) = (folder.join("schemas"), folder.join("queries"));
    std::fs::create_dir_all(&schemas).unwrap();
    std::fs::create_dir_all(&queries).unwrap();
    let schema = std::fs::read_to_string(repository.join("schemas/users/1.json")).unwrap();
    let mut schema: serde_json::Value = serde_json::from_str(&schema).unwrap();
    for name in &names {
        let field = serde_json::json!({"name": name, "type": "utf8", "nullable": true});
        schema["fields"].as_array_mut().unwrap().push(field);
    }
    std::fs::write(schemas.join("1.json"), schema.to_string()).unwrap();
    for model in ["changes", "enriched", "accepted", "latest", "metrics", "out_of_order"] {
        let sql = std::fs::read_to_string(repository.join(format!("queries/users/{model}.sql"))).unwrap();
        let listed = |prefix: &str| names.iter().map(|name| format!("{prefix}{name} AS {name}, ")).collect::<String>();
        let nulls: String = names.iter().map(|name| format!("NULL AS {name}, ")).collect();
        let sql = sql
            .replace("after.name    AS name,", &format!("{}after.name AS name,", listed("after.")))
            .replace("NULL          AS name,", &format!("{nulls}NULL AS name,"))
            .replace("c.name,", &format!("{}c.name,", listed("c.")))
            .replace("SELECT user_id, name,", &format!("SELECT user_id, {}name,", listed("")));
        std::fs::write(queries.join(format!("{model}.sql")), sql).unwrap();
    }
    (schemas, queries)
}
