use std::path::Path;
use std::time::Duration;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use proptest::prelude::*;

use super::*;
use crate::decode::{DecodeOptions, Decoder, TimestampUnit};
use crate::record::RawRecord;

fn version(number: u32, text: &str) -> SourceSchema {
    SourceSchema::parse(number, Path::new(&format!("{number}.json")), text)
        .unwrap_or_else(|faults| panic!("{faults:?}"))
}

/// A row of these fields, each as its members without braces; `breaking` as in the file.
fn row(number: u32, fields: &[&str], breaking: &str) -> SourceSchema {
    let fields: Vec<String> = fields.iter().map(|field| format!("{{{field}}}")).collect();
    version(number, &format!(r#"{{"breaking": [{breaking}], "fields": [{}]}}"#, fields.join(", ")))
}

/// Codes of the faults of the second row after the first.
fn codes(older: &[&str], newer: &[&str], breaking: &str) -> Vec<&'static str> {
    faults(&row(1, older, ""), &row(2, newer, breaking)).into_iter().map(|fault| fault.code).collect()
}

const ID: &str = r#""name": "id", "type": "int64", "nullable": false"#;

#[test]
fn what_each_change_of_a_field_comes_to() {
    let a = |rest: &str| format!(r#""name": "a", {rest}"#);
    let table: [(&str, &str, &[&str], &str); 23] = [
        // A field that is new.
        ("", r#""type": "utf8""#, &[], ""),
        ("", r#""type": "utf8", "nullable": false, "metadata": {"default": "x"}"#, &[], ""),
        ("", r#""type": "utf8", "nullable": false"#, &["AI0223"], r#""require a: why""#),
        // One that is gone.
        (r#""type": "utf8""#, "", &["AI0220"], r#""drop a: why""#),
        // Types.
        (r#""type": "int8""#, r#""type": "int64""#, &[], ""),
        (r#""type": "uint32""#, r#""type": "int64""#, &[], ""),
        (r#""type": "int64""#, r#""type": "decimal128(19,0)""#, &[], ""),
        (r#""type": "float32""#, r#""type": "float64""#, &[], ""),
        (r#""type": "decimal128(10,2)""#, r#""type": "decimal128(12,4)""#, &[], ""),
        (r#""type": "int64""#, r#""type": "int32""#, &["AI0221"], r#""narrow a: why""#),
        (r#""type": "int64""#, r#""type": "uint64""#, &["AI0221"], r#""narrow a: why""#),
        (r#""type": "int64""#, r#""type": "decimal128(18,0)""#, &["AI0221"], r#""narrow a: why""#),
        (r#""type": "decimal128(10,2)""#, r#""type": "decimal128(10,4)""#, &["AI0221"], r#""narrow a: why""#),
        (r#""type": "int32""#, r#""type": "float64""#, &["AI0222"], r#""retype a: why""#),
        (r#""type": "date32""#, r#""type": "timestamp(ms)""#, &["AI0222"], r#""retype a: why""#),
        (r#""type": "timestamp(ms)""#, r#""type": "timestamp(us)""#, &["AI0222"], r#""retype a: why""#),
        (r#""type": "int64""#, r#""type": "json""#, &["AI0222"], r#""retype a: why""#),
        (r#""type": "utf8""#, r#""type": "list", "items": {"type": "utf8"}"#, &["AI0222"], r#""retype a: why""#),
        // Null.
        (r#""type": "utf8", "nullable": false"#, r#""type": "utf8""#, &[], ""),
        (r#""type": "utf8""#, r#""type": "utf8", "nullable": false"#, &["AI0223"], r#""require a: why""#),
        // Names and defaults.
        (
            r#""type": "utf8", "metadata": {"aliases": "[\"b\"]"}"#,
            r#""type": "utf8", "metadata": {"aliases": "[\"c\"]"}"#,
            &["AI0224"],
            r#""unalias a: why""#,
        ),
        (r#""type": "utf8""#, r#""type": "utf8", "metadata": {"default": "x"}"#, &[], ""),
        (
            r#""type": "utf8", "metadata": {"default": "x"}"#,
            r#""type": "utf8", "metadata": {"default": "y"}"#,
            &["AI0225"],
            r#""redefault a: why""#,
        ),
    ];
    for (older, newer, wanted, purpose) in table {
        let part = |rest: &str| if rest.is_empty() { vec![ID.to_owned()] } else { vec![ID.to_owned(), a(rest)] };
        let (older, newer) = (part(older), part(newer));
        let (older, newer): (Vec<&str>, Vec<&str>) =
            (older.iter().map(String::as_str).collect(), newer.iter().map(String::as_str).collect());
        assert_eq!(codes(&older, &newer, ""), wanted, "{older:?} {newer:?}");
        assert_eq!(codes(&older, &newer, purpose), Vec::<&str>::new(), "{older:?} {newer:?}: said on purpose");
        // The same inside of a struct and of a list of structs.
        for wrapped in [
            |fields: &[&str]| format!(r#""name": "s", "type": "struct", "fields": [{{{}}}]"#, fields.join("}, {")),
            |fields: &[&str]| {
                format!(
                    r#""name": "s", "type": "list", "items": {{"type": "struct", "fields": [{{{}}}]}}"#,
                    fields.join("}, {")
                )
            },
        ] {
            let (older, newer) = (wrapped(&older), wrapped(&newer));
            if newer.contains("\"list\"") && newer.contains("default")
                || older.contains("\"list\"") && older.contains("default")
            {
                continue;
            }
            assert_eq!(codes(&[&older], &[&newer], ""), wanted, "{older} {newer}");
        }
    }
}

#[test]
fn a_rename_is_an_alias_and_anything_else_is_a_drop() {
    let older = row(1, &[ID, r#""name": "mail", "type": "utf8""#], "");
    let renamed = row(2, &[ID, r#""name": "email", "type": "utf8", "metadata": {"aliases": "[\"mail\"]"}"#], "");
    assert_eq!(
        differences(&older, &renamed),
        [Difference {
            field: "email".to_owned(),
            change: Change::Renamed("mail".to_owned()),
            verdict: Verdict::Fine("older events use the alias")
        }]
    );
    let forgotten = row(2, &[ID, r#""name": "email", "type": "utf8""#], "");
    let found: Vec<_> = differences(&older, &forgotten).into_iter().map(|it| (it.field, it.change)).collect();
    assert_eq!(found, [("email".to_owned(), Change::Added), ("mail".to_owned(), Change::Gone)]);
}

#[test]
fn a_fault_says_where_what_and_how_to_mean_it() {
    let newer = "{\n  \"fields\": [\n    {\"name\": \"id\", \"type\": \"int64\", \"nullable\": false},\n    {\"name\": \"a\", \"type\": \"int32\"}\n  ]\n}";
    let older = row(1, &[ID, r#""name": "a", "type": "int64""#, r#""name": "b", "type": "utf8""#], "");
    let mut text = Vec::new();
    let faults = faults(&older, &version(2, newer));
    for fault in &faults {
        let place = fault.span.map(|span| format!(":{}:{}", span.line, span.column)).unwrap_or_default();
        text.push(format!(
            "{} 2.json{place} {} ({})",
            fault.code,
            fault.message,
            fault.help.clone().unwrap_or_default()
        ));
    }
    insta::assert_snapshot!(text.join("\n"), @r#"
    AI0221 2.json:4:14 version 2 makes `a` int32, which was int64: values of older events may not fit (keep the type, or take a wider one, or say that it is meant: "breaking": ["narrow a: <why>"])
    AI0220 2.json version 2 lacks `b` of version 1: older and newer events that carry it lose it (keep it, or name the field that it became with `aliases`, or say that it is meant: "breaking": ["drop b: <why>"])
    "#);
}

#[test]
fn every_version_of_a_folder_is_held_against_the_one_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let write = |number: u32, fields: &str, breaking: &str| {
        let text = format!(r#"{{"breaking": [{breaking}], "fields": [{{{ID}}}{fields}]}}"#);
        std::fs::write(dir.path().join(format!("{number}.json")), text).unwrap();
    };
    let phone = r#", {"name": "phone", "type": "utf8"}"#;
    write(1, phone, "");
    write(2, "", r#""drop phone: gone""#);
    assert_eq!(check(dir.path()), []);
    write(4, phone, r#""drop phone: gone""#);
    let codes: Vec<_> = check(dir.path()).into_iter().map(|fault| (fault.code, fault.file)).collect();
    let fourth = Some(dir.path().join("4.json"));
    assert_eq!(codes, [("AI0228", fourth.clone()), ("AI0227", fourth)]);
    write(2, "", "");
    assert_eq!(check(dir.path())[0].code, "AI0220");
    // All faults of all files at once.
    std::fs::write(dir.path().join("1.json"), "{").unwrap();
    std::fs::write(dir.path().join("3.json"), "[]").unwrap();
    assert_eq!(check(dir.path()).len(), 2);
}

/// Types of which some widen others.
const TYPES: [&str; 24] = [
    "utf8",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float32",
    "float64",
    "boolean",
    "date32",
    "timestamp(s)",
    "timestamp(ms)",
    "timestamp(us)",
    "timestamp(ns)",
    "decimal128(3,0)",
    "decimal128(5,2)",
    "decimal128(10,2)",
    "decimal128(12,4)",
    "decimal128(20,0)",
    "binary",
    "json",
];

fn field(type_name: &str) -> SourceSchema {
    row(1, &[&format!(r#""name": "a", "type": "{type_name}""#)], "")
}

/// What the field is in an event with `raw`; `None` where the event is refused.
fn read(schema: &SourceSchema, raw: &str) -> Option<ArrayRef> {
    let options =
        DecodeOptions { topic: "t".into(), timestamp_unit: TimestampUnit::Ms, max_future_skew: Duration::ZERO };
    let payload = format!(r#"{{"op":"c","after":{{"a":{raw}}},"timestamp":0}}"#);
    let record = RawRecord {
        partition: 0,
        offset: 0,
        timestamp_ms: None,
        key: None,
        value: Some(payload.as_bytes()),
        headers: b"",
    };
    let decoded = Decoder::new(schema, options).decode([record]).unwrap();
    let after = decoded.events.column_by_name("after")?.as_struct().clone();
    (decoded.events.num_rows() == 1).then(|| after.column(0).clone())
}

fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<i8>().prop_map(|number| number.to_string()),
        any::<i32>().prop_map(|number| number.to_string()),
        any::<i64>().prop_map(|number| number.to_string()),
        any::<u64>().prop_map(|number| number.to_string()),
        (any::<i16>(), 0_u8..100).prop_map(|(whole, rest)| format!("{whole}.{rest:02}")),
        proptest::num::f32::NORMAL.prop_map(|number| format!("{number:?}")),
        proptest::num::f64::NORMAL.prop_map(|number| format!("{number:?}")),
        Just("null".to_owned()),
        Just("true".to_owned()),
        Just(r#""2024-02-29""#.to_owned()),
        Just(r#""2024-02-29T10:00:00.5Z""#.to_owned()),
        "\"[a-z0-9]{0,4}\"".prop_map(|text| text),
    ]
}

proptest! {
    // Whatever the verdict calls wider: older events are the same in it, or the same with more digits.
    #[test]
    fn older_events_are_read_through_a_wider_type_to_the_same_values(raw in value()) {
        for from in TYPES {
            let older = field(from);
            let Some(was) = read(&older, &raw) else { continue };
            for to in TYPES {
                let newer = field(to);
                if !matches!(widening(&older.fields[0], &newer.fields[0]), Step::Same | Step::Wider) {
                    continue;
                }
                let is = read(&newer, &raw);
                prop_assert!(is.is_some(), "{raw} is {from}, and no {to}");
                let is = is.unwrap();
                if from == "float32" {
                    prop_assert_eq!(&cast(&is, was.data_type()).unwrap(), &was, "{} {} {}", raw, from, to);
                } else {
                    prop_assert_eq!(&cast(&was, is.data_type()).unwrap(), &is, "{} {} {}", raw, from, to);
                }
            }
        }
    }
}

#[test]
fn widening_never_goes_both_ways() {
    for from in TYPES {
        for to in TYPES.iter().filter(|to| **to != from) {
            let (from, to) = (field(from), field(to));
            let there = widening(&from.fields[0], &to.fields[0]);
            let back = widening(&to.fields[0], &from.fields[0]);
            assert!(there != Step::Same && !(there == Step::Wider && back == Step::Wider), "{from:?} {to:?}");
        }
    }
}
