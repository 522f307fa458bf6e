//! A row's key as text: the JSON array of its key columns that [`Key`] is everywhere.

use std::fmt::Write;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::DataType;
use arrow::util::display::{ArrayFormatter, FormatOptions};

use super::rows::column;
use crate::error::{Error, Kind, Result};
use crate::hold::Key;

/// Writes the keys of a batch's rows.
pub(super) struct KeyTexts<'a> {
    columns: Vec<(&'a ArrayRef, Text<'a>)>,
}

enum Text<'a> {
    Utf8,
    /// Shown as it is: numbers and booleans are JSON already.
    Bare(ArrayFormatter<'a>),
    /// Shown in quotes: decimals, dates, times, bytes.
    Quoted(ArrayFormatter<'a>),
}

const FORMAT: FormatOptions<'static> = FormatOptions::new();

impl<'a> KeyTexts<'a> {
    pub(super) fn new(columns: &'a [ArrayRef]) -> Result<Self> {
        let text = |column: &'a ArrayRef| {
            let formatter = || {
                ArrayFormatter::try_new(column.as_ref(), &FORMAT)
                    .map_err(|error| Error::new(Kind::Bug, "a key column can't be written as text").source(error))
            };
            Ok((
                column,
                match column.data_type() {
                    DataType::Utf8 => Text::Utf8,
                    kind if kind.is_integer() || *kind == DataType::Boolean => Text::Bare(formatter()?),
                    _ => Text::Quoted(formatter()?),
                },
            ))
        };
        Ok(Self { columns: columns.iter().map(text).collect::<Result<_>>()? })
    }

    /// Writes the key of `row` to `text`, which is cleared first; false if a part of it is NULL.
    pub(super) fn write(&self, row: usize, text: &mut String) -> bool {
        text.clear();
        text.push('[');
        for (place, (column, kind)) in self.columns.iter().enumerate() {
            if column.is_null(row) {
                return false;
            }
            if place > 0 {
                text.push(',');
            }
            // Writing to a String can't fail, and neither can showing a value of a type that has a text.
            let _ = match kind {
                Text::Utf8 => {
                    quote(column.as_string::<i32>().value(row), text);
                    Ok(())
                }
                Text::Bare(formatter) => write!(text, "{}", formatter.value(row)),
                Text::Quoted(formatter) => {
                    quote(&formatter.value(row).to_string(), text);
                    Ok(())
                }
            };
        }
        text.push(']');
        true
    }

    /// The key of `row`, `None` if a part of it is NULL.
    pub(super) fn key(&self, row: usize) -> Option<Key> {
        let mut text = String::new();
        self.write(row, &mut text).then(|| Key(text.into_boxed_str()))
    }
}

/// A JSON string.
fn quote(value: &str, text: &mut String) {
    if value.bytes().all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\') {
        text.push('"');
        text.push_str(value);
        text.push('"');
    } else {
        text.push_str(&serde_json::Value::from(value).to_string());
    }
}

/// The key columns of a model's rows.
pub(super) fn key_columns(model: &str, batch: &RecordBatch, key: &[String]) -> Result<Vec<ArrayRef>> {
    key.iter().map(|name| column(model, batch, name)).collect()
}

/// The keys of rows whose first `key_len` columns are the key, such as [`crate::work::Evaluation::latest`].
pub fn row_keys(rows: &RecordBatch, key_len: usize) -> Result<Vec<Key>> {
    let columns = rows.columns().get(..key_len).unwrap_or_default();
    let texts = KeyTexts::new(columns)?;
    let key = |row| texts.key(row).ok_or_else(|| Error::new(Kind::Bug, "a key is NULL"));
    (0..rows.num_rows()).map(key).collect()
}
