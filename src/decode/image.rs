//! Row images: what the schema says about the fields, and the buffers of one of the two images `before` and `after`.

use std::sync::Arc;

use arrow::array::{ArrayRef, NullBufferBuilder, StructArray};
use arrow::datatypes::Fields;
use arrow::error::ArrowError;
use foldhash::fast::RandomState;
use hashbrown::HashMap;

use super::columns::Column;
use super::nested::Trail;
use crate::schema::{Reading, type_of};

/// The fields of a row image, by index and by every name that events may use.
pub(super) struct Shape {
    pub(super) fields: Vec<ShapeField>,
    by_name: HashMap<Box<str>, usize, RandomState>,
}

pub(super) struct ShapeField {
    pub(super) name: Box<str>,
    pub(super) type_name: String,
    /// Never null where an event needs the image.
    pub(super) required: bool,
    /// JSON text that stands for the missing field.
    default: Option<Box<str>>,
    /// Bytes that defaults inside of it may add.
    inner_default_bytes: usize,
}

impl Shape {
    pub(super) fn new(schema: &Fields, readings: &[Reading]) -> Self {
        let mut by_name = HashMap::default();
        let mut fields = Vec::with_capacity(schema.len());
        for (index, (field, reading)) in schema.iter().zip(readings).enumerate() {
            for name in std::iter::once(field.name()).chain(&reading.aliases) {
                by_name.insert(name.as_str().into(), index);
            }
            fields.push(ShapeField {
                name: field.name().as_str().into(),
                type_name: type_of(field),
                required: !field.is_nullable(),
                default: reading.default.as_deref().map(Into::into),
                inner_default_bytes: reading.inner.iter().map(default_bytes).sum(),
            });
        }
        Self { fields, by_name }
    }

    /// Index of the field that events call `name`; `guess` is looked at first, because producers keep to the schema's order.
    pub(super) fn find(&self, name: &str, guess: usize) -> Option<usize> {
        match self.fields.get(guess) {
            Some(field) if *field.name == *name => Some(guess),
            _ => self.by_name.get(name).copied(),
        }
    }

    /// Bytes that defaults may add to one image.
    pub(super) fn default_bytes(&self) -> usize {
        let own = |field: &ShapeField| field.default.as_deref().map_or(0, str::len) + field.inner_default_bytes;
        self.fields.iter().map(own).sum()
    }
}

fn default_bytes(reading: &Reading) -> usize {
    reading.default.as_deref().map_or(0, str::len) + reading.inner.iter().map(default_bytes).sum::<usize>()
}

/// Buffers of one image. Between rows all columns are equally long.
pub(super) struct Image {
    columns: Vec<Column>,
    present: NullBufferBuilder,
}

impl Image {
    pub(super) fn new(fields: &Fields, readings: &[Reading]) -> Self {
        let columns = fields.iter().zip(readings).map(|(field, reading)| Column::new(field, reading)).collect();
        Self { columns, present: NullBufferBuilder::new(0) }
    }

    /// Rows that are complete.
    pub(super) fn len(&self) -> usize {
        self.present.len()
    }

    pub(super) fn column(&mut self, index: usize) -> Option<&mut Column> {
        self.columns.get_mut(index)
    }

    /// Appends what stands for a missing field: its default, or NULL. Yields whether that is a value.
    pub(super) fn push_missing(&mut self, index: usize, shape: &Shape) -> bool {
        let Some(column) = self.columns.get_mut(index) else { return false };
        let default = shape.fields.get(index).and_then(|field| field.default.as_deref());
        if default.is_some_and(|default| column.push(default, &mut Trail::default()).is_ok()) {
            return true;
        }
        column.push_null();
        false
    }

    /// Ends a row whose every column was appended to.
    pub(super) fn end_row(&mut self) {
        self.present.append_non_null();
    }

    /// Appends an image that is not there.
    pub(super) fn push_null(&mut self) {
        for column in &mut self.columns {
            column.push_null();
        }
        self.present.append_null();
    }

    /// Makes the last row one that is not there, its fields included: who reads a field need not look at the image first.
    pub(super) fn drop_last(&mut self) {
        self.truncate(self.present.len().saturating_sub(1));
        self.push_null();
    }

    /// Keeps the first `rows` rows, and nothing of a row that was begun.
    pub(super) fn truncate(&mut self, rows: usize) {
        for column in &mut self.columns {
            column.truncate(rows);
        }
        self.present.truncate(rows);
    }

    pub(super) fn finish(&mut self, fields: &Fields) -> Result<ArrayRef, ArrowError> {
        let columns = self.columns.iter_mut().map(Column::finish).collect::<Result<_, _>>()?;
        Ok(Arc::new(StructArray::try_new(fields.clone(), columns, self.present.finish())?))
    }
}

/// Which fields of an image were seen: one bit each, any number of fields.
#[derive(Default)]
pub(super) struct Seen(Vec<u64>);

impl Seen {
    pub(super) fn clear(&mut self, fields: usize) {
        self.0.clear();
        self.0.resize(fields.div_ceil(64), 0);
    }

    /// Whether `index` was not seen before.
    pub(super) fn insert(&mut self, index: usize) -> bool {
        let Some(word) = self.0.get_mut(index / 64) else { return false };
        let bit = 1 << (index % 64);
        let first = *word & bit == 0;
        *word |= bit;
        first
    }

    pub(super) fn contains(&self, index: usize) -> bool {
        self.0.get(index / 64).is_some_and(|word| word >> (index % 64) & 1 == 1)
    }
}
