//! The sink's write path beside its limit: the server's own engine doing the same guarded merge from a table it already holds.
//!
//! Per server, on one target table, batch by batch in turn: the sink (encode, stage, merge, commit) and the reference (merge from a
//! permanent table filled outside the clock, then COMMIT). Fresh batches for each side, versions rising; the first pair warms up.
//! Prints rows/s of both and the ratio of the medians; at the end the table is compared with a model in memory. Run
//! with `make bench`; `SINK_ROWS`, `SINK_BATCH` and `SINK_PAIRS` change the sizes.

#![allow(clippy::unwrap_used, reason = "a bench fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use afterimage::demo::server::{PrivateServer, Program};
use afterimage::generation::{Generation, Marks};
use afterimage::position::Version;
use afterimage::sink::generations::{Grounds, Registered};
use afterimage::sink::positions::{Advance, Owner, Stored, SumChanges, TopicIdentity};
use afterimage::sink::session::{Address, Connector};
use afterimage::sink::{Outcome, Sink, Staging, Work, migrate};
use afterimage::target::{Column, Holds, Target};
use arrow::array::{ArrayRef, AsArray, BooleanArray, Int32Array, Int64Array, RecordBatch, StringArray};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    println!(
        "{:<16} {:>8} {:>8} {:>14} {:>14} {:>8}",
        "server", "stored", "batch", "sink rows/s", "reference", "ratio"
    );
    let cache = std::env::var("AFTERIMAGE_CACHE")
        .map_or_else(|_| PathBuf::from(std::env::var("HOME").unwrap()).join(".cache/afterimage"), PathBuf::from);
    for program in [Program::in_root(&cache.join("mysql")), Program::mariadb()] {
        runtime.block_on(compare(&program.unwrap()));
    }
}

/// One row per user: version and whether it is deleted.
#[derive(Default)]
struct Model {
    live: BTreeMap<String, Version>,
    next_user: u64,
    next_offset: i64,
}

struct Change {
    user: String,
    deleted: bool,
    version: Version,
}

impl Model {
    /// 80 % updates of existing users, 15 % new ones, 5 % deletes; sorted by key.
    fn batch(&mut self, random: &mut SmallRng, size: usize, new_share: f64) -> Vec<Change> {
        let users: Vec<String> = self.live.keys().cloned().collect();
        let mut seen = BTreeSet::new();
        let mut changes = Vec::with_capacity(size);
        while changes.len() < size {
            let dice: f64 = random.random();
            let fresh = users.is_empty() || dice < new_share;
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
            let version = Version { ts_ns: self.next_offset * 1_000_000, partition: 0, offset: self.next_offset };
            let deleted = !fresh && dice > 0.95;
            if deleted {
                self.live.remove(&user)
            } else {
                self.live.insert(user.clone(), version)
            };
            changes.push(Change { user, deleted, version });
        }
        changes.sort_by(|left, right| left.user.cmp(&right.user));
        changes
    }
}

fn values(change: &Change) -> [Option<String>; 5] {
    if change.deleted {
        return [const { None }; 5];
    }
    let number = change.version.offset;
    [
        Some(format!("User {number} of the Many Names")),
        Some(format!("user.{number}@example.com")),
        Some("DE".to_owned()),
        Some("Germany".to_owned()),
        Some("Europe".to_owned()),
    ]
}

fn record_batch(changes: &[Change]) -> RecordBatch {
    let rows: Vec<[Option<String>; 5]> = changes.iter().map(values).collect();
    let text =
        |index: usize| -> ArrayRef { Arc::new(StringArray::from_iter(rows.iter().map(|row| row[index].clone()))) };
    let versions = || changes.iter().map(|change| change.version);
    RecordBatch::try_from_iter_with_nullable([
        (
            "user_id",
            Arc::new(StringArray::from_iter_values(changes.iter().map(|change| &change.user))) as ArrayRef,
            false,
        ),
        ("name", text(0), true),
        ("email", text(1), true),
        ("country", text(2), true),
        ("country_name", text(3), true),
        ("region", text(4), true),
        ("_deleted", Arc::new(BooleanArray::from_iter(changes.iter().map(|change| Some(change.deleted)))), false),
        ("cdc_ts", Arc::new(Int64Array::from_iter_values(versions().map(|version| version.ts_ns))), false),
        ("cdc_partition", Arc::new(Int32Array::from_iter_values(versions().map(|version| version.partition))), false),
        ("cdc_offset", Arc::new(Int64Array::from_iter_values(versions().map(|version| version.offset))), false),
    ])
    .unwrap()
}

fn target() -> Target {
    let column = |name: &str| Column {
        name: name.to_owned(),
        ddl_type: "VARCHAR(255)".to_owned(),
        holds: Holds::Text { max_chars: 255, max_bytes: 1020 },
        nullable: true,
    };
    let columns = ["user_id", "name", "email", "country", "country_name", "region"].map(column).to_vec();
    Target { table: "enriched_user".to_owned(), columns, key_len: 1 }
}

