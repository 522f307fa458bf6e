//! Arrow values as MySQL reads them: lines for `LOAD DATA LOCAL`; for an INSERT of many rows literals, or values of its parameters.
//!
//! A value is written exactly or refused ([`RowFault`]); nothing is rounded, cut or clamped here. Times are UTC. Text is escaped
//! where it can end a field: TAB, LF, backslash and NUL in lines; quote, backslash and NUL in literals. A parameter's value is the text
//! as it is, or a whole number.

use std::io::Write;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, DecimalType, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type,
    Int64Type, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use bytes::Bytes;
use mysql_async::Value;

use super::insert;
use super::quoting::identifier;
use super::stage::{Marks, RowFault};
use super::tables::MAX_KEY_BYTES;
use crate::target::{Holds, Target};

/// How a value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// A field of a `LOAD DATA` line.
    Field,
    /// An SQL literal.
    Literal,
}

impl Form {
    fn separator(self) -> u8 {
        if self == Self::Field { b'\t' } else { b',' }
    }

    fn null(self) -> &'static [u8] {
        if self == Self::Field { b"\\N" } else { b"NULL" }
    }
}

/// A batch in the layout that `sink` is given: the target's columns, `_deleted`, and the version.
pub struct Rows<'a> {
    columns: Vec<(&'a str, &'a ArrayRef, Holds)>,
    key_len: usize,
    deleted: &'a BooleanArray,
    versions: [&'a ArrayRef; 3],
    marks: Marks<'a>,
    has_row_key: bool,
}

impl<'a> Rows<'a> {
    fn new(target: &'a Target, rows: &'a RecordBatch, marks: Marks<'a>) -> Result<Self, RowFault> {
        let missing = |name: &str| RowFault {
            row: 0,
            column: Some(name.to_owned()),
            reason: format!("the model latest yields no column {name}"),
        };
        let by_name = |name: &'a str| rows.column_by_name(name).ok_or_else(|| missing(name));
        let mut columns = Vec::with_capacity(target.columns.len());
        for column in &target.columns {
            columns.push((column.name.as_str(), by_name(&column.name)?, column.holds));
        }
        Ok(Self {
            columns,
            key_len: target.key_len,
            deleted: by_name("_deleted")?.as_boolean_opt().ok_or_else(|| missing("_deleted"))?,
            versions: [by_name("cdc_ts")?, by_name("cdc_partition")?, by_name("cdc_offset")?],
            marks,
            has_row_key: !key_says_itself(target),
        })
    }

    /// A staged row: its kind, its number where what is known of the key is asked for, the encoded key if the stage has it, the row.
    fn write_staged(&self, out: &mut Vec<u8>, row: usize, form: Form) -> Result<(), RowFault> {
        write_quoted(out, self.marks.op(Some(self.deleted), row).code(), form);
        out.push(form.separator());
        if self.marks.late.get(row).copied().unwrap_or(false) {
            write_int(out, i64::try_from(row).unwrap_or(i64::MAX));
        } else {
            out.extend_from_slice(form.null());
        }
        out.push(form.separator());
        if self.has_row_key {
            self.write_key(out, row, form)?;
            out.push(form.separator());
        }
        self.write(out, row, form)
    }

    /// The target's columns and the version; a delete carries nothing but its key.
    fn write(&self, out: &mut Vec<u8>, row: usize, form: Form) -> Result<(), RowFault> {
        let deleted = self.is_deleted(row);
        for (index, (name, array, holds)) in self.columns.iter().enumerate() {
            if deleted && index >= self.key_len {
                out.extend_from_slice(form.null());
            } else {
                write_value(out, array, row, *holds, form).map_err(|reason| RowFault {
                    row,
                    column: Some((*name).to_owned()),
                    reason,
                })?;
            }
            out.push(form.separator());
        }
        for (index, array) in self.versions.iter().enumerate() {
            if index > 0 {
                out.push(form.separator());
            }
            write_value(out, array, row, Holds::Other, form).map_err(|reason| RowFault {
                row,
                column: None,
                reason,
            })?;
        }
        Ok(())
    }

    /// What a staged row has before the target's columns, see [`Rows::write_staged`].
    fn staged_values(&self, values: &mut Vec<Value>, row: usize) -> Result<(), RowFault> {
        values.push(Value::Bytes(self.marks.op(Some(self.deleted), row).code().into()));
        let late = self.marks.late.get(row).copied().unwrap_or(false);
        values.push(if late { Value::Int(i64::try_from(row).unwrap_or(i64::MAX)) } else { Value::NULL });
        if self.has_row_key {
            values.push(Value::Bytes(self.key(row)?.into_bytes()));
        }
        Ok(())
    }

