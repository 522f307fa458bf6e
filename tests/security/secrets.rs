//! Canaries in every place that may hold a secret, and in what events carry, looked for in all that is shown.

use std::fmt::Write;

use afterimage::demo::server::free_port;
use serde_json::{Value, json};

use super::{LONG, START_MS, event, finish, record};
use crate::on_both_servers;
use crate::support::certificates::Authority;
use crate::support::kafka::Message;
use crate::support::mysql::Database;
use crate::support::process::{Running, Workspace};
use crate::support::rig::{self, Rig, Variant};
use crate::support::web;

const CANARY: &str = "canary";
const TRACE: (&str, &str) = ("AFTERIMAGE_LOG", "trace");

/// Everything that stands in the tables of ours, as text.
async fn tables(database: &Database) -> String {
    let mut text = String::new();
    let names = "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE()";
    for name in database.rows(names).await {
        for row in database.rows(&format!("SELECT * FROM `{}`", name[0])).await {
            let _ = writeln!(text, "{}: {row:?}", name[0]);
        }
    }
    text
}

/// The process's arguments, as `ps` shows them.
fn arguments(running: &Running) -> String {
    let line = std::fs::read(format!("/proc/{}/cmdline", running.pid())).unwrap();
    String::from_utf8_lossy(&line).into_owned()
}

fn answers(port: u16) -> String {
    ["/livez", "/readyz", "/metrics", "/api/v1/status"]
        .map(|path| format!("{path}: {:?}\n", web::get(port, path)))
        .concat()
}

/// Every command that reads the config, none of which may end in success or show a canary.
fn assert_silent(workspace: &Workspace, environment: &[(&str, &str)], about: &str) {
    for arguments in
        [&["check"][..], &["check", "--format", "json"], &["run"], &["status"], &["migrate"], &["quarantine", "list"]]
    {
        let shown = workspace.run_with(arguments, environment);
        assert_ne!(shown.code(), 0, "{about}: {arguments:?} {shown:?}");
        assert!(!shown.stdout.contains(CANARY) && !shown.stderr.contains(CANARY), "{about}: {arguments:?} {shown:?}");
    }
}

// Proves: P6, R61
#[test]
fn a_faulty_config_shows_no_secret_that_stands_in_it() {
    let url = "mysql://app:PASSWORD@127.0.0.1:1/app";
    let base = rig::config("127.0.0.1:1", "topic", &url.replace("PASSWORD", "canary-url"), &Variant::default());
    let kafka = "[kafka.properties]\n\"sasl.password\" = \"canary-sasl\"\n\"ssl.key.password\" = \"canary-key\"\n\
                 \"ssl.key.pem\" = '''\n-----BEGIN PRIVATE KEY-----\ncanary-pem\n-----END PRIVATE KEY-----\n'''";
    let planted = base.replace("[kafka.properties]", kafka);
    let workspace = Workspace::new(&planted);
    workspace.write("password", "canary-file");
    let environment = [TRACE, ("SECRET", "canary-variable"), ("URL", "mysql://app:canary-variable@127.0.0.1:1")];
    for (about, config) in [
        ("an unknown key", planted.replace("[http]", "pasword = \"canary-unknown\"\n[http]")),
        ("an unknown property", planted.replace("[mysql]", "\"sasl.pasword\" = \"canary-unknown\"\n[mysql]")),
        ("an impossible value", planted.replace("[mysql]", "\"session.timeout.ms\" = \"${SECRET}\"\n[mysql]")),
        ("a URL without a host", planted.replace("@127.0.0.1:1/app", "@/app")),
        ("a URL with parameters", planted.replace("1/app\"", "1/app?password=canary-parameter\"")),
        ("a URL of something else", planted.replace("mysql://", "postgres://")),
        ("a URL without an at sign", planted.replace("@127", "127")),
        ("a text without an end", planted.replace("\"canary-sasl\"", "\"canary-sasl")),
        ("a URL from a variable", planted.replace("mysql://app:canary-url@127.0.0.1:1/app", "${URL}")),
        ("a variable in the wrong place", planted.replace("topic = \"topic\"", "topic = \"${SECRET} !\"")),
        ("a variable for a number", planted.replace("table =", "batch = { max_events = \"${SECRET}\" }\ntable =")),
        ("two passwords", planted.replace("[http]", "password_file = \"password\"\n[http]")),
        ("a file that isn't there", planted.replace("[http]", "ca_file = \"nowhere.pem\"\n[http]")),
        ("a name of a topic", planted.replace("topic = \"topic\"", "topic = \"a b\"")),
    ] {
        assert_ne!(config, planted, "{about}");
        workspace.write("afterimage.toml", &config);
        assert_silent(&workspace, &environment, about);
    }
}

