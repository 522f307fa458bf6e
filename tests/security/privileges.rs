//! Least privilege: the accounts of docs/operations.md, read from that page, do their work and no more.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use afterimage::generate::OwnedRecord;
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use serde_json::json;

use super::{LONG, START_MS, event, finish, record};
use crate::on_both_servers;
use crate::support::mysql::{Database, connect, execute};
use crate::support::rig::{Rig, Variant};

/// What the page grants: to whom it calls `afterimage_migrate`, to `afterimage` database-wide, and to the same table by table. Each
/// with `{database}` and `{account}` to be filled in.
struct Documented {
    migrate: Vec<String>,
    wide: Vec<String>,
    by_table: Vec<String>,
}

impl Documented {
    fn read() -> Self {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md");
        let page = std::fs::read_to_string(page).unwrap();
        let section = page.split("\n## Accounts\n").nth(1).unwrap().split("\n## ").next().unwrap();
        let (first, second) = section.split_once("Or table by table").unwrap();
        let grants = |text: &str, account: &str| -> Vec<String> {
            let account = format!("'{account}'@'%'");
            let lines =
                text.lines().map(str::trim).filter(|line| line.starts_with("GRANT ") && line.contains(&account));
            lines.map(|line| line.replace("shop.", "{database}.").replace(&account, "{account}")).collect()
        };
        let found = Self {
            migrate: grants(first, "afterimage_migrate"),
            wide: grants(first, "afterimage"),
            by_table: grants(second, "afterimage"),
        };
        assert_eq!(
            (found.migrate.len(), found.wide.len(), found.by_table.len()),
            (1, 1, 8),
            "the page has changed its form"
        );
        found
    }
}

/// An account with these grants and nothing else; its URL.
async fn account(database: &Database, grants: &[String]) -> String {
    // One to begin with, which is taken away again.
    let url = database.account("SELECT").await;
    let user = url.trim_start_matches("mysql://").split(':').next().unwrap().to_owned();
    database.execute(&format!("REVOKE SELECT ON {}.* FROM '{user}'@'127.0.0.1'", database.name)).await;
    for grant in grants {
        let grant = grant.replace("{database}", &database.name).replace("{account}", &format!("'{user}'@'127.0.0.1'"));
        database.execute(grant.trim_end_matches(';')).await;
    }
    url
}

fn use_account(rig: &Rig, url: &str) {
    let config = std::fs::read_to_string(rig.workspace.path().join("afterimage.toml")).unwrap();
    let lines = config
        .lines()
        .map(|line| if line.starts_with("url = ") { format!("url = \"{url}\"") } else { line.to_owned() });
    rig.workspace.write("afterimage.toml", &lines.collect::<Vec<_>>().join("\n"));
}

