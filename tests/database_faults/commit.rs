//! COMMIT in flight, its read-back cut off again and again, and a search for refused rows that is killed.

use std::time::Duration;

use afterimage::demo::server::Flavour;
use mysql_async::prelude::Queryable;

use super::{LONG, POSITIONS, healed, one_lane, small, until};
use crate::faults::{behind_a_proxy, harsh, static_member};
use crate::on_both_servers;
use crate::support::mysql::connect;
use crate::support::outcome;
use crate::support::proxy::Fault;
use crate::support::rig::Variant;
use crate::support::servers::start_private;

const SWAP: &str = "UPDATE (SELECT";
const READ_BACK: &str = "SELECT KAFKA_PARTITION, NEXT_OFFSET, OWNER_EPOCH, OWNER_TOKEN";

on_both_servers! {
    // Proves: P2, P3, R12
    async fn a_commit_that_the_server_is_still_deciding_is_waited_for(server) {
        // Semi-synchronous replication without a replica: COMMIT stands still with its locks held, until it is switched off.
        let mysql = server.flavour() == Flavour::MySql;
        let options: &[&str] = if mysql { &[] } else { &["--log-bin", "--server-id=1", "--rpl-semi-sync-master-wait-point=AFTER_SYNC"] };
        let private = start_private(server.flavour(), options).await;
        let name = if mysql { "rpl_semi_sync_source" } else { "rpl_semi_sync_master" };
        let (mut rig, proxy) = behind_a_proxy(&private, one_lane()).await;
        let mut switch = connect(&rig.database.url).await;
        if mysql {
            switch.query_drop("INSTALL PLUGIN rpl_semi_sync_source SONAME 'semisync_source.so'").await.unwrap();
        }
        switch.query_drop(format!("SET GLOBAL {name}_timeout = 600000")).await.unwrap();
        let mut running = rig.start("run");
        let mut records = harsh(4_000, 200, 173).into_iter();
        rig.write(records.by_ref().take(1_000)).await;
        rig.wait_until_applied(LONG).await;

        for round in 0..2 {
            let (positions, swaps, known) = (rig.database.number(POSITIONS).await, proxy.count(SWAP), running.log().len());
            proxy.arm("COMMIT", Fault::CutDuringWhenReleased);
            rig.write(records.by_ref().take(300)).await;
            proxy.wait_until_fired(round + 1, LONG).await;
            switch.query_drop(format!("SET GLOBAL {name}_enabled = 1")).await.unwrap();
            proxy.release();
            running.wait_for_line(known, &["reading positions back"], LONG).await;
            // Longer than a lock wait: the question is asked again, and nothing else is done.
            running.wait_for_line(known, &["waiting", "fate of a COMMIT unknown"], Duration::from_secs(60)).await;
            assert_eq!(proxy.count(SWAP), swaps + 1, "it went on without knowing");
            assert_eq!(rig.database.number(POSITIONS).await, positions);
            switch.query_drop(format!("SET GLOBAL {name}_enabled = 0")).await.unwrap();
            running.wait_for_line(known, &["positions read back", "Advance"], LONG).await;
            rig.wait_until_applied(LONG).await;
        }
        switch.disconnect().await.unwrap();
        rig.write(records).await;
        healed(&rig, running).await;
    }

    // Proves: P3, R13
    async fn a_read_back_that_dies_five_times_leaves_the_question_open(server) {
        let (mut rig, proxy) = behind_a_proxy(server, one_lane()).await;
        let mut running = rig.start("run");
        let mut records = harsh(6_000, 200, 179).into_iter();
        for fault in [Fault::CutAfter, Fault::CutBefore, Fault::CutDuring] {
            rig.write(records.by_ref().take(500)).await;
            rig.wait_until_applied(LONG).await;
            // What the database has may be in the log a moment later.
            let lines = |log: &str| log.matches("batch applied").count();
            let mut told = lines(&running.log());
            while { tokio::time::sleep(Duration::from_millis(500)).await; lines(&running.log()) != told } {
                told = lines(&running.log());
            }
            let (fired, known) = (proxy.fired(), running.log().len());
            for round in 0..5 {
                proxy.arm(READ_BACK, [Fault::CutBefore, Fault::CutAfter, Fault::Refuse(1205), Fault::Refuse(1053), Fault::CutDuring][round]);
            }
            proxy.arm("COMMIT", fault);
            let swaps = proxy.count(SWAP);
            rig.write(records.by_ref().take(100)).await;
            proxy.wait_until_fired(fired + 6, LONG).await;
            running.wait_for_line(known, &["positions read back"], LONG).await;
            // Whatever the verdict was, it was the sixth answer that brought it: one swap until then.
            let log = running.log();
            let asked = log[known..].find("positions read back").unwrap();
            assert!(!log[known..known + asked].contains("batch applied"), "it went on without knowing: {}", running.tail());
            assert!(proxy.count(SWAP) > swaps);
        }
        rig.write(records).await;
        healed(&rig, running).await;
    }

    // Proves: P1, P5, R34
    async fn a_kill_during_the_search_for_refused_rows_leaves_nothing_behind(server) {
        let variant = Variant { kafka: static_member(), ..small() };
        let (mut rig, proxy) = behind_a_proxy(server, variant).await;
        let mut records = harsh(6_000, 300, 181).into_iter();
        rig.database.execute("ALTER TABLE enriched_user ADD CONSTRAINT no_zz CHECK (user_id NOT LIKE 'zz%')").await;
        for (life, pass) in [1, 2, 5, 9, 14].into_iter().enumerate() {
            rig.write(records.by_ref().take(150)).await;
            rig.write([bad(life), records.next().unwrap(), bad(life)]).await;
            rig.write(records.by_ref().take(149)).await;
            let before = outcome::read(&rig.database).await;
            let fired = proxy.fired();
            proxy.arm_after("INSERT INTO `ENRICHED_USER`", pass, Fault::LoseAnswer);
            let mut running = rig.start(&format!("life-{life}"));
            proxy.wait_until_fired(fired + 1, LONG).await;
            running.kill();
            proxy.disarm();
            // What was in quarantine before, or whole batches more: never a bad record without those that wait behind it.
            let after = outcome::read(&rig.database).await;
            assert!(before.quarantine.keys().all(|place| after.quarantine.contains_key(place)));
        }
        rig.write(records).await;
        rig.catch_up("last", LONG).await;
        let found = outcome::read(&rig.database).await;
        let refused = found.quarantine.values().filter(|one| one.stage.as_deref() == Some("mysql")).count();
        let held = found.quarantine.values().filter(|one| one.users.iter().any(|user| user.starts_with("zz")) && one.state == "held").count();
        assert_eq!((refused, held), (5, 5), "{:?}", found.quarantine);
        // Without the constraint everything goes through, and then all is as if it had never been there.
        rig.database.execute("ALTER TABLE enriched_user DROP CONSTRAINT no_zz").await;
        assert_eq!(rig.workspace.run(&["quarantine", "retry", "--key", "zz0"]).code(), 0);
        for life in 1..5 {
            assert_eq!(rig.workspace.run(&["quarantine", "retry", "--key", &format!("zz{life}")]).code(), 0);
        }
        let running = rig.start("healed");
        until(&rig, "SELECT COUNT(*) FROM error_data_enrichment WHERE state = 'resolved'", 10, LONG).await;
        healed(&rig, running).await;
    }
}

/// An event of a user whom the constraint refuses.
fn bad(life: usize) -> afterimage::generate::OwnedRecord {
    let user = format!("zz{life}");
    let after = serde_json::json!({ "userId": user, "name": "n", "email": null, "country": "DE" });
    let timestamp = 1_700_000_000_000_i64;
    let value = serde_json::json!({ "op": "u", "before": null, "after": after, "timestamp": timestamp });
    afterimage::generate::OwnedRecord {
        partition: 0,
        offset: 0,
        timestamp_ms: Some(timestamp),
        key: Some(user.into_bytes()),
        value: Some(value.to_string().into_bytes()),
    }
}
