//! Faults on real servers: whatever breaks, nothing is lost, doubled or quarantined by mistake, and all sums balance.

use std::time::Duration;

use afterimage::demo::server::Flavour;
use afterimage::generate::{Mix, OwnedRecord, Workload};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::operations::event;
use crate::support::mysql::Database;
use crate::support::proxy::{Fault, Proxy};
use crate::support::rig::{Rig, Variant};
use crate::support::servers::start_private;
use crate::{on_both_servers, on_mariadb};

pub(crate) const LONG: Duration = Duration::from_secs(150);

/// Begins what may have to be taken back within a transaction.
const SAVEPOINT: &str = "SAVEPOINT";

/// A static member is given its partitions back at once after a kill, instead of after the session timeout.
pub(crate) fn static_member() -> String {
    "\"group.instance.id\" = \"one\"".to_owned()
}

pub(crate) fn small_batches() -> String {
    "batch = { max_events = 300, max_bytes = \"1MiB\", max_wait = \"1ms\" }".to_owned()
}

pub(crate) fn harsh(events: u64, users: u32, seed: u64) -> Vec<OwnedRecord> {
    Workload { events, users, partitions: 2, seed, mix: Mix::harsh(), ..Workload::default() }.records().collect()
}

/// The first event of so many users, in order, and later ones of a few of them.
fn creates_and_changes(users: usize, changes: usize) -> (Vec<OwnedRecord>, Vec<OwnedRecord>) {
    let mix = Mix { delete: 0.0, ..Mix::orderly() };
    let workload = Workload { events: 200_000, users: 40_000, partitions: 2, seed: 41, mix, ..Workload::default() };
    let mut known = std::collections::HashSet::new();
    let (mut creates, mut others): (Vec<_>, Vec<_>) =
        workload.records().partition(|record| known.insert(record.key.clone()));
    creates.truncate(users);
    let created: std::collections::HashSet<_> = creates.iter().map(|record| record.key.clone()).collect();
    others.retain(|record| created.contains(&record.key));
    (creates, others.split_off(others.len() - changes))
}

/// A rig whose service goes through a proxy.
pub(crate) async fn behind_a_proxy(server: &afterimage::demo::server::PrivateServer, variant: Variant) -> (Rig, Proxy) {
    let database = Database::create(server).await;
    let proxy = Proxy::start(server.port());
    let url = server.url_through(proxy.port(), &database.name);
    (Rig::behind(database, &url, variant).await, proxy)
}

/// Starts the service anew for each of the steps of a transaction that begins with a savepoint, has it apply 1,200 records, and kills it
/// at that step in the `last` ones: nothing is known of the keys of its first batches, which go by way of the stage.
async fn killed_at_each(
    rig: &mut Rig,
    proxy: &Proxy,
    steps: &[(&str, Fault)],
    records: &mut impl Iterator<Item = OwnedRecord>,
    last: usize,
) {
    for (number, (statement, fault)) in steps.iter().enumerate() {
        let mut running = rig.start(&format!("step-{number}"));
        running.wait_for_log("partition begun", LONG).await;
        rig.write(records.by_ref().take(1_200)).await;
        rig.wait_until_applied(LONG).await;
        let fired = proxy.fired();
        // A small batch may come first, without one, and commits, too.
        let held = *statement != SAVEPOINT;
        proxy.arm(SAVEPOINT, if held { Fault::Hold } else { *fault });
        rig.write(records.by_ref().take(last)).await;
        proxy.wait_until_fired(fired + 1, LONG).await;
        if held {
            proxy.arm(statement, *fault);
            proxy.release();
            proxy.wait_until_fired(fired + 2, LONG).await;
        }
        running.kill();
        proxy.disarm();
    }
}

