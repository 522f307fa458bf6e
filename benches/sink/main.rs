//! The sink's write path beside its limit: the server's own engine doing the same guarded merge from a table it already holds.
//!
//! Per server and kind of batch, batch by batch in turn: the sink (encode, stage, merge, commit) and the reference (merge from a permanent
//! table filled outside the clock, then COMMIT), each on a table of its own that begins with the same rows: nobody writes to a sink's
//! target but the sink. Fresh batches for each side, versions rising; the first pair warms up. Prints rows/s of both and the ratio of the
//! medians (double-buffered: the median of the pairs' ratios), for small batches also the time of one transaction (p50 and p99) beside an
//! UPDATE of one row by itself; at the end both tables are compared with models in memory. Run with `make bench`.
//!
//! `SERVERS`, `SINK_ROWS`, `SINK_PAIRS` and `SINK_ONLY` (part of a kind's name) change what is run; `BENCH_JSON` names a file to which
//! each figure is added as a line of JSON.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a bench fails by panicking")]
#![allow(dead_code, unreachable_pub, reason = "databases are those of the tests, which have more than this needs")]

mod batch;
#[path = "../measured_servers.rs"]
mod measured_servers;
#[path = "../../tests/support/mysql.rs"]
mod mysql;
mod reference;

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use afterimage::demo::server::{Flavour, PrivateServer, Program};
use afterimage::generation::{Generation, Marks};
use afterimage::sink::generations::{Grounds, Registered};
use afterimage::sink::positions::{Advance, Owner, Stored, SumChanges, TopicIdentity};
use afterimage::sink::{Outcome, Sink, Staging, Work, migrate};
use arrow::array::{AsArray, RecordBatch};
use mysql_async::prelude::Queryable;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::batch::{Change, KINDS, Kind, Model, USUAL, Width};
use crate::reference::Reference;

/// As in the program itself.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    println!(
        "{:<8} {:<28} {:>7} {:>12} {:>12} {:>6}  ms",
        "server", "what", "batch", "sink rows/s", "reference", "ratio"
    );
    let cache = std::env::var("AFTERIMAGE_CACHE")
        .map_or_else(|_| PathBuf::from(std::env::var("HOME").unwrap()).join(".cache/afterimage"), PathBuf::from);
    for program in [Program::in_root(&cache.join("mysql")), Program::mariadb()] {
        let program = program.unwrap();
        if measured_servers::is_wanted(program.flavour) {
            runtime.block_on(compare(&program));
        }
    }
}

/// What `SINK_ONLY` names the run in which batches are staged ahead, and its figure with it.
const DOUBLE_BUFFERED: &str = "double-buffered";
/// Batches in a row where each is staged while the one before it is merged.
const STRETCH: usize = 6;
/// A target with rows in it and the sink that writes to it, and the reference that does the same to a table like it.
struct Bench {
    sink: Sink,
    /// For double-buffering.
    second: Option<Sink>,
    at: Stored,
    reference: Reference,
    model: Model,
    width: Width,
    random: SmallRng,
}

impl Bench {
    async fn new(server: &PrivateServer, width: Width, rows: usize) -> Self {
        let database = format!("{width:?}").to_lowercase();
        let mut admin = server.connect().await.unwrap();
        admin.query_drop(format!("CREATE DATABASE `{database}`")).await.unwrap();
        let connector = mysql::connector(&server.url(&database));
        let mut session = connector.connect().await.unwrap();
        let statements = migrate::plan(&mut session, &[width.target()]).await.unwrap();
        migrate::run(&mut session, &statements).await.unwrap();
        let mut owner = Owner {
            pipeline: "bench".into(),
            topic: "bench".into(),
            token: [7; 16],
            name: "bench".into(),
            generation: Generation::default(),
        };
        let registered = owner.register(&mut session, &Marks::default(), Grounds::Start).await.unwrap();
        let Registered::New(generation) = registered else { unreachable!("{registered:?}") };
        owner.generation = generation;
        let at = owner.create(&mut session, 0, 0, &TopicIdentity::default()).await.unwrap();
        let mut sink = Sink::new(connector, owner, vec!["user_id".to_owned()]);
        let found = sink.look(&width.target()).await.unwrap().unwrap();
        sink.use_target(found.target);
        let reference = Reference::new(server, &database, width).await;
        let mut bench = Self {
            sink,
            second: None,
            at,
            reference,
            model: Model::default(),
            width,
            random: SmallRng::seed_from_u64(5),
        };
        let chunk = rows.min(if width == Width::Shipped { 20_000 } else { 1_000 });
        while bench.model.live.len() < rows {
            bench.sink_once(chunk, &Kind { new: 1.0, ..USUAL }, true).await;
        }
        bench.reference.begin(&bench.model).await;
        bench
    }

