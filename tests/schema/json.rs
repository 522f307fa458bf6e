//! Structs, lists and JSON from a topic into JSON columns.

use afterimage::demo::server::PrivateServer;
use afterimage::generate::OwnedRecord;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::LONG;
use crate::on_both_servers;
use crate::support::rig::{Rig, Variant, config};

const SCHEMA: &str = r#"{"fields": [
    {"name": "id", "type": "int64", "nullable": false},
    {"name": "address", "type": "struct", "fields": [
        {"name": "zip", "type": "utf8"},
        {"name": "at", "type": "timestamp(ms)"},
        {"name": "credit", "type": "decimal128(10,2)"}
    ]},
    {"name": "tags", "type": "list", "items": {"type": "utf8"}},
    {"name": "extra", "type": "json"}
]}"#;

const MODELS: [(&str, &str); 4] = [
    (
        "changes",
        "SELECT after.id AS id, after.address AS address, after.address.zip AS zip, after.tags AS tags, after.extra AS extra,
            false AS _deleted, ts, _partition, _offset FROM events WHERE op <> 'd'
         UNION ALL SELECT before.id, NULL, NULL, NULL, NULL, true, ts, _partition, _offset FROM events WHERE op = 'd'",
    ),
    ("enriched", "SELECT c.*, CAST(NULL AS VARCHAR) AS _error FROM changes c"),
    (
        "accepted",
        "SELECT e.* EXCEPT (_error) FROM enriched e LEFT JOIN held h ON h.id = e.id AND h._partition = e._partition
         WHERE e._error IS NULL AND (h._since IS NULL OR e._offset < h._since)",
    ),
    (
        "latest",
        "SELECT * EXCEPT (newest) FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY id ORDER BY ts DESC, _partition DESC,
         _offset DESC) AS newest FROM accepted) WHERE newest = 1",
    ),
];

/// A pipeline `users` whose rows have structs, lists and JSON, into the table `orders`.
pub async fn orders(server: &PrivateServer) -> Rig {
    let rig = Rig::new(server, Variant::default()).await;
    let text = config(&rig.broker.brokers(), &rig.topic, &rig.database.url, &rig.variant);
    let text = text.replace("enriched_user", "orders").replace("[\"user_id\"]", "[\"id\"]");
    let text = text.split("[pipelines.users.lookups.countries]").next().unwrap();
    rig.workspace.write("afterimage.toml", text);
    for entry in std::fs::read_dir(rig.workspace.path().join("queries/users")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            std::fs::remove_file(path).unwrap();
        }
    }
    for (name, sql) in MODELS {
        rig.workspace.write(&format!("queries/users/{name}.sql"), sql);
    }
    rig.workspace.write("schemas/users/1.json", SCHEMA);
    let migrated = rig.workspace.run(&["migrate"]);
    assert_eq!(migrated.code(), 0, "{migrated:?}");
    rig
}

pub fn record(op: &str, row: &str, second: i64) -> OwnedRecord {
    let timestamp = 1_700_000_000_000 + second * 1000;
    let (before, after) = if op == "d" { (row, "null") } else { ("null", row) };
    let value = format!(r#"{{"op":"{op}","before":{before},"after":{after},"timestamp":{timestamp}}}"#);
    OwnedRecord {
        partition: 0,
        offset: 0,
        timestamp_ms: Some(timestamp),
        key: Some(b"k".to_vec()),
        value: Some(value.into_bytes()),
    }
}

/// A JSON text whose numbers are as nasty as doubles and 64 bits allow.
fn document() -> impl Strategy<Value = String> {
    let number = prop_oneof![
        proptest::num::f64::NORMAL.prop_map(|number| format!("{number:?}")),
        proptest::num::f64::NORMAL.prop_map(|number| format!("{number:e}")),
        proptest::num::f64::SUBNORMAL.prop_map(|number| format!("{number:e}")),
        any::<i64>().prop_map(|number| number.to_string()),
        any::<u64>().prop_map(|number| number.to_string()),
        (any::<i32>(), 0_u32..1_000_000).prop_map(|(whole, rest)| format!("{whole}.{rest:06}")),
        (1_u64..1_000_000_000_000_000, -22_i32..22).prop_map(|(digits, power)| format!("{digits}e{power}")),
    ];
    let text = "[a-z\"\\\\/\u{1}\u{e9}\u{1f600}]{0,5}".prop_map(|text| serde_json::Value::from(text).to_string());
    let leaf = prop_oneof![4 => number, 1 => text, 1 => Just("null".to_owned()), 1 => Just("true".to_owned())];
    leaf.prop_recursive(4, 12, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(", "))),
            proptest::collection::btree_map("[a-z]{1,4}", inner, 0..4).prop_map(|members| {
                let members: Vec<String> =
                    members.into_iter().rev().map(|(name, value)| format!("\"{name}\":{value}")).collect();
                format!("{{{}}}", members.join(" ,"))
            }),
        ]
    })
}

