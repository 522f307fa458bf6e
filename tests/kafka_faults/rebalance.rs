//! The consumer group at its worst: members that come and go at every moment, the database away meanwhile, owners that don't know.

use std::time::{Duration, Instant};

use super::{LONG, QUICK, SMALL, change, count, finish, harsh, quick, wait_for_count};
use crate::on_both_servers;
use crate::support::process::Running;
use crate::support::proxy::Fault;
use crate::support::rig::{Rig, Variant};
use crate::support::servers;

on_both_servers! {
    // Proves: P3, R47
    async fn with_the_database_away_during_assignment_reading_begins_nowhere_but_at_the_stored_position(server) {
        let (mut rig, proxy) = Rig::behind_a_proxy(server, quick(2)).await;
        let mut records = harsh(8_000, 2, 101);
        rig.write(records.by_ref().take(2_000)).await;
        rig.catch_up("before", LONG).await;
        rig.write(records.by_ref().take(2_000)).await;
        // Somebody resets the group's offsets: one partition would skip everything, the other would repeat everything.
        let (_, end) = rig.broker.watermarks(&rig.topic, 0).await;
        rig.broker.commit_offsets(&rig.topic, &rig.topic, &[(0, end), (1, 0)]).await;

        // Nobody listens while the first instance joins the group, and for longer than anything that the loop does by the clock.
        proxy.refuse(true);
        let mut first = rig.start("first");
        first.wait_for_log("partitions assigned", LONG).await;
        tokio::time::sleep(Duration::from_secs(12)).await;
        assert_eq!(count(&first, "partition started"), 0, "{}", first.tail());
        proxy.refuse(false);
        rig.wait_until_applied(LONG).await;

        // Connections are open but silent while partitions move to a second instance, and back when that is killed.
        rig.write(records.by_ref().take(1_000)).await;
        proxy.blackhole(true);
        let mut second = rig.start("second");
        second.wait_for_log("partitions assigned", LONG).await;
        rig.write(records.by_ref().take(1_000)).await;
        second.kill();
        wait_for_count(&mut first, "partitions assigned", 2).await;
        assert_eq!(count(&second, "partition started"), 0, "{}", second.tail());
        proxy.blackhole(false);
        rig.write(records).await;
        rig.wait_until_applied(LONG).await;
        finish(first).await;
        rig.assert_as_folded().await;
    }

    // Proves: P3, R48
    async fn a_partition_revoked_while_its_commit_has_not_arrived_goes_over_after_the_commit(server) {
        let (mut rig, proxy) = Rig::behind_a_proxy(server, quick(2)).await;
        let mut records = harsh(6_000, 2, 103);
        let mut first = rig.start("first");
        rig.write(records.by_ref().take(1_000)).await;
        rig.wait_until_applied(LONG).await;
        proxy.arm("COMMIT", Fault::Hold);
        rig.write(records.by_ref().take(1_000)).await;
        proxy.wait_until_fired(1, LONG).await;
        // The transaction is open and holds its positions. The second instance must not begin before it ends.
        let mut second = rig.start("second");
        second.wait_for_log("partitions assigned", LONG).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        // A batch may have records of one partition alone: then the other one is nobody's to wait for.
        let free = rig.database.rows("SELECT kafka_partition FROM afterimage_positions FOR UPDATE SKIP LOCKED").await;
        let held: Vec<String> = ["0", "1"].map(str::to_owned).into_iter().filter(|it| !free.contains(&vec![it.clone()])).collect();
        assert!(!held.is_empty(), "the transaction holds nothing");
        for partition in held {
            let begun = |line: &&str| line.contains("partition begun") && line.contains(&format!("partition={partition} "));
            assert_eq!(second.log().lines().filter(begun).count(), 0, "{}", second.tail());
        }
        proxy.release();
        second.wait_for_log("partition begun", LONG).await;
        rig.write(records).await;
        rig.wait_until_applied(LONG).await;
        assert!(first.is_running());
        finish(first).await;
        finish(second).await;
        rig.assert_as_folded().await;
    }

    // Proves: P3, R48
    async fn a_partition_revoked_while_the_answer_to_its_commit_is_missing_is_applied_once(server) {
        let (mut rig, proxy) = Rig::behind_a_proxy(server, quick(2)).await;
        let mut records = harsh(6_000, 2, 107);
        let mut first = rig.start("first");
        rig.write(records.by_ref().take(1_000)).await;
        rig.wait_until_applied(LONG).await;
        proxy.arm("COMMIT", Fault::HoldAnswer);
        rig.write(records.by_ref().take(1_000)).await;
        proxy.wait_until_fired(1, LONG).await;
        let mut second = rig.start("second");
        second.wait_for_log("partition begun", LONG).await;
        rig.write(records.by_ref().take(1_000)).await;
        second.wait_for_log("batch applied", LONG).await;
        // Now the answer gets lost for good, and the row that would tell belongs to somebody else.
        proxy.cut_all();
        rig.write(records).await;
        rig.wait_until_applied(LONG).await;
        assert!(first.is_running());
        assert!(first.log().contains("positions read back"), "{}", first.tail());
        finish(first).await;
        finish(second).await;
        rig.assert_as_folded().await;
    }
}