    /// As [`Rows::write`].
    fn values(&self, values: &mut Vec<Value>, row: usize) -> Result<(), RowFault> {
        let deleted = self.is_deleted(row);
        for (index, (name, array, holds)) in self.columns.iter().enumerate() {
            let fault = |reason| RowFault { row, column: Some((*name).to_owned()), reason };
            let left_out = deleted && index >= self.key_len;
            values.push(if left_out { Value::NULL } else { value(array, row, *holds).map_err(fault)? });
        }
        for array in self.versions {
            values.push(value(array, row, Holds::Other).map_err(|reason| RowFault { row, column: None, reason })?);
        }
        Ok(())
    }

    fn is_deleted(&self, row: usize) -> bool {
        self.deleted.is_valid(row) && self.deleted.value(row)
    }

    /// The key as one text, see [`Rows::write_key`].
    fn key(&self, row: usize) -> Result<String, RowFault> {
        if self.key_len == 1 { self.key_part(row, 0) } else { self.joined_key(row) }
    }

    /// The key as one text, different for different keys: a single column's value as it is (bytes in hexadecimal); several columns'
    /// values joined by two NULs, a NUL within one followed by U+0001.
    fn write_key(&self, out: &mut Vec<u8>, row: usize, form: Form) -> Result<(), RowFault> {
        let [(name, array, _)] = &self.columns[..self.key_len] else { return self.write_joined_key(out, row, form) };
        if array.is_null(row) {
            return Err(null_key(row, name));
        }
        match array.data_type() {
            DataType::Utf8 => write_text(out, array.as_string::<i32>().value(row), form),
            _ => {
                let part = self.key_part(row, 0)?;
                write_text(out, &part, form);
            }
        }
        Ok(())
    }

    fn write_joined_key(&self, out: &mut Vec<u8>, row: usize, form: Form) -> Result<(), RowFault> {
        write_text(out, &self.joined_key(row)?, form);
        Ok(())
    }

    fn joined_key(&self, row: usize) -> Result<String, RowFault> {
        let mut key = String::new();
        for column in 0..self.key_len {
            if column > 0 {
                key.push_str("\0\0");
            }
            key.push_str(&self.key_part(row, column)?.replace('\0', "\0\u{1}"));
        }
        Ok(key)
    }

    /// One key column's value as text.
    fn key_part(&self, row: usize, column: usize) -> Result<String, RowFault> {
        let (name, array, _) = &self.columns[column];
        if array.is_null(row) {
            return Err(null_key(row, name));
        }
        if array.data_type() == &DataType::Utf8 {
            return Ok(array.as_string::<i32>().value(row).to_owned());
        }
        let mut part = Vec::new();
        write_value(&mut part, array, row, Holds::Other, Form::Field).map_err(|reason| RowFault {
            row,
            column: Some((*name).to_owned()),
            reason,
        })?;
        Ok(String::from_utf8_lossy(&part).into_owned())
    }
}

fn null_key(row: usize, name: &str) -> RowFault {
    RowFault { row, column: Some(name.to_owned()), reason: "a key is NULL".to_owned() }
}

/// A batch as the text of a `LOAD DATA` file.
pub struct Lines;

impl Lines {
    /// Those `numbers` of the batch's rows, for the stage.
    pub fn encode(target: &Target, rows: &RecordBatch, marks: Marks<'_>, numbers: &[usize]) -> Result<Bytes, RowFault> {
        Self::of(&Rows::new(target, rows, marks)?, numbers.iter().copied(), Rows::write_staged)
    }

    /// For the target itself.
    pub fn of_target(target: &Target, rows: &RecordBatch) -> Result<Bytes, RowFault> {
        Self::of(&Rows::new(target, rows, Marks::default())?, 0..rows.num_rows(), Rows::write)
    }

    fn of<'a>(
        rows: &Rows<'a>,
        numbers: impl ExactSizeIterator<Item = usize>,
        write: impl Fn(&Rows<'a>, &mut Vec<u8>, usize, Form) -> Result<(), RowFault>,
    ) -> Result<Bytes, RowFault> {
        let mut out = Vec::with_capacity(numbers.len() * 160);
        for row in numbers {
            write(rows, &mut out, row, Form::Field)?;
            out.push(b'\n');
        }
        Ok(Bytes::from(out))
    }
}

