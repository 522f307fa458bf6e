//! A row's key as bytes: hashed and compared where it lies in its column, so that an index holds nothing but row numbers.
//!
//! In: the key columns of some rows. Out: a hash per row, and whether two rows of any two batches have the same key. A NULL in a key
//! makes it none.

use std::hash::{BuildHasher, Hasher};

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer};
use arrow::datatypes::DataType;
use foldhash::fast::RandomState;

/// One key column of a batch.
#[derive(Debug, Clone)]
pub(in crate::sql) struct KeyColumn {
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

/// Whether two values of this type are equal exactly if their bytes are.
pub(in crate::sql) fn is_exact(kind: &DataType) -> bool {
    kind.is_integer()
        || matches!(
            kind,
            DataType::Utf8
                | DataType::Binary
                | DataType::Boolean
                | DataType::Date32
                | DataType::Date64
                | DataType::Time32(_)
                | DataType::Time64(_)
                | DataType::Timestamp(..)
                | DataType::Decimal128(..)
                | DataType::Decimal256(..)
        )
}

impl KeyColumn {
    /// `None` for a type that can't be a key.
    pub(in crate::sql) fn new(column: &ArrayRef) -> Option<Self> {
        let kind = column.data_type();
        if !is_exact(kind) && !kind.is_floating() {
            return None;
        }
        let values = match kind {
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

    /// All key columns of a batch; `None` if one has a type that can't be a key.
    pub(in crate::sql) fn all(columns: &[ArrayRef]) -> Option<Vec<Self>> {
        columns.iter().map(Self::new).collect()
    }

    fn is_null(&self, row: usize) -> bool {
        self.valid.as_ref().is_some_and(|valid| valid.is_null(row))
    }

    fn write(&self, row: usize, hasher: &mut impl Hasher) {
        match &self.values {
            Values::Fixed { bytes, width } => {
                let value = bytes.as_slice().get(row * width..(row + 1) * width).unwrap_or_default();
                match value.try_into() {
                    Ok(eight) => hasher.write_u64(u64::from_ne_bytes(eight)),
                    Err(_) => hasher.write(value),
                }
            }
            Values::Run { .. } => {
                let run = self.run(row);
                hasher.write(run);
                hasher.write_usize(run.len());
            }
            Values::Flags(flags) => hasher.write_u8(u8::from(flags.value(row))),
        }
    }

    fn run(&self, row: usize) -> &[u8] {
        match &self.values {
            Values::Run { bytes, ends } => match (ends.get(row), ends.get(row + 1)) {
                (Some(from), Some(to)) => bytes.as_slice().get(*from as usize..*to as usize).unwrap_or_default(),
                _ => &[],
            },
            _ => &[],
        }
    }

    /// Whether two values, neither of them NULL, are the same.
    fn same(&self, row: usize, other: &Self, there: usize) -> bool {
        match (&self.values, &other.values) {
            (Values::Fixed { bytes, width }, Values::Fixed { bytes: others, width: same }) => {
                let here = bytes.as_slice().get(row * width..(row + 1) * width);
                width == same && here == others.as_slice().get(there * same..(there + 1) * same)
            }
            (Values::Run { .. }, Values::Run { .. }) => self.run(row) == other.run(there),
            (Values::Flags(here), Values::Flags(others)) => here.value(row) == others.value(there),
            _ => false,
        }
    }
}

/// The hash of a row's key; `None` if a part of it is NULL.
pub(super) fn hash(columns: &[KeyColumn], row: usize, seed: &RandomState) -> Option<u64> {
    let mut hasher = seed.build_hasher();
    for column in columns {
        if column.is_null(row) {
            return None;
        }
        column.write(row, &mut hasher);
    }
    Some(hasher.finish())
}

/// Whether two rows, whose keys hold no NULL, have the same key.
pub(super) fn same(columns: &[KeyColumn], row: usize, others: &[KeyColumn], there: usize) -> bool {
    columns.iter().zip(others).all(|(column, other)| column.same(row, other, there))
}