const REFERENCE: [&str; 4] = [
    "INSERT INTO enriched_user (user_id,name,email,country,country_name,region,cdc_ts,cdc_partition,cdc_offset) \
     SELECT s.user_id,s.name,s.email,s.country,s.country_name,s.region,s.cdc_ts,s.cdc_partition,s.cdc_offset \
     FROM ref_stage s LEFT JOIN ref_tomb d ON d.user_id=s.user_id WHERE s.op='u' AND (d.user_id IS NULL OR \
     (s.cdc_ts,s.cdc_partition,s.cdc_offset)>(d.cdc_ts,d.cdc_partition,d.cdc_offset)) ON DUPLICATE KEY UPDATE \
     enriched_user.name=IF((s.cdc_ts,s.cdc_partition,s.cdc_offset)>=(enriched_user.cdc_ts,enriched_user.cdc_partition,enriched_user.cdc_offset),s.name,enriched_user.name),\
     enriched_user.email=IF((s.cdc_ts,s.cdc_partition,s.cdc_offset)>=(enriched_user.cdc_ts,enriched_user.cdc_partition,enriched_user.cdc_offset),s.email,enriched_user.email),\
     enriched_user.country=IF((s.cdc_ts,s.cdc_partition,s.cdc_offset)>=(enriched_user.cdc_ts,enriched_user.cdc_partition,enriched_user.cdc_offset),s.country,enriched_user.country),\
     enriched_user.country_name=IF((s.cdc_ts,s.cdc_partition,s.cdc_offset)>=(enriched_user.cdc_ts,enriched_user.cdc_partition,enriched_user.cdc_offset),s.country_name,enriched_user.country_name),\
     enriched_user.region=IF((s.cdc_ts,s.cdc_partition,s.cdc_offset)>=(enriched_user.cdc_ts,enriched_user.cdc_partition,enriched_user.cdc_offset),s.region,enriched_user.region),\
     enriched_user.cdc_offset=IF((s.cdc_ts,s.cdc_partition,s.cdc_offset)>=(enriched_user.cdc_ts,enriched_user.cdc_partition,enriched_user.cdc_offset),s.cdc_offset,enriched_user.cdc_offset),\
     enriched_user.cdc_partition=IF((s.cdc_ts,s.cdc_partition,s.cdc_offset)>=(enriched_user.cdc_ts,enriched_user.cdc_partition,enriched_user.cdc_offset),s.cdc_partition,enriched_user.cdc_partition),\
     enriched_user.cdc_ts=IF((s.cdc_ts,s.cdc_partition,s.cdc_offset)>=(enriched_user.cdc_ts,enriched_user.cdc_partition,enriched_user.cdc_offset),s.cdc_ts,enriched_user.cdc_ts)",
    "INSERT INTO ref_tomb (user_id,cdc_ts,cdc_partition,cdc_offset) SELECT s.user_id,s.cdc_ts,s.cdc_partition,s.cdc_offset FROM ref_stage s \
     WHERE s.op='d' ON DUPLICATE KEY UPDATE \
     ref_tomb.cdc_offset=IF((s.cdc_ts,s.cdc_partition,s.cdc_offset)>=(ref_tomb.cdc_ts,ref_tomb.cdc_partition,ref_tomb.cdc_offset),s.cdc_offset,ref_tomb.cdc_offset),\
     ref_tomb.cdc_partition=IF((s.cdc_ts,s.cdc_partition,s.cdc_offset)>=(ref_tomb.cdc_ts,ref_tomb.cdc_partition,ref_tomb.cdc_offset),s.cdc_partition,ref_tomb.cdc_partition),\
     ref_tomb.cdc_ts=IF((s.cdc_ts,s.cdc_partition,s.cdc_offset)>=(ref_tomb.cdc_ts,ref_tomb.cdc_partition,ref_tomb.cdc_offset),s.cdc_ts,ref_tomb.cdc_ts)",
    "DELETE t FROM ref_stage s STRAIGHT_JOIN enriched_user t ON t.user_id=s.user_id WHERE s.op='d' AND \
     (t.cdc_ts,t.cdc_partition,t.cdc_offset)<=(s.cdc_ts,s.cdc_partition,s.cdc_offset)",
    "COMMIT",
];

