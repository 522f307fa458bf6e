//! How a row of a lookup lies in memory: all of its values side by side, so that one that is looked up costs one or two cache lines
//! rather than two for each of its columns.
//!
//!     flags | a bit per column that is NULL | values of fixed width | ends of the runs | runs (texts, bytes, nested values) | to 8 bytes
//!
//! Columns of the key come first among those of fixed width and among the runs. Ends count from the first run's beginning, in two bytes
//! each, or four where the runs take more than 64 KiB. Two rows of the same values have the same bytes.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayData, ArrayRef, BinaryArray, BooleanArray, BooleanBufferBuilder, NullBufferBuilder, StringArray,
    make_array, new_null_array,
};
use arrow::buffer::{MutableBuffer, OffsetBuffer, ScalarBuffer};
use arrow::compute::cast;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, SortField};

use super::cells::Cells;

/// Rows begin at multiples of so many bytes.
pub(super) const UNIT: usize = 8;
/// The row is replaced or deleted.
const DEAD: u8 = 1;
/// Ends take four bytes.
const WIDE: u8 = 2;

/// Where each column of a schema is in a row.
#[derive(Debug)]
pub(super) struct Layout {
    columns: Vec<Column>,
    /// Columns of fixed width, and the runs, in the order in which they lie there.
    fixed: Vec<usize>,
    runs: Vec<usize>,
    /// Where the ends begin, and the runs of a row whose ends take two bytes.
    ends: usize,
    runs_at: usize,
}

#[derive(Debug)]
struct Column {
    kind: DataType,
    place: Place,
    /// For values that don't lie in their column as bytes.
    packed: Option<Packed>,
}

#[derive(Debug, Clone, Copy)]
enum Place {
    Fixed { at: usize, width: usize },
    Run(usize),
}

/// Values of any type as bytes; NULL is one of them.
#[derive(Debug)]
struct Packed {
    converter: RowConverter,
    null: Vec<u8>,
}

impl Packed {
    fn new(kind: &DataType) -> Result<Self, ArrowError> {
        let converter = RowConverter::new(vec![SortField::new(kind.clone())])?;
        let null = converter.convert_columns(&[new_null_array(kind, 1)])?.row(0).as_ref().to_vec();
        Ok(Self { converter, null })
    }
}

impl Layout {
    pub(super) fn new(schema: &SchemaRef, key: &[usize]) -> Result<Self, ArrowError> {
        let mut columns = Vec::new();
        for field in schema.fields() {
            let kind = field.data_type().clone();
            let (place, packed) = match &kind {
                DataType::Boolean => (Place::Fixed { at: 0, width: 1 }, None),
                DataType::Utf8 | DataType::Binary => (Place::Run(0), None),
                other => match other.primitive_width() {
                    Some(width) => (Place::Fixed { at: 0, width }, None),
                    None => (Place::Run(0), Some(Packed::new(other)?)),
                },
            };
            columns.push(Column { kind, place, packed });
        }
        let (mut fixed, mut runs) = (Vec::new(), Vec::new());
        let mut ends = 1 + columns.len().div_ceil(8);
        let others = (0..columns.len()).filter(|column| !key.contains(column));
        for nth in key.iter().copied().chain(others) {
            match columns.get_mut(nth).map(|column| &mut column.place) {
                Some(Place::Fixed { at, width }) => {
                    *at = ends;
                    ends += *width;
                    fixed.push(nth);
                }
                Some(Place::Run(run)) => {
                    *run = runs.len();
                    runs.push(nth);
                }
                None => {}
            }
        }
        Ok(Self { columns, fixed, ends, runs_at: ends + runs.len() * 2, runs })
    }

    /// The columns of some rows, ready to be put into rows.
    pub(super) fn cells(&self, columns: &[ArrayRef]) -> Result<Vec<Cells>, ArrowError> {
        let cells = self.columns.iter().zip(columns).map(|(column, values)| {
            let cells = match &column.packed {
                Some(packed) => {
                    let packed = packed.converter.convert_columns(std::slice::from_ref(values))?;
                    Cells::new(&(Arc::new(packed.try_into_binary()?) as ArrayRef))
                }
                None => Cells::new(values),
            };
            cells.ok_or_else(|| ArrowError::SchemaError(format!("a lookup can't hold {}", column.kind)))
        });
        cells.collect()
    }

    /// How many bytes the runs of a row take.
    fn run_bytes(&self, cells: &[Cells], row: usize) -> usize {
        let runs = self.runs.iter().filter_map(|run| cells.get(*run)?.get(row));
        runs.map(<[u8]>::len).sum()
    }

