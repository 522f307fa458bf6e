//! Whatever the sample, the new pipeline passes `check`; and nothing that is there is touched.

use std::path::Path;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::workbench::test;

fn event(op: &str, before: Value, after: Value) -> Value {
    json!({ "op": op, "before": before, "after": after, "timestamp": 1_700_000_000_000_i64 })
}

fn created(row: Value) -> Value {
    event("c", Value::Null, row)
}

fn wish(dir: &Path, events: &[Value]) -> Wish {
    let lines: Vec<String> = events.iter().map(Value::to_string).collect();
    std::fs::write(dir.join("sample.ndjson"), lines.join("\n")).unwrap();
    Wish {
        name: "orders".into(),
        events: dir.join("sample.ndjson"),
        topic: None,
        table: None,
        key: Vec::new(),
        config: dir.join("afterimage.toml"),
    }
}

async fn made(wish: &Wish) -> Plan {
    let plan = plan(wish).await.unwrap_or_else(|error| panic!("{error}"));
    write(&plan).unwrap();
    plan
}

/// Faults and warnings of all that stands in the folder, after its tests have passed.
async fn faults(dir: &Path) -> Vec<Diagnostic> {
    let path = dir.join("afterimage.toml");
    let (config, _) = crate::config::Config::load(&path, &|_| None).unwrap();
    for pipeline in config.pipelines.values() {
        let options = test::Options { rebatch: Some(7), ..test::Options::default() };
        let report = test::run(pipeline, &std::collections::BTreeMap::new(), &options).await;
        assert!(report.good() && report.cases.len() == 1, "{}: {report:#?}", pipeline.name);
    }
    check::files(&path, &|_| None).await.faults
}

#[tokio::test]
async fn a_new_pipeline_passes_check_whatever_its_rows_look_like() {
    let samples: [(&str, Vec<Value>); 12] = [
        ("plain", vec![created(json!({ "orderId": 1, "userId": "a", "amount": "19.90" }))]),
        (
            "reserved words",
            vec![created(json!({ "id": 1, "select": "a", "order": 2, "from": null, "current_date": "x", "null": 1 }))],
        ),
        (
            "odd names",
            vec![created(
                json!({ "id": 1, "e-mail": "a", "first name": "b", "it's": "c", "a\"b": "d", "a.b": "e", "ÄÖ": "f", "": 1 }),
            )],
        ),
        (
            "our names",
            vec![created(
                json!({ "id": 1, "ts": 5, "_offset": 2, "_deleted": true, "cdc_ts": 7, "newest": 1, "op": "x", "after": "y" }),
            )],
        ),
        (
            "names that meet",
            vec![created(json!({ "id": 1, "userId": "a", "user_id": "b", "USER_ID": "c", "user-id": "d" }))],
        ),
        ("nulls everywhere", vec![created(json!({ "id": "1", "a": null, "b": null }))]),
        ("numbers", vec![created(json!({ "id": 18446744073709551615_u64, "a": 1.5, "b": -3, "c": 1e300, "d": true }))]),
        (
            "nested",
            vec![created(
                json!({ "id": 1, "address": { "street": "a", "zip": [1, 2] }, "tags": ["a", "b"], "any": [1, "a"] }),
            )],
        ),
        ("deletes only", vec![event("d", json!({ "id": 7 }), Value::Null)]),
        ("key only", vec![created(json!({ "id": "x" })), event("d", json!({ "id": "x" }), Value::Null)]),
        ("capitals", vec![created(json!({ "ID": 1, "URL": "a", "HTTPCode": 200 }))]),
        ("dates", vec![created(json!({ "id": 1, "day": "2024-02-29", "at": "2024-02-29T12:00:00Z" }))]),
    ];
    for (what, sample) in samples {
        let dir = tempfile::tempdir().unwrap();
        made(&wish(dir.path(), &sample)).await;
        assert_eq!(faults(dir.path()).await, Vec::new(), "{what}");
    }
}

#[tokio::test]
async fn a_key_of_several_columns_is_joined_by_all_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let sample = [created(json!({ "orderId": 1, "line": 2, "order": "x" }))];
    let plan = made(&Wish { key: vec!["line".into(), "orderId".into()], ..wish(dir.path(), &sample) }).await;
    assert_eq!(plan.key, "line, orderId");
    assert!(plan.section.contains("key = [\"line\", \"order_id\"]"), "{}", plan.section);
    assert_eq!(faults(dir.path()).await, Vec::new());
}

