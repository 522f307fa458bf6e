//! Arrow rows as texts for people and as JSON for programs.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::json::WriterBuilder;
use arrow::json::writer::LineDelimited;
use arrow::util::display::{ArrayFormatter, FormatOptions};

use super::grid::Grid;
use crate::error::{Error, Kind, Result};

const FORMAT: FormatOptions<'static> = FormatOptions::new().with_null("NULL");

/// Texts of one column's values; NULL as `NULL`.
pub struct Texts<'a>(ArrayFormatter<'a>);

impl<'a> Texts<'a> {
    pub fn new(values: &'a dyn Array) -> Result<Self> {
        let unshown = |error| Error::new(Kind::Bug, "a column can't be shown").source(error);
        ArrayFormatter::try_new(values, &FORMAT).map(Self).map_err(unshown)
    }

    pub fn of(&self, row: usize) -> String {
        self.0.value(row).try_to_string().unwrap_or_else(|error| format!("? {error}"))
    }
}

/// The first `limit` rows as a table.
pub fn grid(rows: &RecordBatch, limit: usize) -> Result<Grid> {
    let mut grid = Grid::new([]);
    for field in rows.schema().fields() {
        grid.push_column(field.name(), field.data_type().is_numeric());
    }
    let texts = rows.columns().iter().map(|values| Texts::new(values.as_ref())).collect::<Result<Vec<_>>>()?;
    for row in 0..rows.num_rows().min(limit) {
        grid.push(texts.iter().map(|values| values.of(row)));
    }
    Ok(grid)
}

/// Each row as one JSON object. Decimals and whole numbers keep their digits; times are ISO 8601, bytes hexadecimal, and what JSON has
/// no form for is its text.
pub fn json_lines(rows: &RecordBatch) -> Result<Vec<String>> {
    let rows = with_texts(rows, &|kind| !has_json(kind))?;
    let mut written = Vec::new();
    let mut writer = WriterBuilder::new().with_explicit_nulls(true).build::<_, LineDelimited>(&mut written);
    let failed = |error| Error::new(Kind::Bug, "rows can't be written as JSON").source(error);
    writer.write(&rows).and_then(|()| writer.finish()).map_err(failed)?;
    drop(writer);
    let text = String::from_utf8(written).map_err(|error| Error::new(Kind::Bug, "JSON isn't UTF-8").source(error))?;
    Ok(text.lines().map(str::to_owned).collect())
}

fn has_json(kind: &DataType) -> bool {
    match kind {
        DataType::Interval(_) | DataType::Duration(_) | DataType::Union(..) | DataType::Decimal256(..) => false,
        DataType::Struct(fields) => fields.iter().all(|field| has_json(field.data_type())),
        DataType::List(field) | DataType::LargeList(field) => has_json(field.data_type()),
        _ => true,
    }
}

/// The rows with those columns as texts whose type is `unfit`.
pub fn with_texts(rows: &RecordBatch, unfit: &dyn Fn(&DataType) -> bool) -> Result<RecordBatch> {
    let schema = rows.schema();
    let mut fields: Vec<Field> = Vec::with_capacity(schema.fields().len());
    let mut columns: Vec<ArrayRef> = Vec::with_capacity(schema.fields().len());
    for (field, values) in schema.fields().iter().zip(rows.columns()) {
        if !unfit(field.data_type()) {
            fields.push(field.as_ref().clone());
            columns.push(Arc::clone(values));
            continue;
        }
        let texts = Texts::new(values.as_ref())?;
        let is_null = |row| values.is_null(row) || *field.data_type() == DataType::Null;
        let texts: StringArray = (0..values.len()).map(|row| (!is_null(row)).then(|| texts.of(row))).collect();
        fields.push(Field::new(field.name(), DataType::Utf8, true));
        columns.push(Arc::new(texts));
    }
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)
        .map_err(|error| Error::new(Kind::Bug, "rows can't be put together").source(error))
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        BinaryArray, BooleanArray, Decimal128Array, DurationSecondArray, Float64Array, NullArray,
        TimestampNanosecondArray, UInt64Array,
    };

    use super::*;

    fn rows() -> RecordBatch {
        let decimal = Decimal128Array::from(vec![Some(150), None]).with_precision_and_scale(10, 2).unwrap();
        RecordBatch::try_from_iter_with_nullable([
            ("text", Arc::new(StringArray::from(vec![Some("a \"b\"\u{1b}"), None])) as ArrayRef, true),
            ("whole", Arc::new(UInt64Array::from(vec![u64::MAX, 0])), true),
            ("amount", Arc::new(decimal), true),
            ("share", Arc::new(Float64Array::from(vec![0.5, f64::NAN])), true),
            ("yes", Arc::new(BooleanArray::from(vec![true, false])), true),
            (
                "at",
                Arc::new(TimestampNanosecondArray::from(vec![1_700_000_000_123_000_000, 0]).with_timezone("UTC")),
                true,
            ),
            ("bytes", Arc::new(BinaryArray::from(vec![b"\x00\xff".as_slice(), b""])), true),
            ("span", Arc::new(DurationSecondArray::from(vec![1, 2])), true),
            ("nothing", Arc::new(NullArray::new(2)), true),
        ])
        .unwrap()
    }

    #[test]
    fn every_kind_of_value_has_a_line_of_json() {
        insta::assert_snapshot!(json_lines(&rows()).unwrap().join("\n"), @r#"
        {"text":"a \"b\"\u001b","whole":18446744073709551615,"amount":1.50,"share":0.5,"yes":true,"at":"2023-11-14T22:13:20.123Z","bytes":"00ff","span":"PT1S","nothing":null}
        {"text":null,"whole":0,"amount":null,"share":null,"yes":false,"at":"1970-01-01T00:00:00Z","bytes":"","span":"PT2S","nothing":null}
        "#);
    }

    #[test]
    fn every_kind_of_value_has_a_text() {
        let mut out = Vec::new();
        grid(&rows(), 5).unwrap().write(&mut out, None).unwrap();
        insta::assert_snapshot!(String::from_utf8(out).unwrap(), @r#"
          text                        whole  amount  share  yes    at                        bytes  span  nothing
          ───────────  ────────────────────  ──────  ─────  ─────  ────────────────────────  ─────  ────  ───────
          a "b"\u{1b}  18446744073709551615    1.50    0.5  true   2023-11-14T22:13:20.123Z  00ff   PT1S  NULL
          NULL                            0    NULL    NaN  false  1970-01-01T00:00:00Z             PT2S  NULL
        "#);
    }
}
