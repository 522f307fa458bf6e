//! The sink's write path beside its limit: the server's own engine doing the same guarded merge from a table it already holds.
//!
//! Per server and kind of batch, batch by batch in turn: the sink (encode, stage, merge, commit) and the reference (merge from a permanent
//! table filled outside the clock, then COMMIT), each on a table of its own that begins with the same rows: nobody writes to a sink's
//! target but the sink. Fresh batches for each side, versions rising; the first pair warms up. Prints rows/s of both and the ratio of the
//! medians, for small batches also the time of one transaction (p50 and p99) beside an UPDATE of one row by itself; at the end both tables
//! are compared with models in memory. Run with `make bench`.
//!
//! `SERVERS`, `SINK_ROWS`, `SINK_PAIRS` and `SINK_ONLY` (part of a kind's name) change what is run; `BENCH_JSON` names a file to which
//! each figure is added as a line of JSON.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a bench fails by panicking")]
#![allow(dead_code, unreachable_pub, reason = "databases are those of the tests, which have more than this needs")]

mod measured_servers;
#[path = "../tests/support/mysql.rs"]
mod mysql;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use afterimage::demo::server::{Flavour, PrivateServer, Program};
use afterimage::generation::{Generation, Marks};
use afterimage::position::Version;
use afterimage::sink::generations::{Grounds, Registered};
use afterimage::sink::positions::{Advance, Owner, Stored, SumChanges, TopicIdentity};
use afterimage::sink::{Outcome, Sink, Staging, Work, migrate};
use afterimage::target::{Column, Holds, Target};
use arrow::array::{ArrayRef, AsArray, BooleanArray, Int32Array, Int64Array, RecordBatch, StringArray};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// As in the program itself.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// What a row of the target holds besides its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Width {
    /// Five short texts, as the shipped pipeline has them.
    Shipped,
    /// 200 columns.
    Wide,
    /// A text of 20,000 bytes among them.
    Long,
}

/// One kind of batch.
struct Kind {
    what: &'static str,
    width: Width,
    batch: usize,
    /// Shares of new keys, deletes, and rows that are older than what is stored.
    new: f64,
    deleted: f64,
    late: f64,
    /// Whether the sink is also timed as on a server without `local_infile`.
    without_infile: bool,
}

const USUAL: Kind = Kind {
    what: "mixed",
    width: Width::Shipped,
    batch: 20_000,
    new: 0.15,
    deleted: 0.05,
    late: 0.0,
    without_infile: false,
};

const KINDS: [Kind; 12] = [
    Kind { batch: 20_000, without_infile: true, ..USUAL },
    Kind { batch: 5_000, without_infile: true, ..USUAL },
    Kind { batch: 500, without_infile: true, ..USUAL },
    Kind { batch: 100, ..USUAL },
    Kind { batch: 10, ..USUAL },
    Kind { batch: 1, ..USUAL },
    Kind { what: "creates only", batch: 5_000, new: 1.0, ..USUAL },
    Kind { what: "late rows, a tenth", batch: 5_000, late: 0.1, ..USUAL },
    Kind { what: "deletes only", batch: 5_000, new: 0.0, deleted: 1.0, ..USUAL },
    Kind { what: "deletes only", batch: 100, new: 0.0, deleted: 1.0, ..USUAL },
    Kind { what: "200 columns", width: Width::Wide, batch: 1_000, ..USUAL },
    Kind { what: "long values", width: Width::Long, batch: 500, ..USUAL },
];

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

/// One row per user: version and whether it is deleted.
#[derive(Default, Clone)]
struct Model {
    live: BTreeMap<String, Version>,
    next_user: u64,
    next_offset: i64,
}

struct Change {
    user: String,
    deleted: bool,
    late: bool,
    version: Version,
}

