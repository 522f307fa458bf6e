use arrow::array::{Array, AsArray};
use arrow::datatypes::{Int32Type, Int64Type, TimestampMillisecondType, TimestampNanosecondType};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;

mod hostile;
mod nested;

const NOW_MS: i64 = 1_700_000_000_000;
const GOOD: &str = r#"{"op":"c","before":null,"after":{"userId":"7","name":"Ada","email":null,"country":"GB"},"timestamp":1700000000000}"#;

fn users() -> SourceSchema {
    SourceSchema::load(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas/users")).unwrap()
}

fn schema(fields: &Value) -> SourceSchema {
    let text = json!({ "fields": fields }).to_string();
    SourceSchema::parse(3, std::path::Path::new("3.json"), &text).unwrap()
}

fn decoder(schema: &SourceSchema) -> Decoder {
    let options = DecodeOptions {
        topic: "user_cdc".into(),
        timestamp_unit: TimestampUnit::Ms,
        max_future_skew: Duration::from_secs(3600),
    };
    Decoder::new(schema, options)
}

fn record(offset: i64, value: &[u8]) -> RawRecord<'_> {
    RawRecord { partition: 2, offset, timestamp_ms: Some(NOW_MS), key: Some(b"k"), value: Some(value), headers: b"" }
}

fn decode(schema: &SourceSchema, payloads: &[&[u8]]) -> Decoded {
    let records = payloads.iter().enumerate().map(|(offset, payload)| record(offset as i64, payload));
    decoder(schema).decode(records).unwrap()
}

/// Rows as JSON objects, without what is NULL.
fn rows(batch: &RecordBatch) -> Vec<Value> {
    let mut writer = arrow::json::ArrayWriter::new(Vec::new());
    writer.write(batch).unwrap();
    writer.finish().unwrap();
    let bytes = writer.into_inner();
    if bytes.is_empty() { Vec::new() } else { serde_json::from_slice(&bytes).unwrap() }
}

/// `op`, `before`, `after` of each row.
fn images(batch: &RecordBatch) -> Vec<Value> {
    let pick = |row: Value| json!([row["op"], row["before"], row["after"]]);
    rows(batch).into_iter().map(pick).collect()
}

/// The one refusal of `payload`, which stands between two good neighbours that must come through, and what was salvaged.
fn refused(schema: &SourceSchema, payload: &[u8]) -> (Option<String>, String, Value) {
    let decoded = decode(schema, &[GOOD.as_bytes(), payload, GOOD.as_bytes()]);
    let good = json!(["c", null, { "userId": "7", "name": "Ada", "country": "GB" }]);
    assert_eq!(images(&decoded.events), [good.clone(), good], "{}", String::from_utf8_lossy(payload));
    let offsets = decoded.events.column_by_name("_offset").unwrap().as_primitive::<Int64Type>();
    assert_eq!(offsets.values(), &[0, 2]);
    let [refusal] = <[DecodeRefusal; 1]>::try_from(decoded.refused).unwrap();
    assert_eq!(refusal.position, Position { partition: 2, offset: 1 });
    let [salvage] = <[Value; 1]>::try_from(images(&decoded.salvage)).unwrap();
    assert_eq!(rows(&decoded.salvage)[0]["_offset"], 1);
    (refusal.column, refusal.reason, salvage)
}

#[test]
fn a_good_event_fills_every_column() {
    let text = r#"{"op":"u","before":{"userId":"1","name":"Al"},"after":{"country":"DE","userId":"1","name":"Al \"\u00df\""},"timestamp":1700000000001}"#;
    let decoded = decode(&users(), &[text.as_bytes()]);
    assert_eq!(decoded.events.schema(), events_schema(&users()));
    assert_eq!(decoded.salvage.schema(), events_schema(&users()));
    let expected = json!({
        "op": "u", "before": {"userId": "1", "name": "Al"}, "after": {"userId": "1", "name": "Al \"ß\"", "country": "DE"},
        "ts": "2023-11-14T22:13:20.001Z", "_topic": "user_cdc", "_partition": 2, "_offset": 0,
        "_kafka_ts": "2023-11-14T22:13:20Z", "_key": "6b", "_schema_version": 1,
    });
    assert_eq!(rows(&decoded.events), [expected]);
    assert_eq!((decoded.refused.len(), decoded.salvage.num_rows(), decoded.ignored.len()), (0, 0, 0));
    let batch = &decoded.events;
    assert_eq!(batch.column(3).as_primitive::<TimestampNanosecondType>().value(0), 1_700_000_000_001_000_000);
    assert_eq!(batch.column(7).as_primitive::<TimestampMillisecondType>().value(0), NOW_MS);
    assert_eq!(batch.column(9).as_primitive::<Int32Type>().value(0), 1);
}

