//! `preview --online`: against the tables as they are, by an account that can only read.

use std::time::Duration;

use afterimage::demo::server::{Flavour, PrivateServer};
use afterimage::generate::{OwnedRecord, Workload};
use serde_json::Value;

use super::{event, json_lines};
use crate::on_both_servers;
use crate::support::process::Finished;
use crate::support::rig::{Rig, Variant};
use crate::support::servers::start_private;

const LONG: Duration = Duration::from_secs(100);

fn record(event: String, second: i64) -> OwnedRecord {
    let timestamp_ms = Some(1_700_000_000_000 + second * 1000);
    OwnedRecord { partition: 0, offset: 0, timestamp_ms, key: None, value: Some(event.into_bytes()) }
}

/// A rig whose pipeline has run over `events`, each a second after the one before.
async fn after(server: &PrivateServer, events: &[String], prepare: impl AsyncFnOnce(&Rig)) -> Rig {
    let mut rig = Rig::new(server, Variant::default()).await;
    prepare(&rig).await;
    rig.write(events.iter().cloned().zip(0..).map(|(event, second)| record(event, second))).await;
    rig.catch_up("run", LONG).await;
    rig
}

/// Runs `preview --online` with an account that has SELECT on the database and nothing else; nothing may be different afterwards.
async fn preview(rig: &Rig, arguments: &[&str]) -> Finished {
    let before = everything(rig).await;
    let reader = rig.database.account("SELECT").await;
    let config = std::fs::read_to_string(rig.workspace.path().join("afterimage.toml")).unwrap();
    assert!(config.contains(&rig.database.url));
    rig.workspace.write("reader.toml", &config.replace(&rig.database.url, &reader));
    let shown = rig.workspace.run(&[&["preview", "--config", "reader.toml", "--online"], arguments].concat());
    assert_eq!(everything(rig).await, before, "preview has written");
    shown
}

/// All rows of all tables.
async fn everything(rig: &Rig) -> Vec<(String, Vec<Vec<String>>)> {
    let mut all = Vec::new();
    for table in rig.database.rows("SHOW TABLES").await {
        let mut rows = rig.database.rows(&format!("SELECT * FROM {}", table[0])).await;
        rows.sort();
        all.push((table[0].clone(), rows));
    }
    all
}

/// Key, what becomes of it, and the columns that change.
fn writes(shown: &Finished) -> Vec<(String, String, String)> {
    let lines = json_lines(&shown.stdout);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let changed = |line: &Value| line["changed"].as_array().unwrap().iter().map(text).collect::<Vec<_>>().join(" ");
    let writes = lines.iter().filter(|line| line["kind"] == "write");
    writes.map(|line| (text(&line["key"][0]), text(&line["write"]), changed(line))).collect()
}

fn expected(writes: &[(&str, &str, &str)]) -> Vec<(String, String, String)> {
    writes.iter().map(|(key, write, changed)| ((*key).to_owned(), (*write).to_owned(), (*changed).to_owned())).collect()
}

