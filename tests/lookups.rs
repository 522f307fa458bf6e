//! Lookups of a running service: loaded before anything is read, followed, swapped between batches, kept where they can't be refreshed.

use std::time::{Duration, Instant};

use afterimage::demo::server::free_port;
use afterimage::generate::OwnedRecord;
use serde_json::{Value, json};

use crate::on_both_servers;
use crate::support::kafka::Message;
use crate::support::mysql::Database;
use crate::support::process::Running;
use crate::support::rig::{Rig, Variant};
use crate::support::servers::{self, PrivateKafka};
use crate::support::web;

const LONG: Duration = Duration::from_secs(100);
const START_MS: i64 = 1_700_000_000_000;
const FILE: &str = "file = \"queries/users/lookups/countries.csv\"\nkey = [\"code\"]\n";

/// An event of `user` at `second`, in partition 0.
fn event(user: &str, country: &str, second: i64) -> OwnedRecord {
    let after = json!({ "userId": user, "name": user, "email": null, "country": country });
    let value = json!({ "op": "u", "before": null, "after": after, "timestamp": START_MS + second * 1000 });
    OwnedRecord {
        partition: 0,
        offset: 0,
        timestamp_ms: Some(START_MS + second * 1000),
        key: Some(user.as_bytes().to_vec()),
        value: Some(value.to_string().into_bytes()),
    }
}

fn country(code: &str, name: &str) -> Message {
    Message::new(0, code, json!({ "name": name, "region": "Europe", "more": 1 }).to_string())
}

/// A rig whose `countries` come from elsewhere, and the port on which its service tells its status.
async fn rig(rig: impl AsyncFnOnce(Variant) -> Rig, lookups: &str) -> (Rig, u16) {
    let port = free_port().unwrap();
    let rig = rig(Variant { http: format!("listen = \"127.0.0.1:{port}\""), ..Variant::default() }).await;
    set_lookups(&rig, lookups);
    (rig, port)
}

fn set_lookups(rig: &Rig, lookups: &str) {
    let config = std::fs::read_to_string(rig.workspace.path().join("afterimage.toml")).unwrap();
    let (before, _) = config.split_once("[pipelines.users.lookups.countries]").unwrap();
    rig.workspace.write("afterimage.toml", &format!("{before}[pipelines.users.lookups.countries]\n{lookups}"));
}

fn by_topic(topic: &str) -> String {
    format!(
        "topic = \"{topic}\"\nkey = [\"code\"]\ncolumns = {{ code = \"utf8\", name = \"utf8\", region = \"utf8\" }}\n"
    )
}

const COMPACTED: [(&str, &str); 1] = [("cleanup.policy", "compact")];

/// What the service says of itself.
fn status(port: u16) -> Value {
    let pipelines: Value = serde_json::from_str(&web::get(port, "/api/v1/status").body).unwrap_or_default();
    pipelines[0].clone()
}