/// The same JSON with members sorted, without blanks, each number by its digits: what must be the same after MySQL wrote it anew.
fn plain(text: &str) -> String {
    let trimmed = text.trim();
    if let Ok(members) =
        serde_json::from_str::<std::collections::BTreeMap<String, Box<serde_json::value::RawValue>>>(trimmed)
    {
        let members: Vec<String> =
            members.iter().map(|(name, value)| format!("{name:?}:{}", plain(value.get()))).collect();
        return format!("{{{}}}", members.join(","));
    }
    if let Ok(items) = serde_json::from_str::<Vec<Box<serde_json::value::RawValue>>>(trimmed) {
        return format!("[{}]", items.iter().map(|item| plain(item.get())).collect::<Vec<_>>().join(","));
    }
    if let Ok(text) = serde_json::from_str::<String>(trimmed) {
        return format!("{text:?}");
    }
    digits(trimmed)
}

/// A number as its digits and the power of ten of the last one; anything else as it is.
fn digits(text: &str) -> String {
    if !text.starts_with(|first: char| first == '-' || first.is_ascii_digit()) {
        return text.to_owned();
    }
    let (mantissa, power) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, fraction) =
        mantissa.trim_start_matches('-').split_once('.').unwrap_or((mantissa.trim_start_matches('-'), ""));
    let all = format!("{whole}{fraction}");
    let kept = all.trim_end_matches('0');
    let power = power.parse::<i64>().unwrap() - fraction.len() as i64 + (all.len() - kept.len()) as i64;
    let kept = kept.trim_start_matches('0');
    let sign = if text.starts_with('-') && !kept.is_empty() { "-" } else { "" };
    if kept.is_empty() { "0".to_owned() } else { format!("{sign}{kept}e{power}") }
}

on_both_servers! {
    async fn structs_lists_and_json_arrive_as_they_were(server) {
        let mut rig = orders(server).await;
        let extra = r#"{"b": 1.50, "a": [1, {"zz":0,"y":-0.25}], "text": "tab\tquote\"backslash\\ \u00e9 \ud83d\ude00"}"#;
        rig.write([
            record("c", &format!(r#"{{"id":1,"address":{{"zip":"10115","at":1700000000123,"credit":12.5}},"tags":["x",null,"y\nz"],"extra":{extra}}}"#), 0),
            record("c", r#"{"id":2,"tags":[]}"#, 1),
            record("c", r#"{"id":3,"extra":[1]}"#, 2),
            record("d", r#"{"id":3}"#, 3),
        ]).await;
        rig.catch_up("run", LONG).await;
        let rows = rig.database.rows("SELECT id, address, zip, tags, extra FROM orders ORDER BY id").await;
        let written = [
            r#"{"zip":"10115","at":"2023-11-14T22:13:20.123Z","credit":12.50}"#,
            r#"["x",null,"y\nz"]"#,
            extra,
        ];
        let found = [&rows[0][1], &rows[0][3], &rows[0][4]];
        for (found, written) in found.into_iter().zip(written) {
            match server.flavour() {
                afterimage::demo::server::Flavour::MariaDb => assert_eq!(found, written),
                afterimage::demo::server::Flavour::MySql => assert_eq!(plain(found), plain(written)),
            }
        }
        assert_eq!(rows[0][2], "10115");
        assert_eq!(rows[1], ["2", "NULL", "NULL", "[]", "NULL"]);
        assert_eq!(rows.len(), 2);
        let city = rig.database.rows("SELECT JSON_EXTRACT(address, '$.zip') FROM orders WHERE id = 1").await;
        assert_eq!(city, [["\"10115\""]]);
    }

    // Proves: P5, P6
    async fn json_keeps_every_digit_or_refuses_its_event_alone(server) {
        let mut rig = orders(server).await;
        let mut runner = TestRunner::deterministic();
        let documents: Vec<String> =
            (0..1500).map(|_| document().new_tree(&mut runner).unwrap().current()).collect();
        let rows = documents.iter().enumerate().map(|(id, text)| record("c", &format!(r#"{{"id":{id},"extra":{text}}}"#), 0));
        rig.write(rows).await;
        // What no JSON column keeps, or only MariaDB's.
        let deep = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        let odd = [
            ("1.0000000000000000000001".to_owned(), false, true),
            (r#"{"a":1,"a":2}"#.to_owned(), false, true),
            ("36893488147419103233".to_owned(), false, true),
            ("1e400".to_owned(), false, true),
            (deep(31), true, true),
            (deep(100), true, false),
            (deep(101), false, false),
        ];
        let first = documents.len();
        rig.write(odd.iter().enumerate().map(|(at, (text, ..))| record("c", &format!(r#"{{"id":{},"extra":{text}}}"#, first + at), 1))).await;
        rig.catch_up("run", LONG).await;
        let mysql = server.flavour() == afterimage::demo::server::Flavour::MySql;
        let stored = rig.database.rows("SELECT id, extra FROM orders ORDER BY id").await;
        let stored: std::collections::BTreeMap<usize, String> =
            stored.into_iter().map(|row| (row[0].parse().unwrap(), row[1].clone())).collect();
        for (id, text) in documents.iter().enumerate() {
            // JSON's null is the column's NULL.
            let wanted = if text == "null" { "NULL" } else { text };
            let found = stored.get(&id).unwrap_or_else(|| panic!("{text} was refused"));
            if mysql { assert_eq!(plain(found), plain(wanted)) } else { assert_eq!(found, wanted) }
        }
        for (at, (text, own, as_text)) in odd.iter().enumerate() {
            let wanted = if mysql { *own } else { *as_text };
            assert_eq!(stored.contains_key(&(first + at)), wanted, "{text}");
        }
    }
}
