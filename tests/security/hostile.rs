//! Hostile names and values: whatever stands in config, models, schemas and events, no statement of ours becomes another one.

use std::collections::BTreeMap;
use std::path::Path;

use afterimage::config::Config;
use afterimage::demo::server::Flavour;
use afterimage::generate::OwnedRecord;
use serde_json::json;

use super::{LONG, START_MS, event, record};
use crate::on_both_servers;
use crate::support::mysql::Database;
use crate::support::outcome;
use crate::support::rig::{self, Rig, Variant};
use crate::support::servers::start_private;

/// Names that mean something to somebody on the way.
fn names() -> Vec<String> {
    let long = "x".repeat(65);
    let some = [
        "a`b",
        "a``; DROP TABLE victim; --",
        "a; DROP TABLE victim",
        "a -- b",
        "a\0b",
        "a'b",
        "a\"b",
        "a\\b",
        "a/*b*/",
        "\u{1f600}",
        "a\nb",
        "../../etc/passwd",
        "a.b",
        "a b",
        "%s%n",
        "${",
        "ä",
        &long,
        "",
    ];
    some.map(str::to_owned).to_vec()
}

// Proves: P6, R62
#[test]
fn a_hostile_name_in_the_config_is_refused_by_name() {
    let base = rig::config("127.0.0.1:1", "TOPIC", "mysql://app@127.0.0.1:1/DATABASE", &Variant::default());
    let places = [
        ("topic = \"TOPIC\"", "topic = NAME"),
        ("table = \"enriched_user\"", "table = NAME"),
        ("key = [\"user_id\"]", "key = [NAME]"),
        ("[pipelines.users.lookups.countries]", "[pipelines.users.lookups.NAME]"),
        ("key = [\"code\"]", "key = [NAME]"),
        ("[pipelines.users]", "[pipelines.NAME]"),
        ("url = \"mysql://app@127.0.0.1:1/DATABASE\"", "url = NAME"),
    ];
    for (from, to) in places {
        for name in names() {
            // Topics may have dots and be long.
            if to.starts_with("topic") && (name == "a.b" || name.len() == 65) {
                continue;
            }
            let url = format!("mysql://app@127.0.0.1:1/{name}");
            let quoted = serde_json::to_string(if to.starts_with("url") { &url } else { &name }).unwrap();
            let text = base.replacen(from, &to.replace("NAME", &quoted), 1);
            assert_ne!(text, base);
            let faults = Config::parse(&text, Path::new("afterimage.toml"), &|_| None).expect_err(&text);
            let codes: Vec<&str> = faults.iter().map(|fault| fault.code).collect();
            let named = ["AI0013", "AI0011", "AI0009", "AI0002"].iter().any(|code| codes.contains(code));
            assert!(named, "{to} with {name:?}: {faults:?}");
        }
    }
}

/// Columns that MySQL takes, as long as they are quoted.
const COLUMNS: [&str; 7] =
    ["a`b", "a`; DROP TABLE victim; -- x", "quote's", "back\\slash", "semi;colon", "ünïcode \u{203d}", "sp ace"];

/// Adds to `latest.sql` and `enriched.sql` a column per name; each holds the user's name.
fn with_columns(rig: &Rig, columns: &[&str]) {
    let quoted: Vec<String> = columns.iter().map(|name| format!("\"{}\"", name.replace('"', "\"\""))).collect();
    let folder = rig.workspace.path().join("queries/users");
    let read = |file: &str| std::fs::read_to_string(folder.join(file)).unwrap();
    let extra: String = quoted.iter().map(|name| format!("    c.name AS {name},\n")).collect();
    let enriched = read("enriched.sql")
        .replace("    l.name   AS country_name,\n", &format!("{extra}    l.name   AS country_name,\n"));
    let latest = read("latest.sql")
        .replace("country_name, region, _deleted", &format!("country_name, region, {}, _deleted", quoted.join(", ")));
    assert!(enriched.contains(&quoted[0]) && latest.contains(&quoted[0]), "the shipped models have changed");
    rig.workspace.write("queries/users/enriched.sql", &enriched);
    rig.workspace.write("queries/users/latest.sql", &latest);
}