on_both_servers! {
    async fn writes_are_told_from_what_is_stored_and_nothing_is_written(server) {
        let stored = [
            event("c", "ann", "Ann", "DE", 0),
            event("c", "bob", "Bob", "XX", 1),
            event("c", "carl", "Carl", "FR", 2),
            event("d", "carl", "Carl", "FR", 3),
            event("c", "dora", "Dora", "FR", 4),
            event("c", "fay", "Fay", "IT", 5),
            event("c", "hal", "Hal", "IT", 50),
        ];
        let rig = after(server, &stored, async |_| {}).await;
        let news = [
            event("u", "ann", "Ann", "DE", 60),
            event("u", "bob", "Bob", "DE", 61),
            event("u", "carl", "Back too early", "FR", 2),
            event("u", "dora", "Dora", "DE", 62),
            event("c", "emil", "Emil", "SE", 63),
            event("d", "fay", "Fay", "IT", 64),
            event("d", "gus", "Gus", "IT", 65),
            event("u", "hal", "Older", "IT", 49),
        ];
        rig.workspace.write("news.ndjson", &news.join("\n"));
        let shown = preview(&rig, &["--events", "news.ndjson", "--format", "ndjson"]).await;
        assert_eq!(shown.code(), 0, "{shown:?}");
        assert_eq!(writes(&shown), expected(&[
            ("ann", "unchanged", ""),
            ("carl", "superseded", ""),
            ("dora", "update", "country country_name"),
            ("emil", "insert", ""),
            ("fay", "delete", ""),
            ("gus", "absent", ""),
            ("hal", "superseded", ""),
        ]));
        let lines = json_lines(&shown.stdout);
        let dora = lines.iter().find(|line| line["kind"] == "write" && line["key"][0] == "dora").unwrap();
        assert_eq!((&dora["before"]["country_name"], &dora["row"]["country_name"]), (&"France".into(), &"Germany".into()));
        let held: Vec<&Value> = lines.iter().filter(|line| line["kind"] == "held").collect();
        assert!(held.len() == 1 && held[0]["keys"][0][0] == "bob", "{held:?}");
        let late: Vec<&Value> = lines.iter().filter(|line| line["kind"] == "out_of_order").map(|line| &line["keys"][0][0]).collect();
        assert_eq!(late, ["carl", "hal"], "older than what was accepted before them");

        // In smaller batches the same, and people see old and new.
        let cut = preview(&rig, &["--events", "news.ndjson", "--format", "ndjson", "--batch", "3"]).await;
        let mut cut = writes(&cut);
        cut.sort();
        assert_eq!(cut, writes(&shown));
        let text = preview(&rig, &["--events", "news.ndjson", "--model", "latest"]).await;
        assert!(text.stdout.contains("to enriched_user as it is now: 1 insert, 1 update, 1 unchanged"), "{}", text.stdout);
        assert!(text.stdout.contains("France → Germany"), "{}", text.stdout);
    }

    async fn what_the_topic_holds_is_no_news_to_the_table(server) {
        let stored = [
            event("c", "ann", "Ann", "DE", 0),
            event("c", "bob", "Bob", "XX", 1),
            event("u", "bob", "Bob", "DE", 2),
            event("c", "carl", "Carl", "FR", 3),
            event("d", "carl", "Carl", "FR", 4),
            event("u", "ann", "Anna", "DE", 5),
            event("u", "ann", "Late", "DE", 1),
        ];
        let rig = after(server, &stored, async |_| {}).await;
        let shown = preview(&rig, &["--topic-last", "100", "--format", "ndjson"]).await;
        assert_eq!(shown.code(), 0, "{shown:?}");
        assert_eq!(writes(&shown), expected(&[("ann", "unchanged", ""), ("carl", "absent", "")]));
        let lines = json_lines(&shown.stdout);
        let kinds = |kind: &str| lines.iter().filter(|line| line["kind"] == kind).map(|line| line["offset"].as_i64().unwrap()).collect::<Vec<_>>();
        assert_eq!((kinds("refused"), kinds("held"), kinds("out_of_order")), (vec![1], vec![2], vec![6]));
        // A record behind the refused one waits for it, though the refused one isn't among them.
        let shown = preview(&rig, &["--from", "2", "--format", "ndjson"]).await;
        assert!(json_lines(&shown.stdout).iter().any(|line| line["kind"] == "held" && line["offset"] == 2), "{shown:?}");
        // An edit shows what it would change in what is there.
        let path = rig.workspace.path().join("queries/users/changes.sql");
        let changes = std::fs::read_to_string(&path).unwrap().replace("after.name    AS name", "upper(after.name) AS name");
        std::fs::write(&path, changes).unwrap();
        let shown = preview(&rig, &["--topic-last", "100", "--format", "ndjson"]).await;
        assert_eq!(writes(&shown), expected(&[("ann", "update", "name"), ("carl", "absent", "")]));
    }

    async fn a_value_that_the_server_writes_in_its_own_way_is_no_change(server) {
        let latest = "SELECT user_id, name, email, country, country_name, region, \
            CAST(1.5 AS DECIMAL(10,2)) AS amount, ts AS seen, 0.1 AS share, CAST(0.1 AS FLOAT) AS part, true AS yes, \
            CAST(ts AS DATE) AS day, '{\"b\":1,\"a\":[2, 3]}' AS doc, arrow_cast('ab', 'Binary') AS raw, \
            CAST(7 AS BIGINT UNSIGNED) AS flags, _deleted, ts, _partition, _offset \
            FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY user_id ORDER BY ts DESC, _partition DESC, _offset DESC) AS n \
            FROM accepted) WHERE n = 1";
        let rig = after(server, &[event("c", "ann", "Zoë 'x' \\\\", "DE", 0), event("c", "bob", "", "DE", 1)], async |rig| {
            rig.workspace.write("queries/users/latest.sql", latest);
            rig.database.execute(
                "ALTER TABLE enriched_user ADD amount DECIMAL(20,5), ADD seen DATETIME(6), ADD share DOUBLE, ADD part FLOAT, \
                 ADD yes TINYINT(1), ADD day DATE, ADD doc JSON, ADD raw VARBINARY(9), ADD flags BIT(9)").await;
        }).await;
        assert_eq!(rig.database.number("SELECT COUNT(*) FROM enriched_user WHERE amount = 1.5").await, 2);
        let shown = preview(&rig, &["--topic-last", "9", "--format", "ndjson"]).await;
        assert_eq!(shown.code(), 0, "{shown:?}");
        assert_eq!(writes(&shown), expected(&[("ann", "unchanged", ""), ("bob", "unchanged", "")]));
        rig.workspace.write("queries/users/latest.sql", &latest.replace("1.5", "1.51").replace("[2, 3]", "[2, 4]"));
        let shown = preview(&rig, &["--topic-last", "9", "--format", "ndjson"]).await;
        assert_eq!(writes(&shown), expected(&[("ann", "update", "amount doc"), ("bob", "update", "amount doc")]));
    }

    async fn a_whole_workload_that_was_applied_changes_nothing_when_it_is_seen_again(server) {
        let mut rig = Rig::new(server, Variant::default()).await;
        let workload = Workload { events: 4_000, users: 900, partitions: 2, ..Workload::default() };
        rig.write(workload.records()).await;
        rig.catch_up("run", LONG).await;
        let shown = preview(&rig, &["--topic-last", "4000", "--format", "ndjson", "--model", "metrics"]).await;
        assert_eq!(shown.code(), 0, "{:?}", shown.stderr);
        let found = writes(&shown);
        let count = |what: &str| found.iter().filter(|(_, write, _)| write == what).count();
        let rows = rig.database.number("SELECT COUNT(*) FROM enriched_user").await;
        assert_eq!(i64::try_from(count("unchanged")).unwrap(), rows);
        assert!(rows > 500 && count("absent") > 10, "{rows} rows prove little");
        assert_eq!(count("unchanged") + count("absent"), found.len());
        let sums = json_lines(&shown.stdout).into_iter().filter(|line| line["kind"] == "sums");
        let held: i64 = sums.map(|line| line["sums"]["held"].as_i64().unwrap()).sum();
        assert_eq!(held, rig.database.number("SELECT SUM(n_held) FROM afterimage_positions").await);
    }

    async fn a_table_that_cannot_be_read_is_named(server) {
        let rig = Rig::new(server, Variant::default()).await;
        rig.workspace.write("news.ndjson", &event("c", "ann", "Ann", "DE", 0));
        rig.database.execute("DROP TABLE afterimage_tombstones").await;
        let shown = preview(&rig, &["--events", "news.ndjson"]).await;
        assert!(shown.code() == 3 && shown.stderr.contains("afterimage_tombstones"), "{shown:?}");
        rig.database.execute("ALTER TABLE enriched_user DROP COLUMN region").await;
        let shown = preview(&rig, &["--events", "news.ndjson"]).await;
        assert!(shown.code() == 2 && shown.stderr.contains("region"), "{shown:?}");
        rig.database.execute("DROP TABLE enriched_user").await;
        let shown = preview(&rig, &["--events", "news.ndjson"]).await;
        assert!(shown.code() == 2 && shown.stderr.contains("there is no table `enriched_user`"), "{shown:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_takes_no_writes_is_good_enough() {
    for flavour in [Flavour::MySql, Flavour::MariaDb] {
        let server = start_private(flavour, &[]).await;
        let rig = after(&server, &[event("c", "ann", "Ann", "DE", 0)], async |_| {}).await;
        rig.workspace.write("news.ndjson", &event("u", "ann", "Anna", "DE", 9));
        let reader = rig.database.account("SELECT").await;
        rig.database.execute("SET GLOBAL read_only = ON").await;
        let config = std::fs::read_to_string(rig.workspace.path().join("afterimage.toml")).unwrap();
        rig.workspace.write("reader.toml", &config.replace(&rig.database.url, &reader));
        let arguments =
            ["preview", "--config", "reader.toml", "--online", "--events", "news.ndjson", "--format", "ndjson"];
        let shown = rig.workspace.run(&arguments);
        assert_eq!((shown.code(), writes(&shown)), (0, expected(&[("ann", "update", "name")])), "{shown:?}");
    }
}
