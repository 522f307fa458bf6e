//! Structs and lists of `latest` as JSON text: what the target's JSON columns are written from.
//!
//! Exact: numbers keep all their digits, members their order, absent parts are `null`. Times are RFC 3339 in UTC with the digits of
//! their unit, bytes are base64, JSON inside of a struct stands there as it is. What JSON has no word for is a fault of its row.

use std::fmt::Write;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringBuilder};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Decimal256Type, DecimalType, Field, Float32Type, Float64Type, Int64Type,
    Schema, TimeUnit, TimestampNanosecondType, UInt64Type,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::error::{Error, Kind, Result};
use crate::schema::{as_json, is_json};

/// A value that has no JSON: its row, its column, and why.
pub(super) type Unwritable = (usize, String, &'static str);

/// Whether values of the type are written as JSON.
pub(super) fn is_nested(kind: &DataType) -> bool {
    matches!(kind, DataType::Struct(_) | DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..))
}

/// The field as [`written`] yields it.
pub(super) fn written_field(field: &Field) -> Field {
    if is_nested(field.data_type()) { as_json(Field::new(field.name(), DataType::Utf8, true)) } else { field.clone() }
}

/// `batch` with its structs and lists as JSON text. A value that can't be written is NULL there, and named.
pub(super) fn written(batch: RecordBatch) -> Result<(RecordBatch, Vec<Unwritable>)> {
    let schema = batch.schema();
    if !schema.fields().iter().any(|field| is_nested(field.data_type())) {
        return Ok((batch, Vec::new()));
    }
    let mut faults = Vec::new();
    let mut columns = Vec::with_capacity(batch.num_columns());
    for (field, values) in schema.fields().iter().zip(batch.columns()) {
        columns.push(if is_nested(field.data_type()) { texts(field, values, &mut faults) } else { Arc::clone(values) });
    }
    let fields: Vec<Field> = schema.fields().iter().map(|field| written_field(field)).collect();
    let bug = |error| Error::new(Kind::Bug, "structs can't be written as JSON").source(error);
    let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(bug)?;
    Ok((batch, faults))
}

fn texts(field: &Field, values: &ArrayRef, faults: &mut Vec<Unwritable>) -> ArrayRef {
    let mut texts = StringBuilder::new();
    let mut text = String::new();
    for row in 0..values.len() {
        text.clear();
        match write(&mut text, field, values, row) {
            _ if values.is_null(row) => texts.append_null(),
            Ok(()) => texts.append_value(&text),
            Err(why) => {
                faults.push((row, field.name().clone(), why));
                texts.append_null();
            }
        }
    }
    Arc::new(texts.finish())
}

/// Appends the value of `values` in `row`.
fn write(out: &mut String, field: &Field, values: &ArrayRef, row: usize) -> std::result::Result<(), &'static str> {
    if values.is_null(row) {
        out.push_str("null");
        return Ok(());
    }
    match values.data_type() {
        DataType::Struct(fields) => {
            let parts = values.as_struct();
            out.push('{');
            for (index, (field, values)) in fields.iter().zip(parts.columns()).enumerate() {
                out.push_str(if index > 0 { "," } else { "" });
                quoted(out, field.name());
                out.push(':');
                write(out, field, values, row)?;
            }
            out.push('}');
            Ok(())
        }
        DataType::List(item) => write_items(out, item, &values.as_list::<i32>().value(row)),
        DataType::LargeList(item) => write_items(out, item, &values.as_list::<i64>().value(row)),
        DataType::FixedSizeList(item, _) => write_items(out, item, &values.as_fixed_size_list().value(row)),
        DataType::Utf8 if is_json(field) => {
            out.push_str(values.as_string::<i32>().value(row));
            Ok(())
        }
        _ => write_scalar(out, values, row),
    }
}

fn write_items(out: &mut String, item: &Field, items: &ArrayRef) -> std::result::Result<(), &'static str> {
    out.push('[');
    for index in 0..items.len() {
        out.push_str(if index > 0 { "," } else { "" });
        write(out, item, items, index)?;
    }
    out.push(']');
    Ok(())
}