/// Texts that end, break or turn a statement, a line of a file, or a terminal.
fn texts() -> Vec<String> {
    let some = [
        "'; DROP TABLE victim; -- ",
        "\\'; DROP TABLE victim; -- ",
        "\\",
        "\\\\",
        "\\N",
        "\\0",
        "NULL",
        "\t",
        "\n",
        "\r\n",
        "\t\\\n\\\t",
        "\0",
        "a\0b",
        "\u{1a}",
        "\u{1a}'",
        "\u{8}\u{c}\u{7f}",
        "`",
        "``",
        "\"",
        "' OR 1=1 -- ",
        "'),('x','y'),('",
        "*/ DROP TABLE victim /*",
        "x'00'",
        "0x41",
        "@b0",
        "%s%n",
        "${HOME}",
        "\u{1f600}",
        "\u{10ffff}",
        "e\u{301}",
        "\u{e9}",
        "\u{feff}",
        "\u{2028}\u{2029}",
        "\u{202e}",
        "\u{fffd}",
        "a\\\tb\\\nc",
        ",",
        "\",\"",
        " leading",
        "trailing ",
        "1\tu\tx\n2\tu",
        "LOAD DATA",
        "\u{1b}[2J",
        "\u{9b}2J",
    ];
    let mut texts = some.map(str::to_owned).to_vec();
    texts.extend(["'", "\\", "\0", "\u{1f600}", "\n"].map(|piece| piece.repeat(255)));
    texts
}

/// Events with every hostile text as name, as e-mail address and as key, and payloads that are no text at all.
fn hostile_events() -> Vec<OwnedRecord> {
    let mut records = Vec::new();
    for (number, text) in texts().into_iter().enumerate() {
        let second = i64::try_from(number).unwrap();
        let after = json!({ "userId": format!("user {number}"), "name": text, "email": text, "country": "DE" });
        let value = json!({ "op": "u", "before": null, "after": after, "timestamp": START_MS + second });
        records.push(record(&text, value.to_string(), second));
        records.push(event(&text, json!(text), "FR", second));
        // Deleted again, by a key of its own.
        if number % 3 == 0 {
            let before = json!({ "userId": text, "name": null, "email": null, "country": null });
            let value =
                json!({ "op": "d", "before": before, "after": null, "timestamp": START_MS + (second + 100) * 1000 });
            records.push(record(&text, value.to_string(), second + 100));
        }
        // A field that no schema knows, of that name.
        if text.len() < 100 {
            let after = json!({ "userId": format!("unmapped {number}"), "name": null, "email": null, "country": null, text.clone(): text });
            let value = json!({ "op": "c", "before": null, "after": after, "timestamp": START_MS + second });
            records.push(record("unmapped", value.to_string(), second));
        }
    }
    for bytes in [
        &b"{\"op\":\"u\",\"after\":{\"userId\":\"\xff\"}}"[..],
        b"\xf0\x9f\x98",
        b"\xed\xa0\x80",
        b"'; DROP TABLE victim; --\0",
    ] {
        records.push(record("bytes", bytes.to_vec(), 0));
    }
    records
}

async fn takes_hostile_values(rig: &mut Rig) {
    rig.database.execute("CREATE TABLE victim (a INT)").await;
    rig.write(hostile_events()).await;
    rig.catch_up("values", LONG).await;
    rig.assert_as_folded().await;
    let found = outcome::read(&rig.database).await;
    assert!(found.rows.len() > 80 && found.quarantine.len() >= 4, "{} rows, {:?}", found.rows.len(), found.quarantine);
    assert_eq!(rig.database.number("SELECT COUNT(*) FROM victim").await, 0);
    // And by way of the quarantine commands, whose answers must not drive the terminal.
    let listed = rig.workspace.run(&["quarantine", "list", "--limit", "1000"]);
    assert_eq!(listed.code(), 0, "{listed:?}");
    let shown = rig.workspace.run(&["quarantine", "retry", "--key", "'; DROP TABLE victim; -- "]);
    assert_eq!(shown.code(), 0, "{shown:?}");
    assert!(!listed.stdout.chars().any(|c| c.is_control() && c != '\n'), "{listed:?}");
    assert_eq!(rig.database.number("SELECT COUNT(*) FROM victim").await, 0);
}

