//! What a piece of JSON means under a field's type: exactly that value, or a refusal. Nothing is rounded, cut or coerced.
//!
//! In: the raw text of one JSON value, never `null`. Out: the value as Arrow stores it, or what is wrong with it as the rest
//! of a sentence (`is a string`, `is out of range`) without the value itself.

use std::borrow::Cow;
use std::str::FromStr;

use arrow::datatypes::{DataType, Field, Fields, TimeUnit};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::json;

/// What is wrong with a value, as the rest of a sentence that starts with the field.
pub type Wrong = &'static str;

const OUT_OF_RANGE: Wrong = "is out of range";
const FRACTION: Wrong = "has a fraction or an exponent";
const INEXACT: Wrong = "has more digits than its type holds exactly";

/// A whole number; fractions, exponents and strings are refused.
pub fn int<N: FromStr>(raw: &str) -> Result<N, Wrong> {
    if !is_number(raw) {
        return Err(json::kind(raw));
    }
    if raw.contains(['.', 'e', 'E']) {
        return Err(FRACTION);
    }
    raw.parse().map_err(|_| OUT_OF_RANGE)
}

/// The nearest double; whole numbers that a double can't hold exactly are refused.
pub fn float64(raw: &str) -> Result<f64, Wrong> {
    let value: f64 = float(raw)?;
    match raw.parse::<i128>() {
        Ok(whole) if value as i128 != whole => Err(INEXACT),
        _ => Ok(value),
    }
}

/// The nearest single; whole numbers that a single can't hold exactly are refused.
pub fn float32(raw: &str) -> Result<f32, Wrong> {
    let value: f32 = float(raw)?;
    match raw.parse::<i128>() {
        Ok(whole) if value as i128 != whole => Err(INEXACT),
        _ => Ok(value),
    }
}

fn float<N: FromStr + Into<f64> + Copy>(raw: &str) -> Result<N, Wrong> {
    if !is_number(raw) {
        return Err(json::kind(raw));
    }
    let value: N = raw.parse().map_err(|_| OUT_OF_RANGE)?;
    let wide: f64 = value.into();
    if wide.is_finite() { Ok(value) } else { Err(OUT_OF_RANGE) }
}

pub fn boolean(raw: &str) -> Result<bool, Wrong> {
    match raw {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(json::kind(raw)),
    }
}

pub fn utf8(raw: &str) -> Result<Cow<'_, str>, Wrong> {
    text(raw)
}

/// Bytes from base64, standard alphabet, padded.
pub fn binary(raw: &str) -> Result<Vec<u8>, Wrong> {
    STANDARD.decode(text(raw)?.as_bytes()).map_err(|_| "is no base64")
}

/// Days since 1970-01-01, from `YYYY-MM-DD` or from that number of days.
pub fn date32(raw: &str) -> Result<i32, Wrong> {
    const FORM: Wrong = "is no date of the form YYYY-MM-DD";
    if is_number(raw) {
        return int(raw);
    }
    let text = text(raw)?;
    let bytes = text.as_bytes();
    if bytes.len() != 10 || bytes.get(4) != Some(&b'-') || bytes.get(7) != Some(&b'-') {
        return Err(FORM);
    }
    let date: jiff::civil::Date = text.parse().map_err(|_| FORM)?;
    let days = date.duration_since(jiff::civil::date(1970, 1, 1)).as_hours() / 24;
    i32::try_from(days).map_err(|_| OUT_OF_RANGE)
}

/// Time since 1970 UTC in the type's unit, from that number or from RFC 3339 text.
pub fn timestamp(raw: &str, data_type: &DataType) -> Result<i64, Wrong> {
    const FORM: Wrong = "is no RFC 3339 time with an offset";
    if is_number(raw) {
        return int(raw);
    }
    let text = text(raw)?;
    // Seconds of 60 would silently become 59, and a time zone in brackets is an extension of the format.
    if text.get(17..19) == Some("60") || text.ends_with(']') {
        return Err(FORM);
    }
    let instant: jiff::Timestamp = text.parse().map_err(|_| FORM)?;
    let nanos_per_unit: i128 = match data_type {
        DataType::Timestamp(TimeUnit::Second, _) => 1_000_000_000,
        DataType::Timestamp(TimeUnit::Millisecond, _) => 1_000_000,
        DataType::Timestamp(TimeUnit::Microsecond, _) => 1_000,
        _ => 1,
    };
    if instant.as_nanosecond() % nanos_per_unit != 0 {
        return Err("is finer than its unit");
    }
    i64::try_from(instant.as_nanosecond() / nanos_per_unit).map_err(|_| OUT_OF_RANGE)
}

