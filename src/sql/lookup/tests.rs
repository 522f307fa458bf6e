//! A table under any changes is what a map under the same changes is.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeBinaryArray, Float64Array, Int64Array, ListArray, NullArray, RecordBatch,
    StringArray, StructArray, UInt32Array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::{cast, concat_batches, take};
use arrow::datatypes::{DataType, Field, Fields, TimeUnit};
use proptest::prelude::*;

use super::cells::Cells;
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
    let columns = Cells::of_key(std::slice::from_ref(&column)).unwrap();
    let values = table.take(&[1], &table.find(&columns, keys.len())).unwrap();
    let values = values[0].as_primitive::<arrow::datatypes::Int64Type>().iter();
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

/// So many that some twenty pairs of them have the same half of a hash: the index alone can't tell those apart.
#[test]
fn keys_are_told_apart_even_where_the_index_cannot() {
    let keys = |range: std::ops::Range<i64>| range.map(|key| key.to_string()).collect::<Vec<_>>();
    let there = keys(0..400_000);
    let all = rows(&there.iter().zip(0..).map(|(key, value)| (Some(key.as_str()), value)).collect::<Vec<_>>());
    let loaded = LookupTable::from_batches("t", &["k".to_owned()], vec![all.clone()]).unwrap();
    let mut applied = LookupTable::from_batches("t", &["k".to_owned()], vec![all.slice(0, 0)]).unwrap();
    assert_eq!(applied.apply(all, &[]).unwrap(), 400_000);
    assert!(loaded.same_rows(&applied) && applied.same_rows(&loaded));
    for table in [&loaded, &applied] {
        let found = looked_up(table, &there);
        assert!(found.len() == 400_000 && found.iter().all(|(key, value)| *key == value.to_string()));
        assert_eq!(looked_up(table, &keys(400_000..800_000)), BTreeMap::new());
    }
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

/// Five values of every kind that a lookup may hold, the last of them NULL.
fn domains() -> Vec<ArrayRef> {
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![Some(0), Some(1), Some(-7), Some(90), None]));
    let texts: ArrayRef = Arc::new(StringArray::from(vec![Some(""), Some("a"), Some("\u{e9}b"), Some("a\0"), None]));
    let decimals = |width: u8| cast(&numbers, &DataType::Decimal128(width, 2)).unwrap();
    let long = "long ".repeat(20_000);
    let list = |items: &ArrayRef| -> ArrayRef {
        let field = Arc::new(Field::new_list_field(items.data_type().clone(), true));
        let offsets = OffsetBuffer::new(vec![0, 0, 2, 3, 5, 5].into());
        let valid = NullBuffer::from(vec![true, true, true, true, false]);
        Arc::new(ListArray::new(field, offsets, Arc::clone(items), Some(valid)))
    };
    let dictionary: ArrayRef =
        cast(&texts, &DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Utf8))).unwrap();
    let fields: Fields = vec![
        Field::new("n", DataType::Int64, true),
        Field::new("t", DataType::Utf8, true),
        Field::new("d", dictionary.data_type().clone(), true),
    ]
    .into();
    let parts = vec![Arc::clone(&numbers), Arc::clone(&texts), Arc::clone(&dictionary)];
    let valid = NullBuffer::from(vec![true, true, true, true, false]);
    let nested: ArrayRef = Arc::new(StructArray::new(fields, parts, Some(valid)));
    let fixed = vec![Some([1_u8, 2, 3]), Some([0; 3]), Some([9; 3]), Some([255; 3]), None];
    let fixed = FixedSizeBinaryArray::try_from_sparse_iter_with_size(fixed.into_iter(), 3).unwrap();
    vec![
        cast(&numbers, &DataType::Boolean).unwrap(),
        cast(&numbers, &DataType::Int8).unwrap(),
        cast(&numbers, &DataType::Int32).unwrap(),
        decimals(12),
        cast(&decimals(12), &DataType::Decimal256(40, 3)).unwrap(),
        Arc::new(Float64Array::from(vec![Some(f64::NAN), Some(-0.0), Some(0.0), Some(1.5), None])),
        cast(&numbers, &DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))).unwrap(),
        cast(&cast(&numbers, &DataType::Int32).unwrap(), &DataType::Date32).unwrap(),
        cast(&texts, &DataType::Binary).unwrap(),
        Arc::new(StringArray::from(vec![Some("x"), Some(long.as_str()), Some(""), Some("y"), None])),
        Arc::new(fixed),
        list(&numbers),
        list(&list(&texts)),
        nested,
        Arc::new(NullArray::new(5)),
        numbers,
        texts,
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn rows_come_back_as_they_were_whatever_their_columns_hold(
        picks in proptest::collection::vec(proptest::collection::vec(0_u32..5, 17), 0..40),
        wanted in proptest::collection::vec(0_usize..18, 0..6),
        looked_up in proptest::collection::vec(0_i64..50, 0..60),
    ) {
        let key: ArrayRef = Arc::new(Int64Array::from_iter_values((0..picks.len()).map(|row| row as i64)));
        let columns = domains().into_iter().enumerate().map(|(nth, domain)| {
            let picks = UInt32Array::from_iter_values(picks.iter().map(|row| row[nth]));
            take(&domain, &picks, None).unwrap()
        });
        let columns: Vec<ArrayRef> = columns.chain([key]).collect();
        let names: Vec<String> = (0..columns.len()).map(|nth| format!("c{nth}")).collect();
        let batch = RecordBatch::try_from_iter_with_nullable(
            names.iter().zip(&columns).map(|(name, values)| (name, Arc::clone(values), true))
        ).unwrap();
        let key = ["c17".to_owned()];
        let loaded = LookupTable::from_batches("t", &key, vec![batch.clone()]).unwrap();
        let mut applied = LookupTable::of("t", &key, &batch.schema()).unwrap();
        applied.apply(batch.clone(), &[]).unwrap();
        for table in [&loaded, &applied] {
            prop_assert!(table.same_rows(&loaded));
            for all in [table.batches().unwrap(), table.kept_batches().unwrap(), table.kept_batches().unwrap()] {
                prop_assert_eq!(concat_batches(&batch.schema(), &all).unwrap(), batch.clone());
            }
            let keys: ArrayRef = Arc::new(Int64Array::from(looked_up.clone()));
            let places = table.find(&Cells::of_key(&[keys]).unwrap(), looked_up.len());
            let found = table.take(&wanted, &places).unwrap();
            let rows: UInt32Array =
                looked_up.iter().map(|key| Some(*key as u32).filter(|key| (*key as usize) < picks.len())).collect();
            for (column, found) in wanted.iter().zip(&found) {
                prop_assert_eq!(found, &take(&columns[*column], &rows, None).unwrap(), "column {}", column);
            }
        }
        prop_assert_eq!(applied.apply(batch, &[]).unwrap(), 0, "the same rows once more are no news");
    }
}