on_both_servers! {
    // Proves: P1, R62
    async fn hostile_values_arrive_as_they_are_or_are_refused(server) {
        takes_hostile_values(&mut Rig::new(server, Variant::default()).await).await;
    }

    // Proves: P1, R62
    async fn hostile_values_arrive_by_multi_row_insert_too(server) {
        // A server whose own settings change what quotes and backslashes mean.
        let options = ["--local-infile=0", "--sql-mode=ANSI_QUOTES,NO_BACKSLASH_ESCAPES,PIPES_AS_CONCAT"];
        let private = start_private(server.flavour(), &options).await;
        takes_hostile_values(&mut Rig::new(&private, Variant::default()).await).await;
    }

    // Proves: P1, P6, R62
    async fn hostile_names_of_columns_are_quoted_or_refused_by_name(server) {
        let mut rig = Rig::new(server, Variant::default()).await;
        rig.database.execute("CREATE TABLE victim (a INT)").await;
        rig.database.execute("DROP TABLE enriched_user").await;
        with_columns(&rig, &COLUMNS);
        let migrated = rig.workspace.run(&["migrate"]);
        assert_eq!(migrated.code(), 0, "{migrated:?}");
        rig.write([event("ann", json!("Ann"), "DE", 1), event("ann", json!("Ann '2'"), "DE", 2), event("bob", json!(null), "DE", 3)]).await;
        rig.catch_up("run", LONG).await;
        rig.assert_as_folded().await;
        let columns: Vec<String> = COLUMNS.iter().map(|name| format!("`{}`", name.replace('`', "``"))).collect();
        let row = rig.database.rows(&format!("SELECT {} FROM enriched_user WHERE user_id = 'ann'", columns.join(", "))).await;
        assert_eq!(row, [vec!["Ann '2'".to_owned(); COLUMNS.len()]]);
        assert_eq!(rig.database.number("SELECT COUNT(*) FROM victim").await, 0);
        // What MySQL can't have as a name is refused before anything is created.
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("queries/users");
        for name in ["\u{1f600}", "ends with a space ", "tab\tand\nline", "\u{1}", &"x".repeat(65), "_own", "cdc_ts", "CDC_TS"] {
            for file in ["enriched.sql", "latest.sql"] {
                std::fs::copy(shipped.join(file), rig.workspace.path().join("queries/users").join(file)).unwrap();
            }
            with_columns(&rig, &[name]);
            let checked = rig.workspace.run(&["check"]);
            assert_eq!(checked.code(), 1, "{name:?}: {checked:?}");
            assert!(checked.stdout.contains("AI0122") && checked.stdout.contains("can't be a column"), "{name:?}: {checked:?}");
        }
    }

    // Proves: P1, R62
    async fn hostile_names_of_fields_are_only_names(server) {
        let mut rig = Rig::new(server, Variant::default()).await;
        let field = "na'me`; DROP TABLE victim; -- \u{1f600}";
        let schema = std::fs::read_to_string(rig.workspace.path().join("schemas/users/1.json")).unwrap();
        let aliases = serde_json::to_string(&json!([field]).to_string()).unwrap();
        let aliased = schema.replace("\"Full name as the user writes it.\"", &format!("\"Full name\", \"aliases\": {aliases}"));
        assert_ne!(schema, aliased);
        rig.workspace.write("schemas/users/1.json", &aliased);
        let after = json!({ "userId": "ann", field: "Ann", "email": null, "country": "DE" });
        let value = json!({ "op": "u", "before": null, "after": after, "timestamp": START_MS });
        rig.write([record("ann", value.to_string(), 1)]).await;
        rig.catch_up("run", LONG).await;
        assert_eq!(rig.database.rows("SELECT user_id, name FROM enriched_user").await, [["ann", "Ann"]]);
    }

    // Proves: P1, R42
    async fn keys_that_look_alike_stay_apart_or_the_table_is_refused(server) {
        let mut rig = Rig::new(server, Variant::default()).await;
        let keys = ["A", "a", "\u{e1}", "a\u{301}", "a ", "a  ", " a", "a\0", "A\u{30a}", "\u{c5}", "\u{212b}", "ss", "\u{df}", "i", "\u{130}",
                    "I", "\u{131}", "\u{200b}a", "\u{ad}a", "\u{ff41}", "ｱ", "ア", "1", "01", "1e0", "+1", ""];
        let collations = rig.database.rows("SELECT collation_name FROM information_schema.collations WHERE character_set_name = 'utf8mb4'").await;
        let known = |name: &str| collations.iter().any(|row| row[0] == name);
        let (mut refused, mut taken) = (0, 0);
        for (kind, exact) in [
            ("VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci", false),
            ("VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci", false),
            ("VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin", false),
            ("VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_0900_ai_ci", false),
            ("VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_0900_as_cs", false),
            ("VARCHAR(255) CHARACTER SET latin1 COLLATE latin1_bin", false),
            ("VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_0900_bin", true),
            ("VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin", true),
            ("VARBINARY(255)", true),
        ] {
            let collation = kind.rsplit_once("COLLATE ").map_or("", |(_, name)| name);
            if collation.starts_with("utf8mb4") && !known(collation) {
                continue;
            }
            rig.database.execute(&format!("ALTER TABLE enriched_user MODIFY user_id {kind} NOT NULL")).await;
            let checked = rig.workspace.run(&["check", "--online"]);
            if exact {
                taken += 1;
                let number = i64::from(taken);
                assert_eq!(checked.code(), 0, "{kind}: {checked:?}");
                rig.write(keys.iter().map(|key| event(key, json!(format!("{key:?} {number}")), "DE", number))).await;
                // Some of them go again, and take no look-alike along.
                rig.write(keys.iter().step_by(4).map(|key| {
                    let before = json!({ "userId": key, "name": null, "email": null, "country": null });
                    let value = json!({ "op": "d", "before": before, "after": null, "timestamp": START_MS + number * 1000 + 500 });
                    record(key, value.to_string(), number + 1)
                })).await;
                rig.catch_up(&format!("exact-{number}"), LONG).await;
                let found = outcome::read(&rig.database).await.rows;
                assert_eq!(found, rig.expected().rows, "{kind}");
                assert_eq!(found.len(), keys.len() - keys.iter().step_by(4).count());
            } else {
                refused += 1;
                assert_eq!(checked.code(), 1, "{kind}: {checked:?}");
                let mut running = rig.start(&format!("refused-{refused}"));
                running.wait_for_code(2, LONG).await;
                for shown in [checked.stdout, running.log()] {
                    assert!(shown.contains("AI0416") && shown.contains(collation), "{kind}: {shown}");
                }
            }
        }
        let mysql = server.flavour() == Flavour::MySql;
        assert_eq!((refused, taken), if mysql { (6, 2) } else { (4, 2) });
    }
}