    /// How many bytes a row will take.
    pub(super) fn needed(&self, cells: &[Cells], row: usize) -> Result<usize, ArrowError> {
        let runs = self.run_bytes(cells, row);
        if u32::try_from(runs).is_err() {
            return Err(ArrowError::InvalidArgumentError("a row of a lookup takes more than 4 GiB".to_owned()));
        }
        Ok((self.ends + self.runs.len() * width_of_ends(runs) + runs).next_multiple_of(UNIT))
    }

    /// Adds a row to the end of `into`, which ends at a multiple of [`UNIT`].
    pub(super) fn write(&self, cells: &[Cells], row: usize, into: &mut Vec<u8>) {
        let start = into.len();
        let width = width_of_ends(self.run_bytes(cells, row));
        into.push(if width == 4 { WIDE } else { 0 });
        into.resize(start + 1 + self.columns.len().div_ceil(8), 0);
        let value = |column: &usize| cells.get(*column).and_then(|cells| cells.get(row));
        let null = |into: &mut Vec<u8>, column: usize| {
            if let Some(bits) = into.get_mut(start + 1 + column / 8) {
                *bits |= 1 << (column % 8);
            }
        };
        for column in &self.fixed {
            match value(column) {
                Some(bytes) => into.extend_from_slice(bytes),
                None => {
                    null(into, *column);
                    into.resize(into.len() + self.width(*column), 0);
                }
            }
        }
        let mut end = 0_usize;
        for column in &self.runs {
            match value(column) {
                Some(bytes) => end += bytes.len(),
                None => null(into, *column),
            }
            let end = (end as u32).to_le_bytes();
            into.extend_from_slice(if width == 4 { &end } else { &end[..2] });
        }
        for column in &self.runs {
            into.extend_from_slice(value(column).unwrap_or_default());
        }
        into.resize(into.len().next_multiple_of(UNIT), 0);
    }

    fn width(&self, column: usize) -> usize {
        match self.columns.get(column).map(|column| column.place) {
            Some(Place::Fixed { width, .. }) => width,
            _ => 0,
        }
    }

    /// The bytes of a value of the row that `row` begins with; `None` for NULL.
    #[inline]
    pub(super) fn get<'a>(&self, row: &'a [u8], column: usize) -> Option<&'a [u8]> {
        if row.get(1 + column / 8)? >> (column % 8) & 1 == 1 {
            return None;
        }
        match self.columns.get(column)?.place {
            Place::Fixed { at, width } => row.get(at..at + width),
            Place::Run(nth) if row.first()? & WIDE == 0 => {
                let from = if nth == 0 { 0 } else { self.end(row, nth - 1)? };
                row.get(self.runs_at + from..self.runs_at + self.end(row, nth)?)
            }
            Place::Run(nth) => {
                let from = if nth == 0 { 0 } else { self.wide_end(row, nth - 1)? };
                let runs = self.runs_at + self.runs.len() * 2;
                row.get(runs + from..runs + self.wide_end(row, nth)?)
            }
        }
    }

    /// Where the run `nth` ends, from where the first begins.
    #[inline]
    fn end(&self, row: &[u8], nth: usize) -> Option<usize> {
        let (end, _) = row.get(self.ends + nth * 2..)?.split_first_chunk()?;
        Some(usize::from(u16::from_le_bytes(*end)))
    }

    /// The same in a row whose ends take four bytes.
    fn wide_end(&self, row: &[u8], nth: usize) -> Option<usize> {
        let (end, _) = row.get(self.ends + nth * 4..)?.split_first_chunk()?;
        Some(u32::from_le_bytes(*end) as usize)
    }

    /// How many bytes the row takes that `rows` begins with, up to the next one.
    pub(super) fn length(&self, rows: &[u8]) -> usize {
        let wide = rows.first().is_some_and(|flags| flags & WIDE != 0);
        let end = |last: usize| if wide { self.wide_end(rows, last) } else { self.end(rows, last) };
        let last = self.runs.len().checked_sub(1).and_then(end).unwrap_or_default();
        (self.ends + self.runs.len() * if wide { 4 } else { 2 } + last).next_multiple_of(UNIT)
    }

    /// Whether a row has the values of one that isn't written.
    pub(super) fn same(&self, written: &[u8], cells: &[Cells], row: usize) -> bool {
        cells.iter().enumerate().all(|(column, cells)| self.get(written, column) == cells.get(row))
    }

    /// The columns of some rows, NULL in all of them where there is no row. A row lies at the beginning of its slice.
    pub(super) fn columns<'a>(
        &self,
        wanted: &[usize],
        count: usize,
        mut next: impl FnMut() -> Option<Option<&'a [u8]>>,
    ) -> Result<Vec<ArrayRef>, ArrowError> {
        let mut builders: Vec<(usize, &Column, Builder)> = Vec::new();
        for nth in wanted {
            let Some(column) = self.columns.get(*nth) else {
                return Err(ArrowError::SchemaError("a lookup has no such column".to_owned()));
            };
            builders.push((*nth, column, Builder::new(column, count)));
        }
        while let Some(row) = next() {
            for (nth, _, builder) in &mut builders {
                builder.push(row.and_then(|row| self.get(row, *nth)))?;
            }
        }
        builders.into_iter().map(|(_, column, builder)| builder.finish(column)).collect()
    }
}