/// A batch as rows of a multi-row INSERT, into the stage or into the target itself.
pub struct Tuples<'a> {
    rows: Rows<'a>,
    staged: bool,
}

impl<'a> Tuples<'a> {
    pub fn staged(target: &'a Target, rows: &'a RecordBatch, marks: Marks<'a>) -> Result<Self, RowFault> {
        Ok(Self { rows: Rows::new(target, rows, marks)?, staged: true })
    }

    pub fn of_target(target: &'a Target, rows: &'a RecordBatch) -> Result<Self, RowFault> {
        Ok(Self { rows: Rows::new(target, rows, Marks::default())?, staged: false })
    }
}

impl insert::Rows for Tuples<'_> {
    fn push(&self, sql: &mut Vec<u8>, row: usize) -> Result<(), RowFault> {
        sql.push(b'(');
        if self.staged {
            self.rows.write_staged(sql, row, Form::Literal)?;
        } else {
            self.rows.write(sql, row, Form::Literal)?;
        }
        sql.push(b')');
        Ok(())
    }

    fn values(&self, values: &mut Vec<Value>, row: usize) -> Result<(), RowFault> {
        if self.staged {
            self.rows.staged_values(values, row)?;
        }
        self.rows.values(values, row)
    }
}

/// Whether the bytes of the one key column are what [`Rows::write_key`] writes, so that the stage needs no column for that.
pub fn key_says_itself(target: &Target) -> bool {
    let [key] = target.keys() else { return false };
    let short = matches!(key.holds, Holds::Text { max_bytes, .. } if max_bytes <= MAX_KEY_BYTES as u64);
    let kind = key.ddl_type.to_ascii_lowercase();
    // A CHAR comes back without the spaces at its end, and other character sets have other bytes.
    short && kind.starts_with("varchar") && kind.contains("utf8mb4")
}

fn write_value(out: &mut Vec<u8>, array: &ArrayRef, row: usize, holds: Holds, form: Form) -> Result<(), String> {
    if array.is_null(row) {
        out.extend_from_slice(form.null());
        return Ok(());
    }
    match array.data_type() {
        // The stage reads bytes in hexadecimal, wherever they come from.
        DataType::Utf8 if matches!(holds, Holds::Bytes { .. }) => {
            write_bytes(out, array.as_string::<i32>().value(row).as_bytes(), form);
        }
        DataType::Utf8 => write_text(out, array.as_string::<i32>().value(row), form),
        DataType::LargeUtf8 => write_text(out, array.as_string::<i64>().value(row), form),
        DataType::Utf8View => write_text(out, array.as_string_view().value(row), form),
        DataType::Int8 => write_int(out, array.as_primitive::<Int8Type>().value(row).into()),
        DataType::Int16 => write_int(out, array.as_primitive::<Int16Type>().value(row).into()),
        DataType::Int32 => write_int(out, array.as_primitive::<Int32Type>().value(row).into()),
        DataType::Int64 => write_int(out, array.as_primitive::<Int64Type>().value(row)),
        DataType::UInt8 => write_int(out, array.as_primitive::<UInt8Type>().value(row).into()),
        DataType::UInt16 => write_int(out, array.as_primitive::<UInt16Type>().value(row).into()),
        DataType::UInt32 => write_int(out, array.as_primitive::<UInt32Type>().value(row).into()),
        DataType::UInt64 => write_number(out, array.as_primitive::<UInt64Type>().value(row)),
        DataType::Float32 => {
            let value = array.as_primitive::<Float32Type>().value(row);
            write_number(out, finite(f64::from(value), value.to_string())?);
        }
        DataType::Float64 => {
            let value = array.as_primitive::<Float64Type>().value(row);
            write_number(out, finite(value, format!("{value:?}"))?);
        }
        DataType::Boolean => out.push(if array.as_boolean().value(row) { b'1' } else { b'0' }),
        DataType::Decimal128(precision, scale) => {
            write_number(
                out,
                Decimal128Type::format_decimal(array.as_primitive::<Decimal128Type>().value(row), *precision, *scale),
            );
        }
        DataType::Date32 => {
            let days = i64::from(array.as_primitive::<Date32Type>().value(row));
            let text = instant(i128::from(days) * 86_400_000_000_000)?.strftime("%Y-%m-%d").to_string();
            write_quoted(out, &text, form);
        }
        DataType::Timestamp(unit, _) => {
            let ns = match unit {
                TimeUnit::Second => i128::from(array.as_primitive::<TimestampSecondType>().value(row)) * 1_000_000_000,
                TimeUnit::Millisecond => {
                    i128::from(array.as_primitive::<TimestampMillisecondType>().value(row)) * 1_000_000
                }
                TimeUnit::Microsecond => {
                    i128::from(array.as_primitive::<TimestampMicrosecondType>().value(row)) * 1_000
                }
                TimeUnit::Nanosecond => i128::from(array.as_primitive::<TimestampNanosecondType>().value(row)),
            };
            write_quoted(out, &date_time(ns, holds)?, form);
        }
        DataType::Binary => write_bytes(out, array.as_binary::<i32>().value(row), form),
        DataType::LargeBinary => write_bytes(out, array.as_binary::<i64>().value(row), form),
        other => return Err(format!("values of type {other} can't be sent to MySQL")),
    }
    Ok(())
}