    /// A fresh batch through the sink; making it up is not its work.
    async fn sink_once(&mut self, batch: usize, kind: &Kind, local_infile: bool) -> Duration {
        self.sink.session().await.unwrap().facts.local_infile = local_infile;
        let changes = self.model.batch(&mut self.random, batch, kind);
        let rows = self.width.record_batch(&changes);
        let late: Vec<bool> = changes.iter().map(|change| change.late).collect();
        let started = Instant::now();
        self.apply(&rows, late).await;
        started.elapsed()
    }

    /// So many fresh batches by the reference, in a row.
    async fn reference(&mut self, batch: usize, kind: &Kind, count: usize) -> Duration {
        let (model, random) = (&mut self.reference.model, &mut self.random);
        let batches: Vec<Vec<Change>> = (0..count).map(|_| model.batch(random, batch, kind)).collect();
        self.reference.fill(self.width, &batches).await;
        self.reference.merge(count).await
    }

    async fn apply(&mut self, latest: &RecordBatch, late: Vec<bool>) {
        let losers = late.iter().filter(|late| **late).count() as i64;
        let work = self.work(latest, late);
        let sink = &mut self.sink;
        let Staging::Ready(staged) = sink.stage(&work).await.unwrap() else { panic!("rows are refused") };
        sink.known(&work, &staged).await.unwrap();
        let outcome = sink.transact(&work, &staged, &[]).await.unwrap();
        let Outcome::Committed { superseded, .. } = outcome else { panic!("{outcome:?}") };
        assert_eq!(superseded.iter().map(|lost| lost.upserts + lost.deletes).sum::<i64>(), losers);
    }

    /// `count` fresh batches through two sinks in turn, as a lane does: each is staged while the one before it is merged.
    async fn double_buffered(&mut self, batch: usize, kind: &Kind, count: usize) -> Duration {
        let batches: Vec<RecordBatch> =
            (0..count).map(|_| self.width.record_batch(&self.model.batch(&mut self.random, batch, kind))).collect();
        let works: Vec<Work<'_>> = batches.iter().map(|rows| self.work(rows, vec![false; rows.num_rows()])).collect();
        let mut second = self.second.take().unwrap_or_else(|| self.sink.another());
        for sink in [&mut self.sink, &mut second] {
            sink.session().await.unwrap().facts.local_infile = true;
        }
        let (mut now, mut next) = (&mut self.sink, &mut second);
        let started = Instant::now();
        let mut staged = now.stage(&works[0]).await.unwrap();
        for (index, work) in works.iter().enumerate() {
            let Staging::Ready(ready) = staged else { panic!("rows are refused") };
            let staging = async {
                match works.get(index + 1) {
                    Some(work) => next.stage(work).await,
                    None => Ok(Staging::Refused(Vec::new())),
                }
            };
            let (outcome, behind) = futures::join!(now.transact(work, &ready, &[]), staging);
            assert!(matches!(outcome, Ok(Outcome::Committed { .. })), "{outcome:?}");
            staged = behind.unwrap();
            std::mem::swap(&mut now, &mut next);
        }
        let took = started.elapsed();
        drop(works);
        self.second = Some(second);
        took
    }

