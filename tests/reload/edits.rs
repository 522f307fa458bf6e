//! One instance whose files change while it runs.

use super::*;
use crate::on_both_servers;
use crate::support::process::signal;
use crate::support::proxy::Fault;

on_both_servers! {
    // Proves: P1, P3, R57
    async fn a_saved_model_goes_live_between_two_batches_and_no_event_is_lost_or_read_again(server) {
        let mut rig = rig(server, Variant::default()).await;
        let mut records = workload(6_000, 2, 301);
        let mut running = rig.start("run");
        rig.write(records.by_ref().take(2_000)).await;
        rig.wait_until_applied(LONG).await;
        for generation in 1..=2 {
            let known = running.log().len();
            mark(rig.workspace.path(), generation);
            // Events come in all the while.
            for _ in 0..20 {
                rig.write(records.by_ref().take(50)).await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            running.wait_for_line(known, &["changed files taken up"], LONG).await;
            rig.write(records.by_ref().take(500)).await;
            rig.wait_until_applied(LONG).await;
        }
        rig.write(records).await;
        rig.wait_until_applied(LONG).await;
        assert_eq!(count(&running, "partition begun"), 2, "nothing is begun anew: {}", running.tail());
        finish(running).await;
        let marks = assert_as_folded_but_for_marks(&rig).await;
        assert!(marks.get("g2").is_some_and(|rows| *rows > 10), "{marks:?}");
        assert_eq!(assert_written_in_turn(&rig).await, [1, 2, 3]);
        let listed = rig.workspace.run(&["generations", "--format", "json"]);
        assert_eq!((listed.code(), listed.stdout.lines().count()), (0, 3), "{listed:?}");
    }

    // Proves: P6
    async fn a_bad_edit_is_refused_by_name_and_changes_nothing(server) {
        let port = free_port().unwrap();
        let mut rig = rig(server, with_status(port)).await;
        let mut running = rig.start("run");
        rig.write([event("ann", "DE", 1)]).await;
        rig.wait_until_applied(LONG).await;
        let before = wait_for_status(port, |status| status["reload"]["state"] == "current").await;
        let broken = marked(1).replace("c.country,", "c.cuontry,");
        std::fs::write(enriched(rig.workspace.path()), &broken).unwrap();
        let refused = wait_for_status(port, |status| status["reload"]["state"] == "refused").await;
        let line = broken.lines().position(|line| line.contains("c.cuontry")).unwrap() + 1;
        let fault = &refused["reload"]["faults"][0];
        assert_eq!((fault["line"].as_u64(), fault["column"].as_u64()), (Some(line as u64), Some(5)), "{refused:#}");
        assert!(fault["file"].as_str().unwrap().ends_with("queries/users/enriched.sql"), "{refused:#}");
        for same in ["generation", "fingerprint", "state"] {
            assert_eq!(refused[same], before[same], "{refused:#}");
        }
        let code = fault["code"].as_str().unwrap();
        running.wait_for_line(0, &["ERROR", code, "enriched.sql", &format!("line={line}"), "cuontry"], LONG).await;
        running.wait_for_line(0, &["ERROR", "the changed files are refused"], LONG).await;
        let metrics = crate::support::web::get(port, "/metrics").body;
        assert!(metrics.contains("afterimage_reload_refused{pipeline=\"users\"} 1"), "{metrics}");
        assert!(metrics.contains("afterimage_generation{pipeline=\"users\"} 1"), "{metrics}");
        let shown = rig.workspace.run(&["status"]);
        assert!(shown.stdout.contains(&format!("enriched.sql:{line}:5: [{code}]")), "{shown:?}");
        rig.write([event("bob", "FR", 2)]).await;
        rig.wait_until_applied(LONG).await;
        rig.assert_as_folded().await;
        // Mended, and back to what runs: neither is a new generation.
        mark(rig.workspace.path(), 0);
        let mended = wait_for_status(port, |status| status["reload"]["state"] == "current").await;
        assert_eq!(mended["generation"], 1, "{mended:#}");
        finish(running).await;
        assert_eq!(assert_written_in_turn(&rig).await, [1]);
    }

    // Proves: R57
    async fn an_edit_that_is_undone_is_a_generation_of_its_own(server) {
        let mut rig = rig(server, Variant::default()).await;
        let mut running = rig.start("run");
        rig.write([event("ann", "DE", 1)]).await;
        rig.wait_until_applied(LONG).await;
        for (number, generation) in [(2, 1), (3, 0)] {
            let known = running.log().len();
            mark(rig.workspace.path(), generation);
            running.wait_for_line(known, &["changed files taken up", &format!("generation={number}")], LONG).await;
            rig.write([event("ann", "DE", 1 + number)]).await;
            rig.wait_until_applied(LONG).await;
        }
        finish(running).await;
        rig.assert_as_folded().await;
        assert_eq!(assert_written_in_turn(&rig).await, [1, 2, 3]);
    }

    async fn a_folder_swapped_by_symlink_is_taken_up_and_a_hangup_has_it_looked_at_at_once(server) {
        let mut rig = rig(server, Variant::default()).await;
        // As a ConfigMap is mounted: files are links through a link, which is swapped.
        let queries = rig.workspace.path().join("queries/users");
        for generation in 0..=2 {
            let folder = queries.join(format!("..data_{generation}"));
            std::fs::create_dir(&folder).unwrap();
            for entry in std::fs::read_dir(&queries).unwrap() {
                let path = entry.unwrap().path();
                if path.is_file() {
                    std::fs::copy(&path, folder.join(path.file_name().unwrap())).unwrap();
                }
            }
            std::fs::write(folder.join("enriched.sql"), marked(generation)).unwrap();
        }
        let swap = |generation: usize| {
            std::os::unix::fs::symlink(format!("..data_{generation}"), queries.join("..new")).unwrap();
            std::fs::rename(queries.join("..new"), queries.join("..data")).unwrap();
        };
        swap(0);
        for entry in std::fs::read_dir(queries.join("..data_0")).unwrap() {
            let name = entry.unwrap().file_name();
            std::fs::remove_file(queries.join(&name)).unwrap();
            std::os::unix::fs::symlink(Path::new("..data").join(&name), queries.join(&name)).unwrap();
        }
        let mut running = rig.start("run");
        for generation in 0..=2 {
            if generation > 0 {
                let known = running.log().len();
                swap(generation);
                if generation == 2 {
                    signal(running.pid(), libc::SIGHUP);
                    running.wait_for_line(known, &["SIGHUP"], LONG).await;
                }
                running.wait_for_line(known, &["changed files taken up"], LONG).await;
            }
            rig.write([event(&format!("u{generation}"), "DE", 1)]).await;
            rig.wait_until_applied(LONG).await;
        }
        finish(running).await;
        let marks = assert_as_folded_but_for_marks(&rig).await;
        assert_eq!(marks, [("g0", 1), ("g1", 1), ("g2", 1)].map(|(mark, rows)| (mark.to_owned(), rows)).into());
    }

    // Proves: P5
    async fn what_the_models_refused_is_tried_again_by_the_edit_that_mends_them(server) {
        let mut rig = rig(server, Variant::default()).await;
        let path = enriched(rig.workspace.path());
        std::fs::write(&path, marked(0).replace("l.code IS NULL", "(l.code IS NULL OR c.name LIKE 'ann%')")).unwrap();
        let mut running = rig.start("run");
        rig.write([event("ann", "DE", 1), event("bob", "DE", 2), event("ann", "FR", 3), event("cleo", "XX", 4)]).await;
        rig.wait_until_applied(LONG).await;
        let pending = "SELECT COUNT(*) FROM error_data_enrichment WHERE state IN ('refused', 'held')";
        assert_eq!(rig.database.number(pending).await, 3);
        mark(rig.workspace.path(), 0);
        rig.wait_for(pending, 1, LONG).await;
        rig.assert_as_folded().await;
        // The one that is refused still was tried once more, and not again after that.
        let attempts = "SELECT attempts FROM error_data_enrichment WHERE kafka_offset = 3";
        assert_eq!(rig.database.number(attempts).await, 2);
        running.terminate();
        running.wait_for_code(0, LONG).await;
        let again = rig.start("again");
        rig.write([event("dora", "DE", 5)]).await;
        rig.wait_until_applied(LONG).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(rig.database.number(attempts).await, 2, "the same generation has nothing new to try");
        finish(again).await;
        rig.assert_as_folded().await;
    }

    async fn an_edit_that_needs_a_column_waits_for_it_and_a_column_nobody_yields_is_named(server) {
        let port = free_port().unwrap();
        let mut rig = rig(server, with_status(port)).await;
        let mut running = rig.start("run");
        rig.write([event("ann", "DE", 1)]).await;
        rig.wait_until_applied(LONG).await;
        let root = rig.workspace.path().to_owned();
        let latest = std::fs::read_to_string(root.join("queries/users/latest.sql")).unwrap();
        let enriched_by_age = marked(0).replace("AS region,", "AS region,\n    'x' AS grade,");
        std::fs::write(enriched(&root), enriched_by_age).unwrap();
        let wider = latest.replace("region, _deleted, ts", "region, grade, _deleted, ts");
        std::fs::write(root.join("queries/users/latest.sql"), wider).unwrap();
        let pending = wait_for_status(port, |status| status["reload"]["faults"][0]["code"] == "AI0122").await;
        assert_eq!((&pending["reload"]["state"], &pending["state"]), (&json!("pending"), &json!("running")), "{pending:#}");
        rig.write([event("bob", "DE", 2)]).await;
        rig.wait_until_applied(LONG).await;
        rig.database.execute("ALTER TABLE enriched_user ADD COLUMN grade VARCHAR(9) NULL").await;
        running.wait_for_line(0, &["changed files taken up"], LONG).await;
        rig.write([event("cleo", "DE", 3)]).await;
        rig.wait_until_applied(LONG).await;
        assert_eq!(rig.database.number("SELECT COUNT(*) FROM enriched_user WHERE grade = 'x'").await, 1);
        finish(running).await;
        rig.assert_as_folded().await;
        // The older models again, on purpose: the column is left to its default, and that is said.
        mark(&root, 0);
        std::fs::write(root.join("queries/users/latest.sql"), latest).unwrap();
        assert_eq!(rig.workspace.run(&["generations", "adopt"]).code(), 0);
        let mut older = rig.start("older");
        older.wait_for_line(0, &["WARN", "grade", "left to their defaults"], LONG).await;
        rig.write([event("ann", "FR", 4)]).await;
        rig.wait_until_applied(LONG).await;
        finish(older).await;
        rig.assert_as_folded().await;
        rig.database.execute("ALTER TABLE enriched_user ADD COLUMN must INT NOT NULL").await;
        let mut refused = rig.start("refused");
        refused.wait_for_code(2, LONG).await;
        assert!(refused.log().contains("AI0121"), "{}", refused.tail());
    }

    async fn an_edit_that_the_pipelines_own_tests_contradict_is_refused_until_they_agree(server) {
        let port = free_port().unwrap();
        let mut rig = Rig::new(server, with_status(port)).await;
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("queries/users/tests/create_update.yaml");
        rig.workspace.write("queries/users/tests/create_update.yaml", &std::fs::read_to_string(shipped).unwrap());
        let mut running = rig.start("run");
        rig.write([event("ann", "DE", 1)]).await;
        rig.wait_until_applied(LONG).await;
        let path = rig.workspace.path().join("queries/users/latest.sql");
        let latest = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, latest.replace("SELECT user_id, name,", "SELECT user_id, upper(name) AS name,")).unwrap();
        let refused = wait_for_status(port, |status| status["reload"]["state"] == "refused").await;
        let fault = &refused["reload"]["faults"][0];
        assert_eq!((&fault["code"], &refused["generation"]), (&json!("AI0517"), &json!(1)), "{refused:#}");
        assert!(fault["file"].as_str().unwrap().contains("queries/users/tests/"), "{refused:#}");
        running.wait_for_line(0, &["ERROR", "AI0517", "queries/users/tests/", "line="], LONG).await;
        // The tests are brought in line: that is a change of the files, too.
        let updated = rig.workspace.run(&["test", "--update"]);
        assert_eq!(updated.code(), 0, "{updated:?}");
        running.wait_for_line(0, &["changed files taken up", "generation=2"], LONG).await;
        rig.write([event("bob", "DE", 2)]).await;
        rig.wait_until_applied(LONG).await;
        finish(running).await;
        assert_eq!(rig.database.number("SELECT COUNT(*) FROM enriched_user WHERE name = 'BOB AT 2'").await, 1);
    }

    // Proves: P3, R10, R57
    async fn an_edit_while_a_commit_is_in_doubt_waits_until_that_is_settled(server) {
        let (mut rig, proxy) = Rig::behind_a_proxy(server, Variant { partitions: 1, ..Variant::default() }).await;
        for statement in NOTES {
            rig.database.execute(statement).await;
        }
        let mut running = rig.start("run");
        rig.write([event("ann", "DE", 1)]).await;
        rig.wait_until_applied(LONG).await;
        for (round, fault) in [Fault::CutAfter, Fault::CutBefore].into_iter().enumerate() {
            let known = running.log().len();
            let fired = proxy.fired();
            proxy.arm("INSERT INTO `enriched_user`", Fault::Hold);
            rig.write([event(&format!("bob{round}"), "DE", 2)]).await;
            proxy.wait_until_fired(fired + 1, LONG).await;
            // In the middle of the transaction; its COMMIT will have no answer, and for a while nobody answers the question either.
            proxy.arm("COMMIT", fault);
            mark(rig.workspace.path(), round + 1);
            tokio::time::sleep(Duration::from_secs(3)).await;
            proxy.refuse(true);
            proxy.release();
            running.wait_for_line(known, &["the answer to COMMIT is missing"], LONG).await;
            tokio::time::sleep(Duration::from_secs(2)).await;
            assert_eq!(running.log()[known..].matches("changed files taken up").count(), 0, "{}", running.tail());
            proxy.refuse(false);
            running.wait_for_line(known, &["positions read back"], LONG).await;
            running.wait_for_line(known, &["changed files taken up"], LONG).await;
            rig.wait_until_applied(LONG).await;
        }
        rig.write([event("cleo", "DE", 3)]).await;
        rig.wait_until_applied(LONG).await;
        finish(running).await;
        let marks = assert_as_folded_but_for_marks(&rig).await;
        assert!(marks["g0"] >= 2 && marks["g2"] == 1, "{marks:?}");
        assert_written_in_turn(&rig).await;
    }

    // Proves: P3, R57
    async fn an_edit_while_partitions_are_adopted_takes_effect_before_anything_of_them_is_read(server) {
        let (mut rig, proxy) = Rig::behind_a_proxy(server, Variant::default()).await;
        for statement in NOTES {
            rig.database.execute(statement).await;
        }
        rig.write([event("ann", "DE", 1)]).await;
        proxy.arm("UPDATE afterimage_positions SET owner_epoch", Fault::Hold);
        let mut running = rig.start("run");
        running.wait_for_log("partitions assigned", LONG).await;
        proxy.wait_until_fired(1, LONG).await;
        mark(rig.workspace.path(), 1);
        tokio::time::sleep(Duration::from_secs(3)).await;
        proxy.release();
        running.wait_for_line(0, &["changed files taken up"], LONG).await;
        rig.write([event("bob", "DE", 2)]).await;
        rig.wait_until_applied(LONG).await;
        finish(running).await;
        let marks = assert_as_folded_but_for_marks(&rig).await;
        assert!(marks["g1"] >= 1, "{marks:?}");
        assert_written_in_turn(&rig).await;
    }

    async fn a_column_that_the_server_can_fill_by_itself_is_one_that_models_may_fill(server) {
        let rig = rig(server, Variant::default()).await;
        rig.database.execute("ALTER TABLE enriched_user ADD COLUMN seen DATETIME(6) DEFAULT CURRENT_TIMESTAMP(6)").await;
        let unfilled = rig.workspace.run(&["check", "--online"]);
        assert!(unfilled.code() == 0 && unfilled.stdout.contains("AI0431"), "{unfilled:?}");
        let path = rig.workspace.path().join("queries/users/latest.sql");
        let latest = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, latest.replacen("region, _deleted", "region, ts AS seen, _deleted", 1)).unwrap();
        let filled = rig.workspace.run(&["check", "--online"]);
        assert!(filled.code() == 0 && !filled.stdout.contains("seen"), "{filled:?}");
    }

    // Proves: R10
    async fn an_edit_while_the_database_is_away_is_taken_up_when_it_is_back(server) {
        let (mut rig, proxy) = Rig::behind_a_proxy(server, Variant::default()).await;
        let mut running = rig.start("run");
        rig.write([event("ann", "DE", 1)]).await;
        rig.wait_until_applied(LONG).await;
        proxy.refuse(true);
        assert!(rig.database.kill_connections().await > 0);
        mark(rig.workspace.path(), 1);
        rig.write([event("bob", "DE", 2)]).await;
        // Longer than it takes to judge the files, and than anything that is due by the clock.
        tokio::time::sleep(Duration::from_secs(12)).await;
        assert_eq!(count(&running, "changed files taken up"), 0, "{}", running.tail());
        proxy.refuse(false);
        running.wait_for_line(0, &["changed files taken up"], LONG).await;
        rig.write([event("cleo", "DE", 3)]).await;
        rig.wait_until_applied(LONG).await;
        finish(running).await;
        let marks = assert_as_folded_but_for_marks(&rig).await;
        assert!(marks.contains_key("g1"), "{marks:?}");
    }
}