/// `YYYY-MM-DD HH:MM:SS.ffffff` in UTC with as many digits as the column keeps; refused where digits would be lost, because one
/// server rounds them and the other cuts them.
fn date_time(ns: i128, holds: Holds) -> Result<String, String> {
    let digits = if let Holds::DateTime { digits } = holds { digits.min(6) } else { 6 };
    let step = 10_i128.pow(u32::from(9 - digits));
    if ns.rem_euclid(step) != 0 {
        return Err(format!("the time has more than the {digits} digits after the second that the column keeps"));
    }
    let time = instant(ns)?;
    let text = time.strftime("%Y-%m-%d %H:%M:%S").to_string();
    if digits == 0 {
        return Ok(text);
    }
    let fraction = ns.rem_euclid(1_000_000_000) / step;
    Ok(format!("{text}.{fraction:0width$}", width = usize::from(digits)))
}

fn instant(ns: i128) -> Result<jiff::Timestamp, String> {
    let time = jiff::Timestamp::from_nanosecond(ns).map_err(|_| "the time is out of range".to_owned())?;
    // The servers know the years 1000 to 9999.
    if time < jiff::Timestamp::UNIX_EPOCH - jiff::SignedDuration::from_secs(30_610_224_000) {
        return Err("the time is before the year 1000".to_owned());
    }
    Ok(time)
}

fn finite(value: f64, text: String) -> Result<String, String> {
    if value.is_finite() { Ok(text) } else { Err("the number is not finite".to_owned()) }
}

fn write_number(out: &mut Vec<u8>, number: impl std::fmt::Display) {
    // Writing to memory cannot fail.
    let _ = write!(out, "{number}");
}

fn write_quoted(out: &mut Vec<u8>, text: &str, form: Form) {
    if form == Form::Literal {
        out.push(b'\'');
    }
    out.extend_from_slice(text.as_bytes());
    if form == Form::Literal {
        out.push(b'\'');
    }
}

/// Digit by digit: formatting takes several times as long, and every row has three or more.
fn write_int(out: &mut Vec<u8>, value: i64) {
    let (mut digits, mut rest) = ([0_u8; 20], value.unsigned_abs());
    let mut first = digits.len();
    for digit in digits.iter_mut().rev() {
        // A remainder below ten.
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
        first -= 1;
        if rest == 0 {
            break;
        }
    }
    if value < 0 {
        out.push(b'-');
    }
    out.extend_from_slice(digits.get(first..).unwrap_or_default());
}

fn write_text(out: &mut Vec<u8>, text: &str, form: Form) {
    let (first, second) = if form == Form::Field { (b'\t', b'\n') } else { (b'\'', b'\'') };
    let is_special = |byte: u8| byte == first || byte == second || byte == b'\\' || byte == 0;
    if form == Form::Literal {
        out.push(b'\'');
    }
    let bytes = text.as_bytes();
    // Looks at all of it without a branch, so that the compiler takes many bytes at once; hardly any text has one.
    if bytes.iter().fold(false, |found, byte| found | is_special(*byte)) {
        for byte in bytes {
            match byte {
                b'\t' if form == Form::Field => out.extend_from_slice(b"\\t"),
                b'\n' if form == Form::Field => out.extend_from_slice(b"\\n"),
                0 => out.extend_from_slice(b"\\0"),
                byte if is_special(*byte) => out.extend_from_slice(&[b'\\', *byte]),
                byte => out.push(*byte),
            }
        }
    } else {
        out.extend_from_slice(bytes);
    }
    if form == Form::Literal {
        out.push(b'\'');
    }
}