on_both_servers! {
    // Proves: P6, R61
    async fn a_secret_is_in_nothing_that_a_running_service_shows(server) {
        let database = Database::create(server).await;
        let url = database.account("SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, CREATE TEMPORARY TABLES").await;
        let user = url.trim_start_matches("mysql://").split(':').next().unwrap().to_owned();
        let identified = |password: &str| format!("ALTER USER '{user}'@'127.0.0.1' IDENTIFIED BY '{password}'");
        database.execute(&identified("canary-of-mysql")).await;
        let port = free_port().unwrap();
        let authority = Authority::new("authority");
        let identity = authority.issue(&["client"]);
        let kafka = format!(
            "\"sasl.username\" = \"app\"\n\"sasl.password\" = \"canary-of-sasl\"\n\"ssl.key.password\" = \"canary-of-key\"\n\
             \"ssl.certificate.pem\" = '''\n{}'''\n\"ssl.key.pem\" = '''\n{}'''",
            identity.certificate, identity.key
        );
        let key_line = identity.key.lines().nth(1).unwrap().to_owned();
        let url = format!("mysql://{user}:canary-of-mysql@127.0.0.1:{}/{}", server.port(), database.name);
        let variant = Variant {
            kafka,
            http: format!("listen = \"127.0.0.1:{port}\""),
            pipeline: "metrics_interval = \"1s\"".to_owned(),
            ..Variant::default()
        };
        let mut rig = Rig::behind(database, &url, variant).await;
        let written = std::fs::read_to_string(rig.workspace.path().join("afterimage.toml")).unwrap();
        // From a variable and from a file, too: wherever it comes from, it goes to the server alone.
        let from_variable = written.replace("canary-of-mysql", "${MYSQL_PASSWORD}");
        let from_file = written.replace(":canary-of-mysql@", "@").replace("[http]", "password_file = \"password\"\n[http]");
        rig.workspace.write("password", "canary-of-mysql\n");
        let mut shown = String::new();
        for (number, config) in [written, from_variable, from_file].iter().enumerate() {
            rig.workspace.write("afterimage.toml", config);
            let environment = [TRACE, ("MYSQL_PASSWORD", "canary-of-mysql")];
            let running = rig.workspace.start_with(&format!("run-{number}"), &["run"], &environment);
            let second = i64::try_from(number).unwrap() * 10;
            rig.write([event(&format!("a{number}"), json!("A"), "DE", second), event("b", json!("B"), "XX", second + 1)]).await;
            rig.wait_until_applied(LONG).await;
            shown += &answers(port);
            shown += &arguments(&running);
            for looking in [&["status"][..], &["status", "--format", "json"], &["check", "--online"], &["quarantine", "list"]] {
                let finished = rig.workspace.run_with(looking, &environment);
                assert_eq!(finished.code(), 0, "{finished:?}");
                shown += &(finished.stdout + &finished.stderr);
            }
            shown += &running.log();
            finish(running).await;
        }
        // Refused: the server's own words about it are shown, the password isn't.
        rig.database.execute(&identified("another")).await;
        let refused = rig.workspace.run_with(&["status"], &[TRACE]);
        assert!(refused.code() == 3 && refused.stderr.contains("1045"), "{refused:?}");
        let mut running = rig.workspace.start_with("refused", &["run"], &[TRACE]);
        running.wait_for_log("1045", LONG).await;
        web::wait_until_it_listens(port);
        shown += &(refused.stdout + &refused.stderr + &answers(port) + &running.log());
        // Rotated where it is kept in a file: no restart.
        rig.workspace.write("password", "another");
        rig.write([event("c", json!("C"), "DE", 90)]).await;
        rig.wait_until_applied(LONG).await;
        shown += &running.log();
        finish(running).await;
        shown += &tables(&rig.database).await;
        assert!(shown.contains("afterimage_up") && shown.contains("batch applied"), "nothing was looked at");
        for secret in [CANARY, &key_line, "PRIVATE KEY"] {
            let place = shown.lines().find(|line| line.contains(secret));
            assert_eq!(place, None, "{secret} is shown");
        }
        rig.assert_as_folded().await;
    }

    // Proves: P6, R62
    async fn what_events_carry_is_in_no_log_line_and_no_answer(server) {
        let port = free_port().unwrap();
        let http = format!("listen = \"127.0.0.1:{port}\"");
        let pipeline = "metrics_interval = \"1s\"".to_owned();
        let mut rig = Rig::new(server, Variant { http, pipeline, ..Variant::default() }).await;
        rig.database.execute("ALTER TABLE enriched_user ADD CONSTRAINT nobody CHECK (name <> 'canary refused by the row')").await;
        // A model that quotes what it refuses, and one that fails on single values.
        let enriched = std::fs::read_to_string(rig.workspace.path().join("queries/users/enriched.sql")).unwrap();
        let quoting = enriched.replace("'the country is not in the lookup countries'", "'no country ' || c.country || ' of ' || c.name");
        let quoting = quoting.replace("    c.name,\n", "    CASE WHEN c.country = 'QQ' THEN CAST(CAST(c.name AS BIGINT) AS VARCHAR) ELSE c.name END AS name,\n");
        assert!(quoting.contains("BIGINT") && quoting.contains("no country"), "{quoting}");
        rig.workspace.write("queries/users/enriched.sql", &quoting);
        let running = rig.workspace.start_with("run", &["run"], &[TRACE]);
        let canaries: [Value; 3] = [json!("canary plain"), json!("'canary' \"canary\" `canary`"), json!("o'canary\n\u{1b}[2Jcanary")];
        let mut records = Vec::new();
        for (number, canary) in canaries.into_iter().enumerate() {
            let second = i64::try_from(number).unwrap() * 10;
            let user = |what: &str| format!("canary {what} {number}");
            records.extend([
                event(&user("good"), canary.clone(), "DE", second),
                event(&user("late"), canary.clone(), "DE", second - 1_000),
                event(&user("quoted"), canary.clone(), "canary", second + 1),
                event(&user("quoted"), canary.clone(), "DE", second + 2),
                event(&user("crash"), canary.clone(), "QQ", second + 3),
                event(&user("row"), json!("canary refused by the row"), "DE", second + 4),
                event(&user("long"), json!("canary".repeat(100)), "DE", second + 5),
                event(&user("type"), json!({ "canary": "canary" }), "DE", second + 6),
                record(&user("json"), format!("{{\"op\": \"u\", \"after\": \"canary {canary} "), second + 7),
                record(&user("op"), format!("{{\"op\": \"canary\", \"timestamp\": 1, \"after\": {canary}}}"), second + 8),
                record(&user("bytes"), b"canary \xff\xfe canary".to_vec(), second + 9),
                record(&user("nothing"), Vec::new(), second + 9),
            ]);
        }
        let unknown = json!({ "op": "c", "before": null, "timestamp": START_MS, "extra": "canary",
            "after": { "userId": "unknown", "name": "x", "email": null, "country": "DE", "phone": "canary" } });
        records.push(record("canary unknown", unknown.to_string(), 0));
        let count = i64::try_from(records.len()).unwrap();
        rig.write(records).await;
        // Headers as well.
        let header = event("canary header", json!("canary"), "XX", 99);
        let message = Message::new(1, "canary key", header.value.unwrap()).header("canary", "canary");
        rig.broker.produce(&rig.topic, vec![message]).await;
        let applied = "SELECT COALESCE(SUM(n_read), 0) FROM afterimage_positions";
        let started = std::time::Instant::now();
        while rig.database.number(applied).await < count + 1 {
            assert!(started.elapsed() < LONG, "{}", running.tail());
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        let answers = answers(port);
        // Marks, retries and what follows a changed lookup go the same ways.
        assert_eq!(rig.workspace.run(&["quarantine", "retry", "--all"]).code(), 0);
        tokio::time::sleep(std::time::Duration::from_secs(3)).await;
        let status = rig.workspace.run(&["status", "--format", "json"]);
        let shown = running.log() + &answers + &self::answers(port) + &status.stdout + &status.stderr;
        finish(running).await;
        assert!(shown.contains("\"phone\"") && shown.contains("batch applied"), "nothing was looked at: {answers}");
        let place = shown.lines().find(|line| line.contains("canary"));
        assert_eq!(place, None, "what an event carries is shown");
        // All of it stands in quarantine, the one place that is meant for it, and only there among our tables.
        let kept = tables(&rig.database).await;
        for table in ["error_data_enrichment", "enriched_user"] {
            assert!(kept.lines().any(|line| line.starts_with(table) && line.contains("canary")), "{table}");
        }
        for table in ["user_cdc_pipeline_metrics", "afterimage_positions"] {
            assert!(!kept.lines().any(|line| line.starts_with(table) && line.contains("canary")), "{table}");
        }
    }

    // Proves: P6, R62
    async fn a_pipeline_that_stops_names_no_value(server) {
        let pipeline = "on_error = \"stop\"".to_owned();
        let mut rig = Rig::new(server, Variant { pipeline, ..Variant::default() }).await;
        let file = rig.workspace.path().join("queries/users/enriched.sql");
        let shipped = std::fs::read_to_string(&file).unwrap();
        rig.write([event("ann", json!("Ann"), "canary'land", 1)]).await;
        // The model's own fixed words are worth showing; what it puts together isn't.
        let quoting = shipped.replace("'the country is not in the lookup countries'", "'no country ' || c.country");
        for (number, (sql, shows)) in [(shipped, "the country is not in the lookup"), (quoting, "may quote the event")].iter().enumerate() {
            std::fs::write(&file, sql).unwrap();
            let mut running = rig.workspace.start_with(&format!("run-{number}"), &["run"], &[TRACE]);
            running.wait_for_code(3, LONG).await;
            let log = running.log();
            assert!(log.contains("is refused at model") && log.contains(shows), "{}", running.tail());
            assert!(!log.contains("canary") && !log.contains("'land"), "{}", running.tail());
        }
    }
}