fn write_scalar(out: &mut String, values: &ArrayRef, row: usize) -> std::result::Result<(), &'static str> {
    let mut put = |text: &dyn std::fmt::Display| {
        // Writing to a String can't fail.
        let _ = write!(out, "{text}");
    };
    match values.data_type() {
        DataType::Utf8 => quoted(out, values.as_string::<i32>().value(row)),
        DataType::LargeUtf8 => quoted(out, values.as_string::<i64>().value(row)),
        DataType::Utf8View => quoted(out, values.as_string_view().value(row)),
        DataType::Boolean => put(&values.as_boolean().value(row)),
        DataType::UInt64 => put(&values.as_primitive::<UInt64Type>().value(row)),
        kind if kind.is_integer() => put(&one(values, row, &DataType::Int64)?.as_primitive::<Int64Type>().value(0)),
        // The shortest digits that stand for this very number.
        DataType::Float32 => match values.as_primitive::<Float32Type>().value(row) {
            value if value.is_finite() => put(&format_args!("{value:?}")),
            _ => return Err(NOT_FINITE),
        },
        DataType::Float64 => match values.as_primitive::<Float64Type>().value(row) {
            value if value.is_finite() => put(&format_args!("{value:?}")),
            _ => return Err(NOT_FINITE),
        },
        DataType::Decimal128(precision, scale) => {
            put(&Decimal128Type::format_decimal(
                values.as_primitive::<Decimal128Type>().value(row),
                *precision,
                *scale,
            ));
        }
        DataType::Decimal256(precision, scale) => {
            put(&Decimal256Type::format_decimal(
                values.as_primitive::<Decimal256Type>().value(row),
                *precision,
                *scale,
            ));
        }
        DataType::Binary => put(&format_args!("\"{}\"", STANDARD.encode(values.as_binary::<i32>().value(row)))),
        DataType::Date32 => {
            let days = i64::from(values.as_primitive::<Date32Type>().value(row));
            let date = instant(i128::from(days) * 86_400_000_000_000)?;
            put(&format_args!("\"{}\"", date.strftime("%Y-%m-%d")));
        }
        DataType::Timestamp(unit, _) => {
            let time = instant(nanos(values, row, *unit)?)?;
            let text = match unit {
                TimeUnit::Second => time.strftime("%Y-%m-%dT%H:%M:%SZ"),
                TimeUnit::Millisecond => time.strftime("%Y-%m-%dT%H:%M:%S.%3fZ"),
                TimeUnit::Microsecond => time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ"),
                TimeUnit::Nanosecond => time.strftime("%Y-%m-%dT%H:%M:%S.%9fZ"),
            };
            put(&format_args!("\"{text}\""));
        }
        DataType::Dictionary(_, kind) => {
            let plain = cast(values, kind).map_err(|_| NO_JSON)?;
            return write_scalar(out, &plain, row);
        }
        _ => return Err(NO_JSON),
    }
    Ok(())
}

const NOT_FINITE: &str = "holds a number that is infinite or none, for which JSON has no word";
const NO_JSON: &str = "holds a value of a type that JSON has no word for";
const OUT_OF_RANGE: &str = "holds a time that is out of range";

/// One value in another type.
fn one(values: &ArrayRef, row: usize, kind: &DataType) -> std::result::Result<ArrayRef, &'static str> {
    cast(&values.slice(row, 1), kind).map_err(|_| NO_JSON)
}

fn nanos(values: &ArrayRef, row: usize, unit: TimeUnit) -> std::result::Result<i128, &'static str> {
    if unit == TimeUnit::Nanosecond {
        return Ok(i128::from(values.as_primitive::<TimestampNanosecondType>().value(row)));
    }
    let count = one(values, row, &DataType::Int64)?;
    let per_unit = match unit {
        TimeUnit::Second => 1_000_000_000,
        TimeUnit::Millisecond => 1_000_000,
        _ => 1_000,
    };
    Ok(i128::from(count.as_primitive::<Int64Type>().value(0)) * per_unit)
}

fn instant(nanos: i128) -> std::result::Result<jiff::Timestamp, &'static str> {
    let time = jiff::Timestamp::from_nanosecond(nanos).map_err(|_| OUT_OF_RANGE)?;
    // RFC 3339 knows years of four digits.
    if time.as_second() < -62_167_219_200 { Err(OUT_OF_RANGE) } else { Ok(time) }
}

fn quoted(out: &mut String, text: &str) {
    // Writing to a String can't fail.
    let _ = write!(out, "{}", Value::from(text));
}

#[cfg(test)]
mod tests;
