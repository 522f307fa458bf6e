//! Changed files taken up by a running service, and refused ones; generations of several instances that come and go.
//!
//! Which definition wrote a row is seen in the row: the models of generation N put `gN ` before the region. `region` apart, everything
//! must be as the fold says. Triggers note which generation moved a position, in order: none after a newer one.

mod edits;
mod evolution;
mod rollouts;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use afterimage::demo::outcome::Found;
use afterimage::demo::server::{PrivateServer, free_port};
use afterimage::generate::{Mix, OwnedRecord, Records, Workload};
use serde_json::{Value, json};

use crate::support::outcome;
use crate::support::process::{Running, Workspace};
use crate::support::rig::{Rig, Variant, config};

const LONG: Duration = Duration::from_secs(100);
const START_MS: i64 = 1_700_000_000_000;

const NOTES: [&str; 2] = [
    "CREATE TABLE test_writes (id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY, kafka_partition INT NOT NULL, was BIGINT NOT NULL, \
     becomes BIGINT NOT NULL, generation BIGINT NOT NULL) ENGINE=InnoDB",
    "CREATE TRIGGER test_write AFTER UPDATE ON afterimage_positions FOR EACH ROW INSERT INTO test_writes \
     (kafka_partition, was, becomes, generation) SELECT NEW.kafka_partition, OLD.next_offset, NEW.next_offset, NEW.wrote_generation \
     FROM DUAL WHERE NEW.transaction_id <> OLD.transaction_id",
];

/// A rig that notes who writes.
async fn rig(server: &PrivateServer, variant: Variant) -> Rig {
    let rig = Rig::new(server, variant).await;
    for statement in NOTES {
        rig.database.execute(statement).await;
    }
    rig
}

/// With the status page at `port`.
fn with_status(port: u16) -> Variant {
    Variant { http: format!("listen = \"127.0.0.1:{port}\""), ..Variant::default() }
}

/// Another deployment's files: the shipped ones, with the rig's config.
fn files(rig: &Rig, generation: usize) -> Workspace {
    let files = Workspace::new(&config(&rig.broker.brokers(), &rig.topic, &rig.database.url, &rig.variant));
    mark(files.path(), generation);
    files
}

fn enriched(root: &Path) -> PathBuf {
    root.join("queries/users/enriched.sql")
}

/// The shipped text of the model `enriched`, with the mark of a generation; 0: as it is.
fn marked(generation: usize) -> String {
    let shipped = include_str!("../queries/users/enriched.sql");
    match generation {
        0 => shipped.to_owned(),
        _ => shipped.replace("l.region AS region", &format!("'g{generation} ' || l.region AS region")),
    }
}

/// Saves the models of a generation, as an editor does: a file beside, and a rename.
fn mark(root: &Path, generation: usize) {
    let beside = root.join("queries/users/.enriched.sql.saving");
    std::fs::write(&beside, marked(generation)).unwrap();
    std::fs::rename(beside, enriched(root)).unwrap();
}

/// An event of `user` at `second`.
fn event(user: &str, country: &str, second: i64) -> OwnedRecord {
    let after = json!({ "userId": user, "name": format!("{user} at {second}"), "email": null, "country": country });
    record(user, &json!({ "op": "u", "before": null, "after": after, "timestamp": START_MS + second * 1000 }), second)
}

fn record(user: &str, value: &Value, second: i64) -> OwnedRecord {
    OwnedRecord {
        partition: 0,
        offset: 0,
        timestamp_ms: Some(START_MS + second * 1000),
        key: Some(user.as_bytes().to_vec()),
        value: Some(value.to_string().into_bytes()),
    }
}

fn workload(events: u64, partitions: i32, seed: u64) -> Records {
    Workload { events, users: 60, partitions, seed, mix: Mix::harsh(), ..Workload::default() }.records()
}

/// Everything as the fold says, the marks of generations apart; yields how many rows each has written, 0: none.
async fn assert_as_folded_but_for_marks(rig: &Rig) -> BTreeMap<String, usize> {
    let expected = rig.expected();
    let mut state = outcome::read(&rig.database).await;
    let mut marks = BTreeMap::new();
    for row in state.rows.values_mut() {
        let Some(region) = row.region.take() else { continue };
        let (mark, plain) = match region.split_once(' ') {
            Some((mark, plain)) if mark.starts_with('g') => (mark.to_owned(), plain.to_owned()),
            _ => ("g0".to_owned(), region),
        };
        row.region = Some(plain);
        *marks.entry(mark).or_default() += 1;
    }
    let faults = afterimage::demo::outcome::faults(&expected, &Found { state, unbalanced: Vec::new() });
    assert!(faults.is_empty(), "{} differences:\n{}", faults.len(), faults.join("\n"));
    marks
}

/// No offset was skipped or applied twice, and no generation wrote after a newer one. Yields the generations that wrote, in order.
async fn assert_written_in_turn(rig: &Rig) -> Vec<i64> {
    let number = |text: &String| text.parse::<i64>().unwrap();
    let rows = rig.database.rows("SELECT kafka_partition, was, becomes, generation FROM test_writes ORDER BY id").await;
    let mut stands: BTreeMap<i64, i64> = BTreeMap::new();
    let mut generations: Vec<i64> = Vec::new();
    for row in rows {
        let [partition, was, becomes, generation] = [0, 1, 2, 3].map(|column| number(&row[column]));
        let before = stands.insert(partition, becomes);
        assert!(before.is_none_or(|before| before == was), "partition {partition}: {was} after {before:?}");
        let newest = generations.last().copied().unwrap_or(0);
        assert!(generation >= newest, "partition {partition} {was}..{becomes}: {generation} wrote after {newest}");
        if generation > newest {
            generations.push(generation);
        }
    }
    generations
}

/// The pipeline as `/api/v1/status` shows it.
fn status(port: u16) -> Value {
    let answer = crate::support::web::get(port, "/api/v1/status");
    let pipelines: Value = serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("{answer:?}: {error}"));
    pipelines[0].clone()
}

async fn wait_for_status(port: u16, wanted: impl Fn(&Value) -> bool) -> Value {
    let started = Instant::now();
    loop {
        let found = status(port);
        if wanted(&found) {
            return found;
        }
        assert!(started.elapsed() < LONG, "{found:#}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn finish(mut running: Running) {
    running.terminate();
    running.wait_for_code(0, Duration::from_secs(30)).await;
}

/// How often the log holds `text`.
fn count(running: &Running, text: &str) -> usize {
    running.log().lines().filter(|line| line.contains(text)).count()
}
