use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::decode::{DecodeOptions, Decoder, TimestampUnit};
use crate::record::RawRecord;

/// Events that create rows.
fn created(rows: &[&str]) -> Vec<String> {
    rows.iter().map(|row| format!(r#"{{"op":"c","before":null,"after":{row},"timestamp":1}}"#)).collect()
}

fn inferred(events: &[String], known: Option<&SourceSchema>) -> Inferred {
    infer(events.iter().map(|event| event.as_bytes()), &["user_id".to_owned()], known).unwrap()
}

/// Names, types and nullability of the fields.
fn types(rows: &[&str]) -> Vec<String> {
    let inferred = inferred(&created(rows), None);
    let shown = |field: &arrow::datatypes::FieldRef| {
        format!("{} {}{}", field.name(), crate::schema::type_of(field), if field.is_nullable() { "" } else { "!" })
    };
    inferred.fields.iter().map(shown).collect()
}

fn parse(version: u32, text: &str) -> SourceSchema {
    SourceSchema::parse(version, Path::new("1.json"), text).unwrap_or_else(|faults| panic!("{faults:?}\n{text}"))
}

#[test]
fn a_first_version_is_written_with_types_docs_and_what_may_be_null() {
    let mut events = created(&[
        r#"{"userId":"1","age":36,"credit":12.50,"score":0.12345678901,"born":"1987-03-01","seen":"2024-01-01T10:00:00.25Z","tags":["a","b"],"address":{"zip":"10115","geo":{"lat":52.5}},"vip":true,"extra":null}"#,
        r#"{"userId":"2","age":null,"credit":7,"score":1e-7,"born":"1990-12-31","seen":"2024-01-01T10:00:00Z","tags":[],"address":{"zip":"8000"},"odd":1}"#,
    ]);
    events.push(r#"{"op":"u","before":{"userId":"2"},"after":{"userId":"2","odd":"x"},"timestamp":2}"#.to_owned());
    events.push("no event".to_owned());
    let inferred = inferred(&events, None);
    assert_eq!((inferred.events, inferred.skipped, inferred.version), (3, 1, 1));
    insta::assert_snapshot!(inferred.text());
    insta::assert_snapshot!(inferred.notes.join("\n"), @r"
    `extra` was never seen with a value: its type is a guess
    `odd` holds numbers and texts: kept as JSON
    ");
    // What it writes is a schema file, and the same one.
    let read = parse(1, &inferred.text());
    assert_eq!((read.fields.clone(), read.text()), (inferred.fields.clone(), inferred.text()));
}

#[test]
fn numbers_get_the_type_that_holds_every_one_of_them() {
    assert_eq!(types(&[r#"{"a":1}"#, r#"{"a":-9223372036854775808}"#]), ["a int64"]);
    assert_eq!(types(&[r#"{"a":0}"#, r#"{"a":18446744073709551615}"#]), ["a uint64"]);
    assert_eq!(types(&[r#"{"a":-1}"#, r#"{"a":18446744073709551615}"#]), ["a decimal128(38,0)"]);
    assert_eq!(types(&[r#"{"a":1}"#, r#"{"a":1.5}"#, r#"{"a":1.25}"#]), ["a decimal128(18,2)"]);
    assert_eq!(types(&[r#"{"a":12345678901234567.25}"#]), ["a decimal128(38,2)"]);
    assert_eq!(types(&[r#"{"a":1.5}"#, r#"{"a":-2}"#]), ["a float64"]);
    assert_eq!(types(&[r#"{"a":1.23456}"#, r#"{"a":2}"#]), ["a float64"]);
    assert_eq!(types(&[r#"{"a":1e300}"#]), ["a float64"]);
    // A double would round it.
    assert_eq!(types(&[r#"{"a":1.2345678901234567890123}"#]), ["a decimal128(38,22)"]);
    assert_eq!(types(&[r#"{"a":1e400}"#]), ["a json"]);
    assert_eq!(types(&[&format!(r#"{{"a":{}}}"#, "9".repeat(39))]), ["a json"]);
}

#[test]
fn texts_are_times_or_dates_only_if_every_one_is() {
    assert_eq!(types(&[r#"{"a":"2024-02-29"}"#, r#"{"a":"2023-02-28"}"#]), ["a date32"]);
    assert_eq!(types(&[r#"{"a":"2024-02-29"}"#, r#"{"a":"2023-02-30"}"#]), ["a utf8"]);
    assert_eq!(types(&[r#"{"a":"2024-02-29T00:00:00Z"}"#]), ["a timestamp(ms)"]);
    let fine = r#"{"a":"2024-02-29T00:00:00.123456+01:00"}"#;
    assert_eq!(types(&[r#"{"a":"2024-02-29T00:00:00Z"}"#, fine]), ["a timestamp(us)"]);
    assert_eq!(types(&[fine, r#"{"a":""}"#]), ["a utf8"]);
    for last in ["2024-02-29", "2024-02-29T00:00:00Z"] {
        assert_eq!(types(&[r#"{"a":"x"}"#, &format!(r#"{{"a":"{last}"}}"#)]), ["a utf8"]);
    }
}

#[test]
fn what_has_no_type_in_common_is_json() {
    assert_eq!(types(&[r#"{"a":{},"b":[],"c":[[1],"x"]}"#]), ["a json", "b json", "c list"]);
    assert_eq!(types(&[r#"{"a":{"b":1}}"#, r#"{"a":[1]}"#]), ["a json"]);
    let many: Vec<String> = (0..300).map(|index| format!(r#""k{index}":1"#)).collect();
    assert_eq!(types(&[&format!(r#"{{"a":{{{}}}}}"#, many.join(","))]), ["a json"]);
    let deep = format!(r#"{{"a":{}1{}}}"#, r#"{"b":"#.repeat(60), "}".repeat(60));
    assert_eq!(types(&[&deep]), ["a struct"]);
    let deep = inferred(&created(&[&deep]), None);
    assert_eq!(parse(1, &deep.text()).fields, deep.fields);
}

#[test]
fn a_field_is_never_null_if_it_is_the_key_or_enough_rows_had_it() {
    let few = types(&[r#"{"userId":"1","name":"Ada"}"#]);
    assert_eq!(few, ["userId utf8!", "name utf8"]);
    let rows: Vec<String> = (0..ENOUGH_ROWS).map(|id| format!(r#"{{"userId":"{id}","name":"Ada"}}"#)).collect();
    let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
    assert_eq!(types(&rows), ["userId utf8!", "name utf8!"]);
    // A delete whose image holds the key alone shows that the others may be missing.
    let mut events = created(&rows);
    events.push(r#"{"op":"d","before":{"userId":"1"},"after":null,"timestamp":1}"#.to_owned());
    assert!(inferred(&events, None).fields[1].is_nullable());
    // The image before an update says nothing: the decoder doesn't ask it for anything.
    events.pop();
    events.push(r#"{"op":"u","before":{"userId":"1"},"after":{"userId":"1","name":"A"},"timestamp":1}"#.to_owned());
    assert!(!inferred(&events, None).fields[1].is_nullable());
}

#[test]
fn the_next_version_adds_what_is_unknown_and_changes_nothing_else() {
    let known = parse(
        4,
        r#"{"$schema": "x.json", "doc": "Users.", "fields": [
            {"name": "id", "type": "int32", "nullable": false, "metadata": {"aliases": "[\"userId\"]", "owner": "crm"}},
            {"name": "address", "type": "struct", "fields": [{"name": "zip", "type": "utf8"}]},
            {"name": "lines", "type": "list", "items": {"type": "struct", "fields": [{"name": "sku", "type": "utf8"}]}}
        ]}"#,
    );
    let events =
        created(&[r#"{"userId":"x","address":{"zip":"1","city":"B"},"lines":[{"sku":"a","price":1.5}],"phone":"1"}"#]);
    let next = inferred(&events, Some(&known));
    assert_eq!(next.version, 5);
    assert_eq!(next.added, ["address.city", "lines[].price", "phone"]);
    assert_eq!(next.notes, ["`id` is int32, and 1 value is none: such events are refused; left as it is"]);
    insta::assert_snapshot!(next.text());
    let nothing = inferred(&created(&[r#"{"id":1}"#]), Some(&known));
    assert_eq!((nothing.added.len(), nothing.fields), (0, known.fields));
}

#[test]
fn events_without_a_row_are_an_error_that_says_how_they_look() {
    for events in [vec![], vec!["{}", "7", r#"{"op":"c","after":null}"#, r#"{"op":"x","after":{"a":1}}"#]] {
        let error = infer(events.iter().map(|event| event.as_bytes()), &[], None).unwrap_err();
        assert_eq!(error.kind, Kind::Config, "{error}");
    }
}

/// Rows of a few fields, whose values agree with each other or not.
fn rows() -> impl Strategy<Value = Vec<String>> {
    let scalar = prop_oneof![
        any::<i64>().prop_map(|number| number.to_string()),
        any::<u64>().prop_map(|number| number.to_string()),
        (any::<i32>(), 0_u32..1000).prop_map(|(whole, rest)| format!("{whole}.{rest:03}")),
        proptest::num::f64::NORMAL.prop_map(|number| format!("{number:e}")),
        Just("null".to_owned()),
        Just("true".to_owned()),
        Just(r#""2024-02-29""#.to_owned()),
        Just(r#""2024-02-29T01:02:03.123456789+01:00""#.to_owned()),
        "\"[a-z ]{0,4}\"",
    ];
    let value = scalar.prop_recursive(4, 16, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..3).prop_map(|items| format!("[{}]", items.join(","))),
            proptest::collection::btree_map("[ab]", inner, 0..3).prop_map(object),
        ]
    });
    let row = proptest::collection::btree_map("[a-d]", value, 0..4).prop_map(object);
    proptest::collection::vec(row, 1..6)
}

fn object(members: std::collections::BTreeMap<String, String>) -> String {
    let members: Vec<String> = members.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
    format!("{{{}}}", members.join(","))
}

proptest! {
    #[test]
    fn every_sample_is_read_by_the_schema_that_is_made_from_it(rows in rows(), first in 0_usize..6) {
        let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
        let events = created(&rows);
        let read = |events: &[String]| infer(events.iter().map(|event| event.as_bytes()), &[], None).ok();
        let Some(all) = read(&events) else { return Ok(()) };
        let schema = parse(1, &all.text());
        let records = events.iter().enumerate().map(|(offset, event)| RawRecord {
            partition: 0, offset: offset as i64, timestamp_ms: None, key: None, value: Some(event.as_bytes()), headers: b"",
        });
        let options = DecodeOptions { topic: "t".into(), timestamp_unit: TimestampUnit::Ms, max_future_skew: Default::default() };
        let decoded = Decoder::new(&schema, options).decode(records).unwrap();
        prop_assert_eq!(&decoded.refused, &[], "{}", all.text());
        prop_assert_eq!(decoded.unmapped.len(), 0);
        // In two steps nothing that was known changes.
        let (some, _) = events.split_at(first.min(events.len()));
        if let Some(some) = read(some) {
            let known = parse(1, &some.text());
            let next = inferred(&events, Some(&known));
            let next = parse(2, &next.text());
            let found = crate::schema::compat::differences(&known, &next);
            prop_assert!(found.iter().all(|difference| !difference.is_breaking()), "{:?}", found);
        }
    }
}