on_both_servers! {
    // Proves: P1, P2, P3, R5
    async fn killed_at_random_moments_twenty_times(server) {
        let variant = Variant { pipeline: small_batches(), kafka: static_member(), ..Variant::default() };
        let mut rig = Rig::new(server, variant).await;
        let mut records = harsh(24_000, 300, 23).into_iter();
        let seed = rand::random::<u64>();
        println!("seed {seed}");
        let mut random = SmallRng::seed_from_u64(seed);
        for life in 0..22 {
            rig.write(records.by_ref().take(1_000)).await;
            let mut running = rig.start(&format!("life-{life}"));
            // From before the first poll to the middle of steady work.
            tokio::time::sleep(Duration::from_millis(random.random_range(20..900))).await;
            running.kill();
        }
        rig.write(records).await;
        rig.catch_up("last", LONG).await;
        rig.assert_as_folded().await;
    }

    // Proves: P1, P2, P3, R1, R2, R3
    async fn killed_at_each_step_of_the_commit(server) {
        let variant = Variant { pipeline: small_batches(), kafka: static_member(), ..Variant::default() };
        let (mut rig, proxy) = behind_a_proxy(server, variant).await;
        let mut records = harsh(12_000, 2_000, 29).into_iter();
        // Some are only of batches large enough for the stage, some only of those small enough to do without.
        let (large, small) = (1_500, 90);
        let staging = match server.flavour() {
            Flavour::MySql => "LOAD DATA",
            Flavour::MariaDb => "EXECUTE INSERT INTO `AFTERIMAGE_STAGE`",
        };
        let steps = [
            ("CREATE TEMPORARY", Fault::LoseAnswer, large), ("DROP TEMPORARY", Fault::LoseAnswer, large),
            (staging, Fault::LoseAnswer, large), ("DELETE T FROM", Fault::LoseAnswer, large),
            ("START TRANSACTION", Fault::LoseAnswer, small), ("UPDATE (SELECT", Fault::LoseAnswer, small),
            ("INSERT INTO AFTERIMAGE_TOMBSTONES", Fault::LoseAnswer, small), ("INSERT INTO `ENRICHED_USER`", Fault::LoseAnswer, small),
            ("SELECT S.N", Fault::LoseAnswer, small), ("DELETE FROM `ENRICHED_USER`", Fault::LoseAnswer, small),
            ("INSERT INTO ERROR_DATA_ENRICHMENT", Fault::LoseAnswer, small), ("COMMIT", Fault::CutBefore, small),
            ("COMMIT", Fault::LoseAnswer, small),
        ];
        for (number, (statement, fault, count)) in steps.into_iter().enumerate() {
            rig.write(records.by_ref().take(400)).await;
            // Adopting commits, too: the step is that of a batch only once the first batch is through.
            let mut running = rig.start(&format!("step-{number}"));
            running.wait_for_log("partition begun", LONG).await;
            let fired = proxy.fired();
            proxy.arm(statement, fault);
            rig.write(records.by_ref().take(count)).await;
            proxy.wait_until_fired(fired + 1, LONG).await;
            running.kill();
            proxy.disarm();
        }
        rig.catch_up("last", LONG).await;
        rig.assert_as_folded().await;
    }

    // Proves: P1, P2, P3, R1, R2, R3
    async fn killed_at_each_step_of_a_first_load(server) {
        let variant = Variant { pipeline: small_batches(), kafka: static_member(), ..Variant::default() };
        let (mut rig, proxy) = behind_a_proxy(server, variant).await;
        let (creates, changes) = creates_and_changes(16_000, 600);
        let mut records = creates.into_iter();
        let rows = match server.flavour() {
            Flavour::MySql => "LOAD DATA LOCAL INFILE 'ROWS' INTO TABLE `ENRICHED_USER`",
            Flavour::MariaDb => "EXECUTE INSERT INTO `ENRICHED_USER`",
        };
        let steps = [
            (SAVEPOINT, Fault::LoseAnswer),
            (rows, Fault::LoseAnswer),
            ("SELECT COUNT(*), MAX(CDC_TS)", Fault::CutBefore),
            ("SELECT COUNT(*), MAX(CDC_TS)", Fault::LoseAnswer),
            ("COMMIT", Fault::CutBefore),
            ("COMMIT", Fault::LoseAnswer),
        ];
        killed_at_each(&mut rig, &proxy, &steps, &mut records, 800).await;
        // One that is no create among those that are: everything else of its batch is new, and the batch begins again with the stage.
        let mut running = rig.start("changes");
        rig.write(records.by_ref().take(1_200)).await;
        rig.wait_until_applied(LONG).await;
        let undone = proxy.count("ROLLBACK TO SAVEPOINT");
        let mut changed: Vec<OwnedRecord> = records.by_ref().take(800).collect();
        changed.extend(changes);
        rig.write(changed).await;
        rig.wait_until_applied(LONG).await;
        assert!(proxy.count("ROLLBACK TO SAVEPOINT") > undone);
        running.terminate();
        running.wait_for_code(0, Duration::from_secs(30)).await;
        rig.write(records).await;
        rig.catch_up("last", LONG).await;
        rig.assert_as_folded().await;
    }

    // Proves: P3, R10, R11
    async fn a_lost_answer_to_commit_is_settled_by_the_positions(server) {
        let (mut rig, proxy) = behind_a_proxy(server, Variant { pipeline: small_batches(), ..Variant::default() }).await;
        let mut running = rig.start("run");
        let mut records = harsh(8_000, 200, 31).into_iter();
        for round in 0..12 {
            rig.write(records.by_ref().take(500)).await;
            let fired = proxy.fired();
            proxy.arm("COMMIT", [Fault::CutAfter, Fault::CutBefore, Fault::CutDuring][round % 3]);
            rig.write(records.by_ref().take(100)).await;
            proxy.wait_until_fired(fired + 1, LONG).await;
        }
        rig.write(records).await;
        rig.wait_until_applied(LONG).await;
        running.terminate();
        running.wait_for_code(0, Duration::from_secs(30)).await;
        assert!(running.log().contains("positions read back"), "{}", running.tail());
        rig.assert_as_folded().await;
    }

    // Proves: P2, P5, R22, R24
    async fn transactions_refused_for_a_moment_are_repeated_whole(server) {
        let (mut rig, proxy) = behind_a_proxy(server, Variant { pipeline: small_batches(), ..Variant::default() }).await;
        let mut running = rig.start("run");
        let mut records = harsh(6_000, 200, 37).into_iter();
        // Deadlock, lock wait, read-only, disk full, shutting down, too many connections, snapshot changed.
        for code in [1213, 1205, 1290, 1114, 1053, 1040, 1020] {
            let fired = proxy.fired();
            proxy.arm("INSERT INTO `ENRICHED_USER`", Fault::Refuse(code));
            rig.write(records.by_ref().take(600)).await;
            proxy.wait_until_fired(fired + 1, LONG).await;
        }
        rig.write(records).await;
        rig.wait_until_applied(LONG).await;
        running.terminate();
        running.wait_for_code(0, Duration::from_secs(30)).await;
        rig.assert_as_folded().await;
    }

    // Proves: P5, R19
    async fn read_only_for_a_while_quarantines_nothing(server) {
        // A private server: read-only would stop the other tests' writers.
        let private = start_private(server.flavour(), &[]).await;
        let database = Database::create(&private).await;
        let privileges = "SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, CREATE TEMPORARY TABLES";
        let url = database.account(privileges).await;
        let mut rig = Rig::behind(database, &url, Variant { pipeline: small_batches(), ..Variant::default() }).await;
        let mut running = rig.start("run");
        let mut records = harsh(6_000, 200, 41).into_iter();
        rig.write(records.by_ref().take(2_000)).await;
        rig.wait_until_applied(LONG).await;
        rig.database.execute("SET GLOBAL read_only = 1").await;
        rig.write(records.by_ref().take(2_000)).await;
        running.wait_for_log("waiting", LONG).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        rig.database.execute("SET GLOBAL read_only = 0").await;
        rig.write(records).await;
        rig.wait_until_applied(LONG).await;
        running.terminate();
        running.wait_for_code(0, Duration::from_secs(30)).await;
        rig.assert_as_folded().await;
    }

    // Proves: P1, P5, R16, R18
    async fn a_database_away_for_a_minute_costs_nothing(server) {
        let mut private = start_private(server.flavour(), &[]).await;
        let mut rig = Rig::new(&private, Variant { pipeline: small_batches(), ..Variant::default() }).await;
        let mut running = rig.start("run");
        let mut records = harsh(9_000, 200, 43).into_iter();
        rig.write(records.by_ref().take(3_000)).await;
        running.wait_for_log("batch applied", LONG).await;
        if server.flavour() == Flavour::MySql { private.stop().await } else { private.kill() }
        rig.write(records.by_ref().take(3_000)).await;
        running.wait_for_log("waiting", LONG).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(running.is_running(), "it gave up: {}", running.tail());
        private.start_again().await.unwrap();
        rig.write(records).await;
        rig.wait_until_applied(LONG).await;
        running.terminate();
        running.wait_for_code(0, Duration::from_secs(30)).await;
        rig.assert_as_folded().await;
    }

    // Proves: P3, R8
    async fn a_zombie_writes_nothing(server) {
        let kafka = "\"session.timeout.ms\" = \"6000\"\n\"heartbeat.interval.ms\" = \"1000\"".to_owned();
        let mut rig = Rig::new(server, Variant { pipeline: small_batches(), kafka, ..Variant::default() }).await;
        let mut records = harsh(12_000, 200, 47).into_iter();
        let mut first = rig.start("first");
        rig.write(records.by_ref().take(3_000)).await;
        rig.wait_until_applied(LONG).await;
        let mut second = rig.start("second");
        second.wait_for_log("partition begun", LONG).await;
        rig.write(records.by_ref().take(3_000)).await;
        rig.wait_until_applied(LONG).await;
        first.pause();
        rig.write(records.by_ref().take(3_000)).await;
        // The other one has to be given all partitions before it can apply these.
        rig.wait_until_applied(LONG).await;
        first.resume();
        rig.write(records).await;
        rig.wait_until_applied(LONG).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        for running in [&mut first, &mut second] {
            running.terminate();
            running.wait_for_code(0, Duration::from_secs(30)).await;
        }
        rig.assert_as_folded().await;
    }
}

