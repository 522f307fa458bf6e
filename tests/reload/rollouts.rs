//! Several instances with files of their own, that are exchanged one after the other, and killed meanwhile.

use super::*;
use crate::on_both_servers;

/// Partitions move quickly, so that a rollout takes seconds.
fn quick(partitions: i32) -> Variant {
    let kafka = "\"session.timeout.ms\" = \"6000\"\n\"heartbeat.interval.ms\" = \"500\"\n";
    Variant { partitions, kafka: kafka.to_owned(), ..Variant::default() }
}

on_both_servers! {
    // Proves: P2, P3, R57
    async fn instances_are_rolled_out_one_by_one_with_kills_in_between_and_no_older_one_writes_after_a_newer(server) {
        let mut rig = rig(server, quick(4)).await;
        let mut records = workload(12_000, 4, 311);
        let deployments = [files(&rig, 0), files(&rig, 0), files(&rig, 0)];
        let mut running: Vec<Running> = Vec::new();
        for (index, files) in deployments.iter().take(2).enumerate() {
            let mut instance = files.start("run", &["run"]);
            instance.wait_for_log("partitions assigned", LONG).await;
            running.push(instance);
            rig.write(records.by_ref().take(500 + index)).await;
        }
        rig.wait_until_applied(LONG).await;
        for generation in 1..=3 {
            // A third one comes with new files; then the other two are killed, at whatever they are doing, and come back with them.
            mark(deployments[2].path(), generation);
            rig.write(records.by_ref().take(700)).await;
            let mut third = deployments[2].start("run", &["run"]);
            tokio::time::sleep(Duration::from_millis(300 * generation as u64)).await;
            rig.write(records.by_ref().take(700)).await;
            for (instance, files) in running.iter_mut().zip(&deployments) {
                if generation == 2 {
                    // Restarted with the old files first, as an orchestrator does in the middle of it.
                    instance.kill();
                    *instance = files.start("run", &["run"]);
                    rig.write(records.by_ref().take(200)).await;
                }
                instance.kill();
                mark(files.path(), generation);
                *instance = files.start("run", &["run"]);
                rig.write(records.by_ref().take(200)).await;
            }
            rig.wait_until_applied(LONG).await;
            third.kill();
        }
        rig.write(records).await;
        rig.wait_until_applied(LONG).await;
        for instance in running {
            finish(instance).await;
        }
        let marks = assert_as_folded_but_for_marks(&rig).await;
        assert!(marks.contains_key("g3"), "{marks:?}");
        let wrote = assert_written_in_turn(&rig).await;
        assert_eq!(wrote.last(), Some(&4), "{wrote:?}");
        assert_eq!(rig.database.number("SELECT MAX(generation) FROM afterimage_generations").await, 4);
    }

    // Proves: P3, R57
    async fn an_instance_with_older_files_leaves_its_partitions_and_waits_until_it_has_newer_ones(server) {
        let port = free_port().unwrap();
        let variant = Variant { http: format!("listen = \"127.0.0.1:{port}\""), ..quick(2) };
        let mut rig = rig(server, variant).await;
        let old = files(&rig, 0);
        rig.variant.http = "enabled = false".to_owned();
        let new = files(&rig, 1);
        let mut records = workload(3_000, 2, 313);
        let mut first = old.start("run", &["run"]);
        rig.write(records.by_ref().take(500)).await;
        rig.wait_until_applied(LONG).await;
        let mut second = new.start("run", &["run"]);
        rig.write(records.by_ref().take(500)).await;
        let waiting = wait_for_status(port, |status| status["state"] == "waiting" && status["owned"] == json!([])).await;
        let reason = waiting["reason"].as_str().unwrap();
        assert!(reason.contains("generation 1") && reason.contains("generation 2"), "{reason}");
        assert!(reason.contains("afterimage generations adopt --pipeline users"), "{reason}");
        rig.write(records.by_ref().take(500)).await;
        rig.wait_until_applied(LONG).await;
        // Killed and restarted with the old files it waits as well, outside of the group, and goes on once the files are the new ones.
        first.kill();
        let known = first.log().len();
        first = old.start("run", &["run"]);
        first.wait_for_line(known, &["waiting", "generation 2 is in use"], LONG).await;
        assert_eq!(first.log()[known..].matches("partitions assigned").count(), 0, "{}", first.tail());
        second.kill();
        rig.write(records.by_ref().take(500)).await;
        tokio::time::sleep(Duration::from_secs(8)).await;
        assert!(first.is_running());
        assert_eq!(assert_written_in_turn(&rig).await, [1, 2]);
        mark(old.path(), 1);
        rig.write(records).await;
        rig.wait_until_applied(LONG).await;
        let running = status(port);
        assert_eq!((&running["state"], &running["generation"]), (&json!("running"), &json!(2)), "{running:#}");
        finish(first).await;
        assert_as_folded_but_for_marks(&rig).await;
        assert_eq!(assert_written_in_turn(&rig).await, [1, 2]);
    }

    // Proves: R57
    async fn going_back_on_purpose_takes_effect_in_instances_that_run_and_in_those_that_wait(server) {
        let mut rig = rig(server, quick(2)).await;
        let (old, new) = (files(&rig, 0), files(&rig, 1));
        let mut first = old.start("run", &["run"]);
        first.wait_for_log("partition begun", LONG).await;
        rig.write([event("ann", "DE", 1)]).await;
        rig.wait_until_applied(LONG).await;
        let mut second = new.start("run", &["run"]);
        first.wait_for_line(0, &["waiting", "generation 2 is in use"], LONG).await;
        rig.write([event("bob", "DE", 2)]).await;
        rig.wait_until_applied(LONG).await;
        let known = second.log().len();
        let adopted = old.run(&["generations", "adopt", "--pipeline", "users"]);
        assert!(adopted.code() == 0 && adopted.stdout.contains("generation 3"), "{adopted:?}");
        second.wait_for_line(known, &["waiting", "generation 3 is in use"], LONG).await;
        rig.write([event("cleo", "DE", 3)]).await;
        rig.wait_until_applied(LONG).await;
        let again = old.run(&["generations", "adopt"]);
        assert!(again.code() == 0 && again.stdout.contains("generation 3 already"), "{again:?}");
        finish(first).await;
        finish(second).await;
        let marks = assert_as_folded_but_for_marks(&rig).await;
        assert_eq!(marks, [("g0", 2), ("g1", 1)].map(|(mark, rows)| (mark.to_owned(), rows)).into());
        assert_eq!(assert_written_in_turn(&rig).await, [1, 2, 3]);
        let job = new.run(&["run", "--until-caught-up"]);
        assert_eq!(job.code(), 3, "a job doesn't wait: {job:?}");
        assert!(job.stderr.contains("generation 3 is in use"), "{job:?}");
    }

    // Proves: P3, R57
    async fn instances_that_share_their_files_take_an_edit_up_without_giving_partitions_away(server) {
        let mut rig = rig(server, quick(4)).await;
        let mut records = workload(4_000, 4, 317);
        let (mut first, mut second) = (rig.start("first"), rig.start("second"));
        rig.write(records.by_ref().take(500)).await;
        first.wait_for_log("partition begun", LONG).await;
        second.wait_for_log("partition begun", LONG).await;
        rig.wait_until_applied(LONG).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        let begun = count(&first, "partition begun") + count(&second, "partition begun");
        let (one, two) = (first.log().len(), second.log().len());
        mark(rig.workspace.path(), 1);
        for _ in 0..40 {
            rig.write(records.by_ref().take(50)).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        first.wait_for_line(one, &["changed files taken up"], LONG).await;
        second.wait_for_line(two, &["changed files taken up"], LONG).await;
        rig.write(records).await;
        rig.wait_until_applied(LONG).await;
        assert_eq!(count(&first, "partition begun") + count(&second, "partition begun"), begun, "{}", first.tail());
        finish(first).await;
        finish(second).await;
        let marks = assert_as_folded_but_for_marks(&rig).await;
        assert!(marks.contains_key("g1"), "{marks:?}");
        assert_eq!(assert_written_in_turn(&rig).await, [1, 2]);
    }
}