#[tokio::test]
async fn the_key_is_guessed_where_it_is_clear_and_asked_for_where_it_is_not() {
    let key = async |rows: &[Value]| {
        let dir = tempfile::tempdir().unwrap();
        let sample: Vec<Value> = rows.iter().cloned().map(created).collect();
        plan(&wish(dir.path(), &sample)).await.map(|plan| plan.key.split(' ').next().unwrap().to_owned())
    };
    for (row, expected) in [
        (json!({ "userId": "u", "orderId": 1 }), "orderId"),
        (json!({ "name": "u", "id": 1 }), "id"),
        (json!({ "userId": "u", "name": "x" }), "userId"),
        (json!({ "accountId": 1, "userId": "u" }), "accountId"),
        (json!({ "sku": "a", "price": 1.5 }), "sku"),
    ] {
        assert_eq!(key(std::slice::from_ref(&row)).await.unwrap(), expected, "{row}");
    }
    let error = key(&[json!({ "name": "a", "city": "b" })]).await.unwrap_err();
    assert!(error.to_string().contains("--key FIELD: city, name"), "{error}");
    let error =
        key(&[json!({ "id": 1, "name": "a", "x": 2 }), json!({ "id": null, "name": "b", "x": 3 })]).await.unwrap_err();
    assert!(error.to_string().contains("name, x"), "{error}");
    let dir = tempfile::tempdir().unwrap();
    let sample = [created(json!({ "orderId": 1, "price": 1.5 }))];
    for (key, expected) in [("ordreId", "did you mean orderId?"), ("price", "choose among orderId")] {
        let error = plan(&Wish { key: vec![key.into()], ..wish(dir.path(), &sample) }).await.unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[tokio::test]
async fn what_is_there_is_kept_byte_for_byte_and_only_appended_to() {
    let dir = tempfile::tempdir().unwrap();
    let sample = [created(json!({ "orderId": 1, "amount": 5 }))];
    let first = wish(dir.path(), &sample);
    made(&first).await;
    let config = dir.path().join("afterimage.toml");
    let before = std::fs::read_to_string(&config).unwrap() + "# no line break at the end";
    std::fs::write(&config, &before).unwrap();
    made(&Wish { name: "invoices".into(), key: vec!["orderId".into()], ..first.clone() }).await;
    let after = std::fs::read_to_string(&config).unwrap();
    assert!(after.starts_with(&before) && after.contains("\n[pipelines.invoices]\n"), "{after}");
    assert_eq!(faults(dir.path()).await, Vec::new());
    let refusal = |wish: Wish| async move { plan(&wish).await.unwrap_err().to_string() };
    assert!(refusal(first.clone()).await.contains("has a pipeline orders already"));
    std::fs::create_dir_all(dir.path().join("queries/more")).unwrap();
    std::fs::write(dir.path().join("queries/more/latest.sql"), "mine").unwrap();
    let more = Wish { name: "more".into(), key: vec!["orderId".into()], ..first.clone() };
    assert!(refusal(more).await.contains("latest.sql is there already"));
    assert_eq!(std::fs::read_to_string(dir.path().join("queries/more/latest.sql")).unwrap(), "mine");
    let same_table =
        Wish { name: "other".into(), table: Some("orders".into()), key: vec!["orderId".into()], ..first.clone() };
    assert!(refusal(same_table).await.contains("with the new pipeline, "));
    std::fs::write(&config, "pipelines = { orders = 1 }\n").unwrap();
    let inline = Wish { name: "inline".into(), key: vec!["orderId".into()], ..first.clone() };
    assert!(refusal(inline).await.contains("add this by hand"));
    std::fs::write(&config, "[kafka\n").unwrap();
    assert!(refusal(Wish { name: "broken".into(), ..first.clone() }).await.contains("is not TOML"));
    std::fs::write(dir.path().join("sample.ndjson"), "{}\n").unwrap();
    std::fs::remove_file(&config).unwrap();
    let empty = Wish { name: "empty".into(), ..first };
    assert!(refusal(empty).await.contains("no row in 1 events"));
    assert!(!config.exists(), "a refusal writes nothing");
}

#[tokio::test]
async fn the_unit_of_times_is_told_by_their_size() {
    for (time, unit) in [
        (1_700_000_000_i64, Some("s")),
        (1_700_000_000_000, None),
        (1_700_000_000_000_000, Some("us")),
        (1_700_000_000_000_000_000, Some("ns")),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let event = json!({ "op": "c", "after": { "id": 1 }, "timestamp": time });
        let plan = plan(&wish(dir.path(), &[event])).await.unwrap();
        match unit {
            Some(unit) => assert!(plan.section.contains(&format!("timestamp_unit = \"{unit}\"")), "{}", plan.section),
            None => assert!(!plan.section.contains("timestamp_unit"), "{}", plan.section),
        }
    }
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,6}".prop_map(Value::from),
        Just(json!("2024-02-29")),
    ];
    leaf.prop_recursive(2, 8, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::hash_map(".{1,4}", inner, 0..3).prop_map(|members| json!(members)),
        ]
    })
}

fn rows() -> impl Strategy<Value = Vec<Value>> {
    let name = prop_oneof![
        "[a-zA-Z]{1,5}",
        ".{1,5}",
        prop::sample::select(vec![
            "select", "Order", "ts", "_offset", "key", "held", "before", "user", "group", "after"
        ])
        .prop_map(str::to_owned),
    ];
    prop::collection::vec(prop::collection::hash_map(name, value(), 0..6), 1..4).prop_map(|rows| {
        rows.into_iter()
            .enumerate()
            .map(|(id, row)| {
                let mut row = json!(row);
                row["id"] = json!(id.to_string());
                row
            })
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn no_row_is_too_odd(rows in rows()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let sample: Vec<Value> = rows.iter().cloned().map(created).collect();
            let wish = Wish { key: vec!["id".into()], ..wish(dir.path(), &sample) };
            made(&wish).await;
            assert_eq!(faults(dir.path()).await, Vec::new(), "{rows:#?}");
        });
    }
}