/// The unscaled value of a decimal, from a JSON number or the same digits as a string; digits that don't fit are refused.
pub fn decimal128(raw: &str, data_type: &DataType) -> Result<i128, Wrong> {
    let DataType::Decimal128(precision, scale) = data_type else { return Err(OUT_OF_RANGE) };
    let text = if is_number(raw) { Cow::Borrowed(raw) } else { text(raw)? };
    let (digits, exponent) = significant_digits(&text).ok_or("is no decimal number")?;
    if digits.is_empty() {
        return Ok(0);
    }
    let shift = exponent + i64::from(*scale);
    if shift < 0 {
        return Err(INEXACT);
    }
    if digits.len() as i64 + shift > i64::from(*precision) {
        return Err(OUT_OF_RANGE);
    }
    let unscaled = digits.parse::<i128>().map_err(|_| OUT_OF_RANGE)? * 10_i128.pow(shift as u32);
    Ok(if text.starts_with('-') { -unscaled } else { unscaled })
}

/// The digits of a decimal number without zeros at either end, and the power of ten that they stand for. Empty for zero.
pub(crate) fn significant_digits(text: &str) -> Option<(String, i64)> {
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        // An exponent of ten digits or more can't be meant; it is refused rather than computed with.
        Some((mantissa, exponent)) => (mantissa, i64::from(exponent.parse::<i32>().ok()?)),
        None => (unsigned, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !all_digits(whole) || !all_digits(fraction) || mantissa.ends_with('.') {
        return None;
    }
    let digits = format!("{whole}{fraction}");
    let significant = digits.trim_end_matches('0');
    let dropped = digits.len() - significant.len();
    Some((significant.trim_start_matches('0').to_owned(), exponent - fraction.len() as i64 + dropped as i64))
}

/// The text of a `json` field as it is, unless no store of JSON could take it: a text in it that is none, or levels beyond
/// [`json::MAX_DEPTH`].
pub fn json(raw: &str) -> Result<&str, Wrong> {
    if !raw.starts_with(['{', '[', '"']) {
        return Ok(raw);
    }
    let survey = json::survey(raw, |_| ());
    match survey {
        _ if survey.depth > json::MAX_DEPTH => Err("is nested too deep"),
        _ if survey.broken_text => Err("holds an escape that is no character"),
        _ => Ok(raw),
    }
}

/// Whether `raw` is a value of the field, which is of a type that schema files know.
pub fn check(raw: &str, field: &Field) -> Result<(), Wrong> {
    let data_type = field.data_type();
    match data_type {
        DataType::Utf8 if super::is_json(field) => json(raw).map(drop),
        DataType::Utf8 => utf8(raw).map(drop),
        DataType::Binary => binary(raw).map(drop),
        DataType::Boolean => boolean(raw).map(drop),
        DataType::Int8 => int::<i8>(raw).map(drop),
        DataType::Int16 => int::<i16>(raw).map(drop),
        DataType::Int32 => int::<i32>(raw).map(drop),
        DataType::Int64 => int::<i64>(raw).map(drop),
        DataType::UInt8 => int::<u8>(raw).map(drop),
        DataType::UInt16 => int::<u16>(raw).map(drop),
        DataType::UInt32 => int::<u32>(raw).map(drop),
        DataType::UInt64 => int::<u64>(raw).map(drop),
        DataType::Float32 => float32(raw).map(drop),
        DataType::Float64 => float64(raw).map(drop),
        DataType::Date32 => date32(raw).map(drop),
        DataType::Timestamp(_, _) => timestamp(raw, data_type).map(drop),
        DataType::Decimal128(_, _) => decimal128(raw, data_type).map(drop),
        DataType::Struct(fields) => check_members(raw, fields),
        DataType::List(items) => {
            let elements = json::elements(raw).map_err(|_| json::kind(raw))?;
            elements.into_iter().try_for_each(|element| check_inner(element, items))
        }
        _ => Err("has a type that JSON events can't carry"),
    }
}

fn check_members(raw: &str, fields: &Fields) -> Result<(), Wrong> {
    let members = json::members(raw).map_err(|_| json::kind(raw))?;
    for (index, (name, value)) in members.iter().enumerate() {
        let field = fields.iter().find(|field| field.name() == name).ok_or("has a member that its struct lacks")?;
        if members.iter().take(index).any(|(earlier, _)| earlier == name) {
            return Err("has a member twice");
        }
        check_inner(value, field)?;
    }
    let given = |name: &String| members.iter().any(|(given, _)| given == name);
    match fields.iter().all(|field| field.is_nullable() || given(field.name())) {
        true => Ok(()),
        false => Err("lacks a member that may not be missing"),
    }
}

fn check_inner(raw: &str, field: &Field) -> Result<(), Wrong> {
    match raw {
        "null" if field.is_nullable() => Ok(()),
        "null" => Err("has a null in it that may not be null"),
        _ => check(raw, field),
    }
}

fn is_number(raw: &str) -> bool {
    raw.starts_with(|first: char| first == '-' || first.is_ascii_digit())
}

fn text(raw: &str) -> Result<Cow<'_, str>, Wrong> {
    if !raw.starts_with('"') {
        return Err(json::kind(raw));
    }
    json::string(raw).ok_or("holds an escape that is no character")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_are_exact_or_refused() {
        assert_eq!(int::<i64>("9007199254740993"), Ok(9_007_199_254_740_993));
        assert_eq!(int::<i64>("-9223372036854775808"), Ok(i64::MIN));
        assert_eq!(int::<i64>("9223372036854775808"), Err(OUT_OF_RANGE));
        assert_eq!(int::<u64>("18446744073709551615"), Ok(u64::MAX));
        assert_eq!(int::<u64>("-1"), Err(OUT_OF_RANGE));
        assert_eq!(int::<i8>("128"), Err(OUT_OF_RANGE));
        assert_eq!(int::<i32>("1.0"), Err(FRACTION));
        assert_eq!(int::<i32>("1e3"), Err(FRACTION));
        assert_eq!(int::<i32>("\"17\""), Err("is a string"));
        assert_eq!(int::<i32>("true"), Err("is a boolean"));
    }

    #[test]
    fn floats_are_the_nearest_value_and_never_infinite() {
        assert_eq!(float64("0.1"), Ok(0.1));
        assert_eq!(float64("-0"), Ok(-0.0));
        assert_eq!(float64("9007199254740992"), Ok(9_007_199_254_740_992.0));
        assert_eq!(float64("9007199254740993"), Err(INEXACT));
        assert_eq!(float64("1e999"), Err(OUT_OF_RANGE));
        assert_eq!(float32("16777217"), Err(INEXACT));
        assert_eq!(float32("1e39"), Err(OUT_OF_RANGE));
        assert_eq!(float64("\"0.1\""), Err("is a string"));
    }

    #[test]
    fn decimals_are_exact_or_refused() {
        let money = DataType::Decimal128(10, 2);
        for (raw, unscaled) in [
            ("12.34", 1234),
            ("\"12.34\"", 1234),
            ("-0.5", -50),
            ("12.3400", 1234),
            ("1.2e3", 120_000),
            ("1234e-2", 1234),
            ("0", 0),
            ("-0.000", 0),
            ("\"00012\"", 1200),
            ("99999999.99", 9_999_999_999),
        ] {
            assert_eq!(decimal128(raw, &money), Ok(unscaled), "{raw}");
        }
        assert_eq!(decimal128("0.001", &money), Err(INEXACT));
        assert_eq!(decimal128("100000000", &money), Err(OUT_OF_RANGE));
        assert_eq!(decimal128("1e2000000000", &money), Err(OUT_OF_RANGE));
        for raw in ["\"\"", "\".5\"", "\"5.\"", "\"+5\"", "\"1,000\"", "\"NaN\"", "\"1e99999999999\"", "\"--1\""] {
            assert_eq!(decimal128(raw, &money), Err("is no decimal number"), "{raw}");
        }
        assert_eq!(decimal128("true", &money), Err("is a boolean"));
        let widest = DataType::Decimal128(38, 0);
        assert_eq!(decimal128(&"9".repeat(38), &widest), Ok(10_i128.pow(38) - 1));
        assert_eq!(decimal128(&"9".repeat(39), &widest), Err(OUT_OF_RANGE));
    }

    #[test]
    fn times_come_from_numbers_in_the_unit_or_from_exact_text() {
        let millis = DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()));
        assert_eq!(timestamp("1700000000000", &millis), Ok(1_700_000_000_000));
        assert_eq!(timestamp("\"2023-11-14T22:13:20Z\"", &millis), Ok(1_700_000_000_000));
        assert_eq!(timestamp("\"2023-11-15T00:13:20.5+02:00\"", &millis), Ok(1_700_000_000_500));
        assert_eq!(timestamp("\"2023-11-14T22:13:20.0001Z\"", &millis), Err("is finer than its unit"));
        for raw in ["\"2023-11-14T22:13:20\"", "\"2016-12-31T23:59:60Z\"", "\"yesterday\"", "\"2023-02-30T00:00:00Z\""]
        {
            assert_eq!(timestamp(raw, &millis), Err("is no RFC 3339 time with an offset"), "{raw}");
        }
        assert_eq!(timestamp("1.5", &millis), Err(FRACTION));
    }

    #[test]
    fn dates_count_days_since_1970() {
        assert_eq!(date32("\"1970-01-02\""), Ok(1));
        assert_eq!(date32("\"1969-12-31\""), Ok(-1));
        assert_eq!(date32("\"2024-02-29\""), Ok(19_782));
        assert_eq!(date32("19782"), Ok(19_782));
        for raw in ["\"2023-02-29\"", "\"2024-2-9\"", "\"20240229\"", "\"2024-02-29T00:00:00\""] {
            assert!(date32(raw).is_err(), "{raw}");
        }
    }

    #[test]
    fn bytes_come_from_padded_base64() {
        assert_eq!(binary("\"AP8=\""), Ok(vec![0, 255]));
        assert_eq!(binary("\"\""), Ok(Vec::new()));
        assert_eq!(binary("\"AP8\""), Err("is no base64"));
        assert_eq!(binary("\"A P8=\""), Err("is no base64"));
        assert_eq!(binary("7"), Err("is a number"));
    }
}
