use std::sync::Arc;

use arrow::array::{Int32Array, Int64Array, StringArray, TimestampNanosecondArray};

use super::insert::Rows as _;
use super::*;
use crate::target::Column;

fn target() -> Target {
    let column = |name: &str, holds| Column { name: name.to_owned(), ddl_type: String::new(), holds, nullable: true };
    Target {
        table: "t".to_owned(),
        columns: vec![
            column("id", Holds::Text { max_chars: 9, max_bytes: 9 }),
            column("at", Holds::DateTime { digits: 3 }),
        ],
        key_len: 1,
    }
}

fn rows(id: &str, at: i64, deleted: bool) -> RecordBatch {
    RecordBatch::try_from_iter([
        ("id", Arc::new(StringArray::from(vec![id])) as ArrayRef),
        ("at", Arc::new(TimestampNanosecondArray::from(vec![at]))),
        ("_deleted", Arc::new(BooleanArray::from(vec![deleted]))),
        ("cdc_ts", Arc::new(Int64Array::from(vec![7]))),
        ("cdc_partition", Arc::new(Int32Array::from(vec![1]))),
        ("cdc_offset", Arc::new(Int64Array::from(vec![3]))),
    ])
    .unwrap()
}

#[test]
fn a_line_escapes_what_could_end_a_field() {
    let marks = Marks { late: &[true], stored: &[] };
    let lines = Lines::encode(&target(), &rows("a\tb\\c\nd", 1_700_000_000_123_000_000, false), marks, &[0]).unwrap();
    let text = std::str::from_utf8(&lines).unwrap();
    assert_eq!(text, "i\t0\ta\\tb\\\\c\\nd\ta\\tb\\\\c\\nd\t2023-11-14 22:13:20.123\t7\t1\t3\n");
}

#[test]
fn whole_numbers_are_written_as_they_are_formatted() {
    for value in [0, 7, -7, 10, 99, 100, -1_234_567, i64::MAX, i64::MIN] {
        let mut out = Vec::new();
        write_int(&mut out, value);
        assert_eq!(String::from_utf8(out).unwrap(), value.to_string());
    }
}

#[test]
fn a_literal_cannot_be_left() {
    let (target, rows) = (target(), rows("o'k\\", 0, true));
    let mut sql = Vec::new();
    Tuples::staged(&target, &rows, Marks::default()).unwrap().push(&mut sql, 0).unwrap();
    assert_eq!(String::from_utf8(sql).unwrap(), "('d',NULL,'o\\'k\\\\','o\\'k\\\\',NULL,7,1,3)");
}

#[test]
fn values_are_the_texts_as_they_are_and_whole_numbers() {
    let (target, rows) = (target(), rows("o'k\\", 1_700_000_000_123_000_000, false));
    let bytes = |text: &str| Value::Bytes(text.into());
    let of_target = [bytes("o'k\\"), bytes("2023-11-14 22:13:20.123"), Value::Int(7), Value::Int(1), Value::Int(3)];
    let values = |tuples: Tuples<'_>| {
        let mut values = Vec::new();
        tuples.values(&mut values, 0).unwrap();
        values
    };
    assert_eq!(values(Tuples::of_target(&target, &rows).unwrap()), of_target);
    let marks = Marks { late: &[true], stored: &[true] };
    let staged = values(Tuples::staged(&target, &rows, marks).unwrap());
    assert_eq!(staged, [&[bytes("u"), Value::Int(0), bytes("o'k\\")], &of_target[..]].concat());
}

#[test]
fn digits_that_the_column_does_not_keep_are_refused() {
    let rows = rows("a", 1_700_000_000_123_456_000, false);
    let fault = Lines::encode(&target(), &rows, Marks::default(), &[0]).unwrap_err();
    assert_eq!(fault.column.as_deref(), Some("at"));
}

#[test]
fn a_key_to_look_for_is_the_one_that_is_written() {
    let key = |target: &Target, rows: &RecordBatch| {
        let mut written = Vec::new();
        Rows::new(target, rows, Marks::default()).unwrap().write_key(&mut written, 0, Form::Field).unwrap();
        let keys = Keys::new(target, rows).unwrap();
        (keys.text(0).unwrap(), keys.condition(0).unwrap(), String::from_utf8(written).unwrap())
    };
    let (mut target, rows) = (target(), rows("o'k", 1_700_000_000_123_000_000, true));
    let (text, condition, written) = key(&target, &rows);
    assert_eq!((text.as_str(), condition.as_str(), written.as_str()), ("o'k", "`id` = 'o\\'k'", "o'k"));
    target.key_len = 2;
    let (text, condition, written) = key(&target, &rows);
    assert_eq!(text, written.replace("\\0", "\0"));
    assert_eq!(condition, "`id` = 'o\\'k' AND `at` = '2023-11-14 22:13:20.123'");
}

#[test]
fn joined_keys_of_different_parts_differ() {
    let join = |left: &str, right: &str| {
        let mut target = target();
        target.columns[1].holds = Holds::Text { max_chars: 9, max_bytes: 9 };
        target.key_len = 2;
        let batch = RecordBatch::try_from_iter([
            ("id", Arc::new(StringArray::from(vec![left])) as ArrayRef),
            ("at", Arc::new(StringArray::from(vec![right]))),
            ("_deleted", Arc::new(BooleanArray::from(vec![false]))),
            ("cdc_ts", Arc::new(Int64Array::from(vec![7]))),
            ("cdc_partition", Arc::new(Int32Array::from(vec![1]))),
            ("cdc_offset", Arc::new(Int64Array::from(vec![3]))),
        ])
        .unwrap();
        let mut key = Vec::new();
        Rows::new(&target, &batch, Marks::default()).unwrap().write_key(&mut key, 0, Form::Field).unwrap();
        key
    };
    assert_ne!(join("a\0", "b"), join("a", "\0b"));
    assert_ne!(join("", "ab"), join("a", "b"));
}
