//! Keys of rows as bytes: hashed, compared and sorted without looking at their types again.
//!
//! In: key columns. Out: per row bytes that are equal where the keys are, and order as the target's key does, NULL first. A key that is
//! one column of text, the common case, is its own bytes and costs nothing.

use arrow::array::{Array, ArrayRef, AsArray, StringArray};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use arrow::row::{RowConverter, SortField};

/// Turns key columns of certain types into [`EncodedKeys`]; only those of one encoder can be compared.
pub(super) enum Encoder {
    Text,
    Rows(RowConverter),
}

impl Encoder {
    pub(super) fn new(types: Vec<DataType>) -> Result<Self, ArrowError> {
        match types.as_slice() {
            [DataType::Utf8] => Ok(Self::Text),
            _ => RowConverter::new(types.into_iter().map(SortField::new).collect()).map(Self::Rows),
        }
    }

    pub(super) fn encode(&self, keys: &[ArrayRef]) -> Result<EncodedKeys, ArrowError> {
        match (self, keys) {
            (Self::Text, [key]) => match key.as_string_opt::<i32>() {
                Some(texts) => Ok(EncodedKeys::Text(texts.clone())),
                None => Err(ArrowError::InvalidArgumentError("a key of another type than was planned".to_owned())),
            },
            (Self::Text, _) => Err(ArrowError::InvalidArgumentError("a key of other columns than planned".to_owned())),
            (Self::Rows(converter), keys) => converter.convert_columns(keys).map(EncodedKeys::Rows),
        }
    }
}

/// The keys of a table's rows.
pub(super) enum EncodedKeys {
    Text(StringArray),
    Rows(arrow::row::Rows),
}

impl EncodedKeys {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Text(texts) => texts.len(),
            Self::Rows(rows) => rows.num_rows(),
        }
    }

    /// The key of `row`, which must be one; `None` where it is a NULL text.
    pub(super) fn get(&self, row: usize) -> Option<&[u8]> {
        match self {
            Self::Text(texts) if texts.is_null(row) => None,
            Self::Text(texts) => Some(texts.value(row).as_bytes()),
            Self::Rows(rows) => Some(rows.row(row).data()),
        }
    }
}

/// Row numbers in key order.
pub(super) fn sorted(keys: &EncodedKeys) -> Vec<u32> {
    let rows = 0..keys.len();
    // What all keys begin with tells nothing; the eight bytes behind it tell nearly everything, and lie side by side.
    let first = rows.clone().find_map(|row| keys.get(row)).unwrap_or_default();
    let common = rows.clone().filter_map(|row| keys.get(row)).fold(first.len(), |common, key| {
        let alike = first.iter().zip(key).take(common).take_while(|(one, other)| one == other);
        alike.count()
    });
    let mut order: Vec<(u64, u32)> = rows.map(|row| (beginning(keys.get(row), common), row as u32)).collect();
    let rest = |row: u32| keys.get(row as usize);
    order.sort_unstable_by(|left, right| left.0.cmp(&right.0).then_with(|| rest(left.1).cmp(&rest(right.1))));
    order.into_iter().map(|(_, row)| row).collect()
}

/// The eight bytes of `key` from `from` on, filled up with zeros, as a number: never in another order than the keys.
fn beginning(key: Option<&[u8]>, from: usize) -> u64 {
    let bytes = key.and_then(|key| key.get(from..)).unwrap_or_default();
    match bytes.first_chunk() {
        Some(eight) => u64::from_be_bytes(*eight),
        None => bytes.iter().enumerate().fold(0, |number, (place, byte)| number | u64::from(*byte) << (56 - 8 * place)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::Int64Array;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn keys_order_as_their_values_do(
            texts in prop::collection::vec(prop::option::of("(user|u|)[0-9\u{0}é]{0,12}"), 0..50),
            numbers in prop::collection::vec(any::<Option<i8>>(), 50),
        ) {
            let numbers: Vec<Option<i64>> = numbers.iter().take(texts.len()).map(|it| it.map(i64::from)).collect();
            let text: ArrayRef = Arc::new(StringArray::from_iter(&texts));
            let number: ArrayRef = Arc::new(Int64Array::from_iter(&numbers));
            let order = |keys: &[ArrayRef]| {
                let encoder = Encoder::new(keys.iter().map(|key| key.data_type().clone()).collect()).unwrap();
                sorted(&encoder.encode(keys).unwrap()).into_iter().map(|row| row as usize).collect::<Vec<_>>()
            };
            let by_text: Vec<_> = order(std::slice::from_ref(&text)).into_iter().map(|row| texts[row].clone()).collect();
            prop_assert!(by_text.is_sorted());
            let by_number: Vec<_> = order(std::slice::from_ref(&number)).into_iter().map(|row| numbers[row]).collect();
            prop_assert!(by_number.is_sorted());
            let by_both: Vec<_> = order(&[text, number]).into_iter().map(|row| (&texts[row], numbers[row])).collect();
            prop_assert!(by_both.is_sorted());
        }
    }
}
