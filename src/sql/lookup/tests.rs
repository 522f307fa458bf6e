//! A table under any changes is what a map under the same changes is.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use proptest::prelude::*;

use super::key::KeyColumn;
use super::{Lines, LookupTable};

fn rows(rows: &[(Option<&str>, i64)]) -> RecordBatch {
    let keys: ArrayRef = Arc::new(rows.iter().map(|(key, _)| *key).collect::<StringArray>());
    let values: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|(_, value)| *value)));
    RecordBatch::try_from_iter_with_nullable([("k", keys, true), ("v", values, true)]).unwrap()
}

fn content(table: &LookupTable) -> BTreeMap<String, i64> {
    let mut found = BTreeMap::new();
    for batch in table.batches().unwrap() {
        let values = batch.column(1).as_primitive::<arrow::datatypes::Int64Type>();
        for (row, key) in batch.column(0).as_string::<i32>().iter().enumerate() {
            assert_eq!(found.insert(key.unwrap().to_owned(), values.value(row)), None);
        }
    }
    assert_eq!(found.len(), table.num_rows());
    found
}

/// What the index finds for each of some keys.
fn looked_up(table: &LookupTable, keys: &[String]) -> BTreeMap<String, i64> {
    let column: ArrayRef = Arc::new(StringArray::from_iter_values(keys));
    let columns = KeyColumn::all(std::slice::from_ref(&column)).unwrap();
    let found: Vec<Option<u32>> = (0..keys.len()).map(|row| table.find(&columns, row)).collect();
    let values = table.take(1, &found).unwrap();
    let values = values.as_primitive::<arrow::datatypes::Int64Type>().iter();
    keys.iter().zip(values).filter_map(|(key, value)| Some((key.clone(), value?))).collect()
}

proptest! {
    #[test]
    fn a_table_is_what_a_map_would_be(
        first in proptest::collection::btree_map("[a-f]{1,2}", 0_i64..9, 0..20),
        changes in proptest::collection::vec(
            proptest::collection::vec(("[a-f]{1,2}", 0_i64..3, proptest::bool::weighted(0.3)), 0..12),
            0..40,
        ),
    ) {
        let start: Vec<(Option<&str>, i64)> = first.iter().map(|(key, value)| (Some(key.as_str()), *value)).collect();
        let chunks: Vec<RecordBatch> = std::iter::once(rows(&[])).chain(start.chunks(3).map(rows)).collect();
        let mut table = LookupTable::from_batches("t", &["k".to_owned()], chunks).unwrap();
        let mut map = first;
        let letters = || ('a'..='f').map(String::from);
        let keys: Vec<String> =
            letters().chain(letters().flat_map(|one| letters().map(move |two| one.clone() + &two))).collect();
        for change in &changes {
            let before = (map.clone(), table.clone());
            let mut differ = 0;
            for (key, value, deleted) in change {
                let earlier = if *deleted { map.remove(key) } else { map.insert(key.clone(), *value) };
                differ += usize::from(earlier != (!deleted).then_some(*value));
            }
            let batch: Vec<(Option<&str>, i64)> =
                change.iter().map(|(key, value, _)| (Some(key.as_str()), *value)).collect();
            let deleted: Vec<bool> = change.iter().map(|(_, _, deleted)| *deleted).collect();
            prop_assert_eq!(table.apply(rows(&batch), &deleted).unwrap(), differ);
            prop_assert_eq!(content(&table), map.clone());
            prop_assert_eq!(looked_up(&table, &keys), map.clone());
            prop_assert_eq!(content(&before.1), before.0.clone(), "an older version stays as it was");
            prop_assert_eq!(before.1.same_rows(&table), before.0 == map);
        }
    }
}

#[test]
fn rows_that_are_replaced_again_and_again_take_no_more_room() {
    let keys: Vec<String> = (0..500).map(|key| format!("key {key}")).collect();
    let all = |value: i64| rows(&keys.iter().map(|key| (Some(key.as_str()), value)).collect::<Vec<_>>());
    let mut table = LookupTable::from_batches("t", &["k".to_owned()], vec![all(0)]).unwrap();
    let before = table.byte_len();
    for round in 1..60 {
        assert_eq!(table.apply(all(round), &[]).unwrap(), 500);
        for one in 0..50 {
            let change = rows(&[(Some(keys[one * 7 % 500].as_str()), -round)]);
            assert_eq!(table.apply(change.clone(), &[false]).unwrap(), 1);
            assert_eq!(table.apply(change.clone(), &[false]).unwrap(), 0, "the same row once more is no news");
        }
    }
    assert!(table.byte_len() < before * 3, "{} bytes, {before} at first", table.byte_len());
    assert_eq!(table.num_rows(), 500);
}

#[test]
fn a_row_without_a_key_changes_nothing() {
    let mut table = LookupTable::from_batches("t", &["k".to_owned()], vec![rows(&[(Some("a"), 1)])]).unwrap();
    assert_eq!(table.apply(rows(&[(None, 5), (Some("b"), 2)]), &[]).unwrap(), 1);
    assert_eq!(content(&table), [("a".to_owned(), 1), ("b".to_owned(), 2)].into());
}

#[test]
fn more_rows_than_a_chunk_holds_are_split() {
    let keys: Vec<String> = (0..200_000).map(|key| key.to_string()).collect();
    let all = rows(&keys.iter().zip(0..).map(|(key, value)| (Some(key.as_str()), value)).collect::<Vec<_>>());
    let loaded = LookupTable::from_batches("t", &["k".to_owned()], vec![all.clone()]).unwrap();
    let mut applied = LookupTable::from_batches("t", &["k".to_owned()], vec![all.slice(0, 0)]).unwrap();
    assert_eq!(applied.apply(all, &[]).unwrap(), 200_000);
    assert!(loaded.same_rows(&applied) && applied.same_rows(&loaded));
    assert_eq!(looked_up(&applied, &keys[199_990..]).len(), 10);
}

#[test]
fn lines_are_kept_as_jumps() {
    let mut lines = Lines::default();
    for line in [2, 3, 4, 9, 10, 30] {
        lines.push(line);
    }
    assert_eq!((0..7).map(|row| lines.of(row)).collect::<Vec<_>>(), [2, 3, 4, 9, 10, 30, 31].map(Some));
    assert_eq!(lines.jumps.len(), 3);
    assert_eq!(Lines::default().of(0), None);
}
