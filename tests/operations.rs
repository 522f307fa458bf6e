//! What operators meet: refusals at start, quarantine retry and discard, changed lookups, lost and new partitions, the breaker.

use std::time::Duration;

use afterimage::generate::{Mix, OwnedRecord, Workload};
use serde_json::json;

use crate::on_both_servers;
use crate::support::outcome;
use crate::support::process::Running;
use crate::support::rig::{Rig, Variant};

const LONG: Duration = Duration::from_secs(100);
const START_MS: i64 = 1_700_000_000_000;

/// An event of `user` at `second`, in partition 0.
pub(crate) fn event(user: &str, country: &str, second: i64) -> OwnedRecord {
    let after = json!({ "userId": user, "name": format!("{user} at {second}"), "email": null, "country": country });
    let value = json!({ "op": "u", "before": null, "after": after, "timestamp": START_MS + second * 1000 });
    OwnedRecord {
        partition: 0,
        offset: 0,
        timestamp_ms: Some(START_MS + second * 1000),
        key: Some(user.as_bytes().to_vec()),
        value: Some(value.to_string().into_bytes()),
    }
}

async fn finish(mut running: Running) {
    running.terminate();
    running.wait_for_code(0, Duration::from_secs(30)).await;
}

async fn wait_for(rig: &Rig, query: &str, wanted: i64) {
    let started = std::time::Instant::now();
    loop {
        let found = rig.database.number(query).await;
        if found == wanted {
            return;
        }
        assert!(started.elapsed() < LONG, "{query} yields {found}, not {wanted}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

on_both_servers! {
    async fn a_changed_lookup_retries_what_the_models_refused(server) {
        let mut rig = Rig::new(server, Variant::default()).await;
        let running = rig.start("run");
        rig.write([event("ann", "XX", 1), event("ann", "DE", 2), event("bob", "DE", 3), event("ann", "XX", 4)]).await;
        rig.wait_until_applied(LONG).await;
        rig.assert_as_folded().await;
        assert_eq!(rig.database.number("SELECT COUNT(*) FROM error_data_enrichment WHERE state = 'held'").await, 2);
        let path = rig.workspace.path().join("queries/users/lookups/countries.csv");
        let countries = std::fs::read_to_string(&path).unwrap() + "XX,Exampleland,Europe\n";
        std::fs::write(&path, countries).unwrap();
        wait_for(&rig, "SELECT COUNT(*) FROM error_data_enrichment WHERE state = 'resolved'", 3).await;
        rig.variant.settings.countries.insert("XX".into(), ("Exampleland".into(), "Europe".into()));
        rig.assert_as_folded().await;
        finish(running).await;
    }

    async fn retry_and_discard_are_done_by_the_running_instance(server) {
        let mut rig = Rig::new(server, Variant::default()).await;
        let running = rig.start("run");
        rig.write([event("ann", "XX", 1), event("ann", "DE", 2), event("bob", "YY", 3), event("bob", "DE", 4)]).await;
        rig.wait_until_applied(LONG).await;
        let listed = rig.workspace.run(&["quarantine", "list", "--format", "json"]);
        assert_eq!((listed.code(), listed.stdout.lines().count()), (0, 4), "{listed:?}");
        // Nothing has changed: a retry is refused again and ann keeps waiting.
        assert_eq!(rig.workspace.run(&["quarantine", "retry", "--key", "ann"]).code(), 0);
        wait_for(&rig, "SELECT attempts FROM error_data_enrichment WHERE kafka_offset = 0", 2).await;
        rig.assert_as_folded().await;
        // Bob's bad event is given up; the one behind it goes through.
        assert_eq!(rig.workspace.run(&["quarantine", "discard", "--partition", "0", "--offset", "2"]).code(), 0);
        wait_for(&rig, "SELECT COUNT(*) FROM enriched_user WHERE user_id = 'bob'", 1).await;
        wait_for(&rig, "SELECT COUNT(*) FROM error_data_enrichment WHERE state = 'discarded'", 1).await;
        wait_for(&rig, "SELECT SUM(n_held) FROM afterimage_positions", 1).await;
        // Later events of bob flow again, ann's wait.
        rig.write([event("bob", "FR", 5), event("ann", "FR", 6)]).await;
        rig.wait_until_applied(LONG).await;
        wait_for(&rig, "SELECT COUNT(*) FROM enriched_user WHERE user_id = 'bob' AND country = 'FR'", 1).await;
        assert_eq!(rig.database.number("SELECT COUNT(*) FROM enriched_user WHERE user_id = 'ann'").await, 0);
        // Balances still (P4 is asserted while reading).
        outcome::read(&rig.database).await;
        finish(running).await;
    }

    async fn a_standby_that_had_nothing_to_do_for_long_takes_over(server) {
        let mut rig = Rig::new(server, Variant { partitions: 1, ..Variant::default() }).await;
        let first = rig.start("first");
        rig.write([event("ann", "DE", 1)]).await;
        rig.wait_until_applied(LONG).await;
        let second = rig.start("second");
        // Longer than any interval of upkeep.
        tokio::time::sleep(Duration::from_secs(15)).await;
        finish(first).await;
        rig.write([event("ann", "FR", 2)]).await;
        rig.wait_until_applied(LONG).await;
        finish(second).await;
        rig.assert_as_folded().await;
    }

    // Proves: P2, P5, R33
    async fn a_flood_of_bad_records_stops_the_pipeline_and_applies_nothing_of_it(server) {
        let mut rig = Rig::new(server, Variant::default()).await;
        let config = std::fs::read_to_string(rig.workspace.path().join("afterimage.toml")).unwrap();
        let config = config.replace("share = \"100%\", window = \"1m\", min_events = 1000000", "share = \"10%\", window = \"1m\", min_events = 50");
        rig.workspace.write("afterimage.toml", &config);
        rig.write((0..200).map(|n| event(&format!("u{n}"), if n % 2 == 0 { "XX" } else { "DE" }, n))).await;
        let mut running = rig.start("run");
        running.wait_for_code(3, LONG).await;
        assert!(running.log().contains("records were refused"), "{}", running.tail());
        // Before min_events were read nothing is judged: a first batch of fewer may have been applied, the one that trips is not.
        let applied = rig.database.number("SELECT COALESCE(SUM(next_offset), 0) FROM afterimage_positions").await;
        assert!(applied < 50, "{applied}");
        assert!(rig.database.number("SELECT COUNT(*) FROM error_data_enrichment").await <= applied);
    }

    // Proves: P5, P6, R50
    async fn deleted_records_halt_their_partition_and_no_other(server) {
        let mut rig = Rig::new(server, Variant::default()).await;
        let workload = |seed| Workload { events: 2_000, users: 100, partitions: 2, seed, mix: Mix::orderly(), ..Workload::default() };
        rig.write(workload(1).records()).await;
        rig.catch_up("first", LONG).await;
        rig.write(workload(2).records()).await;
        let (_, high) = rig.broker.watermarks(&rig.topic, 0).await;
        rig.broker.delete_records(&rig.topic, 0, high - 5).await;
        let mut running = rig.workspace.start("second", &["run", "--until-caught-up"]);
        running.wait_for_code(3, LONG).await;
        assert!(running.log().contains("partition halted"), "{}", running.tail());
        let expected = rig.expected();
        let found = outcome::read(&rig.database).await;
        assert_eq!(found.sums.get(&1), expected.sums.get(&1), "the other partition went on");
        assert_ne!(found.sums.get(&0), expected.sums.get(&0));
    }

    // Proves: P3, P6, R51
    async fn a_topic_created_anew_halts_even_if_it_is_longer_by_now(server) {
        let mut rig = Rig::new(server, Variant::default()).await;
        let workload = |events| Workload { events, users: 50, partitions: 2, seed: 3, mix: Mix::orderly(), ..Workload::default() };
        rig.write(workload(500).records()).await;
        rig.catch_up("first", LONG).await;
        rig.assert_as_folded().await;
        rig.broker.delete_topic(&rig.topic).await;
        rig.broker.create_topic_named(&rig.topic, 2, &[("retention.ms", "-1")]).await;
        let before = rig.expected();
        rig.write(workload(2_000).records()).await;
        let mut running = rig.workspace.start("second", &["run", "--until-caught-up"]);
        running.wait_for_code(3, LONG).await;
        assert!(running.log().contains("partition halted"), "{}", running.tail());
        outcome::assert_as_folded(&rig.database, &before).await;
    }

    // Proves: P3, R53
    async fn new_partitions_are_read_from_their_beginning(server) {
        let mut rig = Rig::new(server, Variant::default()).await;
        let running = rig.start("run");
        rig.write([event("ann", "DE", 1)]).await;
        rig.wait_until_applied(LONG).await;
        rig.broker.add_partitions(&rig.topic, 4).await;
        rig.write((0..40).map(|n| OwnedRecord { partition: n % 4, ..event(&format!("u{n}"), "FR", i64::from(n) + 2) })).await;
        rig.wait_until_applied(LONG).await;
        rig.assert_as_folded().await;
        finish(running).await;
    }

    // Proves: P6, R53
    async fn new_partitions_are_read_although_a_static_member_came_back_to_its_old_ones(server) {
        let kafka = "\"group.instance.id\" = \"one\"".to_owned();
        let mut rig = Rig::new(server, Variant { kafka, ..Variant::default() }).await;
        let mut running = rig.start("first");
        rig.write([event("ann", "DE", 1)]).await;
        rig.wait_until_applied(LONG).await;
        running.kill();
        rig.broker.add_partitions(&rig.topic, 4).await;
        rig.write((0..40).map(|n| OwnedRecord { partition: n % 4, ..event(&format!("u{n}"), "FR", i64::from(n) + 2) })).await;
        // Within the session timeout: the group gives it its two partitions back and is content.
        let running = rig.start("second");
        rig.wait_until_applied(LONG).await;
        rig.assert_as_folded().await;
        finish(running).await;
    }

    async fn an_unmigrated_database_is_refused_with_the_command(server) {
        let rig = Rig::new(server, Variant::default()).await;
        rig.database.execute("DROP TABLE out_of_order_events").await;
        let mut running = rig.start("run");
        running.wait_for_code(2, LONG).await;
        assert!(running.log().contains("afterimage migrate"), "{}", running.tail());
        let migrated = rig.workspace.run(&["migrate", "--dry-run"]);
        assert!(migrated.stdout.contains("CREATE TABLE IF NOT EXISTS `out_of_order_events`"), "{migrated:?}");
        assert_eq!(rig.database.number("SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = DATABASE()").await, 6);
    }

    // Proves: P6, R42
    async fn a_target_that_would_break_a_promise_is_refused_with_its_remedy(server) {
        let rig = Rig::new(server, Variant::default()).await;
        for (change, code) in [
            ("ALTER TABLE enriched_user ADD UNIQUE KEY by_email (email)", "AI0414"),
            ("ALTER TABLE enriched_user MODIFY user_id VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci NOT NULL", "AI0416"),
            ("ALTER TABLE enriched_user DROP COLUMN cdc_offset", "AI0412"),
            ("ALTER TABLE enriched_user MODIFY user_id VARBINARY(60) NOT NULL, ENGINE=MyISAM", "AI0411"),
        ] {
            rig.database.execute("DROP TABLE enriched_user").await;
            assert_eq!(rig.workspace.run(&["migrate"]).code(), 0);
            rig.database.execute(change).await;
            let mut running = rig.start("run");
            running.wait_for_code(2, LONG).await;
            assert!(running.log().contains(code), "{change}: {}", running.tail());
        }
    }

    async fn without_local_infile_the_result_is_the_same(server) {
        let private = crate::support::servers::start_private(server.flavour(), &["--local-infile=0"]).await;
        let mut rig = Rig::new(&private, Variant::default()).await;
        // Of so many users that batches fill prepared statements.
        let workload = Workload { events: 9_000, users: 4_000, partitions: 2, seed: 13, mix: Mix::harsh(), ..Workload::default() };
        rig.write(workload.records()).await;
        rig.catch_up("run", LONG).await;
        rig.assert_as_folded().await;
        let executed = rig.database.rows("SHOW GLOBAL STATUS LIKE 'Com_stmt_execute'").await;
        assert!(executed[0][1].parse::<u64>().unwrap() > 0, "everything went as text");
    }

    // Proves: P5, R33
    async fn a_row_that_only_the_server_refuses_is_found_and_quarantined(server) {
        let mut rig = Rig::new(server, Variant::default()).await;
        rig.database.execute("ALTER TABLE enriched_user ADD CONSTRAINT no_mallory CHECK (user_id <> 'mallory')").await;
        rig.write((0..50).map(|n| event(&format!("u{n}"), "DE", n))).await;
        rig.write([event("mallory", "DE", 60), event("zoe", "DE", 61), event("mallory", "DE", 62)]).await;
        rig.catch_up("run", LONG).await;
        let found = outcome::read(&rig.database).await;
        assert_eq!(found.rows.len(), 51);
        let stages: Vec<_> = found.quarantine.values().map(|one| (one.state.as_str(), one.stage.as_deref())).collect();
        assert!(stages.contains(&("refused", Some("mysql"))), "{stages:?}");
        assert!(found.quarantine.values().all(|one| one.users.contains("mallory")), "{:?}", found.quarantine);
    }

    // Proves: P4
    async fn what_lost_against_a_newer_version_counts_as_superseded(server) {
        let mut rig = Rig::new(server, Variant::default()).await;
        rig.write([event("ann", "DE", 9), event("bob", "DE", 1)]).await;
        rig.catch_up("first", LONG).await;
        // Ann's is older than what is stored, bob's isn't.
        rig.write([event("ann", "FR", 5), event("bob", "FR", 6)]).await;
        rig.catch_up("second", LONG).await;
        rig.assert_as_folded().await;
        let sums = rig.database.rows("SELECT n_changes, n_upserted, n_deleted, n_superseded FROM afterimage_positions").await;
        assert!(sums.contains(&["4", "3", "0", "1"].map(str::to_owned).to_vec()), "{sums:?}");
    }

    // Proves: P1
    async fn a_version_of_a_lower_partition_and_offset_wins_by_its_time(server) {
        let mut rig = Rig::new(server, Variant::default()).await;
        let elsewhere = |record| OwnedRecord { partition: 1, ..record };
        rig.write([event("bob", "DE", 1), event("bob", "DE", 2), event("ann", "DE", 3)].map(elsewhere)).await;
        rig.catch_up("first", LONG).await;
        // Newer, although both its partition and its offset are lower.
        rig.write([event("ann", "FR", 4)]).await;
        rig.catch_up("second", LONG).await;
        let sql = "SELECT country, cdc_ts DIV 1000000000, cdc_partition, cdc_offset FROM enriched_user WHERE user_id = 'ann'";
        assert_eq!(rig.database.rows(sql).await, [["FR", "1700000004", "0", "0"]]);
    }

    // Proves: P1, P3
    async fn a_position_set_back_by_hand_writes_the_same_versions_again(server) {
        let mut rig = Rig::new(server, Variant::default()).await;
        rig.write([event("ann", "DE", 1), event("ann", "FR", 2), event("bob", "DE", 3)]).await;
        rig.catch_up("first", LONG).await;
        // What an operator does who wants rows as the models make them now.
        let model = rig.workspace.path().join("queries/users/changes.sql");
        let sql = std::fs::read_to_string(&model).unwrap();
        std::fs::write(&model, sql.replace("after.name", "upper(after.name)")).unwrap();
        rig.database.execute("UPDATE afterimage_positions SET next_offset = 0").await;
        rig.catch_up("second", LONG).await;
        let names = rig.database.rows("SELECT name FROM enriched_user ORDER BY user_id").await;
        assert_eq!(names, [["ANN AT 2"], ["BOB AT 3"]]);
    }

    // Proves: P1, R54
    async fn aborted_transactions_are_never_applied(server) {
        let mut rig = Rig::new(server, Variant::default()).await;
        let message = |record: OwnedRecord| crate::support::kafka::Message {
            partition: 0, key: record.key, value: record.value, timestamp: record.timestamp_ms, headers: Vec::new(),
        };
        let producer = rig.broker.transactional_producer().await;
        let producer = producer.abort(&rig.topic, vec![message(event("ghost", "DE", 1))]).await;
        producer.commit(&rig.topic, vec![message(event("ann", "DE", 2))]).await;
        rig.write([event("bob", "DE", 3)]).await;
        rig.catch_up("run", LONG).await;
        let users = rig.database.rows("SELECT user_id FROM enriched_user ORDER BY user_id").await;
        assert_eq!(users, [["ann"], ["bob"]]);
        assert_eq!(rig.database.number("SELECT SUM(n_read) FROM afterimage_positions").await, 2);
    }
}