impl Model {
    /// Changes of distinct users, sorted by key.
    fn batch(&mut self, random: &mut SmallRng, size: usize, kind: &Kind) -> Vec<Change> {
        let users: Vec<String> = self.live.keys().cloned().collect();
        let mut seen = BTreeSet::new();
        let mut changes = Vec::with_capacity(size);
        while changes.len() < size {
            let dice: f64 = random.random();
            let fresh = users.is_empty() || dice < kind.new;
            let user = if fresh {
                self.next_user += 1;
                // Scattered, as real keys are.
                format!("{:016x}", self.next_user.wrapping_mul(0x9e37_79b9_7f4a_7c15))
            } else {
                users[random.random_range(0..users.len())].clone()
            };
            if !seen.insert(user.clone()) {
                continue;
            }
            self.next_offset += 1;
            let late = !fresh && random.random_bool(kind.late);
            let ts_ns = if late { 1 } else { self.next_offset * 1_000_000 };
            let version = Version { ts_ns, partition: 0, offset: self.next_offset };
            let deleted = !fresh && dice >= 1.0 - kind.deleted;
            match (late, deleted) {
                (true, _) => {}
                (false, true) => drop(self.live.remove(&user)),
                (false, false) => drop(self.live.insert(user.clone(), version)),
            }
            changes.push(Change { user, deleted, late, version });
        }
        changes.sort_by(|left, right| left.user.cmp(&right.user));
        changes
    }
}

impl Width {
    fn columns(self) -> Vec<(String, &'static str)> {
        let names = ["name", "email", "country", "country_name", "region"];
        let mut columns: Vec<(String, &str)> = names.iter().map(|name| ((*name).to_owned(), "VARCHAR(255)")).collect();
        match self {
            Self::Shipped => {}
            Self::Wide => columns.extend((columns.len()..200).map(|number| (format!("c{number}"), "VARCHAR(8)"))),
            Self::Long => columns.push(("body".to_owned(), "MEDIUMTEXT")),
        }
        columns
    }

    fn values(self, change: &Change) -> Vec<Option<String>> {
        let columns = self.columns().len();
        if change.deleted {
            return vec![None; columns];
        }
        let number = change.version.offset;
        let mut values = vec![
            Some(format!("User {number} of the Many Names")),
            Some(format!("user.{number}@example.com")),
            Some("DE".to_owned()),
            Some("Germany".to_owned()),
            Some("Europe".to_owned()),
        ];
        values.resize_with(columns, || match self {
            Self::Shipped | Self::Wide => Some(format!("{number}")),
            Self::Long => Some(format!("{number} words ").repeat(20_000 / 14)),
        });
        values
    }

    fn target(self) -> Target {
        let column = |(name, kind): (String, &str)| Column {
            name,
            ddl_type: kind.to_owned(),
            holds: if kind.starts_with("VARCHAR(255") {
                Holds::Text { max_chars: 255, max_bytes: 1020 }
            } else {
                Holds::Text { max_chars: 8, max_bytes: 32 }
            },
            nullable: true,
        };
        let mut columns = vec![column(("user_id".to_owned(), "VARCHAR(255)"))];
        columns.extend(self.columns().into_iter().map(column));
        Target { table: "enriched_user".to_owned(), columns, key_len: 1 }
    }

    fn record_batch(self, changes: &[Change]) -> RecordBatch {
        let rows: Vec<Vec<Option<String>>> = changes.iter().map(|change| self.values(change)).collect();
        let versions = || changes.iter().map(|change| change.version);
        let users = StringArray::from_iter_values(changes.iter().map(|change| &change.user));
        let mut columns: Vec<(String, ArrayRef)> = vec![("user_id".to_owned(), Arc::new(users))];
        for (index, (name, _)) in self.columns().into_iter().enumerate() {
            columns.push((name, Arc::new(StringArray::from_iter(rows.iter().map(|row| row[index].as_deref())))));
        }
        columns.extend([
            (
                "_deleted".to_owned(),
                Arc::new(BooleanArray::from_iter(changes.iter().map(|change| Some(change.deleted)))) as ArrayRef,
            ),
            ("cdc_ts".to_owned(), Arc::new(Int64Array::from_iter_values(versions().map(|version| version.ts_ns)))),
            (
                "cdc_partition".to_owned(),
                Arc::new(Int32Array::from_iter_values(versions().map(|version| version.partition))),
            ),
            ("cdc_offset".to_owned(), Arc::new(Int64Array::from_iter_values(versions().map(|version| version.offset)))),
        ]);
        RecordBatch::try_from_iter(columns).unwrap()
    }
}

