//! The service's own troubles beside the database: signals, a line that is slow or dead, a full disk for the log, little memory,
//! few file descriptors.

use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;

use super::{LONG, POSITIONS, healed, short_session, small};
use crate::faults::{behind_a_proxy, harsh, small_batches, static_member};
use crate::on_both_servers;
use crate::support::mysql::connect;
use crate::support::proxy::{Fault, Proxy, Throttle};
use crate::support::rig::{Rig, Variant};
use crate::support::servers::{mariadb, mysql};

on_both_servers! {
    // Proves: P1, P2, R14
    async fn a_black_hole_in_mid_statement_ends_at_the_deadline_and_holds_up_no_rebalance(server) {
        let (mut rig, proxy) = behind_a_proxy(server, Variant { kafka: short_session(), ..small() }).await;
        let mut records = harsh(6_000, 200, 251).into_iter();
        let mut first = rig.start("first");
        rig.write(records.by_ref().take(1_000)).await;
        rig.wait_until_applied(LONG).await;
        proxy.arm("INSERT INTO `ENRICHED_USER`", Fault::LoseAnswer);
        rig.write(records.by_ref().take(1_000)).await;
        proxy.wait_until_fired(1, LONG).await;
        proxy.blackhole(true);
        let began = Instant::now();
        // Another instance with a line of its own joins while the first one waits for an answer that never comes.
        let config = std::fs::read_to_string(rig.workspace.path().join("afterimage.toml")).unwrap();
        let direct = config.replace(&format!("127.0.0.1:{}/", proxy.port()), &format!("127.0.0.1:{}/", server.port()));
        rig.workspace.write("direct.toml", &direct);
        let mut second = rig.workspace.start("second", &["run", "--config", "direct.toml"]);
        second.wait_for_line(0, &["partitions assigned"], Duration::from_secs(25)).await;
        first.wait_for_line(0, &["waiting", "no answer within"], Duration::from_secs(60)).await;
        assert!(began.elapsed() < Duration::from_secs(60), "noticed after {:?}", began.elapsed());
        assert!(!first.log().contains("kafka client is replaced"), "it lost its membership: {}", first.tail());
        proxy.blackhole(false);
        rig.write(records).await;
        rig.wait_until_applied(LONG).await;
        first.terminate();
        first.wait_for_code(0, Duration::from_secs(60)).await;
        healed(&rig, second).await;
    }
}

// Proves: P1, P2, R7
#[tokio::test(flavor = "multi_thread")]
async fn asked_to_stop_it_finishes_or_gives_up_within_its_time() {
    let server = mariadb().await;
    let pipeline = format!("{}\nshutdown_timeout = \"3s\"", small_batches());
    // One that gave up leaves no word in the group: its successor is idle until it is missed, here for longer than any interval of
    // the upkeep, and must then begin.
    let kafka = "\"session.timeout.ms\" = \"15000\"".to_owned();
    let mut rig = Rig::new(server, Variant { pipeline, kafka, ..Variant::default() }).await;
    let mut records = harsh(12_000, 300, 241).into_iter();
    // In the middle of work.
    rig.write(records.by_ref().take(4_000)).await;
    let mut running = rig.start("busy");
    running.wait_for_log("batch applied", LONG).await;
    running.terminate();
    running.wait_for_code(0, Duration::from_secs(20)).await;

    // In a transaction that somebody else's lock keeps from ending.
    let mut running = rig.start("locked");
    rig.wait_until_applied(LONG).await;
    let mut stranger = connect(&rig.database.url).await;
    stranger.query_drop("LOCK TABLES enriched_user WRITE").await.unwrap();
    let before = rig.database.number(POSITIONS).await;
    rig.write(records.by_ref().take(500)).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let asked = Instant::now();
    running.terminate();
    running.wait_for_code(0, Duration::from_secs(30)).await;
    assert!(asked.elapsed() < Duration::from_secs(15), "it took {:?}", asked.elapsed());
    assert_eq!(rig.database.number(POSITIONS).await, before);

    // Asked twice: at once.
    let mut running = rig.start("twice");
    running.wait_for_log("partition begun", LONG).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    running.terminate();
    tokio::time::sleep(Duration::from_millis(300)).await;
    running.terminate();
    running.wait_for_code(130, Duration::from_secs(2)).await;
    stranger.query_drop("UNLOCK TABLES").await.unwrap();
    stranger.disconnect().await.unwrap();
    rig.write(records).await;
    rig.catch_up("last", LONG).await;
    rig.assert_as_folded().await;
}

