//! Column buffers that can be cut back: values are appended as they are read, a bad record's are truncated away, and a finished
//! column becomes an Arrow array without a copy.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, ArrowPrimitiveType, BinaryArray, BooleanArray, BooleanBufferBuilder, NullBufferBuilder, PrimitiveArray,
    StringArray,
};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Field, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    TimeUnit, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
    UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow::error::ArrowError;

use super::nested::{Lists, Structs, Trail};
use crate::schema::values::{self, Wrong};
use crate::schema::{Reading, is_json};

/// One column of an image.
pub(super) enum Column {
    /// Text, the common case, is taken over from the parser directly.
    Text(Bytes),
    Other(Box<dyn Cells>),
    /// JSON, kept as it is written.
    Json(Bytes),
    Struct(Box<Structs>),
    List(Box<Lists>),
}

/// Values of one type, appended from the raw JSON text of each.
pub(super) trait Cells: Send {
    /// Appends the value that `raw`, JSON but not `null`, stands for; appends nothing where it is none.
    fn push(&mut self, raw: &str) -> Result<(), Wrong>;
    fn push_null(&mut self);
    /// Keeps the first `rows` values.
    fn truncate(&mut self, rows: usize);
    /// Hands over the array and starts again, empty.
    fn finish(&mut self) -> Result<ArrayRef, ArrowError>;
}

impl Column {
    /// A column for a field of one of the types that schema files know.
    pub(super) fn new(field: &Field, reading: &Reading) -> Self {
        let data_type = field.data_type();
        let cells: Box<dyn Cells> = match data_type {
            DataType::Utf8 if is_json(field) => return Self::Json(Bytes { form: BytesForm::Json, ..Bytes::binary() }),
            DataType::Utf8 => return Self::Text(Bytes::text()),
            DataType::Struct(fields) => return Self::Struct(Box::new(Structs::new(fields, &reading.inner))),
            DataType::List(items) => return Self::List(Box::new(Lists::new(items, reading.inner.first()))),
            DataType::Boolean => Box::new(Booleans::default()),
            DataType::Int8 => Box::new(Fixed::<Int8Type>::new(data_type, |raw, _| values::int(raw))),
            DataType::Int16 => Box::new(Fixed::<Int16Type>::new(data_type, |raw, _| values::int(raw))),
            DataType::Int32 => Box::new(Fixed::<Int32Type>::new(data_type, |raw, _| values::int(raw))),
            DataType::Int64 => Box::new(Fixed::<Int64Type>::new(data_type, |raw, _| values::int(raw))),
            DataType::UInt8 => Box::new(Fixed::<UInt8Type>::new(data_type, |raw, _| values::int(raw))),
            DataType::UInt16 => Box::new(Fixed::<UInt16Type>::new(data_type, |raw, _| values::int(raw))),
            DataType::UInt32 => Box::new(Fixed::<UInt32Type>::new(data_type, |raw, _| values::int(raw))),
            DataType::UInt64 => Box::new(Fixed::<UInt64Type>::new(data_type, |raw, _| values::int(raw))),
            DataType::Float32 => Box::new(Fixed::<Float32Type>::new(data_type, |raw, _| values::float32(raw))),
            DataType::Float64 => Box::new(Fixed::<Float64Type>::new(data_type, |raw, _| values::float64(raw))),
            DataType::Date32 => Box::new(Fixed::<Date32Type>::new(data_type, |raw, _| values::date32(raw))),
            DataType::Decimal128(_, _) => Box::new(Fixed::<Decimal128Type>::new(data_type, values::decimal128)),
            DataType::Timestamp(unit, _) => match unit {
                TimeUnit::Second => Box::new(Fixed::<TimestampSecondType>::new(data_type, values::timestamp)),
                TimeUnit::Millisecond => Box::new(Fixed::<TimestampMillisecondType>::new(data_type, values::timestamp)),
                TimeUnit::Microsecond => Box::new(Fixed::<TimestampMicrosecondType>::new(data_type, values::timestamp)),
                TimeUnit::Nanosecond => Box::new(Fixed::<TimestampNanosecondType>::new(data_type, values::timestamp)),
            },
            // Schema files know no other type; `finish` would name it if one were added there only.
            _ => Box::new(Bytes::binary()),
        };
        Self::Other(cells)
    }

    /// Appends a value; `trail` says what lies inside of one that has parts. Nothing is appended where it is none.
    pub(super) fn push(&mut self, raw: &str, trail: &mut Trail) -> Result<(), Wrong> {
        match self {
            Self::Text(bytes) | Self::Json(bytes) => bytes.push(raw),
            Self::Other(cells) => cells.push(raw),
            Self::Struct(structs) => structs.push(raw, trail),
            Self::List(lists) => lists.push(raw, trail),
        }
    }

    /// Whether arrays and objects can be values.
    pub(super) fn is_nested(&self) -> bool {
        matches!(self, Self::Json(_) | Self::Struct(_) | Self::List(_))
    }

    pub(super) fn push_null(&mut self) {
        match self {
            Self::Text(bytes) | Self::Json(bytes) => bytes.push_null(),
            Self::Other(cells) => cells.push_null(),
            Self::Struct(structs) => structs.push_null(),
            Self::List(lists) => lists.push_null(),
        }
    }