/// What `SINK_ONLY` names the run in which batches are staged ahead, and its figure with it.
const DOUBLE_BUFFERED: &str = "double-buffered";
/// Batches in a row where each is staged while the one before it is merged.
const STRETCH: usize = 6;
/// Tables that the reference merges from, and a number.
const STAGE: &str = "ref_stage";

/// The same merge inside the server, as one would write it by hand: versions compared as rows, tombstones joined.
struct Reference {
    conn: Conn,
    merge: [String; 3],
    /// Of its table.
    model: Model,
}

impl Reference {
    async fn new(server: &PrivateServer, database: &str, width: Width) -> Self {
        let mut conn = Conn::from_url(server.url(database)).await.unwrap();
        for statement in [
            "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
            "CREATE TABLE ref_user LIKE enriched_user",
            "CREATE TABLE ref_tomb (user_id VARCHAR(255) NOT NULL PRIMARY KEY, cdc_ts BIGINT NOT NULL, cdc_partition INT NOT NULL, cdc_offset BIGINT NOT NULL)",
        ] {
            conn.query_drop(statement).await.unwrap();
        }
        for number in 0..STRETCH {
            let create = format!("CREATE TABLE {STAGE}{number} LIKE enriched_user");
            let alter = format!("ALTER TABLE {STAGE}{number} ADD COLUMN op CHAR(1) NOT NULL");
            for statement in [create, alter] {
                conn.query_drop(statement).await.unwrap();
            }
        }
        let key = "SELECT column_type, collation_name FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name = 'enriched_user' AND column_name = 'user_id'";
        let (kind, collation): (String, String) = conn.query_first(key).await.unwrap().unwrap();
        let alter =
            format!("ALTER TABLE ref_tomb MODIFY user_id {kind} CHARACTER SET utf8mb4 COLLATE {collation} NOT NULL");
        conn.query_drop(alter).await.unwrap();
        let version = |alias: &str| format!("({alias}.cdc_ts,{alias}.cdc_partition,{alias}.cdc_offset)");
        let guarded = |old: &str, names: &[String]| -> String {
            let assign =
                |name: &String| format!("{old}.{name}=IF({}>={},s.{name},{old}.{name})", version("s"), version(old));
            names.iter().map(assign).collect::<Vec<_>>().join(",")
        };
        let versions = ["cdc_offset", "cdc_partition", "cdc_ts"].map(str::to_owned).to_vec();
        let mut names: Vec<String> = width.columns().into_iter().map(|(name, _)| name).collect();
        names.extend(versions.clone());
        let selected = names.iter().map(|name| format!("s.{name}")).collect::<Vec<_>>().join(",");
        let merge = [
            format!(
                "INSERT INTO ref_user (user_id,{}) SELECT s.user_id,{selected} FROM {STAGE} s LEFT JOIN ref_tomb d ON \
                 d.user_id=s.user_id WHERE s.op='u' AND (d.user_id IS NULL OR {}>{}) ON DUPLICATE KEY UPDATE {}",
                names.join(","),
                version("s"),
                version("d"),
                guarded("ref_user", &names)
            ),
            format!(
                "INSERT INTO ref_tomb (user_id,cdc_ts,cdc_partition,cdc_offset) SELECT s.user_id,s.cdc_ts,s.cdc_partition,s.cdc_offset \
                 FROM {STAGE} s WHERE s.op='d' ON DUPLICATE KEY UPDATE {}",
                guarded("ref_tomb", &versions)
            ),
            format!(
                "DELETE t FROM {STAGE} s STRAIGHT_JOIN ref_user t ON t.user_id=s.user_id WHERE s.op='d' AND {}<={}",
                version("t"),
                version("s")
            ),
        ];
        Self { conn, merge, model: Model::default() }
    }

    /// Takes over what the sink's table holds by now.
    async fn begin(&mut self, model: &Model) {
        self.conn.query_drop("INSERT INTO ref_user SELECT * FROM enriched_user").await.unwrap();
        self.model = model.clone();
    }