// Proves: R38
#[test]
fn null_values_are_ignored_and_missing_keys_and_timestamps_are_null() {
    let bare = RawRecord { key: None, timestamp_ms: None, ..record(5, GOOD.as_bytes()) };
    let tombstone = RawRecord { value: None, ..record(6, b"") };
    let decoded = decoder(&users()).decode([bare, tombstone]).unwrap();
    assert_eq!(decoded.ignored, [Position { partition: 2, offset: 6 }]);
    assert_eq!(decoded.refused, []);
    assert!(decoded.events.column(7).is_null(0) && decoded.events.column(8).is_null(0));
    assert_eq!(decoded.events.num_rows(), 1);
}

#[test]
fn the_image_an_op_has_no_use_for_is_null() {
    let user = r#"{"userId":"1"}"#;
    let text = |op: &str| format!(r#"{{"after":{user},"before":{user},"timestamp":1,"op":"{op}"}}"#);
    let texts = ["c", "r", "u", "d"].map(text);
    let decoded = decode(&users(), &texts.each_ref().map(|text| text.as_bytes()));
    let user = json!({ "userId": "1" });
    let expected =
        [json!(["c", null, user]), json!(["r", null, user]), json!(["u", user, user]), json!(["d", user, null])];
    assert_eq!(images(&decoded.events), expected);
    let before = decoded.events.column_by_name("before").unwrap().as_struct();
    assert!(before.column(0).is_null(0) && before.column(0).is_valid(2), "fields of a NULL image are NULL themselves");
}

/// Payload, field to blame, part of the reason, and the row salvaged.
fn bad_payloads() -> Vec<(Vec<u8>, Option<&'static str>, &'static str, Value)> {
    let nothing = || json!([null, null, null]);
    let user = || json!(["u", null, { "userId": "1" }]);
    let deep = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    let case = |text: &str, column, reason, salvage| (text.as_bytes().to_vec(), column, reason, salvage);
    let mut cases = vec![
        case("", None, "0 bytes", nothing()),
        (b"{\"op\":\"c\",\"x\":\"\xff\"}".to_vec(), None, "not UTF-8 from byte 15", nothing()),
        case("garbage", None, "not valid JSON: expected value at line 1 column 1", nothing()),
        case("\u{feff}{}", None, "not valid JSON", nothing()),
        case(r#"{"op":"c","after":{"userId":"1","#, None, "EOF while parsing", nothing()),
        case(&format!("{GOOD}{GOOD}"), None, "trailing characters at line 1 column", nothing()),
        case(&format!("{GOOD} x"), None, "trailing characters", nothing()),
        case(r#"{"op":"c",,"after":{"userId":"1"},"timestamp":1}"#, None, "not valid JSON", nothing()),
        case(r#"{"op":"c" "after":{"userId":"1"},"timestamp":1}"#, None, "not valid JSON", nothing()),
        case(r#"{"op":"c","after":{"userId":"1","name":NaN},"timestamp":1}"#, None, "not valid JSON", nothing()),
        case("null", None, "the payload is null, an object is expected", nothing()),
        case("42", None, "the payload is a number", nothing()),
        case("-4.2", None, "the payload is a number", nothing()),
        case("true", None, "the payload is a boolean", nothing()),
        case("\"text\"", None, "the payload is a string", nothing()),
        case("[1,2]", None, "the payload is an array", nothing()),
        case("{}", Some("op"), "`op` is missing", nothing()),
        case(r#"{"after":{"userId":"1"},"timestamp":1}"#, Some("op"), "is missing", user()),
        case(r#"{"op":null,"after":{"userId":"1"},"timestamp":1}"#, Some("op"), "none of c, u, d, r", user()),
        case(r#"{"op":"x","after":{"userId":"1"},"timestamp":1}"#, Some("op"), "none of c, u, d, r", user()),
        case(r#"{"op":"C","after":{"userId":"1"},"timestamp":1}"#, Some("op"), "none of c, u, d, r", user()),
        case(r#"{"op":"c","op":"c","after":{"userId":"1"},"timestamp":1}"#, Some("op"), "twice", user()),
        case(
            r#"{"op":"c","before":{"userId":"1"},"timestamp":1}"#,
            Some("after"),
            "missing, but op c needs it",
            json!(["d", {"userId": "1"}, null]),
        ),
        case(
            r#"{"op":"u","before":null,"after":null,"timestamp":1}"#,
            Some("after"),
            "null, but op u needs it",
            nothing(),
        ),
        case(
            r#"{"op":"d","after":{"userId":"1"},"timestamp":1}"#,
            Some("before"),
            "missing, but op d needs it",
            user(),
        ),
        case(r#"{"op":"c","after":[1],"timestamp":1}"#, Some("after"), "`after` is an array, an object", nothing()),
        case(r#"{"op":"c","after":"x","timestamp":1}"#, Some("after"), "`after` is a string, an object", nothing()),
        case(
            r#"{"op":"c","after":{"name":"A"},"timestamp":1}"#,
            Some("after.userId"),
            "is missing",
            json!(["u", null, {"name": "A"}]),
        ),
        case(r#"{"op":"c","after":{},"timestamp":1}"#, Some("after.userId"), "is missing", nothing()),
        case(
            r#"{"op":"c","after":{"userId":null},"timestamp":1}"#,
            Some("after.userId"),
            "is null, but may not be",
            nothing(),
        ),
        case(
            r#"{"op":"c","after":{"userId":7,"name":"A"},"timestamp":1}"#,
            Some("after.userId"),
            "is a number, utf8 is expected, at line 1 column",
            json!(["u", null, {"name": "A"}]),
        ),
        case(
            r#"{"op":"c","after":{"userId":"1","name":{"first":"A"}},"timestamp":1}"#,
            Some("after.name"),
            "is an object, utf8",
            user(),
        ),
        case(r#"{"op":"c","after":{"userId":"1","userId":"1"},"timestamp":1}"#, Some("after.userId"), "twice", user()),
        case(r#"{"op":"c","after":{"userId":"1","name":"\ud800"},"timestamp":1}"#, None, "not valid JSON", user()),
        case(
            r#"{"op":"c","after":{"userId":"1","name":"\ud800\u0041"},"timestamp":1}"#,
            None,
            "not valid JSON",
            user(),
        ),
        case(
            "{\"op\":\"c\",\"after\":{\"userId\":\"1\",\"name\":\"a\nb\"},\"timestamp\":1}",
            None,
            "control character",
            nothing(),
        ),
        case(
            r#"{"op":"u","before":{"userId":"0"},"after":{"userId":"1"}}"#,
            Some("timestamp"),
            "is missing",
            json!(["u", {"userId": "0"}, {"userId": "1"}]),
        ),
        case(
            r#"{"op":"d","before":{"userId":"0"},"after":{"userId":"1"}}"#,
            Some("timestamp"),
            "is missing",
            json!(["d", {"userId": "0"}, null]),
        ),
        case(r#"{"op":"c","before":{"userId":"0"},"after":{"userId":"1"}}"#, Some("timestamp"), "is missing", user()),
        case(
            r#"{"op":"u","before":{"userId":"0"},"after":{"name":"A"},"timestamp":1}"#,
            Some("after.userId"),
            "is missing",
            json!(["d", {"userId": "0"}, null]),
        ),
    ];
    let timestamps = [
        ("null", "is null, a whole number"),
        ("\"1700000000000\"", "is a string, a whole number"),
        ("1.5", "has a fraction"),
        ("17e11", "has a fraction or an exponent"),
        ("true", "is a boolean"),
        ("[]", "is an array"),
        ("9223372036854775808", "is out of range"),
        ("9223372036855", "is out of range: event times"),
        ("-9223372036855", "is out of range: event times"),
        ("1700003600001", "ahead of the record's Kafka timestamp by more than max_future_skew (3600s)"),
    ];
    for (timestamp, reason) in timestamps {
        let text = format!(r#"{{"op":"c","after":{{"userId":"1"}},"timestamp":{timestamp}}}"#);
        cases.push(case(&text, Some("timestamp"), reason, user()));
    }
    for levels in [127, 128, 100_000] {
        let text = format!(r#"{{"op":"c","after":{{"userId":"1"}},"timestamp":1,"extra":{}}}"#, deep(levels));
        cases.push(case(&text, None, "nested deeper than 127 levels", nothing()));
        let text = format!(r#"{{"op":"c","after":{{"userId":"1","x":{}}},"timestamp":1}}"#, deep(levels - 1));
        cases.push(case(&text, None, "nested deeper than 127 levels", nothing()));
    }
    cases.push(case(&deep(100_000), None, "the payload is an array", nothing()));
    cases.push(case(&"[".repeat(100_000), None, "the payload is an array", nothing()));
    cases.push(case(&"{\"a\":".repeat(100_000), None, "EOF", nothing()));
    let text = format!(r#"{{"op":"c","after":{{"userId":{}}},"timestamp":1}}"#, deep(100_000));
    cases.push(case(&text, Some("after.userId"), "is an array, utf8", nothing()));
    cases
}

// Proves: P5, R35
#[test]
fn every_bad_record_is_refused_with_its_reason_and_harms_no_neighbour() {
    let users = users();
    for (payload, column, reason, salvage) in bad_payloads() {
        let shown: String = String::from_utf8_lossy(&payload).chars().take(150).collect();
        let found = refused(&users, &payload);
        assert!(found.1.contains(reason), "{shown}: {:?}", found.1);
        assert_eq!(found.0.as_deref(), column, "{shown}: {:?}", found.1);
        assert_eq!(found.2, salvage, "{shown}");
    }
}

#[test]
fn the_deepest_nesting_a_parser_reads_is_accepted() {
    let deep = format!("{}{}", "[".repeat(126), "]".repeat(126));
    let text = format!(r#"{{"op":"c","after":{{"userId":"1"}},"timestamp":1,"extra":{deep}}}"#);
    assert!(serde_json::from_str::<Value>(&text).is_ok());
    assert_eq!(decode(&users(), &[text.as_bytes()]).refused, []);
}

// Proves: R39
#[test]
fn the_skew_is_measured_from_the_kafka_timestamp_or_else_from_the_clock() {
    let event = |timestamp: i64| format!(r#"{{"op":"c","after":{{"userId":"1"}},"timestamp":{timestamp}}}"#);
    let (edge, beyond) = (event(NOW_MS + 3_600_000), event(NOW_MS + 3_600_001));
    let decoded = decode(&users(), &[edge.as_bytes(), beyond.as_bytes()]);
    assert_eq!(decoded.refused.iter().map(|refusal| refusal.position.offset).collect::<Vec<_>>(), [1]);
    let (now, tomorrow) = (event(wall_clock_ms()), event(wall_clock_ms() + 86_400_000));
    let timeless = |offset, text: &'static str| RawRecord { timestamp_ms: None, ..record(offset, text.as_bytes()) };
    let records = [timeless(0, String::leak(now)), timeless(1, String::leak(tomorrow))];
    let decoded = decoder(&users()).decode(records).unwrap();
    assert_eq!(decoded.refused.iter().map(|refusal| refusal.position.offset).collect::<Vec<_>>(), [1]);
    assert!(decoded.refused[0].reason.contains("ahead of the clock"));
}

#[test]
fn event_times_are_nanoseconds_whatever_their_unit() {
    for (unit, per_second) in [
        (TimestampUnit::S, 1),
        (TimestampUnit::Ms, 1000),
        (TimestampUnit::Us, 1_000_000),
        (TimestampUnit::Ns, 1_000_000_000),
    ] {
        assert_eq!(unit.to_ns(1_700_000_000 * per_second), Some(1_700_000_000_000_000_000));
        assert_eq!(unit.to_ns(i64::MAX), (unit == TimestampUnit::Ns).then_some(i64::MAX));
    }
}

// Proves: P6
#[test]
fn unknown_fields_are_counted_once_per_good_event_and_never_fail() {
    let texts = [
        r#"{"op":"u","before":{"userId":"1","phone":1},"after":{"userId":"1","phone":{"a":[2]},"plan":null},"timestamp":1,"source":{"file":"b"},"ts_ms":2,"shard":4,"transaction":null}"#,
        r#"{"op":"c","after":{"phone":"x","userId":"1"},"timestamp":1,"big":1e999,"odd":"\ud800"}"#,
        r#"{"op":"c","after":{"userId":1,"never":"x"},"timestamp":1}"#,
    ];
    let decoded = decode(&users(), &texts.map(str::as_bytes));
    assert_eq!(decoded.events.num_rows(), 2);
    let expected = [("phone", 2), ("plan", 1), ("shard", 1), ("big", 1), ("odd", 1)];
    assert_eq!(decoded.unmapped, expected.map(|(name, count)| (name.to_owned(), count)).into());
}

#[test]
fn aliases_are_other_names_of_a_field_and_defaults_stand_for_missing_ones_only() {
    let schema = schema(&json!([
        {"name": "id", "type": "int64", "nullable": false, "metadata": {"aliases": "[\"userId\"]"}},
        {"name": "plan", "type": "utf8", "nullable": false, "metadata": {"default": "free"}},
        {"name": "seats", "type": "int32", "metadata": {"default": "1"}},
    ]));
    let event = |after: &str| format!(r#"{{"op":"c","after":{after},"timestamp":1}}"#);
    let texts = [
        event(r#"{"userId":1}"#),
        event(r#"{"plan":"pro","id":2,"seats":null}"#),
        event(r#"{"id":3,"userId":3}"#),
        event(r#"{"id":4,"plan":null}"#),
    ];
    let decoded = decode(&schema, &texts.each_ref().map(|text| text.as_bytes()));
    let expected =
        [json!(["c", null, {"id": 1, "plan": "free", "seats": 1}]), json!(["c", null, {"id": 2, "plan": "pro"}])];
    assert_eq!(images(&decoded.events), expected);
    let columns: Vec<_> = decoded.refused.iter().map(|refusal| refusal.column.as_deref().unwrap()).collect();
    assert_eq!(columns, ["after.id", "after.plan"]);
    assert!(decoded.refused[0].reason.contains("alias"), "{}", decoded.refused[0].reason);
    assert_eq!(decoded.events.column(9).as_primitive::<Int32Type>().value(0), 3);
}

#[test]
fn every_type_is_exact_or_refuses() {
    let fields = json!([
        {"name": "big", "type": "int64"}, {"name": "huge", "type": "uint64"}, {"name": "tiny", "type": "int8"},
        {"name": "price", "type": "decimal128(20,4)"}, {"name": "ratio", "type": "float64"}, {"name": "small", "type": "float32"},
        {"name": "on", "type": "boolean"}, {"name": "day", "type": "date32"}, {"name": "at", "type": "timestamp(us)"},
        {"name": "blob", "type": "binary"},
    ]);
    let schema = schema(&fields);
    let text = r#"{"op":"c","timestamp":1,"after":{"big":9007199254740993,"huge":18446744073709551615,"tiny":-128,
        "price":1234567890123456.7891,"ratio":0.1,"small":0.5,"on":true,"day":"2024-02-29","at":"2024-02-29T12:00:00.000001+01:00",
        "blob":"AP8="}}"#;
    let decoded = decode(&schema, &[text.as_bytes()]);
    assert_eq!(decoded.refused, []);
    let expected = json!({
        "big": 9_007_199_254_740_993_i64, "huge": u64::MAX, "tiny": -128, "price": null, "ratio": 0.1, "small": 0.5, "on": true,
        "day": "2024-02-29", "at": "2024-02-29T11:00:00.000001Z", "blob": "00ff",
    });
    let mut after = rows(&decoded.events)[0]["after"].take();
    after["price"] = Value::Null;
    assert_eq!(after, expected);
    let price = decoded.events.column(2).as_struct().column(3).as_primitive::<arrow::datatypes::Decimal128Type>();
    assert_eq!(price.value(0), 12_345_678_901_234_567_891);

    let wrong = [
        ("big", "9223372036854775808"),
        ("big", "1.0"),
        ("big", "\"1\""),
        ("huge", "-1"),
        ("tiny", "128"),
        ("tiny", "[]"),
        ("price", "0.00001"),
        ("price", "\"x\""),
        ("ratio", "\"1\""),
        ("ratio", "1e999"),
        ("on", "1"),
        ("day", "\"2023-02-29\""),
        ("at", "\"2024-02-29T12:00:00\""),
        ("at", "1.5"),
        ("blob", "\"?\""),
        ("blob", "7"),
    ];
    for (name, value) in wrong {
        let text = format!(r#"{{"op":"c","timestamp":1,"after":{{"{name}":{value}}}}}"#);
        let decoded = decode(&schema, &[text.as_bytes()]);
        let columns: Vec<_> = decoded.refused.iter().map(|refusal| refusal.column.clone().unwrap()).collect();
        assert_eq!(columns, [format!("after.{name}")], "{name} {value}");
    }
}

#[test]
fn tables_of_more_than_64_fields_are_read_in_any_order() {
    let fields: Vec<Value> =
        (0..150).map(|index| json!({"name": format!("f{index}"), "type": "int32", "nullable": index != 140})).collect();
    let schema = schema(&Value::from(fields));
    let after: Vec<String> =
        (0..150).rev().filter(|index| index % 7 != 3).map(|index| format!(r#""f{index}":{index}"#)).collect();
    let event = |after: &[String]| format!(r#"{{"op":"c","timestamp":1,"after":{{{}}}}}"#, after.join(","));
    let whole = event(&after);
    let lacking = event(&after.iter().filter(|member| !member.starts_with("\"f140\"")).cloned().collect::<Vec<_>>());
    let repeated = event(&[&after[..], &after[..1]].concat());
    let decoded = decode(&schema, &[whole.as_bytes(), lacking.as_bytes(), repeated.as_bytes()]);
    let columns: Vec<_> = decoded.refused.iter().map(|refusal| refusal.column.as_deref().unwrap()).collect();
    assert_eq!(columns, ["after.f140", "after.f149"]);
    let expected: Map<String, Value> =
        (0..150).filter(|index| index % 7 != 3).map(|index| (format!("f{index}"), json!(index))).collect();
    assert_eq!(rows(&decoded.events)[0]["after"], Value::from(expected));
}

// Proves: R62
#[test]
fn reasons_never_hold_payload_values() {
    let secret = "s3cr3t-value";
    let texts = [
        format!(r#"{{"op":"{secret}","after":{{"userId":"1"}},"timestamp":1}}"#),
        format!(r#"{{"op":"c","after":"{secret}","timestamp":1}}"#),
        format!(r#"{{"op":"c","after":{{"userId":["{secret}"]}},"timestamp":1}}"#),
        format!(r#"{{"op":"c","after":{{"userId":"1"}},"timestamp":"{secret}"}}"#),
        format!(r#"{{"op":"c","after":{{"userId":"1","{secret}":{}}},"timestamp":1}}"#, "[".repeat(300)),
        format!(r#""{secret}""#),
        format!(r#"{{"op":"c","{secret}"}}"#),
        secret.to_owned(),
        format!("{GOOD}{secret}"),
    ];
    for refusal in decode(&users(), &texts.each_ref().map(|text| text.as_bytes())).refused {
        assert!(!format!("{refusal:?}").contains(secret), "{refusal:?}");
    }
}

#[test]
fn a_decoder_starts_every_batch_afresh() {
    let mut decoder = decoder(&users());
    let first = decoder.decode([record(0, GOOD.as_bytes()), record(1, b"bad")]).unwrap();
    let second = decoder.decode([record(0, GOOD.as_bytes()), record(1, b"bad")]).unwrap();
    assert_eq!((&first.events, &first.salvage, &first.refused), (&second.events, &second.salvage, &second.refused));
    let none = decoder.decode([]).unwrap();
    assert_eq!((none.events.num_rows(), none.salvage.num_rows(), none.unmapped.len()), (0, 0, 0));
}

fn text() -> impl Strategy<Value = Option<String>> {
    proptest::option::of(any::<String>())
}

fn user() -> impl Strategy<Value = Value> {
    (any::<String>(), text(), text(), text()).prop_map(|(id, name, email, country)| {
        let mut user = Map::new();
        user.insert("userId".into(), id.into());
        for (field, value) in [("name", name), ("email", email), ("country", country)] {
            if let Some(value) = value {
                user.insert(field.into(), value.into());
            }
        }
        Value::from(user)
    })
}

/// An event and the row it must become: `op`, `before`, `after`, event time in milliseconds.
fn event() -> impl Strategy<Value = (Value, Value)> {
    (prop::sample::select(vec!["c", "u", "d", "r"]), user(), user(), any::<bool>(), -1_000_000..NOW_MS).prop_map(
        |(op, before, after, has_both, timestamp)| {
            let before = if op == "d" || has_both { before } else { Value::Null };
            let after = if op != "d" || has_both { after } else { Value::Null };
            let event = json!({"op": op, "before": before, "after": after, "timestamp": timestamp});
            let row = match op {
                "d" => json!(["d", before, null]),
                "u" => json!(["u", before, after]),
                _ => json!([op, null, after]),
            };
            (event, row)
        },
    )
}

/// The shortest payloads of the table, enough of each kind, for the properties.
fn bad_payload() -> impl Strategy<Value = Vec<u8>> {
    let short: Vec<Vec<u8>> =
        bad_payloads().into_iter().map(|case| case.0).filter(|payload| payload.len() < 1000).collect();
    prop_oneof![prop::sample::select(short), proptest::collection::vec(any::<u8>(), 0..40)]
}

/// The users of an event as serde's own derive reads them.
#[derive(serde::Deserialize)]
struct Held {
    before: Option<Value>,
    after: Option<Value>,
}

fn ts_ns(batch: &RecordBatch) -> Vec<i64> {
    batch.column(3).as_primitive::<TimestampNanosecondType>().values().to_vec()
}

proptest! {
    #[test]
    fn events_come_out_as_they_were_written(events in proptest::collection::vec(event(), 0..20)) {
        let texts: Vec<String> = events.iter().map(|(event, _)| event.to_string()).collect();
        let payloads: Vec<&[u8]> = texts.iter().map(|text| text.as_bytes()).collect();
        let decoded = decode(&users(), &payloads);
        prop_assert_eq!(decoded.refused, []);
        let expected: Vec<Value> = events.iter().map(|(_, row)| row.clone()).collect();
        prop_assert_eq!(images(&decoded.events), expected);
        let times: Vec<i64> = events.iter().map(|(event, _)| event["timestamp"].as_i64().unwrap() * 1_000_000).collect();
        prop_assert_eq!(ts_ns(&decoded.events), times);
    }

    // Proves: P5, R35
    #[test]
    fn bad_records_never_change_the_good_rows(
        events in proptest::collection::vec(event(), 1..10),
        bad in proptest::collection::vec((0..10_usize, bad_payload()), 0..10),
    ) {
        let users = users();
        let good: Vec<(i64, Vec<u8>)> =
            events.iter().enumerate().map(|(index, (event, _))| (index as i64 * 100, event.to_string().into_bytes())).collect();
        let mut mixed = good.clone();
        for (number, (after, payload)) in bad.into_iter().enumerate() {
            mixed.push(((after.min(good.len() - 1) * 100 + 1 + number) as i64, payload));
        }
        mixed.sort();
        let batch = |records: &[(i64, Vec<u8>)]| {
            decoder(&users).decode(records.iter().map(|(offset, payload)| record(*offset, payload))).unwrap()
        };
        let (alone, among) = (batch(&good), batch(&mixed));
        prop_assert_eq!(&alone.events, &among.events);
        prop_assert_eq!(among.refused.len(), mixed.len() - good.len());
        prop_assert_eq!(among.salvage.num_rows(), among.refused.len());
    }

    // Proves: P4, R35
    #[test]
    fn no_bytes_make_it_panic_and_every_record_has_one_outcome(
        payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 0..10),
    ) {
        let payloads: Vec<&[u8]> = payloads.iter().map(Vec::as_slice).collect();
        let decoded = decode(&users(), &payloads);
        prop_assert_eq!(decoded.events.num_rows() + decoded.refused.len(), payloads.len());
        prop_assert_eq!(decoded.salvage.num_rows(), decoded.refused.len());
    }

    #[test]
    fn damaged_events_name_only_users_that_they_hold(
        (event, _) in event(),
        cut in 0..200_usize,
        byte in any::<u8>(),
        truncate in any::<bool>(),
    ) {
        let mut payload = event.to_string().into_bytes();
        let at = cut % payload.len();
        if truncate { payload.truncate(at) } else { payload[at] = byte }
        let decoded = decode(&users(), &[&payload]);
        prop_assert_eq!(decoded.events.num_rows() + decoded.refused.len(), 1);
        let held: Option<Held> = serde_json::from_slice(&payload).ok();
        for row in images(&decoded.salvage) {
            let held = held.as_ref();
            for (image, held) in [(&row[1], held.map(|held| &held.before)), (&row[2], held.map(|held| &held.after))] {
                if let Some(user) = image["userId"].as_str() {
                    let held = held.and_then(|image| image.as_ref()?["userId"].as_str());
                    prop_assert_eq!(Some(user), held);
                }
            }
        }
    }
}