/// Many rows, so that blocks are filled, given back and used again, under changes that hit all of them.
#[test]
fn a_large_table_under_many_changes_stays_a_map_and_takes_no_more_room() {
    let key = |n: usize| format!("key {n} {}", "x".repeat(n % 90));
    let batch = |keys: &[usize], value: i64| {
        let keys: Vec<String> = keys.iter().map(|n| key(*n)).collect();
        rows(&keys.iter().map(|key| (Some(key.as_str()), value)).collect::<Vec<_>>())
    };
    let all: Vec<usize> = (0..60_000).collect();
    let mut table = LookupTable::from_batches("t", &["k".to_owned()], vec![batch(&all, -1)]).unwrap();
    let mut map: BTreeMap<String, i64> = all.iter().map(|n| (key(*n), -1)).collect();
    let before = table.byte_len();
    for round in 0..60_usize {
        let changed: Vec<usize> = (0..4_000).map(|nth| (nth * 7_919 + round * 104_729) % 60_000).collect();
        let delete = round % 5 == 4;
        for n in &changed {
            if delete {
                map.remove(&key(*n))
            } else {
                map.insert(key(*n), round as i64)
            };
        }
        table.apply(batch(&changed, round as i64), &vec![delete; changed.len()]).unwrap();
        assert_eq!(table.num_rows(), map.len());
    }
    assert_eq!(content(&table), map);
    assert_eq!(looked_up(&table, &all.iter().map(|n| key(*n)).collect::<Vec<_>>()), map);
    assert!(table.byte_len() < before * 2, "{} bytes, {before} at first", table.byte_len());
}