    /// Puts fresh batches into the tables that it merges them from, outside of the clock.
    async fn fill(&mut self, width: Width, batches: &[Vec<Change>]) {
        for (number, changes) in batches.iter().enumerate() {
            self.fill_one(&format!("{STAGE}{number}"), width, changes).await;
        }
    }

    /// Makes `stage` hold these changes and nothing else.
    async fn fill_one(&mut self, stage: &str, width: Width, changes: &[Change]) {
        self.conn.query_drop(format!("TRUNCATE TABLE {stage}")).await.unwrap();
        for chunk in changes.chunks(500) {
            let rows: Vec<String> = chunk
                .iter()
                .map(|change| {
                    let text =
                        |value: &Option<String>| value.as_ref().map_or("NULL".to_owned(), |value| format!("'{value}'"));
                    let values: Vec<String> = width.values(change).iter().map(text).collect();
                    let (op, version) = (if change.deleted { 'd' } else { 'u' }, change.version);
                    format!("('{}',{},{},0,{},'{op}')", change.user, values.join(","), version.ts_ns, version.offset)
                })
                .collect();
            self.conn.query_drop(format!("INSERT INTO {stage} VALUES {}", rows.join(","))).await.unwrap();
        }
    }

    /// Merges the first so many of them, one after the other.
    async fn merge(&mut self, batches: usize) -> Duration {
        let started = Instant::now();
        for number in 0..batches {
            self.conn.query_drop("START TRANSACTION").await.unwrap();
            for statement in &self.merge {
                self.conn.query_drop(statement.replace(STAGE, &format!("{STAGE}{number}"))).await.unwrap();
            }
            self.conn.query_drop("COMMIT").await.unwrap();
        }
        started.elapsed()
    }

    /// What any transaction costs here: one row changed and made durable.
    async fn floor(&mut self) -> Duration {
        let started = Instant::now();
        self.conn.query_drop("UPDATE afterimage_positions SET owner = UUID()").await.unwrap();
        started.elapsed()
    }
}

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
        record(name, &format!("sink: {what}, batches of {}", kind.batch), "rows/s", value, reference);
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
            record(name, &format!("{what}, p{percent} against an UPDATE of one row"), "ms", of(&ours), of(&floor));
        }
    }
    line(kind.what, rate(&ours), rate(&theirs), &more);
    if kind.without_infile {
        line(&format!("{}, no local_infile", kind.what), rate(&without), rate(&theirs), "");
        line(&format!("{}, without to with it", kind.what), rate(&without), rate(&ours), "");
    }
}

/// Stretches of batches in which each is staged while the one before it is merged, and as many merged by the reference, in turn. What a
/// server does behind a merge (purging, flushing) falls into the clock of the next one on both sides.
async fn double_buffered(bench: &mut Bench, server: &PrivateServer) {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..=setting("SINK_PAIRS", 8).div_ceil(2) {
        ours.push(bench.double_buffered(USUAL.batch, &USUAL, STRETCH).await);
        theirs.push(bench.reference(USUAL.batch, &USUAL, STRETCH).await);
    }
    let rate = |times: &[Duration]| (STRETCH * USUAL.batch) as f64 / percentile(&times[1..], 50);
    let (value, reference) = (rate(&ours), rate(&theirs));
    let name = server_name(server);
    let ratio = value / reference;
    println!("{name:<8} {:<28} {:>7} {value:>12.0} {reference:>12.0} {ratio:>6.2}", DOUBLE_BUFFERED, USUAL.batch);
    record(name, &format!("sink alone, {DOUBLE_BUFFERED}"), "rows/s", value, reference);
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

fn record(server: &str, what: &str, unit: &str, value: f64, reference: f64) {
    let Ok(file) = std::env::var("BENCH_JSON") else { return };
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(file).unwrap();
    let ratio = value / reference;
    let figure = serde_json::json!({
        "what": what, "server": server, "value": value, "unit": unit, "reference": reference, "ratio": ratio,
    });
    writeln!(file, "{figure}").unwrap();
}