fn write_bytes(out: &mut Vec<u8>, bytes: &[u8], form: Form) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    if form == Form::Literal {
        if bytes.is_empty() {
            out.extend_from_slice(b"''");
            return;
        }
        out.extend_from_slice(b"x'");
    }
    for byte in bytes {
        out.push(DIGITS[usize::from(byte >> 4)]);
        out.push(DIGITS[usize::from(byte & 15)]);
    }
    if form == Form::Literal {
        out.push(b'\'');
    }
}

/// A batch's keys, for questions about what is stored of them.
pub struct Keys<'a>(Rows<'a>);

impl<'a> Keys<'a> {
    pub fn new(target: &'a Target, rows: &'a RecordBatch) -> Result<Self, RowFault> {
        Rows::new(target, rows, Marks::default()).map(Self)
    }

    /// The key as the tombstones table has it.
    pub fn text(&self, row: usize) -> Result<String, RowFault> {
        self.0.key(row)
    }

    /// What a stored row of this key fulfils, and no other.
    pub fn condition(&self, row: usize) -> Result<String, RowFault> {
        let mut sql = Vec::new();
        for (name, array, holds) in &self.0.columns[..self.0.key_len] {
            if array.is_null(row) {
                return Err(null_key(row, name));
            }
            if !sql.is_empty() {
                sql.extend_from_slice(b" AND ");
            }
            sql.extend_from_slice(identifier(name).as_bytes());
            sql.extend_from_slice(b" = ");
            let fault = |reason| RowFault { row, column: Some((*name).to_owned()), reason };
            write_value(&mut sql, array, row, *holds, Form::Literal).map_err(fault)?;
        }
        Ok(String::from_utf8_lossy(&sql).into_owned())
    }
}

/// A value as the server is asked to keep it, without the escapes of any form; `None` is NULL.
pub fn plain(array: &ArrayRef, row: usize, holds: Holds) -> Result<Option<Vec<u8>>, String> {
    if array.is_null(row) {
        return Ok(None);
    }
    match array.data_type() {
        DataType::Utf8 => Ok(Some(array.as_string::<i32>().value(row).as_bytes().to_vec())),
        DataType::LargeUtf8 => Ok(Some(array.as_string::<i64>().value(row).as_bytes().to_vec())),
        DataType::Utf8View => Ok(Some(array.as_string_view().value(row).as_bytes().to_vec())),
        DataType::Binary => Ok(Some(array.as_binary::<i32>().value(row).to_vec())),
        DataType::LargeBinary => Ok(Some(array.as_binary::<i64>().value(row).to_vec())),
        _ => {
            let mut text = Vec::new();
            write_value(&mut text, array, row, holds, Form::Field)?;
            Ok(Some(text))
        }
    }
}

/// A value as a parameter: whole numbers as such, everything else as [`plain`].
fn value(array: &ArrayRef, row: usize, holds: Holds) -> Result<Value, String> {
    if array.is_null(row) {
        return Ok(Value::NULL);
    }
    Ok(match array.data_type() {
        DataType::Int8 => Value::Int(array.as_primitive::<Int8Type>().value(row).into()),
        DataType::Int16 => Value::Int(array.as_primitive::<Int16Type>().value(row).into()),
        DataType::Int32 => Value::Int(array.as_primitive::<Int32Type>().value(row).into()),
        DataType::Int64 => Value::Int(array.as_primitive::<Int64Type>().value(row)),
        DataType::UInt8 => Value::UInt(array.as_primitive::<UInt8Type>().value(row).into()),
        DataType::UInt16 => Value::UInt(array.as_primitive::<UInt16Type>().value(row).into()),
        DataType::UInt32 => Value::UInt(array.as_primitive::<UInt32Type>().value(row).into()),
        DataType::UInt64 => Value::UInt(array.as_primitive::<UInt64Type>().value(row)),
        DataType::Boolean => Value::Int(array.as_boolean().value(row).into()),
        _ => plain(array, row, holds)?.map_or(Value::NULL, Value::Bytes),
    })
}

#[cfg(test)]
mod tests;