/// What a poisoned event has against it.
const POISONS: [&str; 8] =
    ["too long", "out of range", "null", "bad date", "no date of MySQL", "check", "foreign key", "json"];

/// An event of a user of its own; poisoned, unless `poison` is `None`.
fn spiked(number: i64, poison: Option<&str>) -> OwnedRecord {
    let user = format!("user {number}");
    let mut after = json!({ "userId": user, "name": "1", "email": "1999-12-31", "country": "DE" });
    match poison {
        Some("too long") => after["name"] = json!("1".repeat(256)),
        Some("out of range") => after["name"] = json!("128"),
        Some("null") => after["email"] = json!(null),
        Some("bad date") => after["email"] = json!("1999-02-30"),
        Some("no date of MySQL") => after["email"] = json!("0001-01-01"),
        Some("check") => after["name"] = json!("66"),
        Some("foreign key") => after["country"] = json!("FR"),
        Some("json") => return record(&user, format!("{{\"op\":\"u\",\"after\":{after}"), number),
        _ => {}
    }
    let value = json!({ "op": "u", "before": null, "after": after, "timestamp": START_MS + number * 1000 });
    record(&user, value.to_string(), number)
}

/// Adds a number and a date that the target holds in its own types.
async fn with_typed_columns(database: &Database, rig: &Rig) {
    let folder = rig.workspace.path().join("queries/users");
    let read = |file: &str| std::fs::read_to_string(folder.join(file)).unwrap();
    let number = "CAST(CASE WHEN length(c.name) < 9 THEN c.name ELSE '1' END AS SMALLINT)";
    let typed = format!(
        "    {number} AS size,\n    {number} AS flags,\n    CAST(c.email AS DATE) AS born,\n    c.name AS raw,\n"
    );
    let enriched = read("enriched.sql")
        .replace("    l.name   AS country_name,\n", &format!("{typed}    l.name   AS country_name,\n"));
    let latest = read("latest.sql").replace("region, _deleted", "region, size, flags, born, raw, _deleted");
    rig.workspace.write("queries/users/enriched.sql", &enriched);
    rig.workspace.write("queries/users/latest.sql", &latest);
    for statement in [
        "CREATE TABLE served (code VARCHAR(255) CHARACTER SET utf8mb4 NOT NULL PRIMARY KEY) ENGINE=InnoDB",
        "INSERT INTO served VALUES ('DE')",
        "ALTER TABLE enriched_user ADD COLUMN size TINYINT NULL, ADD COLUMN born DATE NULL, ADD COLUMN flags BIT(8) NULL, \
         ADD COLUMN raw VARBINARY(255) NULL, MODIFY email VARCHAR(255) NOT NULL, \
         ADD CONSTRAINT no_66 CHECK (name <> '66')",
    ] {
        database.execute(statement).await;
    }
    let keys = "ALTER TABLE enriched_user MODIFY country VARCHAR(255) CHARACTER SET utf8mb4, ADD CONSTRAINT is_served FOREIGN KEY (country) \
                REFERENCES served (code)";
    database.execute(keys).await;
}

