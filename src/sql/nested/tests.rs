use std::path::Path;

use arrow::array::StructArray;
use proptest::prelude::*;

use super::*;
use crate::decode::{DecodeOptions, Decoder, TimestampUnit};
use crate::record::RawRecord;
use crate::schema::SourceSchema;

const FIELDS: &str = r#"{"fields": [{"name": "doc", "type": "struct", "fields": [
    {"name": "z", "type": "utf8"},
    {"name": "i", "type": "int8"},
    {"name": "u", "type": "uint64"},
    {"name": "a", "type": "decimal128(30,4)"},
    {"name": "f", "type": "float64"},
    {"name": "s", "type": "float32"},
    {"name": "b", "type": "boolean"},
    {"name": "day", "type": "date32"},
    {"name": "at", "type": "timestamp(us)"},
    {"name": "bytes", "type": "binary"},
    {"name": "any", "type": "json"},
    {"name": "list", "type": "list", "items": {"type": "list", "items": {"type": "int64"}}}
]}]}"#;

/// What is written for `doc` as it was read.
fn rewritten(docs: &[String]) -> Vec<Option<String>> {
    let schema = SourceSchema::parse(1, Path::new("1.json"), FIELDS).unwrap();
    let options =
        DecodeOptions { topic: "t".into(), timestamp_unit: TimestampUnit::Ms, max_future_skew: Default::default() };
    let payloads: Vec<String> =
        docs.iter().map(|doc| format!(r#"{{"op":"c","after":{{"doc":{doc}}},"timestamp":0}}"#)).collect();
    let records = payloads.iter().enumerate().map(|(offset, payload)| RawRecord {
        partition: 0,
        offset: offset as i64,
        timestamp_ms: None,
        key: None,
        value: Some(payload.as_bytes()),
        headers: b"",
    });
    let decoded = Decoder::new(&schema, options).decode(records).unwrap();
    assert_eq!(decoded.refused, [], "{docs:?}");
    let after: &StructArray = decoded.events.column_by_name("after").unwrap().as_struct();
    let batch = RecordBatch::try_from_iter([("doc", after.column_by_name("doc").unwrap().clone())]).unwrap();
    let (batch, faults) = written(batch).unwrap();
    assert!(faults.is_empty(), "{faults:?}");
    assert!(is_json(batch.schema().field(0)));
    batch.column(0).as_string::<i32>().iter().map(|text| text.map(str::to_owned)).collect()
}

#[test]
fn every_type_is_written_so_that_it_reads_back() {
    let doc = r#"{"z":"a\"\\\u0000\n€","i":-7,"u":18446744073709551615,"a":12345678901234567890.1200,"f":0.1,"s":0.1,"b":true,"day":"2024-02-29","at":"2024-02-29T12:00:00.000001Z","bytes":"AP8=","any":{"b": 1.50, "a":[]},"list":[[1,null],null,[]]}"#;
    assert_eq!(rewritten(&[doc.to_owned()]), [Some(doc.to_owned())]);
    let nulls = r#"{"z":null,"i":null,"u":null,"a":null,"f":null,"s":null,"b":null,"day":null,"at":null,"bytes":null,"any":null,"list":null}"#;
    assert_eq!(rewritten(&["{}".to_owned(), "null".to_owned()]), [Some(nulls.to_owned()), None]);
}

#[test]
fn what_json_has_no_word_for_is_named_with_its_row() {
    let numbers: ArrayRef = Arc::new(arrow::array::Float64Array::from(vec![1.0, f64::NAN, f64::INFINITY]));
    let field = Arc::new(Field::new("n", DataType::Float64, true));
    let structs: ArrayRef = Arc::new(StructArray::from(vec![(field, numbers)]));
    let (batch, faults) = written(RecordBatch::try_from_iter([("doc", structs)]).unwrap()).unwrap();
    let rows: Vec<usize> = faults
        .iter()
        .map(|(row, column, _)| {
            assert_eq!(column, "doc");
            *row
        })
        .collect();
    assert_eq!(rows, [1, 2]);
    assert_eq!(batch.column(0).as_string::<i32>().value(0), r#"{"n":1.0}"#);
}

proptest! {
    // Proves: P6
    #[test]
    fn numbers_keep_their_digits(i in any::<i8>(), u in any::<u64>(), a in any::<i64>(), f in proptest::num::f64::NORMAL, text in "\\PC{0,8}") {
        let text = Value::from(text);
        let (whole, rest) = (a / 10_000, (a % 10_000).abs());
        let sign = if a < 0 && whole == 0 { "-" } else { "" };
        let doc = format!(r#"{{"z":{text},"i":{i},"u":{u},"a":{sign}{whole}.{rest:04},"f":{f:?},"s":null,"b":null,"day":null,"at":null,"bytes":null,"any":[{f:e}],"list":[[{a}]]}}"#);
        prop_assert_eq!(rewritten(std::slice::from_ref(&doc)), [Some(doc)]);
    }
}