// Proves: P3, R8, R9
#[tokio::test(flavor = "multi_thread")]
async fn an_instance_paused_in_the_middle_of_its_transaction_writes_nothing_after_its_partitions_went_over() {
    // The new owner waits for the locks of the open transaction until the connection of the paused instance breaks.
    let (mut rig, proxy) = Rig::behind_a_proxy(servers::mariadb().await, quick(2)).await;
    let mut records = harsh(6_000, 2, 109);
    let mut first = rig.start("first");
    rig.write(records.by_ref().take(1_000)).await;
    rig.wait_until_applied(LONG).await;
    proxy.arm("INSERT INTO `ENRICHED_USER`", Fault::LoseAnswer);
    rig.write(records.by_ref().take(1_000)).await;
    proxy.wait_until_fired(1, LONG).await;
    first.pause();
    let mut second = rig.start("second");
    wait_for_count(&mut second, "partitions assigned", 1).await;
    rig.write(records.by_ref().take(1_000)).await;
    second.wait_for_log("waiting", LONG).await;
    assert_eq!(count(&second, "partition begun"), 0, "{}", second.tail());
    proxy.cut_all();
    rig.wait_until_applied(LONG).await;
    first.resume();
    rig.write(records).await;
    rig.wait_until_applied(LONG).await;
    assert!(first.is_running());
    finish(first).await;
    finish(second).await;
    rig.assert_as_folded().await;
}

// Proves: P1, R46
#[tokio::test(flavor = "multi_thread")]
async fn a_standby_takes_over_however_long_it_had_nothing_to_do() {
    let mut rig = Rig::new(servers::mariadb().await, quick(1)).await;
    let mut first = rig.start("first");
    rig.write(harsh(1_000, 1, 111)).await;
    rig.wait_until_applied(LONG).await;
    let standby = rig.start("standby");
    tokio::time::sleep(Duration::from_secs(15)).await;
    let idle = standby.processor_time();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let spent = standby.processor_time() - idle;
    assert!(spent < Duration::from_secs(1), "idle, and yet it took {spent:?} of three seconds");
    first.kill();
    rig.write(harsh(1_000, 1, 112)).await;
    rig.wait_until_applied(LONG).await;
    finish(standby).await;
    rig.assert_as_folded().await;
}

/// Starts and kills instances, one change a second, with traffic all the time; `properties` gives each member its own.
async fn storm(name: &str, members: usize, properties: impl Fn(usize) -> String) {
    let variant = Variant { partitions: 6, pipeline: SMALL.to_owned(), ..Variant::default() };
    let mut rig = Rig::new(servers::mysql().await, variant).await;
    let plain = std::fs::read_to_string(rig.workspace.path().join("afterimage.toml")).unwrap();
    for member in 0..members {
        let own = plain.replace("[kafka.properties]\n", &format!("[kafka.properties]\n{QUICK}{}", properties(member)));
        rig.workspace.write(&format!("member-{member}.toml"), &own);
    }
    let mut records = harsh(20_000, 6, 113);
    let mut alive: Vec<Option<Running>> = (0..members).map(|_| None).collect();
    // Which member changes: 0 1 2 3 4, then each is killed and comes back in an order that mixes young and old ones.
    let schedule = [0, 1, 2, 1, 3, 0, 4, 1, 2, 3, 0, 2, 4, 1, 3];
    for (turn, member) in schedule.into_iter().filter(|member| *member < members).enumerate() {
        let started = Instant::now();
        rig.write(records.by_ref().take(1_000)).await;
        alive[member] = match alive[member].take() {
            Some(mut running) => {
                running.kill();
                None
            }
            None => {
                let config = format!("member-{member}.toml");
                Some(rig.workspace.start(&format!("{name}-{member}-{turn}"), &["run", "--config", &config]))
            }
        };
        tokio::time::sleep(Duration::from_secs(1).saturating_sub(started.elapsed())).await;
    }
    rig.write(records).await;
    // Whoever is left must get all partitions and finish, a session timeout after the last kill.
    let healed = Instant::now();
    rig.wait_until_applied(Duration::from_secs(60)).await;
    println!("{name}: caught up {:?} after the storm", healed.elapsed());
    for running in alive.into_iter().flatten() {
        finish(running).await;
    }
    rig.assert_as_folded().await;
}

// Proves: P1, P3, R46
#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_members_that_join_and_die_doubles_and_loses_nothing() {
    storm("dynamic", 5, |_| String::new()).await;
}

// Proves: P1, P3, R46
#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_static_members_doubles_and_loses_nothing() {
    storm("static", 5, |member| format!("\"group.instance.id\" = \"member-{member}\"\n")).await;
}