/// Waits until the status is as wanted.
async fn wait_for_status(running: &mut Running, port: u16, wanted: impl Fn(&Value) -> bool) -> Value {
    let until = Instant::now() + LONG;
    web::wait_until_it_listens(port);
    loop {
        let found = status(port);
        if wanted(&found) {
            return found;
        }
        assert!(running.is_running() && Instant::now() < until, "{found:#}\n{}", running.tail());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn finish(mut running: Running) {
    running.terminate();
    running.wait_for_code(0, Duration::from_secs(60)).await;
}

async fn name_of(rig: &Rig, user: &str) -> String {
    let rows = rig.database.rows(&format!("SELECT country_name FROM enriched_user WHERE user_id = '{user}'")).await;
    rows.concat().concat()
}

on_both_servers! {
    async fn nothing_is_read_before_every_lookup_is_loaded(server) {
        let (mut rig, port) = rig(async |variant| Rig::new(server, variant).await, &by_topic("not_there_yet")).await;
        let topic = format!("countries_{:016x}", rand::random::<u64>());
        set_lookups(&rig, &(by_topic(&topic) + "[pipelines.users.lookups.sizes]\nmysql = \"SELECT code FROM sizes\"\nkey = [\"code\"]\n"));
        rig.write([event("ann", "DE", 1)]).await;
        let mut running = rig.start("run");
        let waiting = wait_for_status(&mut running, port, |it| {
            it["state"] == "waiting" && it["reason"].as_str().is_some_and(|it| it.contains("does not exist") && it.contains("sizes"))
        }).await;
        let reason = waiting["reason"].as_str().unwrap();
        assert!(reason.contains("countries: ") && reason.contains(&topic), "{reason}");
        rig.database.execute("CREATE TABLE sizes (code INT PRIMARY KEY)").await;
        rig.database.execute("INSERT INTO sizes VALUES (1), (2)").await;
        wait_for_status(&mut running, port, |it| it["lookups"]["sizes"]["last_error"] == "" ).await;
        assert_eq!(rig.database.number("SELECT COUNT(*) FROM afterimage_positions").await, 0, "one of two isn't enough");
        rig.broker.create_topic_named(&topic, 2, &COMPACTED).await;
        rig.wait_until_applied(LONG).await;
        // An empty topic is a lookup without rows: the event is refused, and comes back when its country does.
        assert_eq!(rig.database.number("SELECT COUNT(*) FROM error_data_enrichment WHERE state = 'refused'").await, 1);
        rig.broker.produce(&topic, vec![country("DE", "Germany")]).await;
        rig.wait_for("SELECT COUNT(*) FROM error_data_enrichment WHERE state = 'resolved'", 1, LONG).await;
        rig.variant.settings.countries = [("DE".to_owned(), ("Germany".to_owned(), "Europe".to_owned()))].into();
        rig.assert_as_folded().await;
        finish(running).await;
    }

    async fn a_topic_is_followed_and_a_bad_record_leaves_the_last_good_row(server) {
        let topic = servers::kafka().await.create_topic(2, &COMPACTED).await;
        let (mut rig, port) = rig(async |variant| Rig::new(server, variant).await, &by_topic(&topic)).await;
        let broker = servers::kafka().await;
        broker.produce(&topic, vec![country("DE", "Old"), country("FR", "France"), country("DE", "Germany")]).await;
        let mut running = rig.start("run");
        wait_for_status(&mut running, port, |it| it["lookups"]["countries"]["rows"] == 2).await;
        rig.write([event("ann", "DE", 1), event("bob", "FR", 2)]).await;
        rig.wait_until_applied(LONG).await;
        assert_eq!((name_of(&rig, "ann").await.as_str(), name_of(&rig, "bob").await.as_str()), ("Germany", "France"));

        broker.produce(&topic, vec![
            country("DE", "Deutschland"),
            Message::tombstone(0, "FR"),
            Message::new(1, "DE", "{\"name\":867530942424242}"),
            Message::new(1, "\"JP\"", "{\"code\":\"JP\",\"name\":\"Japan\"}"),
        ]).await;
        let seen = wait_for_status(&mut running, port, |it| {
            let lookup = &it["lookups"]["countries"];
            lookup["bad_records"] == 1 && lookup["lag_records"] == 0 && lookup["version"].as_u64() > Some(1)
        }).await;
        assert_eq!(seen["lookups"]["countries"]["last_error"], "", "{seen:#}");
        // What was read is taken up within a tenth of a second.
        tokio::time::sleep(Duration::from_secs(2)).await;
        rig.write([event("cid", "DE", 3), event("dan", "FR", 4), event("eve", "JP", 5)]).await;
        rig.wait_until_applied(LONG).await;
        assert_eq!((name_of(&rig, "cid").await.as_str(), name_of(&rig, "eve").await.as_str()), ("Deutschland", "Japan"));
        assert_eq!(rig.database.number("SELECT COUNT(*) FROM error_data_enrichment WHERE state = 'refused'").await, 1);
        let log = running.log();
        let named = log.lines().find(|line| line.contains("can't be used")).unwrap();
        assert!(named.contains("partition=1") && named.contains("offset=0") && named.contains("name"), "{named}");
        assert!(!log.contains("867530942424242"), "values stay out of the log");
        let metrics = web::get(port, "/metrics").body;
        for figure in ["rows", "bytes", "age_seconds", "lag_records", "refresh_failures_total", "bad_records_total"] {
            let line = format!("afterimage_lookup_{figure}{{pipeline=\"users\",lookup=\"countries\"}}");
            assert!(metrics.contains(&line), "{line}\n{metrics}");
        }
        finish(running).await;

        // The same once more from the beginning.
        let mut running = rig.start("again");
        wait_for_status(&mut running, port, |it| it["lookups"]["countries"]["rows"] == 2).await;
        rig.write([event("fay", "DE", 6)]).await;
        rig.wait_until_applied(LONG).await;
        assert_eq!(name_of(&rig, "fay").await, "Deutschland");
        finish(running).await;
    }

    async fn a_lookup_that_cannot_be_refreshed_keeps_its_rows_and_harms_no_other(server) {
        let lookups = FILE.to_owned() + "[pipelines.users.lookups.sizes]\nmysql = \"SELECT code FROM sizes\"\nkey = [\"code\"]\nrefresh = \"1s\"\n";
        let (mut rig, port) = rig(async |variant| Rig::new(server, variant).await, &lookups).await;
        rig.database.execute("CREATE TABLE sizes (code INT)").await;
        rig.database.execute("INSERT INTO sizes VALUES (1), (2)").await;
        let mut running = rig.start("run");
        wait_for_status(&mut running, port, |it| it["state"] == "running").await;
        let shipped = rig.workspace.path().join("queries/users/lookups/countries.csv");
        let countries = std::fs::read_to_string(&shipped).unwrap();
        // Duplicates, in both: named with their places, and the last good rows stay.
        rig.database.execute("INSERT INTO sizes VALUES (2)").await;
        std::fs::write(&shipped, countries.clone() + "XX,One,Europe\nXX,Two,Europe\n").unwrap();
        let error = |it: &Value, name: &str| it["lookups"][name]["last_error"].as_str().unwrap_or_default().to_owned();
        let seen = wait_for_status(&mut running, port, |it| !error(it, "sizes").is_empty() && !error(it, "countries").is_empty()).await;
        assert!(error(&seen, "sizes").contains("row 3") && error(&seen, "sizes").contains("row 2"), "{seen:#}");
        assert!(error(&seen, "countries").contains("line 252 stands in line 251 already"), "{seen:#}");
        rig.write([event("ann", "DE", 1), event("bob", "XX", 2)]).await;
        rig.wait_until_applied(LONG).await;
        rig.assert_as_folded().await;
        // One is gone for good; the other is mended and counts.
        rig.database.execute("DROP TABLE sizes").await;
        std::fs::write(&shipped, countries + "XX,Exampleland,Europe\n").unwrap();
        rig.wait_for("SELECT COUNT(*) FROM error_data_enrichment WHERE state = 'resolved'", 1, LONG).await;
        let seen = wait_for_status(&mut running, port, |it| it["lookups"]["sizes"]["refresh_failures"].as_u64() > Some(3)).await;
        assert!(error(&seen, "countries").is_empty() && !error(&seen, "sizes").is_empty(), "{seen:#}");
        assert!(seen["lookups"]["sizes"]["age_seconds"].as_f64() > Some(1.0) && seen["state"] == "running", "{seen:#}");
        let said = running.log().lines().filter(|line| line.contains("not replaced") && line.contains("sizes")).count();
        assert_eq!(said, 1, "once per change of that state, not once per try");
        rig.variant.settings.countries.insert("XX".into(), ("Exampleland".into(), "Europe".into()));
        rig.assert_as_folded().await;
        finish(running).await;
    }

    async fn a_slow_query_holds_up_nobody(server) {
        let query = "SELECT code FROM sizes WHERE SLEEP(6) = 0";
        let lookups = FILE.to_owned() + &format!("[pipelines.users.lookups.sizes]\nmysql = \"{query}\"\nkey = [\"code\"]\nrefresh = \"1s\"\n");
        let (mut rig, port) = rig(async |variant| Rig::new(server, variant).await, &lookups).await;
        rig.database.execute("CREATE TABLE sizes (code INT)").await;
        rig.database.execute("INSERT INTO sizes VALUES (1)").await;
        let mut running = rig.start("run");
        wait_for_status(&mut running, port, |it| it["state"] == "running" && it["lookups"]["sizes"]["rows"] == 1).await;
        let (mut slowest, began) = (Duration::ZERO, Instant::now());
        let mut second = 0;
        // Longer than two turns of the query.
        while began.elapsed() < Duration::from_secs(15) {
            second += 1;
            let written = Instant::now();
            rig.write([event("ann", "DE", second)]).await;
            rig.wait_until_applied(LONG).await;
            slowest = slowest.max(written.elapsed());
        }
        assert!(slowest < Duration::from_secs(5), "an event waited {slowest:?}");
        finish(running).await;
    }

    async fn a_batch_sees_one_version_of_a_lookup(server) {
        let (mut rig, port) = rig(async |variant| Rig::new(server, variant).await, FILE).await;
        let model = rig.workspace.path().join("queries/users/enriched.sql");
        let sql = std::fs::read_to_string(&model).unwrap();
        // Each row takes one column from its own country, and another from the row that every event finds.
        let sql = sql.replace("l.region AS region", "x.region AS region")
            .replace("LEFT JOIN countries l ON l.code = c.country", "LEFT JOIN countries l ON l.code = c.country LEFT JOIN countries x ON x.code = concat(substr(c.country, 20), 'XX')");
        std::fs::write(&model, sql).unwrap();
        let file = rig.workspace.path().join("queries/users/lookups/countries.csv");
        let swap = |version: u32| {
            let rows: String = (0..300).map(|row| format!("C{row},{version},{version}\n")).collect();
            let next = file.with_extension("next");
            std::fs::write(&next, format!("code,name,region\nXX,{version},{version}\n{rows}")).unwrap();
            std::fs::rename(&next, &file).unwrap();
        };
        swap(0);
        let mut running = rig.start("run");
        wait_for_status(&mut running, port, |it| it["state"] == "running").await;
        let mut versions = 0;
        for version in 1..12 {
            swap(version);
            let events = (0..600).map(|number| event(&format!("u{version}-{number}"), &format!("C{}", number % 300), i64::from(version)));
            rig.write(events).await;
            tokio::time::sleep(Duration::from_millis(400)).await;
        }
        rig.wait_until_applied(LONG).await;
        assert_eq!(rig.database.number("SELECT COUNT(*) FROM enriched_user").await, 6_600);
        assert_eq!(rig.database.number("SELECT COUNT(*) FROM enriched_user WHERE country_name <> region OR region IS NULL").await, 0);
        versions += rig.database.number("SELECT COUNT(DISTINCT region) FROM enriched_user").await;
        assert!(versions > 2, "{versions} versions were seen: the file's changes weren't taken up meanwhile");
        finish(running).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_brokers_are_away_the_last_good_rows_stay_and_grow_old() {
    let kafka = PrivateKafka::start(&[]).await;
    let database = Database::create(servers::mariadb().await).await;
    let url = database.url.clone();
    let topic = kafka.0.create_topic(1, &COMPACTED).await;
    let (mut rig, port) = rig(async |variant| Rig::on(kafka.0, database, &url, variant).await, &by_topic(&topic)).await;
    kafka.0.produce(&topic, vec![country("DE", "Germany")]).await;
    let mut running = rig.start("run");
    wait_for_status(&mut running, port, |it| it["lookups"]["countries"]["rows"] == 1 && it["state"] == "running").await;
    kafka.0.stop();
    let away = wait_for_status(&mut running, port, |it| {
        let lookup = &it["lookups"]["countries"];
        lookup["last_error"] != "" && lookup["age_seconds"].as_f64() > Some(12.0)
    })
    .await;
    assert_eq!(away["lookups"]["countries"]["rows"], 1);
    kafka.0.start_again().await;
    wait_for_status(&mut running, port, |it| {
        let lookup = &it["lookups"]["countries"];
        lookup["last_error"] == "" && lookup["age_seconds"].as_f64() < Some(8.0)
    })
    .await;
    kafka.0.produce(&topic, vec![country("FR", "France")]).await;
    wait_for_status(&mut running, port, |it| it["lookups"]["countries"]["rows"] == 2).await;
    rig.write([event("ann", "DE", 1), event("bob", "FR", 2)]).await;
    rig.wait_until_applied(LONG).await;
    assert_eq!((name_of(&rig, "ann").await.as_str(), name_of(&rig, "bob").await.as_str()), ("Germany", "France"));
    let log = running.log();
    let said = |text: &str| log.lines().filter(|line| line.contains(text) && line.contains("countries")).count();
    assert_eq!((said("not replaced"), said("refreshed again")), (1, 1), "{log}");
    finish(running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_was_created_anew_is_named_and_the_rows_stay() {
    let broker = servers::kafka().await;
    let topic = broker.create_topic(1, &COMPACTED).await;
    let server = servers::mariadb().await;
    let (mut rig, port) = rig(async |variant| Rig::new(server, variant).await, &by_topic(&topic)).await;
    broker.produce(&topic, vec![country("DE", "Germany")]).await;
    let mut running = rig.start("run");
    wait_for_status(&mut running, port, |it| it["lookups"]["countries"]["rows"] == 1 && it["state"] == "running").await;
    broker.delete_topic(&topic).await;
    broker.create_topic_named(&topic, 1, &COMPACTED).await;
    broker.produce(&topic, vec![country("FR", "France")]).await;
    let seen = wait_for_status(&mut running, port, |it| {
        it["lookups"]["countries"]["last_error"].as_str().is_some_and(|it| it.contains("deleted and created anew"))
    })
    .await;
    assert_eq!(seen["lookups"]["countries"]["rows"], 1);
    rig.write([event("ann", "DE", 1)]).await;
    rig.wait_until_applied(LONG).await;
    assert_eq!(name_of(&rig, "ann").await, "Germany");
    finish(running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_with_holes_tells_the_same() {
    let broker = servers::kafka().await;
    let compact = [
        ("cleanup.policy", "compact"),
        ("segment.bytes", "1048576"),
        ("min.cleanable.dirty.ratio", "0.01"),
        ("delete.retention.ms", "0"),
    ];
    let topic = broker.create_topic(1, &compact).await;
    let server = servers::mariadb().await;
    let (mut rig, port) = rig(async |variant| Rig::new(server, variant).await, &by_topic(&topic)).await;
    for round in 0..60 {
        let mut batch: Vec<Message> =
            (0..50).map(|key| country(&format!("C{key}"), &format!("round {round}"))).collect();
        batch.push(if round % 2 == 0 { country("GO", "Gone") } else { Message::tombstone(0, "GO") });
        broker.produce(&topic, batch).await;
    }
    let producer = broker.transactional_producer().await;
    let producer = producer.abort(&topic, vec![country("C0", "never")]).await;
    // Two more segments, so that the first ones are closed.
    let padding = (0..300).map(|key| country(&format!("padding {key}"), &"x".repeat(9_000)));
    broker.produce(&topic, padding.collect()).await;
    producer.abort(&topic, vec![country("C1", "never")]).await;
    let until = Instant::now() + LONG;
    loop {
        let there = broker.records(&topic, 0).await;
        if there.len() < 2_000 {
            break;
        }
        assert!(Instant::now() < until, "not compacted: {} records", there.len());
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let mut running = rig.start("run");
    wait_for_status(&mut running, port, |it| it["lookups"]["countries"]["rows"] == 350 && it["state"] == "running")
        .await;
    rig.write([event("ann", "C0", 1), event("bob", "C1", 2), event("cid", "GO", 3)]).await;
    rig.wait_until_applied(LONG).await;
    assert_eq!((name_of(&rig, "ann").await.as_str(), name_of(&rig, "bob").await.as_str()), ("round 59", "round 59"));
    assert_eq!(rig.database.number("SELECT COUNT(*) FROM error_data_enrichment WHERE state = 'refused'").await, 1);
    let lag = |it: &Value| it["lookups"]["countries"]["lag_records"] == 0;
    wait_for_status(&mut running, port, lag).await;
    finish(running).await;
}