    /// Everything of one transaction, and the position behind it.
    fn work<'a>(&mut self, latest: &'a RecordBatch, late: Vec<bool>) -> Work<'a> {
        let (sink, at) = (&self.sink, &mut self.at);
        let deleted = latest.column_by_name("_deleted").unwrap().as_boolean().true_count() as i64;
        let count = latest.num_rows() as i64;
        let sums = SumChanges {
            read: count,
            accepted: count,
            changes: count,
            upserted: count - deleted,
            deleted,
            ..SumChanges::default()
        };
        let (epoch, last, from) = (at.epoch, at.transaction, at.next_offset);
        let advance = Advance {
            partition: 0,
            epoch,
            last,
            from,
            to: from + count,
            high_water_ns: None,
            sums,
            generation: sink.owner().generation,
        };
        let work = Work {
            id: rand::rng().random(),
            advances: vec![advance],
            latest,
            late,
            wants_evidence: true,
            quarantine: Vec::new(),
            settled: Vec::new(),
        };
        (at.next_offset, at.transaction) = (from + count, work.id);
        work
    }

    /// A fast wrong path is easy to build: each table must be its model.
    async fn verify(&mut self) {
        let Reference { conn, model: theirs, .. } = &mut self.reference;
        for (table, model) in [("enriched_user", &self.model), ("ref_user", &*theirs)] {
            let look = format!("SELECT user_id, cdc_ts, cdc_offset FROM {table}");
            let rows: Vec<(String, i64, i64)> = conn.query(look).await.unwrap();
            assert_eq!(rows.len(), model.live.len());
            for (user, ts, offset) in rows {
                let expected = model.live.get(&user).map(|version| (version.ts_ns, version.offset));
                assert_eq!(expected, Some((ts, offset)), "{table}: {user}");
            }
        }
    }
}

async fn compare(program: &Program) {
    let home = tempfile::Builder::new().prefix("bench-").tempdir_in("/var/tmp").unwrap();
    let mut options = measured_servers::options(program.flavour);
    options.push("--max-allowed-packet=64M");
    let server = PrivateServer::start(program, home, &options).await.unwrap();
    let only = std::env::var("SINK_ONLY").unwrap_or_default();
    let rows = setting("SINK_ROWS", 200_000);
    for (width, rows) in [(Width::Shipped, rows), (Width::Wide, rows.min(10_000)), (Width::Long, rows.min(3_000))] {
        let kinds: Vec<&Kind> = KINDS.iter().filter(|kind| kind.width == width && kind.what.contains(&only)).collect();
        let buffered = width == Width::Shipped && DOUBLE_BUFFERED.contains(&only);
        if kinds.is_empty() && !buffered {
            continue;
        }
        let mut bench = Bench::new(&server, width, rows).await;
        for kind in kinds {
            figures(&mut bench, kind, &server).await;
        }
        if buffered {
            double_buffered(&mut bench, &server).await;
        }
        bench.verify().await;
    }
}