// Proves: P3, R49
#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_did_not_poll_in_time_leaves_and_comes_back_at_the_stored_position() {
    let kafka = format!("{QUICK}\"max.poll.interval.ms\" = \"6000\"\n");
    let mut rig = Rig::new(servers::mariadb().await, Variant { kafka, ..quick(2) }).await;
    let mut records = harsh(4_000, 2, 127);
    let mut first = rig.start("first");
    rig.write(records.by_ref().take(1_000)).await;
    rig.wait_until_applied(LONG).await;
    first.pause();
    let second = rig.start("second");
    rig.write(records.by_ref().take(1_000)).await;
    rig.wait_until_applied(LONG).await;
    tokio::time::sleep(Duration::from_secs(8)).await;
    first.resume();
    first.wait_for_log("partitions revoked", LONG).await;
    wait_for_count(&mut first, "partitions assigned", 2).await;
    rig.write(records).await;
    rig.wait_until_applied(LONG).await;
    finish(first).await;
    finish(second).await;
    rig.assert_as_folded().await;
}

// Proves: P3, R14, R49
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_silent_for_longer_than_the_poll_interval_costs_no_membership() {
    let kafka = format!("{QUICK}\"max.poll.interval.ms\" = \"6000\"\n");
    let (mut rig, proxy) = Rig::behind_a_proxy(servers::mysql().await, Variant { kafka, ..quick(2) }).await;
    let mut records = harsh(4_000, 2, 131);
    let first = rig.start("first");
    rig.write(records.by_ref().take(1_000)).await;
    rig.wait_until_applied(LONG).await;
    proxy.blackhole(true);
    rig.write(records.by_ref().take(2_000)).await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    proxy.blackhole(false);
    rig.write(records).await;
    rig.wait_until_applied(LONG).await;
    assert_eq!((count(&first, "partitions revoked"), count(&first, "partitions assigned")), (0, 1), "{}", first.tail());
    finish(first).await;
    rig.assert_as_folded().await;
}

// Proves: P3, P6, R56
#[tokio::test(flavor = "multi_thread")]
async fn two_deployments_of_one_pipeline_in_different_groups_do_no_damage_and_are_named() {
    let mut rig = Rig::new(servers::mysql().await, quick(2)).await;
    let plain = std::fs::read_to_string(rig.workspace.path().join("afterimage.toml")).unwrap();
    rig.workspace.write("other.toml", &plain.replace("group = \"", "group = \"other-"));
    let mut records = harsh(20_000, 2, 137);
    rig.write(records.by_ref().take(500)).await;
    let mut first = rig.start("first");
    let mut second = rig.workspace.start("second", &["run", "--config", "other.toml"]);
    // Traffic all the time, because only who writes learns that it is fenced.
    let started = Instant::now();
    let named = |running: &Running| running.log().contains("two deployments");
    while !named(&first) && !named(&second) {
        assert!(started.elapsed() < LONG, "nobody says so\n{}\n{}", first.tail(), second.tail());
        rig.write(records.by_ref().take(100)).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert!(first.is_running() && second.is_running());
    rig.write(records).await;
    rig.wait_until_applied(LONG).await;
    rig.assert_as_folded().await;
    // One of them goes, the other one has the pipeline to itself.
    second.kill();
    rig.write(harsh(1_000, 2, 139)).await;
    rig.wait_until_applied(LONG).await;
    finish(first).await;
    rig.assert_as_folded().await;
}

// Proves: P1, R41
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_changes_from_one_instances_partition_to_anothers_is_right_in_the_end() {
    let mut rig = Rig::new(servers::mariadb().await, quick(3)).await;
    let mut running: Vec<Running> = (0..3).map(|n| rig.start(&format!("instance-{n}"))).collect();
    for instance in &mut running {
        instance.wait_for_log("partition begun", LONG).await;
    }
    for round in 0..10 {
        let mut records = Vec::new();
        for n in 0..60 {
            let (old, new) = (format!("old-{round}-{n}"), format!("new-{round}-{n}"));
            let (from, to) = (n % 3, (n + 1) % 3);
            let second = i64::from(round * 1_000);
            records.push(change(from, None, Some(&old), second));
            // The change of key lies where the new key lives; the old key's own events go on where the old one does.
            records.push(change(to, Some(&old), Some(&new), second + 10));
            match n % 4 {
                // Late: older than the change of key, so the old key stays gone.
                0 => records.push(change(from, Some(&old), Some(&old), second + 5)),
                // The old key comes back after the change.
                1 => records.push(change(from, None, Some(&old), second + 20)),
                // The new key goes, said in the old key's partition.
                2 => records.push(change(from, Some(&new), None, second + 30)),
                _ => records.push(change(to, Some(&new), Some(&new), second + 40)),
            }
        }
        rig.write(records).await;
    }
    rig.wait_until_applied(LONG).await;
    rig.assert_as_folded().await;
    let owners = rig.database.number("SELECT COUNT(DISTINCT owner) FROM afterimage_positions").await;
    assert_eq!(owners, 3, "each instance has a partition of its own");
    for instance in running {
        finish(instance).await;
    }
}
