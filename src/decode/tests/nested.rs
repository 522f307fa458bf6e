//! Structs, lists and JSON in row images.

use arrow::array::AsArray;
use proptest::prelude::*;

use super::*;

fn orders() -> SourceSchema {
    schema(&json!([
        { "name": "id", "type": "int64", "nullable": false },
        { "name": "address", "type": "struct", "fields": [
            { "name": "zip", "type": "utf8", "nullable": false, "metadata": { "aliases": "[\"plz\"]" } },
            { "name": "city", "type": "utf8", "metadata": { "default": "Berlin" } },
            { "name": "geo", "type": "struct", "fields": [{ "name": "lat", "type": "float64" }] },
        ]},
        { "name": "tags", "type": "list", "items": { "type": "utf8", "nullable": false } },
        { "name": "lines", "type": "list", "items": { "type": "struct", "fields": [
            { "name": "sku", "type": "utf8" },
            { "name": "prices", "type": "list", "items": { "type": "decimal128(10,2)" } },
        ]}},
        { "name": "extra", "type": "json" },
    ]))
}

fn event(after: &str) -> String {
    format!(r#"{{"op":"c","before":null,"after":{after},"timestamp":1700000000000}}"#)
}

/// The image of one good event as JSON, without what is NULL.
fn image(after: &str) -> Value {
    let decoded = decode(&orders(), &[event(after).as_bytes()]);
    assert_eq!(decoded.refused, [], "{after}");
    images(&decoded.events)[0][2].clone()
}

/// Column and reason of the refusal of an event between two good ones, which come through unharmed.
fn fault(after: &str) -> (String, String) {
    let good = event(r#"{"id":7,"address":{"zip":"1"},"tags":["a"],"lines":[{"sku":"s","prices":[1,null]}]}"#);
    let bad = event(after);
    let decoded = decode(&orders(), &[good.as_bytes(), bad.as_bytes(), good.as_bytes()]);
    let rows = images(&decoded.events);
    assert_eq!((rows.len(), decoded.refused.len()), (2, 1), "{after}");
    assert_eq!(rows[0], rows[1]);
    assert_eq!(rows[0][2]["lines"], json!([{ "sku": "s", "prices": [1.0, null] }]));
    let refusal = decoded.refused.into_iter().next().unwrap();
    (refusal.column.unwrap_or_default(), refusal.reason)
}

#[test]
fn structs_and_lists_are_read_at_every_depth() {
    let row = image(
        r#"{"id":1,"address":{"plz":"10115","geo":{"lat":52.5}},"tags":["b","a"],"lines":[{"sku":"x","prices":[1.50,2]},null,{}]}"#,
    );
    let expected = json!({
        "id": 1,
        "address": { "zip": "10115", "city": "Berlin", "geo": { "lat": 52.5 } },
        "tags": ["b", "a"],
        "lines": [{ "sku": "x", "prices": [1.5, 2.0] }, null, {}],
    });
    assert_eq!(row, expected);
    assert_eq!(image(r#"{"id":1,"address":null,"tags":[],"lines":null}"#), json!({ "id": 1, "tags": [] }));
}

#[test]
fn json_is_kept_as_it_was_written() {
    for text in
        [r#"{"b": 1.50,  "a":[1e2, "\u00e9"], "b":null}"#, "[ ]", "-0.0", r#""x""#, "true", "1.000000000000000000001"]
    {
        let payload = event(&format!(r#"{{"id":1,"extra":{text}}}"#));
        let decoded = decode(&orders(), &[payload.as_bytes()]);
        let after = decoded.events.column_by_name("after").unwrap().as_struct();
        assert_eq!(after.column_by_name("extra").unwrap().as_string::<i32>().value(0), text);
    }
    assert_eq!(image(r#"{"id":1,"extra":null}"#), json!({ "id": 1 }));
}

#[test]
fn a_wrong_value_inside_refuses_the_event_with_its_path() {
    for (after, column, reason) in [
        (r#"{"id":1,"address":{"zip":7}}"#, "after.address.zip", "is a number, utf8 is expected"),
        (r#"{"id":1,"address":{}}"#, "after.address.zip", "is missing"),
        (r#"{"id":1,"address":{"zip":null}}"#, "after.address.zip", "is null, but may not be"),
        (
            r#"{"id":1,"address":{"zip":"1","plz":"2"}}"#,
            "after.address.zip",
            "stands there twice, under one name or under an alias",
        ),
        (
            r#"{"id":1,"address":{"zip":"1","geo":{"lat":"x"}}}"#,
            "after.address.geo.lat",
            "is a string, float64 is expected",
        ),
        (r#"{"id":1,"address":[]}"#, "after.address", "is an array, struct is expected"),
        (r#"{"id":1,"tags":["a",null]}"#, "after.tags[2]", "is null, but may not be"),
        (r#"{"id":1,"tags":"a"}"#, "after.tags", "is a string, list is expected"),
        (
            r#"{"id":1,"lines":[{},{"prices":[1,0.001]}]}"#,
            "after.lines[2].prices[2]",
            "has more digits than its type holds exactly, decimal128(10,2) is expected",
        ),
        (
            r#"{"id":1,"extra":{"a":["\ud800"]}}"#,
            "after.extra",
            "holds an escape that is no character, json is expected",
        ),
    ] {
        let (found, text) = fault(after);
        assert_eq!(found, column);
        assert!(text.starts_with(&format!("`{column}` {reason}, at line 1 column ")), "{text}");
    }
}

#[test]
fn members_that_no_schema_knows_are_counted_by_their_path() {
    let known = event(r#"{"id":1,"address":{"zip":"1"},"extra":{"any":1}}"#);
    let drifted = event(r#"{"id":1,"new":1,"address":{"zip":"1","geo":{"lon":1}},"lines":[{"qty":1},{"qty":2}]}"#);
    let bad = event(r#"{"id":1,"address":{"other":1}}"#);
    let decoded = decode(&orders(), &[known.as_bytes(), drifted.as_bytes(), bad.as_bytes()]);
    let counted: Vec<(&str, u64)> = decoded.unmapped.iter().map(|(name, count)| (name.as_str(), *count)).collect();
    assert_eq!(counted, [("address.geo.lon", 1), ("lines[].qty", 1), ("new", 1)]);
}

#[test]
fn what_can_be_read_of_a_bad_record_names_its_key() {
    let decoded = decode(&orders(), &[event(r#"{"id":9,"address":{"zip":"1","geo":7},"tags":["x"]}"#).as_bytes()]);
    assert_eq!(images(&decoded.salvage)[0][2], json!({ "id": 9, "tags": ["x"] }));
}

#[test]
fn what_was_begun_of_a_bad_list_is_taken_back_before_the_next_one() {
    let bad = event(r#"{"id":1,"tags":["a","b",3],"lines":[{"sku":"x","prices":[1,2]},{"prices":[1,"y"]}]}"#);
    let other = event(r#"{"id":2,"tags":["c"],"lines":[{"sku":"z","prices":[5]}],"address":7}"#);
    let decoded = decode(&orders(), &[bad.as_bytes(), other.as_bytes()]);
    let salvaged = images(&decoded.salvage);
    assert_eq!(salvaged[0][2], json!({ "id": 1 }));
    assert_eq!(salvaged[1][2], json!({ "id": 2, "tags": ["c"], "lines": [{ "sku": "z", "prices": [5.0] }] }));
}

// Proves: R36
#[test]
fn depth_inside_of_known_fields_is_bounded() {
    for (levels, good) in [(125, true), (126, false), (100_000, false)] {
        for field in ["extra", "tags", "address"] {
            let nested = format!("{}{}", "[".repeat(levels), "]".repeat(levels));
            let payload = event(&format!(r#"{{"id":1,"{field}":{nested}}}"#));
            let decoded = decode(&orders(), &[payload.as_bytes()]);
            assert_eq!(decoded.refused.is_empty(), good && field == "extra", "{field} {levels}");
        }
    }
}

#[test]
fn a_short_value_with_many_unknown_names_costs_little() {
    let items: Vec<String> = (0..200_000).map(|index| format!(r#"{{"k{index}":1}}"#)).collect();
    let payload = event(&format!(r#"{{"id":1,"lines":[{}]}}"#, items.join(",")));
    let decoded = decode(&orders(), &[payload.as_bytes()]);
    assert_eq!(decoded.refused, []);
    assert!(decoded.unmapped.len() <= 257, "{}", decoded.unmapped.len());
}

/// A value of `address` or `lines` by the schema, with digits that must survive.
fn nested() -> impl Strategy<Value = Value> {
    let text = proptest::option::of("[a-z\"\\\\\u{e9}\u{1f600}]{0,6}");
    // Sums of powers of two: the tests' own reader of JSON is no exact one.
    let lat = proptest::option::of((-1_000_000..1_000_000).prop_map(|lat| f64::from(lat) / 64.0));
    let address = ("[0-9]{1,5}", text.clone(), lat)
        .prop_map(|(zip, city, lat)| json!({ "zip": zip, "city": city, "geo": lat.map(|lat| json!({ "lat": lat })) }));
    let line = (text, proptest::option::of(proptest::collection::vec(proptest::option::of(-99_999_i64..99_999), 0..4)))
        .prop_map(|(sku, prices)| json!({ "sku": sku, "prices": prices }));
    let lines = proptest::option::of(proptest::collection::vec(proptest::option::of(line), 0..4));
    (any::<i32>(), proptest::option::of(address), lines)
        .prop_map(|(id, address, lines)| json!({ "id": id, "address": address, "lines": lines }))
}

/// `value` without members that are null.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(members) => members
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| (name.clone(), without_nulls(value)))
            .collect(),
        Value::Array(items) => items.iter().map(without_nulls).collect(),
        Value::Number(number) => json!(number.as_f64()),
        other => other.clone(),
    }
}

proptest! {
    // Proves: P5
    #[test]
    fn what_is_read_is_what_was_written_whatever_stands_beside_it(rows in proptest::collection::vec(nested(), 1..6), bad in 0_usize..6) {
        let mut payloads: Vec<String> = rows.iter().map(|row| event(&row.to_string())).collect();
        let at = bad.min(payloads.len());
        payloads.insert(at, event(r#"{"id":1,"lines":[{"sku":"x","prices":[1,2]},{"prices":["x"]}],"address":{"zip":"1"}}"#));
        let payloads: Vec<&[u8]> = payloads.iter().map(|payload| payload.as_bytes()).collect();
        let decoded = decode(&orders(), &payloads);
        prop_assert_eq!(decoded.refused.len(), 1);
        prop_assert_eq!(decoded.refused[0].position.offset, at as i64);
        let read: Vec<Value> = images(&decoded.events).iter().map(|row| without_nulls(&row[2])).collect();
        let written: Vec<Value> = rows.iter().map(without_nulls).collect();
        prop_assert_eq!(read, written);
    }
}