/// Times one kind of batch in turn and prints what came of it.
async fn figures(bench: &mut Bench, kind: &Kind, server: &PrivateServer) {
    let small = kind.batch <= 100;
    let pairs = if small { 100 } else { setting("SINK_PAIRS", 8) };
    let (mut ours, mut without, mut theirs, mut floor) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..=pairs {
        ours.push(bench.sink_once(kind.batch, kind, true).await);
        if kind.without_infile {
            without.push(bench.sink_once(kind.batch, kind, false).await);
        }
        theirs.push(bench.reference(kind.batch, kind, 1).await);
        if small {
            floor.push(bench.reference.floor().await);
        }
    }
    let name = server_name(server);
    let rate = |times: &[Duration]| kind.batch as f64 / percentile(&times[1..], 50);
    let line = |what: &str, value: f64, reference: f64, more: &str| {
        let ratio = value / reference;
        println!("{name:<8} {what:<28} {:>7} {value:>12.0} {reference:>12.0} {ratio:>6.2}  {more}", kind.batch);
        compared(name, &format!("sink: {what}, batches of {}", kind.batch), "rows/s", value, reference);
    };
    let mut more = String::new();
    if small {
        let shown = |times: &[Duration]| {
            format!("{:.2}/{:.2}", percentile(&times[1..], 50) * 1e3, percentile(&times[1..], 99) * 1e3)
        };
        more = format!("sink {} reference {} one UPDATE {}", shown(&ours), shown(&theirs), shown(&floor));
        let what = format!("sink: {}, one transaction of {}", kind.what, kind.batch);
        for percent in [50, 99] {
            let of = |times: &[Duration]| percentile(&times[1..], percent) * 1e3;
            compared(name, &format!("{what}, p{percent} against an UPDATE of one row"), "ms", of(&ours), of(&floor));
        }
    }
    line(kind.what, rate(&ours), rate(&theirs), &more);
    if kind.without_infile {
        line(&format!("{}, no local_infile", kind.what), rate(&without), rate(&theirs), "");
        line(&format!("{}, without to with it", kind.what), rate(&without), rate(&ours), "");
    }
}

/// Stretches of batches in which each is staged while the one before it is merged, and as many merged by the reference, in turn. What a
/// server does behind a merge (purging, flushing) falls into the clock of the next one on both sides. Every second time the reference is
/// first, so that neither is always the one behind the other's.
async fn double_buffered(bench: &mut Bench, server: &PrivateServer) {
    let pairs = setting("SINK_PAIRS", 8).max(1);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for pair in 0..=pairs {
        if pair % 2 == 1 {
            theirs.push(bench.reference(USUAL.batch, &USUAL, STRETCH).await);
        }
        ours.push(bench.double_buffered(USUAL.batch, &USUAL, STRETCH).await);
        if pair % 2 == 0 {
            theirs.push(bench.reference(USUAL.batch, &USUAL, STRETCH).await);
        }
    }
    let (ours, theirs) = (&ours[1..], &theirs[1..]);
    let mut ratios: Vec<f64> = ours.iter().zip(theirs).map(|(ours, theirs)| theirs.div_duration_f64(*ours)).collect();
    ratios.sort_by(f64::total_cmp);
    let rate = |times: &[Duration]| (STRETCH * USUAL.batch) as f64 / percentile(times, 50);
    let (value, reference, ratio) = (rate(ours), rate(theirs), ratios[pairs / 2]);
    let name = server_name(server);
    let spread = [ratios[0], ratios[pairs - 1]];
    println!(
        "{name:<8} {DOUBLE_BUFFERED:<28} {:>7} {value:>12.0} {reference:>12.0} {ratio:>6.2}  {:.2}..{:.2}",
        USUAL.batch, spread[0], spread[1]
    );
    record(&serde_json::json!({
        "what": format!("sink alone, {DOUBLE_BUFFERED}"), "server": name, "value": value, "unit": "rows/s", "reference": reference,
        "ratio": ratio, "spread": spread, "note": format!("{pairs} pairs of {STRETCH} batches of {}", USUAL.batch),
    }));
}

fn server_name(server: &PrivateServer) -> &'static str {
    if server.flavour() == Flavour::MySql { "MySQL" } else { "MariaDB" }
}

/// In seconds.
fn percentile(times: &[Duration], percent: usize) -> f64 {
    let mut times = times.to_vec();
    times.sort();
    times[(times.len() * percent / 100).min(times.len() - 1)].as_secs_f64()
}

/// A figure beside its reference.
fn compared(server: &str, what: &str, unit: &str, value: f64, reference: f64) {
    let ratio = value / reference;
    record(&serde_json::json!({
        "what": what, "server": server, "value": value, "unit": unit, "reference": reference, "ratio": ratio,
    }));
}

fn record(figure: &serde_json::Value) {
    let Ok(file) = std::env::var("BENCH_JSON") else { return };
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(file).unwrap();
    writeln!(file, "{figure}").unwrap();
}