fn width_of_ends(runs: usize) -> usize {
    if runs > usize::from(u16::MAX) { 4 } else { 2 }
}

pub(super) fn is_dead(row: &[u8]) -> bool {
    row.first().is_some_and(|flags| flags & DEAD != 0)
}

pub(super) fn bury(row: &mut [u8]) {
    if let Some(flags) = row.first_mut() {
        *flags |= DEAD;
    }
}

/// A column that is being put together.
struct Builder {
    values: Values,
    valid: NullBufferBuilder,
}

enum Values {
    Fixed { bytes: MutableBuffer, width: usize },
    Flags(BooleanBufferBuilder),
    Run { bytes: Vec<u8>, ends: Vec<i32>, null: Vec<u8> },
}

impl Builder {
    fn new(column: &Column, count: usize) -> Self {
        let values = match (&column.kind, column.place) {
            (DataType::Boolean, _) => Values::Flags(BooleanBufferBuilder::new(count)),
            (_, Place::Fixed { width, .. }) => Values::Fixed { bytes: MutableBuffer::new(count * width), width },
            (_, Place::Run(_)) => {
                let mut ends = Vec::with_capacity(count + 1);
                ends.push(0);
                let null = column.packed.as_ref().map(|packed| packed.null.clone()).unwrap_or_default();
                Values::Run { bytes: Vec::with_capacity(count * 16), ends, null }
            }
        };
        Self { values, valid: NullBufferBuilder::new(count) }
    }

    #[inline]
    fn push(&mut self, value: Option<&[u8]>) -> Result<(), ArrowError> {
        self.valid.append(value.is_some());
        match &mut self.values {
            Values::Fixed { bytes, width } => match value {
                Some(value) => bytes.extend_from_slice(value),
                None => bytes.extend_zeros(*width),
            },
            Values::Flags(flags) => flags.append(value == Some(&[1])),
            Values::Run { bytes, ends, null } => {
                bytes.extend_from_slice(value.unwrap_or(null));
                ends.push(i32::try_from(bytes.len()).map_err(|_| ArrowError::OffsetOverflowError(bytes.len()))?);
            }
        }
        Ok(())
    }

    fn finish(mut self, column: &Column) -> Result<ArrayRef, ArrowError> {
        let valid = self.valid.finish();
        match self.values {
            Values::Flags(mut flags) => Ok(Arc::new(BooleanArray::new(flags.finish(), valid))),
            Values::Fixed { bytes, width } => {
                let builder = ArrayData::builder(column.kind.clone()).len(bytes.len() / width.max(1));
                Ok(make_array(builder.add_buffer(bytes.into()).nulls(valid).build()?))
            }
            Values::Run { bytes, ends, .. } => match &column.packed {
                Some(Packed { converter, .. }) => {
                    let parser = converter.parser();
                    let values = ends.windows(2).filter_map(|ends| bytes.get(ends[0] as usize..ends[1] as usize));
                    let rows = values.map(|value| parser.parse(value));
                    let values = converter.convert_rows(rows)?.pop();
                    let values = values.ok_or_else(|| ArrowError::ComputeError("a column is gone".to_owned()))?;
                    // What stands for a value by a number comes back as the value.
                    if *values.data_type() == column.kind { Ok(values) } else { cast(&values, &column.kind) }
                }
                None => {
                    let ends = OffsetBuffer::new(ScalarBuffer::from(ends));
                    match column.kind {
                        DataType::Utf8 => Ok(Arc::new(StringArray::try_new(ends, bytes.into(), valid)?)),
                        _ => Ok(Arc::new(BinaryArray::try_new(ends, bytes.into(), valid)?)),
                    }
                }
            },
        }
    }
}
