//! Logs with holes: records deleted before they were read, aborted and endless transactions, compaction; partitions added; odd
//! records and odd topics.

use std::collections::BTreeSet;
use std::time::Duration;

use afterimage::generate::{OwnedRecord, partition_of};

use super::{LONG, change, count, finish, harsh, orderly, quick};
use crate::support::kafka::Message;
use crate::support::outcome;
use crate::support::proxy::Proxy;
use crate::support::rig::{Rig, Variant};
use crate::support::servers;

/// A record as producers of the tests take it.
pub(super) fn message(record: &OwnedRecord) -> Message {
    Message {
        partition: record.partition,
        key: record.key.clone(),
        value: record.value.clone(),
        timestamp: record.timestamp_ms,
        headers: Vec::new(),
    }
}

/// The client fetches little ahead, so that records are still unread when they are deleted.
const SHORT_SIGHTED: &str = "\"queued.min.messages\" = \"100\"\n\"queued.max.messages.kbytes\" = \"64\"\n\
                             \"fetch.message.max.bytes\" = \"16384\"\n";

// Proves: P3, P6, R50
#[tokio::test(flavor = "multi_thread")]
async fn records_deleted_while_the_service_lags_halt_their_partition_with_the_lost_range() {
    let variant = Variant { kafka: format!("{}{SHORT_SIGHTED}", quick(2).kafka), ..quick(2) };
    let (mut rig, proxy): (Rig, Proxy) = Rig::behind_a_proxy(servers::mysql().await, variant).await;
    let mut running = rig.start("run");
    rig.write(orderly(1_000, 2, 301)).await;
    rig.wait_until_applied(LONG).await;
    proxy.blackhole(true);
    let mut records = orderly(15_000, 2, 303);
    for _ in 0..30 {
        // A producer of its own for every few: a fetch never brings less than one batch of a producer.
        rig.write(records.by_ref().take(500)).await;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (_, end) = rig.broker.watermarks(&rig.topic, 0).await;
    let begin = end - 100;
    rig.broker.delete_records(&rig.topic, 0, begin).await;
    proxy.blackhole(false);
    running.wait_for_log("were deleted before they were read", LONG).await;
    let at = rig.database.number("SELECT next_offset FROM afterimage_positions WHERE kafka_partition = 0").await;
    let lost = format!(
        "offsets {at} to {} ({} offsets) were deleted before they were read; Kafka now begins at {begin}",
        begin - 1,
        begin - at
    );
    assert!(running.log().contains(&lost), "{lost}\n{}", running.tail());
    let goal = rig.expected().next_offset[&1];
    rig.wait_for("SELECT next_offset FROM afterimage_positions WHERE kafka_partition = 1", goal, LONG).await;
    // The operator accepts the loss, as the operator's pages have it. It goes on by itself.
    let accept = "UPDATE afterimage_positions SET next_offset = {begin} WHERE pipeline = 'users' AND kafka_partition = 0 AND next_offset = {at}";
    rig.database.execute(&accept.replace("{begin}", &begin.to_string()).replace("{at}", &at.to_string())).await;
    rig.written.retain(|record| record.partition != 0 || record.offset < at || record.offset >= begin);
    rig.wait_until_applied(LONG).await;
    finish(running).await;
    rig.assert_as_folded().await;
}

// Proves: P3, P6, R50
#[tokio::test(flavor = "multi_thread")]
async fn records_expired_by_retention_while_the_service_was_stopped_halt_their_partition() {
    let mut rig = Rig::new(servers::mariadb().await, quick(1)).await;
    rig.write(orderly(200, 1, 307)).await;
    rig.catch_up("first", LONG).await;
    let before = rig.expected();
    // Retention judges closed segments only.
    rig.broker
        .configure_topic(
            &rig.topic,
            &[("retention.ms", "1000"), ("segment.bytes", "1048576"), ("file.delete.delay.ms", "100")],
        )
        .await;
    rig.write(orderly(20_000, 1, 309)).await;
    let until = std::time::Instant::now() + LONG;
    while rig.broker.watermarks(&rig.topic, 0).await.0 <= 200 {
        assert!(std::time::Instant::now() < until, "retention deleted nothing");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let mut running = rig.workspace.start("second", &["run", "--until-caught-up"]);
    running.wait_for_code(3, LONG).await;
    assert!(running.log().contains("offsets 200 to"), "{}", running.tail());
    outcome::assert_as_folded(&rig.database, &before).await;
}

// Proves: P3, R50, R54
#[tokio::test(flavor = "multi_thread")]
async fn marks_of_transactions_that_expire_after_all_records_were_read_are_no_loss() {
    let mut rig = Rig::new(servers::mysql().await, quick(2)).await;
    let running = rig.start("run");
    let producer = rig.broker.transactional_producer().await;
    let ann = change(0, None, Some("ann"), 1);
    let producer = producer.commit(&rig.topic, vec![message(&ann)]).await;
    rig.written.push(ann);
    producer.abort(&rig.topic, vec![message(&change(1, None, Some("ghost"), 1))]).await;
    // Offset 0 is ann in one partition and an aborted record in the other; offset 1 is the transaction's mark in both.
    rig.wait_until_applied(LONG).await;
    rig.wait_for("SELECT COUNT(*) FROM afterimage_positions WHERE next_offset = 2", 2, LONG).await;
    finish(running).await;
    for partition in [0, 1] {
        rig.broker.delete_records(&rig.topic, partition, 2).await;
    }
    let bob = change(1, None, Some("bob"), 2);
    rig.write([bob]).await;
    rig.catch_up("second", LONG).await;
    rig.assert_as_folded().await;
}

// Proves: P1, P6, R54
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_never_ends_is_named_and_counted_as_lag() {
    let mut rig = Rig::new(
        servers::mysql().await,
        Variant { pipeline: format!("{}metrics_interval = \"1s\"\n", quick(2).pipeline), ..quick(2) },
    )
    .await;
    let mut running = rig.start("run");
    rig.write([change(0, None, Some("ann"), 1), change(1, None, Some("zoe"), 1)]).await;
    rig.wait_until_applied(LONG).await;
    let open = change(0, None, Some("bob"), 2);
    let producer = rig.broker.transactional_producer().await.hang(&rig.topic, vec![message(&open)]).await;
    let before = rig.expected();
    rig.write([change(0, Some("ann"), Some("ann"), 3), change(0, None, Some("cid"), 4)]).await;
    rig.write([change(1, Some("zoe"), Some("zoe"), 3)]).await;
    running.wait_for_log("end of a producer's open transaction", LONG).await;
    // Nothing behind it can be read; the other partition goes on.
    rig.wait_for("SELECT next_offset FROM afterimage_positions WHERE kafka_partition = 1", 2, LONG).await;
    let lag = "SELECT COALESCE(lag_records, -1) FROM user_cdc_pipeline_metrics ORDER BY window_end DESC LIMIT 1";
    rig.wait_for(lag, 3, LONG).await;
    let found = outcome::read(&rig.database).await;
    assert_eq!(found.rows.keys().collect::<Vec<_>>(), before.rows.keys().collect::<Vec<_>>());
    // What is not committed is not there yet: a run to the end ends before it.
    finish(running).await;
    rig.catch_up("once", LONG).await;
    // It ends after all.
    let running = rig.start("again");
    producer.finish().await;
    rig.written.push(OwnedRecord { offset: 1, ..open });
    rig.wait_until_applied(LONG).await;
    rig.wait_for(lag, 0, LONG).await;
    finish(running).await;
    rig.assert_as_folded().await;
}

// Proves: P1, R54
#[tokio::test(flavor = "multi_thread")]
async fn a_producer_that_dies_in_its_transaction_delays_others_until_the_broker_aborts_it() {
    let mut rig = Rig::new(servers::mariadb().await, quick(1)).await;
    let running = rig.start("run");
    rig.write([change(0, None, Some("ann"), 1)]).await;
    let ghost = message(&change(0, None, Some("ghost"), 2));
    let producer = rig.broker.transactional_producer_with_timeout(Duration::from_secs(5)).await;
    drop(producer.hang(&rig.topic, vec![ghost]).await);
    rig.write([change(0, Some("ann"), Some("ann"), 3)]).await;
    rig.wait_until_applied(LONG).await;
    finish(running).await;
    rig.assert_as_folded().await;
}

// Proves: P1, P3, R53
#[tokio::test(flavor = "multi_thread")]
async fn keys_that_move_to_added_partitions_during_traffic_are_right_in_the_end() {
    let mut rig = Rig::new(servers::mysql().await, quick(2)).await;
    let running = rig.start("run");
    // The same users all the time; which partition they lie in depends on how many there are.
    let placed = |partitions: i32, seed| {
        harsh(3_000, 2, seed).map(move |record| {
            let user = record.key.as_deref().map(String::from_utf8_lossy).unwrap_or_default();
            OwnedRecord { partition: partition_of(&user, partitions), ..record }
        })
    };
    let mut records = placed(2, 311);
    rig.write(records.by_ref().take(1_500)).await;
    rig.wait_until_applied(LONG).await;
    rig.broker.add_partitions(&rig.topic, 5).await;
    // Producers hear of it at different times: some still write to the old places.
    let mut moved = placed(5, 313);
    for _ in 0..10 {
        rig.write(records.by_ref().take(150)).await;
        rig.write(moved.by_ref().take(150)).await;
    }
    rig.write(moved).await;
    rig.wait_until_applied(LONG).await;
    assert!(count(&running, "is new: 2 partitions were read before") >= 1, "{}", running.tail());
    finish(running).await;
    let mut expected = rig.expected();
    let found = outcome::read(&rig.database).await;
    // Of evidence some may be missing: what is stored of a key may come from another partition, whose order proves nothing.
    let unfounded: Vec<_> =
        found.out_of_order.keys().filter(|place| !expected.out_of_order.contains_key(*place)).collect();
    assert!(unfounded.is_empty(), "{unfounded:?}");
    expected.out_of_order = found.out_of_order;
    outcome::assert_as_folded(&rig.database, &expected).await;
}

// Proves: P1, R38
#[tokio::test(flavor = "multi_thread")]
async fn a_compacted_topic_is_read_across_its_holes_to_its_very_end() {
    let mut rig = Rig::new(servers::mariadb().await, quick(1)).await;
    let compact = [
        ("cleanup.policy", "compact"),
        ("segment.bytes", "1048576"),
        ("min.cleanable.dirty.ratio", "0.01"),
        ("delete.retention.ms", "0"),
    ];
    rig.broker.configure_topic(&rig.topic, &compact).await;
    // Null values as deletes, deletes without a null value, and both; then a transaction's mark as the very last record.
    let mut records: Vec<OwnedRecord> = Vec::new();
    for second in 0..60 {
        for user in 0..100 {
            let name = format!("user-{user}");
            records.push(change(0, Some(&name), Some(&name), second));
        }
    }
    for user in 0..30 {
        let name = format!("user-{user}");
        if user % 3 != 1 {
            records.push(change(0, Some(&name), None, 70));
        }
        if user % 3 != 2 {
            records.push(OwnedRecord { value: None, ..change(0, Some(&name), None, 70) });
        }
    }
    rig.write(records).await;
    // Two more segments, so that the first ones are closed.
    let padding = |n: i32| OwnedRecord {
        key: Some(format!("padding-{n}").into()),
        value: Some(vec![b' '; 9_000]),
        ..change(0, None, Some("x"), 80)
    };
    rig.write((0..300).map(padding)).await;
    let until = std::time::Instant::now() + LONG;
    loop {
        let there = rig.broker.records(&rig.topic, 0).await;
        let holes = there.windows(2).any(|pair| pair[1] > pair[0] + 1);
        if holes && there.len() < 3_000 {
            break;
        }
        assert!(std::time::Instant::now() < until, "not compacted: {} records, holes: {holes}", there.len());
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let producer = rig.broker.transactional_producer().await;
    producer.abort(&rig.topic, vec![message(&change(0, None, Some("ghost"), 90))]).await;
    // What was compacted away is no part of the story any more.
    rig.broker.configure_topic(&rig.topic, &[("cleanup.policy", "delete")]).await;
    let there = rig.broker.records(&rig.topic, 0).await;
    rig.written.retain(|record| there.contains(&record.offset));
    rig.catch_up("run", LONG).await;
    rig.assert_as_folded().await;
}

// Proves: P4
#[tokio::test(flavor = "multi_thread")]
async fn many_partitions_and_empty_ones_are_adopted_and_caught_up_with_in_seconds() {
    let mut rig = Rig::new(servers::mysql().await, quick(64)).await;
    // Every second partition stays empty.
    rig.write(orderly(6_400, 64, 317).filter(|record| record.partition % 2 == 0)).await;
    let started = std::time::Instant::now();
    rig.catch_up("run", LONG).await;
    println!("64 partitions: {:?}", started.elapsed());
    rig.assert_as_folded().await;
    assert_eq!(rig.database.number("SELECT COUNT(*) FROM afterimage_positions").await, 64);
    let empty = 64 - rig.written.iter().map(|record| record.partition).collect::<BTreeSet<_>>().len();
    assert!(empty >= 32);
    let at_zero = rig.database.number("SELECT COUNT(*) FROM afterimage_positions WHERE next_offset = 0").await;
    assert_eq!(at_zero, empty as i64);
}

// Proves: P4, P5
#[tokio::test(flavor = "multi_thread")]
async fn a_record_with_thousands_of_headers_is_applied_or_quarantined_like_any_other() {
    let mut rig = Rig::new(servers::mariadb().await, quick(1)).await;
    let headers: Vec<(String, Vec<u8>)> = (0..5_000).map(|n| (format!("header-{n}"), vec![n as u8; 20])).collect();
    let good = change(0, None, Some("ann"), 1);
    let bad = OwnedRecord { value: Some(b"{".to_vec()), ..change(0, None, Some("bob"), 2) };
    for record in [good, bad] {
        let message = Message { headers: headers.clone(), ..message(&record) };
        let offsets = rig.broker.produce(&rig.topic, vec![message]).await;
        rig.written.push(OwnedRecord { offset: offsets[0], ..record });
    }
    rig.write([change(0, None, Some("cid"), 3)]).await;
    rig.catch_up("run", LONG).await;
    rig.assert_as_folded().await;
    let kept = rig.database.number("SELECT JSON_LENGTH(record_headers) FROM error_data_enrichment").await;
    assert_eq!(kept, 5_000);
}