on_both_servers! {
    // Proves: P4, P5, R33
    async fn poison_is_quarantined_exactly_however_much_of_it_there_is(server) {
        let mut rig = Rig::new(server, Variant { partitions: 1, ..Variant::default() }).await;
        with_typed_columns(&rig.database, &rig).await;
        let mut number = 0;
        let mut poisoned = BTreeMap::new();
        for (name, events, every) in [("one-in-a-thousand", 3_000, 1_000), ("one-in-ten", 1_000, 10), ("all", 240, 1)] {
            let mut records = Vec::new();
            for _ in 0..events {
                let poison = (number % every == every / 2).then(|| POISONS[poisoned.len() % POISONS.len()]);
                records.push(spiked(number, poison));
                if let Some(poison) = poison {
                    poisoned.insert(number, poison);
                }
                number += 1;
            }
            rig.write(records).await;
            rig.catch_up(name, LONG).await;
            let found = rig.database.rows("SELECT kafka_offset, stage, state, reason FROM error_data_enrichment ORDER BY kafka_offset").await;
            let offsets: Vec<i64> = found.iter().map(|row| row[0].parse().unwrap()).collect();
            assert_eq!(offsets, poisoned.keys().copied().collect::<Vec<_>>(), "{name}");
            for row in &found {
                let poison = poisoned[&row[0].parse().unwrap()];
                let stage = match poison {
                    "too long" | "out of range" | "null" | "no date of MySQL" => "target",
                    "bad date" => "model",
                    "json" => "decode",
                    _ => "mysql",
                };
                assert_eq!((row[1].as_str(), row[2].as_str()), (stage, "refused"), "{poison}: {row:?}");
            }
            let rows = rig.database.number("SELECT COUNT(*) FROM enriched_user").await;
            assert_eq!(rows, number - i64::try_from(poisoned.len()).unwrap(), "{name}");
            assert_eq!(rig.database.number("SELECT next_offset FROM afterimage_positions").await, number, "{name}");
            let changed = "SELECT COUNT(*) FROM enriched_user WHERE NOT (HEX(raw) <=> HEX(name) AND flags + 0 <=> size AND born <=> email)";
            assert_eq!(rig.database.number(changed).await, 0, "{name}: values were changed on their way in");
            rig.assert_sums_balance().await;
        }
        assert!(poisoned.len() > 300, "{}", poisoned.len());
    }
}
