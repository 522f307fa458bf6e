//! `schema plan` and `schema apply` on real servers.

use std::time::{Duration, Instant};

use afterimage::demo::server::Flavour;
use afterimage::error::Kind;
use afterimage::sink::evolve::apply::{Bounds, Progress, apply};
use afterimage::sink::evolve::plan::plan;
use afterimage::sink::evolve::{Plan, Statement, Wishes};
use afterimage::target::{Column, Holds, Target};
use mysql_async::prelude::Queryable;

use super::LONG;
use crate::faults::harsh;
use crate::on_both_servers;
use crate::support::mysql::{Database, connector};
use crate::support::process::Workspace;
use crate::support::rig::{Rig, Variant, config};

fn column(name: &str, ddl_type: &str, holds: Holds) -> Column {
    Column { name: name.to_owned(), ddl_type: ddl_type.to_owned(), holds, nullable: true }
}

fn bits(bits: u32) -> Holds {
    Holds::Int { min: -(1_i128 << (bits - 1)), max: (1_i128 << (bits - 1)) - 1 }
}

const TEXT: Holds = Holds::Text { max_chars: 255, max_bytes: 1020 };

/// What models would ask for: wider numbers and times than the table has, and two new columns.
fn wanted() -> Target {
    let columns = vec![
        column("id", "bigint", bits(64)),
        column("name", "varchar(255)", TEXT),
        column("n", "bigint", bits(64)),
        column("m", "decimal(12,4)", Holds::Decimal { precision: 12, scale: 4 }),
        column("f", "double", Holds::Double),
        column("d", "datetime(3)", Holds::DateTime { digits: 3 }),
        column("phone", "varchar(255)", TEXT),
        column("doc", "json", Holds::Json),
    ];
    Target { table: "t".to_owned(), columns, key_len: 1 }
}

/// Only the new columns.
fn added() -> Target {
    let mut target = wanted();
    target.columns.retain(|column| !["n", "m", "f", "d"].contains(&column.name.as_str()));
    target
}

async fn table(database: &Database) {
    database
        .execute(
            "CREATE TABLE t (id BIGINT PRIMARY KEY, name VARCHAR(20) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin DEFAULT 'it''s, (a) name' \
             COMMENT 'a, name', n INT UNSIGNED DEFAULT 7, m DECIMAL(10,2), f FLOAT, d DATE, old VARCHAR(9), `odd ``name` INT, \
             cdc_ts BIGINT NOT NULL, cdc_partition INT NOT NULL, cdc_offset BIGINT NOT NULL)",
        )
        .await;
    for id in 0..50 {
        let row = format!("({id}, 'n{id}', {id}, {id}.25, 0.5, '2024-02-29', 'x', 1, 1, 0, {id})");
        database.execute(&format!("INSERT INTO t VALUES {row}")).await;
    }
}

fn key() -> Vec<String> {
    vec!["id".to_owned()]
}

#[derive(Default)]
struct Log(Vec<String>);

impl Progress for Log {
    fn begins(&mut self, statement: &Statement) {
        self.0.push(statement.sql.clone());
    }
    fn waits(&mut self, _: &Statement, _: Duration) {
        self.0.push("waits".to_owned());
    }
    fn done(&mut self, _: &Statement, _: Duration) {}
    fn was_done(&mut self, _: &Statement) {
        self.0.push("was done".to_owned());
    }
}

const GENTLE: Bounds = Bounds { lock_timeout: Duration::from_secs(20), allow_blocking: false };

/// Class and changes of each statement.
fn classes(plan: &Plan) -> Vec<String> {
    let told = |statement: &Statement| {
        let changes: Vec<String> = statement.changes.iter().map(|change| change.told()).collect();
        format!("{} {}: {}", statement.phase.name(), statement.class.name(), changes.join(", "))
    };
    plan.statements.iter().map(told).collect()
}

