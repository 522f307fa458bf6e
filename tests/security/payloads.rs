//! Payloads that are too much: delivered, quarantined, or waited for by name, within bounded memory; never a silent stall.

use std::time::{Duration, Instant};

use afterimage::demo::server::free_port;
use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::{Value, json};

use super::{LONG, START_MS, event, finish, record};
use crate::on_both_servers;
use crate::support::outcome;
use crate::support::process::Running;
use crate::support::rig::{Rig, Variant};
use crate::support::servers::{mariadb, start_private};
use crate::support::web;

const MIB: usize = 1 << 20;

/// An event with an unknown field of so many bytes.
fn wide(user: &str, bytes: usize, second: i64) -> afterimage::generate::OwnedRecord {
    let after = json!({ "userId": user, "name": "wide", "email": null, "country": "DE", "note": "x".repeat(bytes) });
    let value = json!({ "op": "u", "before": null, "after": after, "timestamp": START_MS + second * 1000 });
    record(user, value.to_string(), second)
}

fn nested(levels: usize) -> String {
    format!("{}{}", "[".repeat(levels), "]".repeat(levels))
}

/// The most memory that the process had, looked at until it ends by itself.
async fn peak(running: &mut Running) -> u64 {
    let (mut peak, started) = (0, Instant::now());
    while running.is_running() {
        peak = peak.max(running.peak_memory());
        assert!(started.elapsed() < LONG, "{}", running.tail());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    running.wait_for_code(0, Duration::from_secs(1)).await;
    peak
}

on_both_servers! {
    // Proves: P4, P5, R36, R37
    async fn bombs_are_delivered_or_quarantined_within_bounded_memory(server) {
        let mut rig = Rig::new(server, Variant::default()).await;
        let names: String = (0..1_000_000).map(|number| format!("\"k{number}\":1,")).collect();
        let keys = format!(
            "{{\"op\":\"c\",\"before\":null,\"after\":{{\"userId\":\"keys\",{names}\"name\":\"k\",\"email\":null,\"country\":\"DE\"}},\
             \"timestamp\":{START_MS}}}"
        );
        let deep = |field: &str, levels: usize| {
            format!(
                "{{\"op\":\"c\",\"before\":null,\"after\":{{\"userId\":\"deep {levels}\",\"name\":\"d\",\"email\":null,\"country\":\"DE\",\
                 \"{field}\":{}}},\"timestamp\":{START_MS}}}",
                nested(levels)
            )
        };
        // Refused: 0 and 1 don't fit the table, 2 to 4 are deeper than any parser goes. The rest arrives; 6 is larger than what is
        // fetched at once.
        rig.write([
            event("string", json!("x".repeat(7 * MIB)), "DE", 1),
            event(&"k".repeat(2 * MIB), json!("long key"), "DE", 1),
            record("deep", deep("note", 100_000), 1),
            record("deep", deep("name", 100_000), 1),
            record("deep", "[".repeat(5 * MIB), 1),
            record("keys", keys, 1),
            wide("wide", 9 * MIB, 1),
            record("deep", deep("note", 100), 1),
            event("after", json!("all of it"), "DE", 1),
        ]).await;
        let mut running = rig.workspace.start("run", &["run", "--until-caught-up"]);
        let peak = peak(&mut running).await;
        let found = outcome::read(&rig.database).await;
        let refused: Vec<i64> = found.quarantine.keys().map(|(_, offset)| *offset).collect();
        assert_eq!(refused, [0, 1, 2, 3, 4], "{:?}", found.quarantine);
        let users: Vec<&str> = found.rows.keys().map(String::as_str).collect();
        assert_eq!(users, ["after", "deep 100", "keys", "wide"]);
        println!("{}: peak {} MiB", server.version(), peak >> 20);
        assert!(peak < 700 << 20, "{} MiB", peak >> 20);
        // Names of fields are counted, not kept by the million.
        let log = running.log();
        let warned = log.lines().filter(|line| line.contains("no schema knows")).count();
        assert!((100..=1_001).contains(&warned) && log.len() < 2 * MIB, "{warned} warnings in {} bytes", log.len());
    }

    // Proves: P5, P6, R37
    async fn a_record_beyond_the_packet_limit_is_waited_for_by_name(server) {
        let private = start_private(server.flavour(), &["--max-allowed-packet=1M"]).await;
        let mut rig = Rig::new(&private, Variant::default()).await;
        // Rows go in pieces below the limit, however many there are.
        rig.write((0..40).map(|number| wide(&format!("u{number}"), 100_000, number))).await;
        rig.catch_up("pieces", LONG).await;
        rig.assert_as_folded().await;
        // A record that has to be kept as a whole and is larger than the server takes at once.
        rig.write([event("big", json!("x".repeat(MIB)), "DE", 50), event("next", json!("n"), "DE", 51)]).await;
        let mut running = rig.start("run");
        running.wait_for_log("max_allowed_packet", LONG).await;
        let log = running.log();
        let line = log.lines().find(|line| line.contains("max_allowed_packet")).unwrap();
        assert!(line.contains("waiting") && line.contains("raise max_allowed_packet"), "{line}");
        assert!(running.is_running());
        assert_eq!(rig.database.number("SELECT COUNT(*) FROM enriched_user WHERE user_id = 'next'").await, 0);
        // Mended without a restart.
        rig.database.execute("SET GLOBAL max_allowed_packet = 16777216").await;
        rig.wait_until_applied(LONG).await;
        finish(running).await;
        rig.assert_as_folded().await;
        assert_eq!(rig.database.number("SELECT OCTET_LENGTH(record_value) > 1048576 FROM error_data_enrichment").await, 1);
    }
}

/// Writes one record that is small on the way and large when it is unpacked.
async fn write_packed(rig: &Rig, value: Vec<u8>) {
    let (brokers, topic) = (rig.broker.brokers(), rig.topic.clone());
    let sending = tokio::task::spawn_blocking(move || {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", brokers).set("compression.type", "zstd").set("message.max.bytes", "500000000");
        config.set("queue.buffering.max.kbytes", "1000000");
        let producer: BaseProducer = config.create().unwrap();
        let record: BaseRecord<'_, [u8], [u8]> =
            BaseRecord::to(&topic).partition(0).key(&b"bomb"[..]).payload(value.as_slice()).timestamp(START_MS);
        producer.send(record).map_err(|(error, _)| error).unwrap();
        producer.flush(Duration::from_secs(60)).unwrap();
    });
    sending.await.unwrap();
}

// Proves: P6, R36, R37
#[tokio::test(flavor = "multi_thread")]
async fn a_decompression_bomb_stops_its_partition_by_name_and_no_other() {
    let port = free_port().unwrap();
    let http = format!("listen = \"127.0.0.1:{port}\"");
    let mut rig = Rig::new(mariadb().await, Variant { http, ..Variant::default() }).await;
    // 256 MiB of one letter are some 20 KB on the way.
    write_packed(&rig, vec![b' '; 256 * MIB]).await;
    let running = rig.start("run");
    web::wait_until_it_listens(port);
    let mut other = event("other", json!("flows"), "DE", 1);
    other.partition = 1;
    rig.write([other]).await;
    let started = Instant::now();
    while rig.database.number("SELECT COUNT(*) FROM enriched_user").await < 1 {
        assert!(started.elapsed() < LONG, "{}", running.tail());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // Named where operators look.
    let named = |status: &Value| {
        let text = status.to_string();
        text.contains("decompress") || text.contains("halted\":{\"0\"") || text.contains("\"waiting\"")
    };
    loop {
        let status: Value = serde_json::from_str(&web::get(port, "/api/v1/status").body).unwrap();
        if named(&status) {
            println!("{status}");
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "a silent stall: {status}\n{}", running.tail());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(web::get(port, "/readyz").status, 503);
    assert!(running.peak_memory() < 700 << 20, "{} MiB", running.peak_memory() >> 20);
    finish(running).await;
}