// Proves: P1, R15
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_line_slows_down_and_costs_neither_memory_nor_membership() {
    let server = mariadb().await;
    let pipeline = "batch = { max_events = 2000, max_bytes = \"512KiB\", max_wait = \"1ms\" }".to_owned();
    let (mut rig, proxy) =
        behind_a_proxy(server, Variant { pipeline, kafka: short_session(), ..Variant::default() }).await;
    let mut running = rig.workspace.start_with("run", &["run"], &[("AFTERIMAGE_LOG", "info,afterimage=debug")]);
    running.wait_for_log("partition begun", LONG).await;
    proxy.throttle(Some(Throttle { bytes_per_second: 250_000, delay: Duration::from_millis(20) }));
    rig.write(harsh(60_000, 2_000, 257)).await;
    let until = Instant::now() + Duration::from_secs(12);
    let mut peak = 0;
    while Instant::now() < until {
        peak = peak.max(running.peak_memory());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let progress = rig.database.number(POSITIONS).await;
    assert!(progress > 0 && progress < 60_000, "applied {progress} of 60000 at 250 kB/s");
    let log = running.log();
    assert!(log.contains("reading waits"), "the buffer was never full");
    assert!(!log.contains("partitions revoked") && !log.contains("kafka client is replaced"), "{}", running.tail());
    println!("peak memory {} MiB", peak >> 20);
    assert!(peak < 600 << 20, "peak memory {} MiB", peak >> 20);
    proxy.throttle(None);
    healed(&rig, running).await;
}

// Proves: P1, P2, R32
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_for_the_log_leaves_the_data_alone() {
    let server = mariadb().await;
    let mut rig = Rig::new(server, small()).await;
    let mut records = harsh(4_000, 200, 263).into_iter();
    rig.write(records.by_ref().take(2_000)).await;
    // Every write to /dev/full fails for want of space; a reader that is gone fails every write to its pipe.
    for (name, script) in [("full", "exec \"$@\" >/dev/full 2>/dev/full"), ("closed", "exec \"$@\" >&- 2>&-")] {
        let mut running = rig.workspace.start_under(name, &["sh", "-c", script, "sh"], &["run"]);
        rig.write(records.by_ref().take(500)).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert!(running.is_running(), "{name}: it ended");
        rig.wait_until_applied(LONG).await;
        running.terminate();
        running.wait_for_code(0, Duration::from_secs(30)).await;
    }
    let script = "exec \"$@\" > >(:) 2>&1";
    let mut running = rig.workspace.start_under("pipe", &["bash", "-c", script, "bash"], &["run"]);
    rig.write(records).await;
    rig.wait_until_applied(LONG).await;
    assert!(running.is_running());
    running.terminate();
    running.wait_for_code(0, Duration::from_secs(30)).await;
    rig.assert_as_folded().await;
}

// Proves: P1, P3, R59
#[tokio::test(flavor = "multi_thread")]
async fn killed_for_want_of_memory_it_goes_on_with_more_and_little_is_enough_for_small_batches() {
    let pipeline = "batch = { max_events = 5000, max_bytes = \"1MiB\" }".to_owned();
    let mut rig = Rig::new(mysql().await, Variant { pipeline, kafka: static_member(), ..Variant::default() }).await;
    rig.write(harsh(40_000, 5_000, 269)).await;
    // Too little for anything: it ends, and says by its exit that it did not do what it was asked to.
    let mut starved =
        rig.workspace.start_under("starved", &["prlimit", "--data=105000000", "--"], &["run", "--until-caught-up"]);
    assert!(!starved.wait(LONG).await.success(), "{}", starved.tail());
    let mut running =
        rig.workspace.start_under("little", &["prlimit", "--data=400000000", "--"], &["run", "--until-caught-up"]);
    running.wait_for_code(0, LONG).await;
    rig.assert_as_folded().await;
}

// Proves: P1, R60
#[tokio::test(flavor = "multi_thread")]
async fn without_file_descriptors_it_ends_or_waits_and_goes_on_when_there_are_some() {
    let server = mariadb().await;
    let proxy = Proxy::start(server.port());
    let database = crate::support::mysql::Database::create(server).await;
    let url = server.url_through(proxy.port(), &database.name);
    let mut rig = Rig::behind(database, &url, small()).await;
    let mut records = harsh(3_000, 200, 271).into_iter();
    rig.write(records.by_ref().take(1_000)).await;
    let mut running = rig.start("run");
    rig.wait_until_applied(LONG).await;
    // As many as it has open: not one more.
    let limit = |files: usize| {
        let status = std::process::Command::new("prlimit")
            .args([format!("--pid={}", running.pid()), format!("--nofile={files}:4096")])
            .status();
        assert!(status.unwrap().success());
    };
    limit(3);
    proxy.cut_all();
    rig.write(records.by_ref().take(1_000)).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(running.is_running(), "{}", running.tail());
    running.wait_for_line(0, &["waiting", "Too many open files"], LONG).await;
    let limit = |files: usize| {
        let status = std::process::Command::new("prlimit")
            .args([format!("--pid={}", running.pid()), format!("--nofile={files}:4096")])
            .status();
        assert!(status.unwrap().success());
    };
    limit(4096);
    rig.write(records).await;
    healed(&rig, running).await;
    // Too few to begin with: it says so and ends, or waits; it never claims to work.
    let mut running = rig.workspace.start_under("few", &["prlimit", "--nofile=8", "--"], &["run", "--until-caught-up"]);
    let ended = tokio::time::timeout(Duration::from_secs(10), running.wait(LONG)).await;
    assert!(ended.is_err() || !ended.unwrap().success(), "{}", running.tail());
}

// Proves: P1, P2, R60
#[tokio::test(flavor = "multi_thread")]
async fn a_panic_anywhere_in_the_pipeline_ends_the_process_with_a_code_and_costs_nothing() {
    let mut rig = Rig::new(mariadb().await, Variant { kafka: static_member(), ..small() }).await;
    let mut records = harsh(6_000, 200, 277).into_iter();
    let places = [
        "in_poll=1*off->",
        "before_acquire=",
        "after_poll=1*off->",
        "after_models=2*off->",
        "after_swap=",
        "after_commit=1*off->",
        "before_broker_commit=",
    ];
    for (life, place) in places.into_iter().enumerate() {
        rig.write(records.by_ref().take(900)).await;
        let failpoints = format!("{place}panic");
        let mut running = rig.workspace.start_with(&format!("life-{life}"), &["run"], &[("FAILPOINTS", &failpoints)]);
        running.wait_for_code(4, LONG).await;
        assert!(running.log().contains("a panic in afterimage"), "{}", running.tail());
        assert!(running.log().contains("halted"), "{}", running.tail());
    }
    rig.write(records).await;
    rig.catch_up("last", LONG).await;
    rig.assert_as_folded().await;
}