async fn tables(database: &Database) -> Vec<Vec<String>> {
    database.rows("SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE() ORDER BY 1").await
}

on_both_servers! {
    async fn each_change_is_planned_as_the_server_runs_it_and_keeps_what_is_there(server) {
        let database = Database::create(server).await;
        table(&database).await;
        let connector = connector(&database.url);
        let wishes = Wishes {
            drop: vec!["old".to_owned()],
            rename: Vec::new(),
            widen: vec![("name".to_owned(), "varchar(60)".to_owned())],
        };
        let found = plan(&connector, &wanted(), &key(), &wishes).await.unwrap();
        let name = match server.flavour() {
            Flavour::MySql => "before online: widen name from varchar(20) to varchar(60)",
            Flavour::MariaDb => "before instant: widen name from varchar(20) to varchar(60)",
        };
        let n = if server.flavour() == Flavour::MySql { "int unsigned" } else { "int(10) unsigned" };
        let expected = [
            format!("before blocking: widen n from {n} to bigint"),
            "before blocking: widen m from decimal(10,2) to decimal(12,4)".to_owned(),
            "before blocking: widen f from float to double".to_owned(),
            "before blocking: widen d from date to datetime(3)".to_owned(),
            "before instant: add phone varchar(255), add doc json".to_owned(),
            name.to_owned(),
            "after instant: drop old".to_owned(),
        ];
        assert_eq!(classes(&found), expected);
        assert!(found.notes.iter().any(|note| note.contains("odd `name")), "{:?}", found.notes);
        assert_eq!(tables(&database).await, [["t"]], "the copy is gone");

        // Not without being told, and then nothing at all.
        let before = database.rows("SHOW CREATE TABLE t").await;
        let refused = apply(&connector, &wanted(), &key(), &wishes, GENTLE, &mut Log::default()).await.unwrap_err();
        assert!(refused.kind == Kind::SinkConfig && refused.to_string().contains("--allow-blocking"), "{refused}");
        assert_eq!(database.rows("SHOW CREATE TABLE t").await, before);

        let mut log = Log::default();
        let allowed = Bounds { allow_blocking: true, ..GENTLE };
        apply(&connector, &wanted(), &key(), &wishes, allowed, &mut log).await.unwrap();
        assert_eq!(log.0.len(), found.statements.len(), "{:?}", log.0);
        let again = plan(&connector, &wanted(), &key(), &wishes).await.unwrap();
        assert!(again.is_empty(), "{again:?}");
        let mut log = Log::default();
        apply(&connector, &wanted(), &key(), &wishes, GENTLE, &mut log).await.unwrap();
        assert_eq!(log.0, Vec::<String>::new());

        let row = database.rows("SELECT id, name, n, m, f, d, phone, doc FROM t WHERE id = 7").await;
        assert_eq!(row, [["7", "n7", "7", "7.2500", "0.5", "2024-02-29 00:00:00.000", "NULL", "NULL"]]);
        assert_eq!(database.number("SELECT COUNT(*) FROM t").await, 50);
        let kept = database.rows("SELECT column_comment, collation_name FROM information_schema.columns WHERE table_schema = DATABASE() AND column_name = 'name'").await;
        assert_eq!(kept, [["a, name", "utf8mb4_bin"]]);
        database.execute("INSERT INTO t (id, cdc_ts, cdc_partition, cdc_offset) VALUES (99, 0, 0, 0)").await;
        assert_eq!(database.rows("SELECT name, n FROM t WHERE id = 99").await, [["it's, (a) name", "7"]]);
    }

    async fn a_rename_keeps_the_values(server) {
        let database = Database::create(server).await;
        table(&database).await;
        let wishes = Wishes { rename: vec![("old".to_owned(), "phone".to_owned())], ..Wishes::default() };
        let found = plan(&connector(&database.url), &added(), &key(), &wishes).await.unwrap();
        assert_eq!(classes(&found), ["before instant: add doc json", "between instant: rename old to phone"]);
        apply(&connector(&database.url), &added(), &key(), &wishes, GENTLE, &mut Log::default()).await.unwrap();
        assert_eq!(database.rows("SELECT phone FROM t WHERE id = 1").await, [["x"]]);
        assert!(plan(&connector(&database.url), &added(), &key(), &wishes).await.unwrap().is_empty());
    }

    // Proves: P5
    async fn a_table_in_use_is_given_up_by_name_and_nobody_waits_behind_it(server) {
        let database = Database::create(server).await;
        table(&database).await;
        let mut holder = database.connect().await;
        holder.query_drop("BEGIN").await.unwrap();
        holder.query_drop("SELECT * FROM t").await.unwrap();
        let url = database.url.clone();
        // Others read meanwhile; none waits longer than an attempt does, by far.
        let others = tokio::spawn(async move {
            let mut connection = crate::support::mysql::connect(&url).await;
            connection.query_drop("SET lock_wait_timeout = 60").await.unwrap();
            let mut longest = Duration::ZERO;
            for _ in 0..30 {
                let asked = Instant::now();
                connection.query_drop("SELECT COUNT(*) FROM t").await.unwrap();
                longest = longest.max(asked.elapsed());
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            longest
        });
        let begun = Instant::now();
        let bounds = Bounds { lock_timeout: Duration::from_secs(4), ..GENTLE };
        let mut log = Log::default();
        let error =
            apply(&connector(&database.url), &added(), &key(), &Wishes::default(), bounds, &mut log).await.unwrap_err();
        assert_eq!(error.kind, Kind::SinkContention, "{error}");
        let text = error.to_string();
        assert!(text.contains("t was not free for") && text.contains("ADD COLUMN `phone`"), "{text}");
        assert!(text.contains("open transactions: connection "), "{text}");
        assert!(begun.elapsed() > Duration::from_secs(4) && begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
        assert!(log.0.iter().filter(|line| *line == "waits").count() >= 1, "{:?}", log.0);
        let longest = others.await.unwrap();
        assert!(longest < Duration::from_secs(15), "somebody waited {longest:?}");
        assert_eq!(tables(&database).await, [["t"]]);
        let columns = "SELECT COUNT(*) FROM information_schema.columns WHERE table_schema = DATABASE() AND column_name = 'phone'";
        assert_eq!(database.number(columns).await, 0);
        holder.query_drop("COMMIT").await.unwrap();
        apply(&connector(&database.url), &added(), &key(), &Wishes::default(), GENTLE, &mut Log::default()).await.unwrap();
        assert_eq!(database.number(columns).await, 1);
        holder.disconnect().await.unwrap();
    }

    async fn two_do_not_apply_at_once(server) {
        let database = Database::create(server).await;
        table(&database).await;
        let mut holder = database.connect().await;
        holder.query_drop("BEGIN").await.unwrap();
        holder.query_drop("SELECT * FROM t").await.unwrap();
        let (connector, target, key) = (connector(&database.url), added(), key());
        let first = {
            let (connector, target, key) = (connector.clone(), target.clone(), key.clone());
            tokio::spawn(async move {
                apply(&connector, &target, &key, &Wishes::default(), Bounds { lock_timeout: Duration::from_secs(60), ..GENTLE }, &mut Log::default()).await
            })
        };
        tokio::time::sleep(Duration::from_secs(2)).await;
        let second = apply(&connector, &target, &key, &Wishes::default(), GENTLE, &mut Log::default()).await.unwrap_err();
        assert!(second.to_string().contains("somebody else applies"), "{second}");
        holder.query_drop("COMMIT").await.unwrap();
        first.await.unwrap().unwrap();
        holder.disconnect().await.unwrap();
    }

    async fn an_account_that_may_not_make_a_copy_is_told_so_and_goes_gently(server) {
        let database = Database::create(server).await;
        table(&database).await;
        // Nothing but reading.
        let reader = database.account("SELECT").await;
        let found = plan(&connector(&reader), &added(), &key(), &Wishes::default()).await.unwrap();
        assert_eq!(classes(&found), ["before unknown: add phone varchar(255), add doc json"]);
        assert!(found.notes.iter().any(|note| note.contains("the account may not make a copy")), "{:?}", found.notes);
        let error = apply(&connector(&reader), &added(), &key(), &Wishes::default(), GENTLE, &mut Log::default()).await.unwrap_err();
        assert!(error.kind == Kind::SinkConfig && error.to_string().contains("1142"), "{error}");
        // ALTER on this table alone: no copy, but the server is asked to keep to the gentle ways.
        let user = reader.split("//").nth(1).unwrap().split(':').next().unwrap();
        database.execute(&format!("GRANT ALTER, CREATE, INSERT ON {}.t TO '{user}'@'127.0.0.1'", database.name)).await;
        let widened = Wishes::default();
        let error = apply(&connector(&reader), &wanted(), &key(), &widened, GENTLE, &mut Log::default()).await.unwrap_err();
        assert!(error.to_string().contains("--allow-blocking"), "{error}");
        apply(&connector(&reader), &added(), &key(), &Wishes::default(), GENTLE, &mut Log::default()).await.unwrap();
        assert!(plan(&connector(&reader), &added(), &key(), &Wishes::default()).await.unwrap().is_empty());
    }

    // Proves: P1, P3, P5
    async fn a_running_service_goes_on_while_columns_are_added_and_apply_is_killed(server) {
        let mut rig = Rig::new(server, Variant::default()).await;
        let mut records = harsh(4_000, 200, 77).into_iter();
        rig.write(records.by_ref().take(1_000)).await;
        let mut running = rig.start("run");
        running.wait_for_log("partition begun", LONG).await;
        // The models of tomorrow, elsewhere.
        let next = Workspace::new(&config(&rig.broker.brokers(), &rig.topic, &rig.database.url, &rig.variant));
        let edit = |model: &str, from: &str, to: &str| {
            let path = format!("queries/users/{model}.sql");
            let text = std::fs::read_to_string(next.path().join(&path)).unwrap();
            assert!(text.contains(from), "{model}");
            next.write(&path, &text.replacen(from, to, 1));
        };
        edit("enriched", "l.region AS region,", "l.region AS region, upper(c.name) AS loud,");
        edit("latest", "country_name, region,", "country_name, region, loud,");
        let planned = next.run(&["schema", "plan", "--widen", "name=varchar(300)"]);
        assert_eq!(planned.code(), 1, "{planned:?}");
        assert!(planned.stdout.contains("-- instant: only the catalogue changes\nALTER TABLE `enriched_user` ADD COLUMN `loud`"), "{planned:?}");
        let arguments = ["schema", "apply", "--widen", "name=varchar(300)", "--lock-timeout", "60s"];
        let killed = next.run_with(&arguments, &[("FAILPOINTS", "before_alter=1*off->1*return(kill)")]);
        assert_eq!(killed.status.code(), None, "{killed:?}");
        rig.write(records.by_ref().take(1_000)).await;
        let applied = next.run(&arguments);
        assert_eq!(applied.code(), 0, "{applied:?}");
        assert!(applied.stdout.contains("MODIFY COLUMN `name` varchar(300)") && !applied.stdout.contains("ADD COLUMN"), "{applied:?}");
        let again = next.run(&arguments);
        assert!(again.code() == 0 && again.stdout.contains("nothing to do"), "{again:?}");
        assert_eq!(next.run(&["schema", "plan"]).code(), 0);
        rig.write(records).await;
        rig.wait_until_applied(LONG).await;
        rig.assert_as_folded().await;
        assert_eq!(rig.database.number("SELECT COUNT(*) FROM enriched_user WHERE loud IS NOT NULL").await, 0);
        running.terminate();
        running.wait_for_code(0, LONG).await;
    }
}