async fn wait_for(rig: &Rig, query: &str, wanted: impl Fn(i64) -> bool) {
    let started = Instant::now();
    loop {
        let found = rig.database.number(query).await;
        if wanted(found) {
            return;
        }
        assert!(started.elapsed() < LONG, "{query} still yields {found}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// One of everything for a few users of this round: rows, a delete, a late event, a refused and a held one, a row that only the server
/// refuses.
fn round(number: i64) -> Vec<OwnedRecord> {
    let at = |second: i64| number * 100 + second;
    let user = |name: &str| format!("{name}{number}");
    let deleted = json!({ "op": "d", "before": { "userId": user("del"), "name": null, "email": null, "country": null },
        "after": null, "timestamp": START_MS + at(4) * 1000 });
    vec![
        event(&user("ann"), json!("Ann"), "DE", at(1)),
        event(&user("late"), json!("new"), "DE", at(50)),
        event(&user("late"), json!("old"), "DE", at(2)),
        event(&user("del"), json!("Del"), "DE", at(3)),
        record(&user("del"), deleted.to_string(), at(4)),
        event(&user("bob"), json!("Bob"), "XX", at(5)),
        event(&user("bob"), json!("Bob"), "DE", at(6)),
        event(&user("mallory"), json!("Mallory"), "DE", at(7)),
    ]
}

/// Everything that a running instance does, under the account that the config names now.
async fn works(rig: &mut Rig, number: i64, marker: &str) {
    let running = rig.start(&format!("round-{number}"));
    rig.write(round(number)).await;
    rig.wait_until_applied(LONG).await;
    wait_for(rig, "SELECT COUNT(*) FROM enriched_user WHERE name = 'Ann'", |rows| rows == number).await;
    wait_for(rig, "SELECT COUNT(*) FROM out_of_order_events", |rows| rows == number).await;
    wait_for(rig, "SELECT COUNT(*) FROM error_data_enrichment WHERE stage = 'mysql'", |rows| rows >= 1).await;
    // A row of figures per interval, of this instance.
    let pid = format!("SELECT COUNT(*) FROM user_cdc_pipeline_metrics WHERE instance LIKE '%:{}'", running.pid());
    wait_for(rig, &pid, |rows| rows > 0).await;
    // Tombstones go when their time is over; it is made to be.
    wait_for(rig, "SELECT COUNT(*) FROM afterimage_tombstones", |rows| rows > 0).await;
    rig.database.execute("UPDATE afterimage_tombstones SET deleted = deleted - INTERVAL 30 DAY").await;
    wait_for(rig, "SELECT COUNT(*) FROM afterimage_tombstones", |rows| rows == 0).await;
    // Marks are made by an account that may do just that, and carried out by the instance.
    let own = std::fs::read_to_string(rig.workspace.path().join("afterimage.toml")).unwrap();
    use_account(rig, marker);
    let key = format!("bob{number}");
    let retried = rig.workspace.run(&["quarantine", "retry", "--key", &key]);
    assert_eq!(retried.code(), 0, "{retried:?}");
    let attempts = format!("SELECT MAX(attempts) FROM error_data_enrichment WHERE event_keys LIKE '%{key}%'");
    wait_for(rig, &attempts, |attempts| attempts >= 2).await;
    let discarded = rig.workspace.run(&["quarantine", "discard", "--key", &key]);
    assert_eq!(discarded.code(), 0, "{discarded:?}");
    wait_for(rig, &format!("SELECT COUNT(*) FROM enriched_user WHERE user_id = '{key}'"), |rows| rows == 1).await;
    rig.workspace.write("afterimage.toml", &own);
    assert!(!running.log().contains("denied"), "{}", running.tail());
    finish(running).await;
}

async fn is_denied(connection: &mut Conn, statement: &str) {
    let error = connection.query_drop(statement).await.expect_err(statement).to_string();
    assert!(error.contains("denied"), "{statement}: {error}");
}

on_both_servers! {
    // Proves: R61
    async fn the_documented_accounts_do_their_work_and_no_more(server) {
        let documented = Documented::read();
        let database = Database::create(server).await;
        let migrate = account(&database, &documented.migrate).await;
        // The instance that is killed is soon given up.
        let kafka = "\"session.timeout.ms\" = \"6000\"".to_owned();
        let pipeline = "metrics_interval = \"1s\"\ntombstone_retention = \"10d\"".to_owned();
        // The rig runs `migrate` with this account.
        let mut rig = Rig::behind(database, &migrate, Variant { pipeline, kafka, ..Variant::default() }).await;
        let again = rig.workspace.run(&["migrate"]);
        assert!(again.code() == 0 && again.stdout.contains("nothing to do"), "{again:?}");
        rig.database.execute("ALTER TABLE out_of_order_events DROP COLUMN detected").await;
        assert_eq!(rig.workspace.run(&["migrate"]).code(), 0, "an upgrade");
        rig.database.execute("ALTER TABLE enriched_user ADD CONSTRAINT nobody CHECK (name <> 'Mallory')").await;

        // What migrates can't run: it waits and names the grant that it lacks.
        let mut running = rig.start("as-migrate");
        running.wait_for_log("command denied", LONG).await;
        assert!(running.log().contains("grant the account what docs/operations.md lists"), "{}", running.tail());
        running.kill();
        let mut connection = connect(&migrate).await;
        for statement in ["DELETE FROM enriched_user", "UPDATE afterimage_positions SET next_offset = 0", "DROP TABLE enriched_user"] {
            is_denied(&mut connection, statement).await;
        }

        let tables: Vec<String> = documented.by_table.clone();
        let [wide, by_table] = [account(&rig.database, &documented.wide).await, account(&rig.database, &tables).await];
        let select = ["GRANT SELECT ON {database}.* TO {account}".to_owned()];
        let reader = account(&rig.database, &select).await;
        let mark = "GRANT UPDATE ON {database}.error_data_enrichment TO {account}".to_owned();
        let marker = account(&rig.database, &[select[0].clone(), mark]).await;
        for (number, url) in [(1, &wide), (2, &by_table)] {
            use_account(&rig, url);
            works(&mut rig, number, &marker).await;
            let mut connection = connect(url).await;
            for statement in ["CREATE TABLE t (a INT)", "ALTER TABLE enriched_user ADD COLUMN a INT", "DROP TABLE enriched_user",
                              "CREATE USER u", "SET GLOBAL read_only = 1"] {
                is_denied(&mut connection, statement).await;
            }
        }
        let mut connection = connect(&by_table).await;
        for statement in ["DELETE FROM error_data_enrichment", "DELETE FROM afterimage_positions", "DELETE FROM out_of_order_events",
                          "UPDATE user_cdc_pipeline_metrics SET retries = 0"] {
            is_denied(&mut connection, statement).await;
        }

        // Looking needs SELECT alone, and marking more than that.
        use_account(&rig, &reader);
        for looking in [&["status"][..], &["status", "--format", "json"], &["quarantine", "list", "--state", "discarded"],
                        &["quarantine", "show", "--partition", "0", "--offset", "5"]] {
            let shown = rig.workspace.run(looking);
            assert_eq!(shown.code(), 0, "{looking:?}: {shown:?}");
        }
        let marked = rig.workspace.run(&["quarantine", "retry", "--all"]);
        assert_eq!(marked.code(), 3, "{marked:?}");
        assert!(marked.stderr.contains("UPDATE command denied"), "{marked:?}");

        // What the service would lack is named before it starts, with the statements that mend it, no more and no less.
        use_account(&rig, &by_table);
        let checked = rig.workspace.run(&["check", "--online"]);
        assert_eq!(checked.code(), 0, "{checked:?}");
        use_account(&rig, &reader);
        let checked = rig.workspace.run(&["check", "--online"]);
        assert_eq!(checked.code(), 1, "{checked:?}");
        let granted: Vec<&str> =
            checked.stdout.lines().filter_map(|line| line.split_once("help: GRANT ")).map(|(_, grant)| grant).collect();
        assert_eq!(granted.len(), documented.by_table.len(), "{checked:?}");
        for grant in granted {
            rig.database.execute(&format!("GRANT {}", grant.trim_end_matches(';'))).await;
        }
        let checked = rig.workspace.run(&["check", "--online"]);
        assert_eq!(checked.code(), 0, "{checked:?}");
        assert!(checked.stdout.contains("topic `") && checked.stdout.contains("records are kept"), "{checked:?}");
        rig.assert_sums_balance().await;
    }

    // Proves: R61
    async fn no_documented_grant_is_spare(server) {
        // Each privilege that the table-by-table list names is taken away in turn, and something that needs it is tried.
        let documented = Documented::read();
        let database = Database::create(server).await;
        let url = database.url.clone();
        let rig = Rig::behind(database, &url, Variant::default()).await;
        let whole = account(&rig.database, &documented.by_table).await;
        let uses = uses();
        let mut tried = 0;
        for grant in &documented.by_table {
            let (privileges, table) = parts(grant);
            for privilege in &privileges {
                let Some(statement) = uses.get(&(table.as_str(), privilege.as_str())) else {
                    panic!("the page grants {privilege} on {table}, which nothing here needs")
                };
                let without: Vec<&str> = privileges.iter().filter(|other| *other != privilege).map(String::as_str).collect();
                let mut grants: Vec<String> = documented.by_table.iter().filter(|other| *other != grant).cloned().collect();
                if !without.is_empty() {
                    grants.push(grant.replace(&privileges.join(", "), &without.join(", ")));
                }
                let user = account(&rig.database, &grants).await;
                let mut connection = connect(&user).await;
                if table != "*" {
                    connection.query_drop("CREATE TEMPORARY TABLE afterimage_stage (user_id INT)").await.unwrap();
                }
                is_denied(&mut connection, statement).await;
                connection.disconnect().await.unwrap();
                // With all of them it is done.
                execute(&whole, statement).await;
                tried += 1;
            }
        }
        assert_eq!(tried, uses.len(), "something here needs a privilege that the page doesn't grant");
    }
}

/// Privileges and table of a grant of the page.
fn parts(grant: &str) -> (Vec<String>, String) {
    let (privileges, place) = grant.trim_start_matches("GRANT ").split_once(" ON {database}.").unwrap();
    let table = place.split(' ').next().unwrap();
    (privileges.split(", ").map(str::to_owned).collect(), table.to_owned())
}

/// For each table and privilege a statement in the form in which the service or its commands use it.
fn uses() -> BTreeMap<(&'static str, &'static str), &'static str> {
    BTreeMap::from([
        (("*", "CREATE TEMPORARY TABLES"), "CREATE TEMPORARY TABLE afterimage_stage (user_id INT)"),
        (("enriched_user", "SELECT"), "SELECT t.user_id FROM enriched_user t"),
        (("enriched_user", "INSERT"), "INSERT IGNORE INTO enriched_user (user_id) SELECT 'a' FROM DUAL WHERE 1 = 0"),
        (
            ("enriched_user", "UPDATE"),
            "INSERT IGNORE INTO enriched_user (user_id, cdc_ts, cdc_partition, cdc_offset) SELECT 'a', 0, 0, 0 FROM DUAL WHERE 1 = 0 ON DUPLICATE KEY UPDATE cdc_ts = 1",
        ),
        (("enriched_user", "DELETE"), "DELETE t FROM enriched_user t WHERE 1 = 0"),
        (("afterimage_positions", "SELECT"), "SELECT next_offset FROM afterimage_positions FOR UPDATE"),
        (
            ("afterimage_positions", "INSERT"),
            "INSERT IGNORE INTO afterimage_positions (pipeline, topic, kafka_partition) SELECT 'a', 'b', 0 FROM DUAL WHERE 1 = 0",
        ),
        (("afterimage_positions", "UPDATE"), "UPDATE afterimage_positions SET next_offset = 0 WHERE 1 = 0"),
        (("afterimage_generations", "SELECT"), "SELECT generation FROM afterimage_generations"),
        (
            ("afterimage_generations", "INSERT"),
            "INSERT IGNORE INTO afterimage_generations (pipeline, generation) SELECT 'a', 1 FROM DUAL WHERE 1 = 0",
        ),
        (
            ("afterimage_generations", "UPDATE"),
            "UPDATE afterimage_generations SET instance = instance ORDER BY generation LIMIT 1",
        ),
        (("afterimage_tombstones", "SELECT"), "SELECT row_key FROM afterimage_tombstones"),
        (
            ("afterimage_tombstones", "INSERT"),
            "INSERT IGNORE INTO afterimage_tombstones (pipeline, row_key) SELECT 'a', 'b' FROM DUAL WHERE 1 = 0",
        ),
        (
            ("afterimage_tombstones", "UPDATE"),
            "INSERT IGNORE INTO afterimage_tombstones (pipeline, row_key) SELECT 'a', 'b' FROM DUAL WHERE 1 = 0 \
             ON DUPLICATE KEY UPDATE cdc_ts = 1",
        ),
        (("afterimage_tombstones", "DELETE"), "DELETE FROM afterimage_tombstones WHERE 1 = 0"),
        (("error_data_enrichment", "SELECT"), "SELECT state FROM error_data_enrichment"),
        (
            ("error_data_enrichment", "INSERT"),
            "INSERT IGNORE INTO error_data_enrichment (pipeline) SELECT 'a' FROM DUAL WHERE 1 = 0",
        ),
        (("error_data_enrichment", "UPDATE"), "UPDATE error_data_enrichment SET state = 'retry' WHERE 1 = 0"),
        (
            ("out_of_order_events", "SELECT"),
            "INSERT IGNORE INTO out_of_order_events (pipeline, newest_ts_ns) SELECT 'a', 0 FROM DUAL WHERE 1 = 0 \
             ON DUPLICATE KEY UPDATE newest_ts_ns = VALUES(newest_ts_ns)",
        ),
        (
            ("out_of_order_events", "INSERT"),
            "INSERT IGNORE INTO out_of_order_events (pipeline) SELECT 'a' FROM DUAL WHERE 1 = 0",
        ),
        (
            ("out_of_order_events", "UPDATE"),
            "INSERT IGNORE INTO out_of_order_events (pipeline, newest_ts_ns) SELECT 'a', 0 FROM DUAL WHERE 1 = 0 \
             ON DUPLICATE KEY UPDATE newest_ts_ns = VALUES(newest_ts_ns)",
        ),
        (("user_cdc_pipeline_metrics", "SELECT"), "SELECT window_end FROM user_cdc_pipeline_metrics"),
        (
            ("user_cdc_pipeline_metrics", "INSERT"),
            "INSERT IGNORE INTO user_cdc_pipeline_metrics (pipeline) SELECT 'a' FROM DUAL WHERE 1 = 0",
        ),
    ])
}