    pub(super) fn truncate(&mut self, rows: usize) {
        match self {
            Self::Text(bytes) | Self::Json(bytes) => bytes.truncate(rows),
            Self::Other(cells) => cells.truncate(rows),
            Self::Struct(structs) => structs.truncate(rows),
            Self::List(lists) => lists.truncate(rows),
        }
    }

    pub(super) fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        match self {
            Self::Text(bytes) | Self::Json(bytes) => bytes.finish(),
            Self::Other(cells) => cells.finish(),
            Self::Struct(structs) => structs.finish(),
            Self::List(lists) => lists.finish(),
        }
    }
}

/// Values of a fixed width and how they are read.
pub(super) struct Fixed<T: ArrowPrimitiveType> {
    data_type: DataType,
    parse: fn(&str, &DataType) -> Result<T::Native, Wrong>,
    values: Vec<T::Native>,
    valid: NullBufferBuilder,
}

impl<T: ArrowPrimitiveType> Fixed<T> {
    fn new(data_type: &DataType, parse: fn(&str, &DataType) -> Result<T::Native, Wrong>) -> Self {
        Self { data_type: data_type.clone(), parse, values: Vec::new(), valid: NullBufferBuilder::new(0) }
    }
}

impl<T: ArrowPrimitiveType> Cells for Fixed<T> {
    fn push(&mut self, raw: &str) -> Result<(), Wrong> {
        self.values.push((self.parse)(raw, &self.data_type)?);
        self.valid.append_non_null();
        Ok(())
    }

    fn push_null(&mut self) {
        self.values.push(T::Native::default());
        self.valid.append_null();
    }

    fn truncate(&mut self, rows: usize) {
        self.values.truncate(rows);
        self.valid.truncate(rows);
    }

    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        let array = PrimitiveArray::<T>::try_new(ScalarBuffer::from(take(&mut self.values)), self.valid.finish())?;
        Ok(Arc::new(array.with_data_type(self.data_type.clone())))
    }
}

struct Booleans {
    values: BooleanBufferBuilder,
    valid: NullBufferBuilder,
}

impl Default for Booleans {
    fn default() -> Self {
        Self { values: BooleanBufferBuilder::new(0), valid: NullBufferBuilder::new(0) }
    }
}

impl Cells for Booleans {
    fn push(&mut self, raw: &str) -> Result<(), Wrong> {
        self.values.append(values::boolean(raw)?);
        self.valid.append_non_null();
        Ok(())
    }

    fn push_null(&mut self) {
        self.values.append(false);
        self.valid.append_null();
    }

    fn truncate(&mut self, rows: usize) {
        self.values.truncate(rows);
        self.valid.truncate(rows);
    }

    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        Ok(Arc::new(BooleanArray::new(self.values.finish(), self.valid.finish())))
    }
}

/// What the bytes of a column are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BytesForm {
    Text,
    Json,
    Binary,
}

/// Text or bytes: one run of bytes and where each value ends. Stays below 2 GiB because a batch does.
pub(super) struct Bytes {
    form: BytesForm,
    values: Vec<u8>,
    /// Where values begin and end; one more than there are values.
    offsets: Vec<i32>,
    valid: NullBufferBuilder,
}

impl Bytes {
    pub(super) fn text() -> Self {
        Self { form: BytesForm::Text, ..Self::binary() }
    }

    pub(super) fn binary() -> Self {
        Self { form: BytesForm::Binary, values: Vec::new(), offsets: vec![0], valid: NullBufferBuilder::new(0) }
    }

    /// Appends a value as it is.
    pub(super) fn append(&mut self, value: &[u8]) {
        self.values.extend_from_slice(value);
        self.offsets.push(self.values.len() as i32);
        self.valid.append_non_null();
    }
}

impl Cells for Bytes {
    fn push(&mut self, raw: &str) -> Result<(), Wrong> {
        match self.form {
            BytesForm::Text => self.append(values::utf8(raw)?.as_bytes()),
            BytesForm::Json => self.append(values::json(raw)?.as_bytes()),
            BytesForm::Binary => self.append(&values::binary(raw)?),
        }
        Ok(())
    }

    fn push_null(&mut self) {
        self.offsets.push(self.values.len() as i32);
        self.valid.append_null();
    }

    fn truncate(&mut self, rows: usize) {
        self.offsets.truncate(rows + 1);
        self.values.truncate(self.offsets.last().copied().unwrap_or_default() as usize);
        self.valid.truncate(rows);
    }

    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        let values = Buffer::from_vec(take(&mut self.values));
        let offsets = OffsetBuffer::new(ScalarBuffer::from(take(&mut self.offsets)));
        self.offsets.push(0);
        let valid: Option<NullBuffer> = self.valid.finish();
        Ok(match self.form {
            BytesForm::Text | BytesForm::Json => Arc::new(StringArray::try_new(offsets, values, valid)?),
            BytesForm::Binary => Arc::new(BinaryArray::try_new(offsets, values, valid)?),
        })
    }
}

/// Empties `buffer` and gives it room for as much again: batches are alike.
pub(super) fn take<T>(buffer: &mut Vec<T>) -> Vec<T> {
    let room = Vec::with_capacity(buffer.len());
    std::mem::replace(buffer, room)
}
