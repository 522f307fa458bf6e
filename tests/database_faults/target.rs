//! The target altered under a running service.

use std::time::Duration;

use afterimage::generate::OwnedRecord;

use super::{LONG, QUARANTINED, healed, small, until};
use crate::faults::harsh;
use crate::on_both_servers;
use crate::support::rig::Rig;

/// An update of `user` that gives it a name of so many letters, in partition 0.
fn named(user: &str, letters: usize, second: i64) -> OwnedRecord {
    let after = serde_json::json!({ "userId": user, "name": "n".repeat(letters), "email": null, "country": "DE" });
    let timestamp = 1_700_000_000_000 + second * 1000;
    let value = serde_json::json!({ "op": "u", "before": null, "after": after, "timestamp": timestamp });
    OwnedRecord {
        partition: 0,
        offset: 0,
        timestamp_ms: Some(timestamp),
        key: Some(user.as_bytes().to_vec()),
        value: Some(value.to_string().into_bytes()),
    }
}

on_both_servers! {
    // Proves: P5, P6, R26
    async fn a_dropped_or_renamed_column_is_waited_for_by_name(server) {
        let mut rig = Rig::new(server, small()).await;
        let mut running = rig.start("run");
        let mut records = harsh(3_000, 200, 101).into_iter();
        running.wait_for_log("partition begun", LONG).await;
        rig.database.execute("ALTER TABLE enriched_user DROP COLUMN region").await;
        rig.write(records.by_ref().take(500)).await;
        running.wait_for_line(0, &["waiting", "region"], LONG).await;
        assert_eq!(rig.database.number(QUARANTINED).await, 0);
        rig.database.execute("ALTER TABLE enriched_user ADD COLUMN region VARCHAR(255) CHARACTER SET utf8mb4 NULL").await;
        rig.wait_until_applied(LONG).await;
        rig.assert_as_folded().await;

        let known = running.log().len();
        rig.database.execute("ALTER TABLE enriched_user RENAME COLUMN email TO mail").await;
        let before = rig.database.number(QUARANTINED).await;
        rig.write(records.by_ref().take(500)).await;
        running.wait_for_line(known, &["waiting", "email"], LONG).await;
        assert_eq!(rig.database.number(QUARANTINED).await, before);
        rig.database.execute("ALTER TABLE enriched_user RENAME COLUMN mail TO email").await;
        rig.write(records).await;
        healed(&rig, running).await;
    }

    // Proves: P5, P6, R26
    async fn a_narrowed_column_costs_only_what_does_not_fit_and_a_widened_one_takes_it(server) {
        let mut rig = Rig::new(server, small()).await;
        let mut running = rig.start("run");
        rig.write((0..100).map(|n| named(&format!("u{n}"), 10, n))).await;
        rig.wait_until_applied(LONG).await;
        rig.database.execute("ALTER TABLE enriched_user MODIFY name VARCHAR(20) CHARACTER SET utf8mb4 NULL").await;
        rig.write((0..100).map(|n| named(&format!("u{n}"), 15, 100 + n))).await;
        rig.write([named("long", 30, 300), named("short", 20, 301)]).await;
        rig.wait_until_applied(LONG).await;
        rig.write([named("long", 5, 302)]).await;
        rig.wait_until_applied(LONG).await;
        let quarantined = "SELECT state, stage, column_name FROM error_data_enrichment ORDER BY kafka_offset";
        assert_eq!(rig.database.rows(quarantined).await, [["refused", "target", "name"], ["held", "NULL", "NULL"]]);
        assert_eq!(rig.database.number("SELECT COUNT(*) FROM enriched_user WHERE CHAR_LENGTH(name) > 10").await, 101);
        assert_eq!(rig.database.number("SELECT COUNT(*) FROM enriched_user").await, 101);

        // Wider than at the start: what waits goes through without a restart, and so does what is longer than ever.
        rig.database.execute("ALTER TABLE enriched_user MODIFY name VARCHAR(400) CHARACTER SET utf8mb4 NULL").await;
        assert_eq!(rig.workspace.run(&["quarantine", "retry", "--key", "long"]).code(), 0);
        until(&rig, "SELECT COUNT(*) FROM error_data_enrichment WHERE state = 'resolved'", 2, LONG).await;
        rig.write([named("longest", 350, 400)]).await;
        rig.wait_until_applied(LONG).await;
        assert_eq!(rig.database.number("SELECT CHAR_LENGTH(name) FROM enriched_user WHERE user_id = 'longest'").await, 350);
        rig.variant.settings.max_chars = 400;
        assert!(running.is_running());
        healed(&rig, running).await;
    }

    // Proves: P5, P6, R26
    async fn a_column_of_another_type_is_waited_for_and_nothing_is_quarantined(server) {
        let mut rig = Rig::new(server, small()).await;
        let mut running = rig.start("run");
        running.wait_for_log("partition begun", LONG).await;
        rig.database.execute("ALTER TABLE enriched_user MODIFY name INT NULL").await;
        rig.write((0..50).map(|n| named(&format!("u{n}"), 10, n))).await;
        running.wait_for_line(0, &["waiting", "name"], LONG).await;
        assert_eq!(rig.database.number(QUARANTINED).await, 0);
        rig.database.execute("ALTER TABLE enriched_user MODIFY name VARCHAR(255) CHARACTER SET utf8mb4 NULL").await;
        healed(&rig, running).await;
    }

    // Proves: P5, P6, R26
    async fn a_new_column_disturbs_nobody_unless_it_must_be_filled(server) {
        let mut rig = Rig::new(server, small()).await;
        let mut running = rig.start("run");
        let mut records = harsh(3_000, 200, 103).into_iter();
        rig.write(records.by_ref().take(500)).await;
        rig.wait_until_applied(LONG).await;
        rig.database.execute("ALTER TABLE enriched_user ADD COLUMN note VARCHAR(20) NULL, ADD COLUMN seen INT NOT NULL DEFAULT 7").await;
        rig.write(records.by_ref().take(1_000)).await;
        rig.wait_until_applied(LONG).await;
        // Longer than the interval between two looks at the table.
        tokio::time::sleep(Duration::from_secs(12)).await;
        rig.write(records.by_ref().take(500)).await;
        rig.wait_until_applied(LONG).await;
        assert!(!running.log().contains("waiting"), "{}", running.tail());

        let before = rig.database.number(QUARANTINED).await;
        rig.database.execute("ALTER TABLE enriched_user ADD COLUMN must_be_given INT NOT NULL").await;
        rig.write(records.by_ref().take(500)).await;
        running.wait_for_line(0, &["waiting", "must_be_given"], LONG).await;
        assert_eq!(rig.database.number(QUARANTINED).await, before);
        rig.database.execute("ALTER TABLE enriched_user DROP COLUMN must_be_given").await;
        rig.write(records).await;
        healed(&rig, running).await;
    }

    // Proves: P1, P6, R26
    async fn a_second_unique_key_stops_an_idle_service_before_it_overwrites_rows(server) {
        let mut rig = Rig::new(server, small()).await;
        let mut running = rig.start("run");
        rig.write((0..20).map(|n| named(&format!("u{n}"), 1 + usize::try_from(n).unwrap(), n))).await;
        rig.wait_until_applied(LONG).await;
        rig.database.execute("ALTER TABLE enriched_user ADD UNIQUE KEY by_name (name)").await;
        running.wait_for_line(0, &["waiting", "AI0414", "by_name"], LONG).await;
        rig.write([named("other", 5, 100)]).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(rig.database.number("SELECT COUNT(*) FROM enriched_user").await, 20);
        rig.database.execute("ALTER TABLE enriched_user DROP INDEX by_name").await;
        healed(&rig, running).await;
    }
}
