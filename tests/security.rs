//! Bad input and security, on real servers: what is spoken encrypted and to whom, with which rights, what is kept secret, and what
//! hostile names, values and visitors can do.

mod hostile;
mod http;
mod payloads;
mod privileges;
mod secrets;
mod tls_kafka;
mod tls_mysql;

use std::time::Duration;

use afterimage::generate::OwnedRecord;
use serde_json::{Value, json};

use crate::support::process::Running;

const LONG: Duration = Duration::from_secs(150);
const START_MS: i64 = 1_700_000_000_000;

/// Who the event is about, and what it says of them.
fn event(user: &str, name: Value, country: &str, second: i64) -> OwnedRecord {
    let after = json!({ "userId": user, "name": name, "email": null, "country": country });
    let value = json!({ "op": "u", "before": null, "after": after, "timestamp": START_MS + second * 1000 });
    record(user, value.to_string(), second)
}

/// A record of partition 0 with any value.
fn record(key: &str, value: impl Into<Vec<u8>>, second: i64) -> OwnedRecord {
    OwnedRecord {
        partition: 0,
        offset: 0,
        timestamp_ms: Some(START_MS + second * 1000),
        key: Some(key.as_bytes().to_vec()),
        value: Some(value.into()),
    }
}

async fn finish(mut running: Running) {
    running.terminate();
    running.wait_for_code(0, Duration::from_secs(60)).await;
}