on_mariadb! {
    // Proves: P1, P2, P3, R1, R2, R3
    async fn killed_at_each_step_of_rows_whose_keys_are_known(server) {
        let pipeline = "batch = { max_events = 3000, max_bytes = \"4MiB\", max_wait = \"50ms\" }".to_owned();
        let variant = Variant { pipeline, kafka: static_member(), ..Variant::default() };
        let (mut rig, proxy) = behind_a_proxy(server, variant).await;
        // A thousand users in turn: whatever a batch holds, its keys are as many.
        let mut records = (0..26_000_i32).map(|number| {
            let event = event(&format!("user {}", number % 1_000), "DE", number.into());
            OwnedRecord { partition: number % 2, ..event }
        });
        let rows = "EXECUTE INSERT INTO `ENRICHED_USER`";
        let steps = [
            (SAVEPOINT, Fault::LoseAnswer),
            (rows, Fault::CutBefore),
            (rows, Fault::LoseAnswer),
            ("COMMIT", Fault::CutBefore),
            ("COMMIT", Fault::LoseAnswer),
        ];
        killed_at_each(&mut rig, &proxy, &steps, &mut records, 3_000).await;
        // Somebody deletes a row behind our back: all of its batch is taken back and begins again with the stage.
        let mut running = rig.start("behind our back");
        rig.write(records.by_ref().take(2_000)).await;
        rig.wait_until_applied(LONG).await;
        let undone = proxy.count("ROLLBACK TO SAVEPOINT");
        rig.database.execute("DELETE FROM enriched_user ORDER BY user_id LIMIT 100").await;
        rig.write(records).await;
        rig.wait_until_applied(LONG).await;
        assert!(proxy.count("ROLLBACK TO SAVEPOINT") > undone);
        running.terminate();
        running.wait_for_code(0, Duration::from_secs(30)).await;
        rig.assert_as_folded().await;
    }
}
