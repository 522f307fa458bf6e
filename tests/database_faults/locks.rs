//! Locks that others hold: deadlocks, lock waits, metadata locks, and an instance that stands still with its transaction open.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;

use super::{LONG, POSITIONS, healed, short_session, small, standing};
use crate::faults::{behind_a_proxy, harsh};
use crate::on_both_servers;
use crate::support::mysql::connect;
use crate::support::proxy::Fault;
use crate::support::rig::{Rig, Variant};

on_both_servers! {
    // Proves: P2, P5, R22
    async fn deadlocks_with_a_stranger_who_locks_in_reverse_order_are_repeated(server) {
        let mut rig = Rig::new(server, small()).await;
        let mut records = harsh(20_000, 200, 149).into_iter();
        let running = rig.workspace.start_with("run", &["run"], &[("AFTERIMAGE_LOG", "info,afterimage=debug")]);
        rig.write(records.by_ref().take(2_000)).await;
        rig.wait_until_applied(LONG).await;
        let (stop, theirs) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let stranger = tokio::spawn(lock_in_reverse(rig.database.url.clone(), Arc::clone(&stop), Arc::clone(&theirs)));
        let started = Instant::now();
        loop {
            rig.write(records.by_ref().take(300)).await;
            let (ours, theirs) = (running.log().matches("1213").count(), theirs.load(Ordering::SeqCst));
            // Which of the two the server picks as the victim is its own business.
            if ours + theirs >= 5 {
                println!("{ours} deadlocks of ours, {theirs} of theirs");
                break;
            }
            assert!(started.elapsed() < LONG, "no deadlocks: {ours} of ours, {theirs} of theirs");
        }
        stop.store(true, Ordering::SeqCst);
        stranger.await.unwrap();
        healed(&rig, running).await;
    }

    // Proves: P2, P5, R23
    async fn a_lock_wait_rolls_the_whole_transaction_back_and_is_seen(server) {
        let mut rig = Rig::new(server, small()).await;
        let mut running = rig.start("run");
        let mut records = harsh(4_000, 100, 151).into_iter();
        rig.write(records.by_ref().take(1_000)).await;
        rig.wait_until_applied(LONG).await;
        // Positions and tombstones are written before the rows that are waited for.
        let mut stranger = connect(&rig.database.url).await;
        stranger.query_drop("START TRANSACTION").await.unwrap();
        stranger.query_drop("SELECT user_id FROM enriched_user FOR UPDATE").await.unwrap();
        let before = standing(&rig).await;
        rig.write(records.by_ref().take(1_000)).await;
        running.wait_for_line(0, &["waiting", "1205"], Duration::from_secs(60)).await;
        assert_eq!(standing(&rig).await, before, "a part of the transaction is visible");
        stranger.query_drop("ROLLBACK").await.unwrap();
        stranger.disconnect().await.unwrap();
        rig.write(records).await;
        healed(&rig, running).await;
    }

    // Proves: P2, P5, R25
    async fn a_strangers_table_lock_is_waited_for_a_bounded_time_and_seen(server) {
        let mut rig = Rig::new(server, small()).await;
        let mut running = rig.start("run");
        let mut records = harsh(4_000, 100, 157).into_iter();
        rig.write(records.by_ref().take(1_000)).await;
        rig.wait_until_applied(LONG).await;
        let mut stranger = connect(&rig.database.url).await;
        stranger.query_drop("LOCK TABLES enriched_user WRITE").await.unwrap();
        let positions = rig.database.number(POSITIONS).await;
        rig.write(records.by_ref().take(1_000)).await;
        running.wait_for_line(0, &["waiting", "1205"], Duration::from_secs(60)).await;
        assert_eq!(rig.database.number(POSITIONS).await, positions);
        stranger.query_drop("UNLOCK TABLES").await.unwrap();
        rig.wait_until_applied(Duration::from_secs(60)).await;

        // A reader that forgot its transaction, and behind it an ALTER TABLE behind which everybody queues.
        stranger.query_drop("START TRANSACTION").await.unwrap();
        stranger.query_drop("SELECT COUNT(*) FROM enriched_user").await.unwrap();
        let url = rig.database.url.clone();
        let altering = tokio::spawn(async move {
            let mut connection = connect(&url).await;
            connection.query_drop("SET lock_wait_timeout = 100").await.unwrap();
            connection.query_drop("ALTER TABLE enriched_user ADD COLUMN note INT NULL").await.unwrap();
            connection.disconnect().await.unwrap();
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        let known = running.log().len();
        rig.write(records.by_ref().take(1_000)).await;
        running.wait_for_line(known, &["waiting", "1205"], Duration::from_secs(60)).await;
        stranger.query_drop("COMMIT").await.unwrap();
        stranger.disconnect().await.unwrap();
        altering.await.unwrap();
        rig.write(records).await;
        healed(&rig, running).await;
    }

    // Proves: P2, P3, R9
    async fn an_instance_that_stands_still_in_its_transaction_is_taken_over_from_within_a_minute(server) {
        let variant = Variant { kafka: short_session(), ..small() };
        let (mut rig, proxy) = behind_a_proxy(server, variant).await;
        let mut records = harsh(6_000, 200, 163).into_iter();
        let mut first = rig.start("first");
        rig.write(records.by_ref().take(1_000)).await;
        rig.wait_until_applied(LONG).await;
        proxy.arm("INSERT INTO `ENRICHED_USER`", Fault::LoseAnswer);
        rig.write(records.by_ref().take(1_000)).await;
        proxy.wait_until_fired(1, LONG).await;
        first.pause();
        let stopped = Instant::now();
        // Straight to the server; the first one's proxy is of no concern to it.
        let config = std::fs::read_to_string(rig.workspace.path().join("afterimage.toml")).unwrap();
        let direct = config.replace(&format!("127.0.0.1:{}/", proxy.port()), &format!("127.0.0.1:{}/", server.port()));
        rig.workspace.write("direct.toml", &direct);
        let second = rig.workspace.start("second", &["run", "--config", "direct.toml"]);
        rig.wait_until_applied(Duration::from_secs(90)).await;
        println!("taken over after {:?}", stopped.elapsed());
        assert!(stopped.elapsed() < Duration::from_secs(60), "taken over after {:?}", stopped.elapsed());
        first.resume();
        rig.write(records).await;
        rig.wait_until_applied(LONG).await;
        first.terminate();
        first.wait_for_code(0, Duration::from_secs(60)).await;
        healed(&rig, second).await;
    }
}

/// Locks rows from the last key to the first, over and over, in the opposite order to the service; counts its own deadlocks.
async fn lock_in_reverse(url: String, stop: Arc<AtomicBool>, deadlocks: Arc<AtomicUsize>) {
    let mut connection = connect(&url).await;
    connection.query_drop("SET innodb_lock_wait_timeout = 2").await.unwrap();
    while !stop.load(Ordering::SeqCst) {
        connection.query_drop("START TRANSACTION").await.unwrap();
        for half in ["DESC LIMIT 40", "ASC LIMIT 40"] {
            match connection.query_drop(format!("SELECT 1 FROM enriched_user ORDER BY user_id {half} FOR UPDATE")).await
            {
                Ok(()) => tokio::time::sleep(Duration::from_millis(60)).await,
                Err(mysql_async::Error::Server(error)) if error.code == 1213 => {
                    deadlocks.fetch_add(1, Ordering::SeqCst);
                    break;
                }
                Err(mysql_async::Error::Server(error)) if error.code == 1205 => break,
                Err(error) => panic!("{error}"),
            }
        }
        connection.query_drop("ROLLBACK").await.unwrap();
    }
    connection.disconnect().await.unwrap();
}

// Proves: P2, R24
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_checks_snapshots_makes_no_difference() {
    let flavour = afterimage::demo::server::Flavour::MariaDb;
    let private = crate::support::servers::start_private(flavour, &["--innodb-snapshot-isolation=ON"]).await;
    let mut rig = Rig::new(&private, small()).await;
    let mut records = harsh(6_000, 60, 167).into_iter();
    let running = rig.start("run");
    rig.write(records.by_ref().take(1_000)).await;
    rig.wait_until_applied(LONG).await;
    let mut stranger = connect(&rig.database.url).await;
    for _ in 0..10 {
        stranger.query_drop("START TRANSACTION WITH CONSISTENT SNAPSHOT").await.unwrap();
        rig.write(records.by_ref().take(300)).await;
        // Rows that have changed since the snapshot: error 1020 for the stranger, perhaps, and never for the service.
        let _ = stranger.query_drop("UPDATE enriched_user SET name = name").await;
        stranger.query_drop("ROLLBACK").await.unwrap();
    }
    stranger.disconnect().await.unwrap();
    rig.write(records).await;
    healed(&rig, running).await;
}
