//! Faults on Kafka's side, one test per fault: brokers that die, groups that rebalance at the worst moment, topics that are not
//! what they were, logs with holes. After each: heal, catch up within a bound, and everything is as the fold says.

mod broker;
mod identity;
mod rebalance;
mod records;

use std::time::Duration;

use afterimage::generate::{Mix, OwnedRecord, Workload};
use serde_json::json;

use crate::support::process::Running;
use crate::support::rig::Variant;

/// Bounds that a machine five times slower than ours keeps, too.
const LONG: Duration = Duration::from_secs(150);
const START_MS: i64 = 1_700_000_000_000;

/// A group that notices a lost member within six seconds.
const QUICK: &str = "\"session.timeout.ms\" = \"6000\"\n\"heartbeat.interval.ms\" = \"1000\"\n";
/// Batches so small that a few thousand records make many transactions.
const SMALL: &str = "batch = { max_events = 300, max_bytes = \"1MiB\", max_wait = \"1ms\" }\n";

/// The pipeline of most tests here: small batches, a quick group.
fn quick(partitions: i32) -> Variant {
    Variant { partitions, pipeline: SMALL.to_owned(), kafka: QUICK.to_owned(), ..Variant::default() }
}

fn harsh(events: u64, partitions: i32, seed: u64) -> impl Iterator<Item = OwnedRecord> {
    Workload { events, users: 200, partitions, seed, mix: Mix::harsh(), ..Workload::default() }.records()
}

fn orderly(events: u64, partitions: i32, seed: u64) -> impl Iterator<Item = OwnedRecord> {
    Workload { events, users: 100, partitions, seed, mix: Mix::orderly(), ..Workload::default() }.records()
}

/// An event at `second` after the start; `before` and `after` name the user where there is one on that side.
fn change(partition: i32, before: Option<&str>, after: Option<&str>, second: i64) -> OwnedRecord {
    let image =
        |user: &str| json!({ "userId": user, "name": format!("{user} at {second}"), "email": null, "country": "DE" });
    let op = match (before, after) {
        (None, _) => "c",
        (_, None) => "d",
        _ => "u",
    };
    let timestamp = START_MS + second * 1000;
    let value = json!({ "op": op, "before": before.map(image), "after": after.map(image), "timestamp": timestamp });
    OwnedRecord {
        partition,
        offset: 0,
        timestamp_ms: Some(timestamp),
        key: after.or(before).map(|user| user.as_bytes().to_vec()),
        value: Some(value.to_string().into_bytes()),
    }
}

async fn finish(mut running: Running) {
    running.terminate();
    running.wait_for_code(0, Duration::from_secs(60)).await;
}

/// How often a program has logged `text`.
fn count(running: &Running, text: &str) -> usize {
    running.log().matches(text).count()
}

/// Waits until a program has logged `text` so many times.
async fn wait_for_count(running: &mut Running, text: &str, times: usize) {
    let started = std::time::Instant::now();
    while count(running, text) < times {
        assert!(running.is_running(), "ended\n{}", running.tail());
        assert!(
            started.elapsed() < LONG,
            "{text:?} logged {} times, not {times}\n{}",
            count(running, text),
            running.tail()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