async fn compare(program: &Program) {
    let home = tempfile::Builder::new().prefix("bench-").tempdir_in("/var/tmp").unwrap();
    let server = PrivateServer::start(program, home, &["--innodb-buffer-pool-size=1G"]).await.unwrap();
    let mut admin = server.connect().await.unwrap();
    admin.query_drop("CREATE DATABASE bench").await.unwrap();
    let (port, user, password) = (server.port(), server.account().to_owned(), server.password().to_owned());
    let address =
        Address { host: "127.0.0.1".into(), port, user, password, database: "bench".into(), tls: false, ca_file: None };
    let connector = Connector {
        address: Arc::new(move || Ok(address.clone())),
        connect_timeout: Duration::from_secs(10),
        statement_timeout: Duration::from_secs(120),
    };
    let mut session = connector.connect().await.unwrap();
    let statements = migrate::plan(&mut session, &[target()]).await.unwrap();
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
    let mut stored = owner.create(&mut session, 0, 0, &TopicIdentity::default()).await.unwrap();
    let mut sink = Sink::new(connector, owner, vec!["user_id".to_owned()]);
    let found = sink.look(&target()).await.unwrap().unwrap();
    sink.use_target(found.target);

    let mut reference = Conn::from_url(server.url("bench")).await.unwrap();
    for statement in [
        "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
        "CREATE TABLE ref_stage LIKE enriched_user",
        "ALTER TABLE ref_stage ADD COLUMN op CHAR(1) NOT NULL",
        "CREATE TABLE ref_tomb (user_id VARCHAR(255) NOT NULL PRIMARY KEY, cdc_ts BIGINT NOT NULL, cdc_partition INT NOT NULL, cdc_offset BIGINT NOT NULL)",
    ] {
        reference.query_drop(statement).await.unwrap();
    }
    let key = "SELECT column_type, collation_name FROM information_schema.columns WHERE table_schema='bench' AND table_name='enriched_user' AND column_name='user_id'";
    let (kind, collation): (String, String) = reference.query_first(key).await.unwrap().unwrap();
    let alter =
        format!("ALTER TABLE ref_tomb MODIFY user_id {kind} CHARACTER SET utf8mb4 COLLATE {collation} NOT NULL");
    reference.query_drop(alter).await.unwrap();

    let (rows, batch, pairs) = (setting("SINK_ROWS", 200_000), setting("SINK_BATCH", 20_000), setting("SINK_PAIRS", 8));
    let mut model = Model::default();
    let mut random = SmallRng::seed_from_u64(5);
    while model.live.len() < rows {
        let changes = model.batch(&mut random, 20_000, 1.0);
        let rows = record_batch(&changes);
        apply(&mut sink, &rows, &mut stored).await;
    }
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..=pairs {
        let changes = model.batch(&mut random, batch, 0.15);
        // The models' rows are what the sink is given; making them up is not its work.
        let rows = record_batch(&changes);
        let started = Instant::now();
        apply(&mut sink, &rows, &mut stored).await;
        ours.push(batch as f64 / started.elapsed().as_secs_f64());
        let changes = model.batch(&mut random, batch, 0.15);
        fill_reference(&mut reference, &changes).await;
        let started = Instant::now();
        reference.query_drop("START TRANSACTION").await.unwrap();
        for statement in REFERENCE {
            reference.query_drop(statement).await.unwrap();
        }
        theirs.push(batch as f64 / started.elapsed().as_secs_f64());
    }
    let (ours, theirs) = (median(ours.split_off(1)), median(theirs.split_off(1)));
    println!(
        "{:<16} {:>8} {:>8} {:>14.0} {:>14.0} {:>8.2}",
        server.version(),
        model.live.len(),
        batch,
        ours,
        theirs,
        ours / theirs
    );
    verify(&mut reference, &model).await;
}

async fn apply(sink: &mut Sink, latest: &RecordBatch, at: &mut Stored) {
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
        late: vec![false; latest.num_rows()],
        quarantine: Vec::new(),
        settled: Vec::new(),
    };
    (at.next_offset, at.transaction) = (from + count, work.id);
    let Staging::Ready(staged) = sink.stage(&work).await.unwrap() else { panic!("rows are refused") };
    let outcome = sink.transact(&work, &staged, &[]).await.unwrap();
    assert!(matches!(outcome, Outcome::Committed { ref superseded, .. } if superseded.is_empty()), "{outcome:?}");
}

async fn fill_reference(conn: &mut Conn, changes: &[Change]) {
    conn.query_drop("TRUNCATE TABLE ref_stage").await.unwrap();
    for chunk in changes.chunks(1000) {
        let rows: Vec<String> = chunk
            .iter()
            .map(|change| {
                let text =
                    |value: &Option<String>| value.as_ref().map_or("NULL".to_owned(), |value| format!("'{value}'"));
                let values: Vec<String> = values(change).iter().map(text).collect();
                let op = if change.deleted { 'd' } else { 'u' };
                format!(
                    "('{}',{},{},0,{},'{op}')",
                    change.user,
                    values.join(","),
                    change.version.ts_ns,
                    change.version.offset
                )
            })
            .collect();
        conn.query_drop(format!("INSERT INTO ref_stage VALUES {}", rows.join(","))).await.unwrap();
    }
}

/// A fast wrong path is easy to build: the table must be the model.
async fn verify(conn: &mut Conn, model: &Model) {
    let rows: Vec<(String, i64, i64)> =
        conn.query("SELECT user_id, cdc_ts, cdc_offset FROM enriched_user").await.unwrap();
    assert_eq!(rows.len(), model.live.len());
    for (user, ts, offset) in rows {
        assert_eq!(model.live.get(&user).map(|version| (version.ts_ns, version.offset)), Some((ts, offset)), "{user}");
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
