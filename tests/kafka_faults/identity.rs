//! Topics and clusters that are not what they were: nothing is read of them before an operator has decided, and all is named.

use std::time::Duration;

use afterimage::generate::OwnedRecord;

use super::{LONG, count, finish, orderly, quick, wait_for_count};
use crate::support::mysql::Database;
use crate::support::outcome;
use crate::support::rig::{Rig, Variant};
use crate::support::servers::{self, PrivateKafka};

/// What docs/operations.md says to do before a table is filled anew.
const REBUILD: [&str; 5] = [
    "DELETE FROM enriched_user",
    "DELETE FROM afterimage_tombstones WHERE pipeline = 'users'",
    "DELETE FROM error_data_enrichment WHERE pipeline = 'users'",
    "DELETE FROM out_of_order_events WHERE pipeline = 'users'",
    "DELETE FROM afterimage_positions WHERE pipeline = 'users'",
];

/// Deletes the topic and makes another one of its name that holds `records`; what the old one held is forgotten.
async fn create_anew(rig: &mut Rig, records: impl Iterator<Item = OwnedRecord>) {
    rig.broker.delete_topic(&rig.topic).await;
    rig.broker.create_topic_named(&rig.topic, rig.variant.partitions, &[("retention.ms", "-1")]).await;
    rig.written.clear();
    rig.write(records).await;
}

/// A topic that is replaced while it is read. With metadata refreshed every ten seconds the client hears of it from a fetch.
async fn replaced_while_running(events_before: u64, events_after: u64) {
    let mut rig = Rig::new(servers::mysql().await, quick(2)).await;
    let mut running = rig.start("run");
    rig.write(orderly(events_before, 2, 201)).await;
    rig.wait_until_applied(LONG).await;
    let before = rig.expected();
    create_anew(&mut rig, orderly(events_after, 2, 203)).await;
    wait_for_count(&mut running, "partition halted", 2).await;
    assert!(running.log().contains("deleted and created anew"), "{}", running.tail());
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(running.is_running());
    outcome::assert_as_folded(&rig.database, &before).await;
    // As the operator's pages have it: stop, clear, start.
    finish(running).await;
    for statement in REBUILD {
        rig.database.execute(statement).await;
    }
    rig.catch_up("rebuilt", LONG).await;
    rig.assert_as_folded().await;
}

// Proves: P3, P6, R51
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_replaced_by_a_shorter_one_while_it_is_read_halts_by_name() {
    replaced_while_running(1_000, 100).await;
}

// Proves: P3, P6, R51
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_replaced_by_a_longer_one_while_it_is_read_halts_by_name() {
    replaced_while_running(500, 5_000).await;
}

// Proves: P3, P6, R51
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_replaced_by_a_shorter_one_while_the_service_is_stopped_halts_by_name() {
    let mut rig = Rig::new(servers::mariadb().await, quick(2)).await;
    rig.write(orderly(1_000, 2, 207)).await;
    rig.catch_up("first", LONG).await;
    let before = rig.expected();
    create_anew(&mut rig, orderly(100, 2, 209)).await;
    let mut running = rig.workspace.start("second", &["run", "--until-caught-up"]);
    running.wait_for_code(3, LONG).await;
    assert_eq!(count(&running, "partition halted"), 2, "{}", running.tail());
    assert!(running.log().contains("deleted and created anew"), "{}", running.tail());
    outcome::assert_as_folded(&rig.database, &before).await;
}

// Proves: P6, R51
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_gone_is_waited_for_and_fewer_partitions_are_named() {
    let mut rig = Rig::new(servers::mysql().await, quick(3)).await;
    let mut running = rig.start("run");
    rig.write(orderly(900, 3, 211)).await;
    rig.wait_until_applied(LONG).await;
    let before = rig.expected();
    rig.broker.delete_topic(&rig.topic).await;
    running.wait_for_log("does not exist", LONG).await;
    rig.broker.create_topic_named(&rig.topic, 1, &[("retention.ms", "-1")]).await;
    rig.written.clear();
    rig.write(orderly(900, 1, 213)).await;
    running.wait_for_log("partition halted", LONG).await;
    outcome::assert_as_folded(&rig.database, &before).await;
    finish(running).await;
}

// Proves: P3, P6, R55
#[tokio::test(flavor = "multi_thread")]
async fn another_cluster_with_a_topic_of_the_same_name_is_refused_by_its_id() {
    let other = PrivateKafka::start(&[]).await;
    let mut rig = Rig::new(servers::mariadb().await, quick(2)).await;
    rig.write(orderly(1_000, 2, 217)).await;
    rig.catch_up("first", LONG).await;
    // The other cluster's topic is longer: the stored positions fit into it.
    other.0.create_topic_named(&rig.topic, 2, &[("retention.ms", "-1")]).await;
    let messages = orderly(3_000, 2, 219).map(|record| super::records::message(&record)).collect();
    other.0.produce(&rig.topic, messages).await;
    let right = std::fs::read_to_string(rig.workspace.path().join("afterimage.toml")).unwrap();
    rig.workspace.write("afterimage.toml", &right.replace(&rig.broker.brokers(), &other.0.brokers()));
    let mut running = rig.workspace.start("elsewhere", &["run", "--until-caught-up"]);
    running.wait_for_code(3, LONG).await;
    assert_eq!(count(&running, "partition halted"), 2, "{}", running.tail());
    assert!(running.log().contains("this is Kafka cluster"), "{}", running.tail());
    rig.assert_as_folded().await;
    // Pointed back it goes on.
    rig.workspace.write("afterimage.toml", &right);
    rig.write(orderly(1_000, 2, 221)).await;
    rig.catch_up("back", LONG).await;
    rig.assert_as_folded().await;
}

// Proves: P3, P6, R55
#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_whose_topic_name_is_taken_in_a_restored_older_cluster_halts_beyond_the_end() {
    // The broker's directory goes back to an earlier copy: same cluster, same topic, fewer records.
    let kafka = PrivateKafka::start(&[]).await;
    let server = servers::mysql().await;
    let database = Database::create(server).await;
    let url = database.url.clone();
    let mut rig = Rig::on(kafka.0, database, &url, Variant { partitions: 1, ..quick(1) }).await;
    rig.write(orderly(1_000, 1, 223)).await;
    rig.catch_up("first", LONG).await;
    kafka.0.stop();
    let copy = kafka.0.save();
    kafka.0.start_again().await;
    rig.write(orderly(1_000, 1, 227)).await;
    rig.catch_up("second", LONG).await;
    let before = rig.expected();
    kafka.0.kill();
    kafka.0.restore(copy);
    kafka.0.start_again().await;
    let mut running = rig.workspace.start("third", &["run", "--until-caught-up"]);
    running.wait_for_code(3, LONG).await;
    assert!(running.log().contains("the partition ends at 1000"), "{}", running.tail());
    outcome::assert_as_folded(&rig.database, &before).await;
}
