//! A column's values as bytes, read where they lie: what rows are encoded from, and what keys are compared by.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer};
use arrow::datatypes::DataType;

use super::key::is_exact;

/// One column of a batch.
#[derive(Debug, Clone)]
pub(in crate::sql) struct Cells {
    values: Values,
    valid: Option<NullBuffer>,
}

#[derive(Debug, Clone)]
enum Values {
    /// Numbers, dates, times: `width` bytes each.
    Fixed {
        bytes: Buffer,
        width: usize,
    },
    /// Texts and bytes.
    Run {
        bytes: Buffer,
        ends: OffsetBuffer<i32>,
    },
    Flags(BooleanBuffer),
}

impl Cells {
    /// `None` for a type whose values don't lie there as bytes: what is nested, or stands for something else.
    pub(super) fn new(column: &ArrayRef) -> Option<Self> {
        let values = match column.data_type() {
            DataType::Utf8 => {
                let texts = column.as_string::<i32>();
                Values::Run { bytes: texts.values().clone(), ends: texts.offsets().clone() }
            }
            DataType::Binary => {
                let runs = column.as_binary::<i32>();
                Values::Run { bytes: runs.values().clone(), ends: runs.offsets().clone() }
            }
            DataType::Boolean => Values::Flags(column.as_boolean().values().clone()),
            other => {
                let width = other.primitive_width()?;
                let values = column.to_data();
                let bytes = values.buffers().first()?;
                Values::Fixed { bytes: bytes.slice_with_length(values.offset() * width, values.len() * width), width }
            }
        };
        Some(Self { values, valid: column.nulls().cloned() })
    }

    /// The columns of a key; `None` if one has a type that can't be a key.
    pub(in crate::sql) fn of_key(columns: &[ArrayRef]) -> Option<Vec<Self>> {
        let can_be_key = |kind: &DataType| is_exact(kind) || kind.is_floating();
        columns.iter().map(|column| can_be_key(column.data_type()).then(|| Self::new(column)).flatten()).collect()
    }

    /// The bytes of a value, `None` for NULL.
    #[inline]
    pub(super) fn get(&self, row: usize) -> Option<&[u8]> {
        if self.valid.as_ref().is_some_and(|valid| valid.is_null(row)) {
            return None;
        }
        match &self.values {
            Values::Fixed { bytes, width } => bytes.as_slice().get(row * width..(row + 1) * width),
            Values::Run { bytes, ends } => match (ends.get(row), ends.get(row + 1)) {
                (Some(from), Some(to)) => bytes.as_slice().get(*from as usize..*to as usize),
                _ => None,
            },
            Values::Flags(flags) => Some(if flags.value(row) { &[1] } else { &[0] }),
        }
    }
}
