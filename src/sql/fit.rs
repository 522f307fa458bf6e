//! Which values a target's column holds exactly (P6): judged here, before MySQL could round, cut or refuse them, and per event, so
//! that one user's bad value stops nobody else.
//!
//! In: a column of the target and the values meant for it. Out: the rows whose value doesn't fit, each with a reason that names the
//! limit and never the value.

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, PrimitiveArray};
use arrow::compute::cast;
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Decimal128Type, Decimal256Type, Float32Type, Float64Type, Int64Type,
    Time64NanosecondType, TimeUnit, TimestampNanosecondType, TimestampSecondType, UInt64Type, i256,
};

use super::nested::is_nested;
use crate::json;
use crate::schema::values::significant_digits;
use crate::target::{Column, Holds};

/// A value that doesn't fit: its row and why.
pub(super) type Misfit = (usize, String);

/// MySQL's `DATE` and `DATETIME` are defined from 1000-01-01 to 9999-12-31: days since 1970.
const FIRST_DAY: i32 = -354_285;
const LAST_DAY: i32 = 2_932_896;

/// Whether values of type `kind` can be written to the column without a conversion that could change them.
pub(super) fn accepts(holds: &Holds, kind: &DataType) -> bool {
    match holds {
        Holds::Text { .. } | Holds::Json | Holds::JsonText => *kind == DataType::Utf8 || is_nested(kind),
        Holds::Bytes { .. } => matches!(kind, DataType::Binary | DataType::Utf8 | DataType::FixedSizeBinary(_)),
        Holds::Int { .. } => kind.is_integer() || *kind == DataType::Boolean,
        Holds::Bool => kind.is_integer() || *kind == DataType::Boolean,
        Holds::Decimal { .. } => {
            kind.is_integer() || matches!(kind, DataType::Decimal128(..) | DataType::Decimal256(..))
        }
        Holds::Float => *kind == DataType::Float32,
        Holds::Double => matches!(kind, DataType::Float32 | DataType::Float64),
        Holds::Date => *kind == DataType::Date32,
        Holds::DateTime { .. } => matches!(kind, DataType::Timestamp(..) | DataType::Date32),
        Holds::Time { .. } => matches!(kind, DataType::Time32(_) | DataType::Time64(_)),
        Holds::Other => true,
    }
}

/// Rows of `values` that `column` can't hold. Rows that are `deleted` are judged only where the column belongs to the key.
pub(super) fn misfits(column: &Column, is_key: bool, values: &ArrayRef, deleted: &BooleanArray) -> Vec<Misfit> {
    let mut found = Vec::new();
    if (is_key || !column.nullable) && values.null_count() > 0 {
        let reason = format!("{} is NULL but the target's column is NOT NULL", column.name);
        found.extend((0..values.len()).filter(|row| values.is_null(*row)).map(|row| (row, reason.clone())));
    }
    match &column.holds {
        Holds::Text { max_chars, max_bytes } => texts(column, values, *max_chars, *max_bytes, &mut found),
        Holds::Bytes { max_bytes } => bytes(column, values, *max_bytes, &mut found),
        Holds::Int { min, max } => integers(column, values, *min, *max, &mut found),
        Holds::Bool => integers(column, values, 0, 1, &mut found),
        Holds::Decimal { precision, scale } => decimals(column, values, *precision, *scale, &mut found),
        Holds::Float | Holds::Double => floats(column, values, &mut found),
        Holds::Date => days(column, values, &mut found),
        Holds::DateTime { digits } => times(column, values, *digits, &mut found),
        Holds::Time { digits } => clock(column, values, *digits, &mut found),
        Holds::Json => documents(column, values, own_form, &mut found),
        Holds::JsonText => documents(column, values, as_text, &mut found),
        Holds::Other => {}
    }
    if !is_key {
        found.retain(|(row, _)| !(deleted.is_valid(*row) && deleted.value(*row)));
    }
    found
}

fn texts(column: &Column, values: &ArrayRef, max_chars: u64, max_bytes: u64, found: &mut Vec<Misfit>) {
    let Some(texts) = values.as_string_opt::<i32>() else { return };
    let surely = max_chars.min(max_bytes);
    if column.ddl_type.starts_with("char(") {
        // Longer texts are judged below.
        let blank = |row: &usize| texts.is_valid(*row) && texts.value(*row).ends_with(' ');
        let reason = format!("{} ends with a blank, which the target's column (CHAR) doesn't keep", column.name);
        found.extend((0..texts.len()).filter(blank).map(|row| (row, reason.clone())));
    }
    for (row, length) in texts.offsets().lengths().enumerate() {
        if length as u64 <= surely || texts.is_null(row) {
            continue;
        }
        let chars = texts.value(row).chars().count() as u64;
        if chars > max_chars {
            found.push((row, format!("{} has {chars} characters, the target's column holds {max_chars}", column.name)));
        } else if length as u64 > max_bytes {
            found.push((row, format!("{} has {length} bytes, the target's column holds {max_bytes}", column.name)));
        }
    }
}

fn bytes(column: &Column, values: &ArrayRef, max_bytes: u64, found: &mut Vec<Misfit>) {
    let Ok(values) = cast(values, &DataType::Binary) else { return };
    let Some(values) = values.as_binary_opt::<i32>() else { return };
    // BINARY fills up with zeros.
    let exactly = column.ddl_type.starts_with("binary(");
    for (row, length) in values.offsets().lengths().enumerate() {
        if (length as u64 > max_bytes || (exactly && (length as u64) < max_bytes)) && values.is_valid(row) {
            let holds = if exactly { "holds exactly" } else { "holds" };
            found.push((row, format!("{} has {length} bytes, the target's column {holds} {max_bytes}", column.name)));
        }
    }
}

/// What keeps `text` from being kept as it is, as the rest of a sentence.
type Judge = fn(&str) -> Option<&'static str>;

fn documents(column: &Column, values: &ArrayRef, judge: Judge, found: &mut Vec<Misfit>) {
    let Some(texts) = values.as_string_opt::<i32>() else { return };
    for (row, text) in texts.iter().enumerate() {
        let Some(text) = text else { continue };
        let wrong = match serde_json::from_str::<serde::de::IgnoredAny>(text) {
            Ok(_) => judge(text.trim_matches([' ', '\t', '\n', '\r'])),
            Err(_) => Some("is no JSON, which the target's column wants"),
        };
        found.extend(wrong.map(|wrong| (row, format!("{} {wrong}", column.name))));
    }
}

/// Most levels that MySQL takes, and that MariaDB's JSON_VALID does.
const OWN_LEVELS: usize = 100;
const TEXT_LEVELS: usize = 32;

fn own_form(text: &str) -> Option<&'static str> {
    let mut exact = true;
    let survey = json::survey(text, |number| exact &= keeps_number(number));
    match survey {
        _ if survey.depth > OWN_LEVELS => Some("is nested deeper than the 100 levels of MySQL's JSON"),
        _ if survey.broken_text => Some("holds an escape that is no character"),
        _ if survey.repeats => Some("has a member twice, of which MySQL's JSON would keep one"),
        _ if !exact => Some("holds a number with more digits than MySQL's JSON keeps"),
        _ => None,
    }
}

fn as_text(text: &str) -> Option<&'static str> {
    (json::survey(text, |_| ()).depth > TEXT_LEVELS).then_some("is nested deeper than the 32 levels of MariaDB's JSON")
}

/// Whether MySQL's JSON gives the number back with the same digits, whatever way it writes them: whole numbers of 64 bits, and what a
/// double holds.
fn keeps_number(raw: &str) -> bool {
    if raw.parse::<i64>().is_ok() || raw.parse::<u64>().is_ok() {
        return true;
    }
    let Ok(double) = raw.parse::<f64>() else { return false };
    double.is_finite() && significant_digits(&format!("{double:e}")) == significant_digits(raw)
}

/// Judges every value of `values` with `fits`.
fn each<T: ArrowPrimitiveType>(
    values: &ArrayRef,
    reason: impl Fn() -> String,
    fits: impl Fn(T::Native) -> bool,
    found: &mut Vec<Misfit>,
) {
    let Some(values) = values.as_primitive_opt::<T>() else { return };
    let values: &PrimitiveArray<T> = values;
    for (row, value) in values.values().iter().enumerate() {
        if !fits(*value) && values.is_valid(row) {
            found.push((row, reason()));
        }
    }
}

fn integers(column: &Column, values: &ArrayRef, min: i128, max: i128, found: &mut Vec<Misfit>) {
    let reason = || format!("{} is outside of what the target's column holds ({min} to {max})", column.name);
    if *values.data_type() == DataType::UInt64 {
        return each::<UInt64Type>(values, reason, |value| (min..=max).contains(&i128::from(value)), found);
    }
    // Every other kind of integer, and booleans, are whole in 64 bits.
    let Ok(wide) = cast(values, &DataType::Int64) else { return };
    each::<Int64Type>(&wide, reason, |value| (min..=max).contains(&i128::from(value)), found);
}

fn decimals(column: &Column, values: &ArrayRef, precision: u8, scale: u8, found: &mut Vec<Misfit>) {
    let reason =
        || format!("{} has more digits than the target's column holds (DECIMAL({precision},{scale}))", column.name);
    let from_scale = match values.data_type() {
        DataType::Decimal128(_, from) | DataType::Decimal256(_, from) => *from,
        _ => 0,
    };
    let wide = match values.data_type() {
        DataType::Decimal128(..) => {
            // Digits before the point and after it are limited apart from each other.
            return each::<Decimal128Type>(
                values,
                reason,
                |value| decimal_fits(i256::from_i128(value), from_scale, precision, scale),
                found,
            );
        }
        DataType::Decimal256(..) => values.clone(),
        _ => match cast(values, &DataType::Decimal256(20, 0)) {
            Ok(wide) => wide,
            Err(_) => return,
        },
    };
    each::<Decimal256Type>(&wide, reason, |value| decimal_fits(value, from_scale, precision, scale), found);
}

/// Whether `value` * 10^-`from_scale` is a multiple of 10^-`scale` below 10^(`precision` - `scale`).
fn decimal_fits(value: i256, from_scale: i8, precision: u8, scale: u8) -> bool {
    let ten = |power: u32| i256::from_i128(10).checked_pow(power);
    let shift = i32::from(scale) - i32::from(from_scale);
    let scaled = if shift >= 0 {
        ten(shift.unsigned_abs()).and_then(|factor| value.checked_mul(factor))
    } else {
        let Some(factor) = ten(shift.unsigned_abs()) else { return value == i256::ZERO };
        match value.checked_rem(factor) {
            Some(rest) if rest == i256::ZERO => value.checked_div(factor),
            _ => None,
        }
    };
    match (scaled, ten(u32::from(precision))) {
        (Some(scaled), Some(limit)) => scaled.wrapping_abs() < limit,
        (Some(_), None) => true,
        (None, _) => false,
    }
}

fn floats(column: &Column, values: &ArrayRef, found: &mut Vec<Misfit>) {
    let reason = || format!("{} is infinite or not a number, which MySQL can't keep", column.name);
    each::<Float32Type>(values, reason, f32::is_finite, found);
    each::<Float64Type>(values, reason, f64::is_finite, found);
}

fn days(column: &Column, values: &ArrayRef, found: &mut Vec<Misfit>) {
    let reason = || format!("{} lies outside of the years 1000 to 9999", column.name);
    each::<Date32Type>(values, reason, |day| (FIRST_DAY..=LAST_DAY).contains(&day), found);
}

fn times(column: &Column, values: &ArrayRef, digits: u8, found: &mut Vec<Misfit>) {
    if *values.data_type() == DataType::Date32 {
        return days(column, values, found);
    }
    let DataType::Timestamp(unit, _) = values.data_type() else { return };
    let Ok(seconds) = cast(values, &DataType::Timestamp(TimeUnit::Second, None)) else { return };
    let reason = || format!("{} lies outside of the years 1000 to 9999", column.name);
    let (first, last) = (i64::from(FIRST_DAY) * 86_400, (i64::from(LAST_DAY) + 1) * 86_400);
    each::<TimestampSecondType>(&seconds, reason, |second| (first..last).contains(&second), found);
    let finest = match unit {
        TimeUnit::Second => 0,
        TimeUnit::Millisecond => 3,
        TimeUnit::Microsecond => 6,
        TimeUnit::Nanosecond => 9,
    };
    if finest > digits {
        let Ok(nanos) = cast(values, &DataType::Timestamp(TimeUnit::Nanosecond, None)) else { return };
        each::<TimestampNanosecondType>(&nanos, || finer(column, digits), |value| whole(value, digits), found);
    }
}

fn clock(column: &Column, values: &ArrayRef, digits: u8, found: &mut Vec<Misfit>) {
    let Ok(nanos) = cast(values, &DataType::Time64(TimeUnit::Nanosecond)) else { return };
    each::<Time64NanosecondType>(&nanos, || finer(column, digits), |value| whole(value, digits), found);
}

fn finer(column: &Column, digits: u8) -> String {
    format!("{} is finer than the target's column holds ({digits} digits after the second)", column.name)
}

/// Whether so many nanoseconds are a whole number of the column's units.
fn whole(nanos: i64, digits: u8) -> bool {
    nanos % 10_i64.pow(9 - u32::from(digits.min(9))) == 0
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Decimal128Array, Float64Array, Int64Array, StringArray, TimestampNanosecondArray, UInt64Array};

    use super::*;

    fn column(holds: Holds, nullable: bool) -> Column {
        Column { name: "c".into(), ddl_type: String::new(), holds, nullable }
    }

    fn rows(holds: Holds, values: ArrayRef) -> Vec<usize> {
        let deleted = BooleanArray::from(vec![false; values.len()]);
        misfits(&column(holds, true), false, &values, &deleted).into_iter().map(|(row, _)| row).collect()
    }

    #[test]
    fn text_is_measured_in_characters_and_in_bytes() {
        let values: ArrayRef = Arc::new(StringArray::from(vec![Some("abc"), Some("äöü"), Some("abcd"), None]));
        assert_eq!(rows(Holds::Text { max_chars: 3, max_bytes: 100 }, values.clone()), [2]);
        assert_eq!(rows(Holds::Text { max_chars: 3, max_bytes: 4 }, values), [1, 2]);
    }

    // Proves: P6
    #[test]
    fn what_char_would_drop_and_binary_would_add_does_not_fit() {
        let rows = |ddl_type: &str, holds: Holds, values: Vec<&str>| -> Vec<usize> {
            let values: ArrayRef = Arc::new(StringArray::from(values));
            let deleted = BooleanArray::from(vec![false; values.len()]);
            let column = Column { ddl_type: ddl_type.to_owned(), ..column(holds, true) };
            misfits(&column, false, &values, &deleted).into_iter().map(|(row, _)| row).collect()
        };
        let text = Holds::Text { max_chars: 3, max_bytes: 12 };
        assert_eq!(rows("char(3) CHARACTER SET utf8mb4", text, vec!["a", "a ", " a", ""]), [1]);
        assert_eq!(rows("varchar(3)", text, vec!["a ", "abcd"]), [1]);
        let bytes = Holds::Bytes { max_bytes: 3 };
        assert_eq!(rows("binary(3)", bytes, vec!["abc", "ab", "abcd"]), [1, 2]);
        assert_eq!(rows("varbinary(3)", bytes, vec!["abc", "ab", "abcd"]), [2]);
    }

    #[test]
    fn integers_are_compared_without_wrapping() {
        let values: ArrayRef = Arc::new(UInt64Array::from(vec![0, u64::MAX, 127, 128]));
        assert_eq!(rows(Holds::Int { min: -128, max: 127 }, values), [1, 3]);
        let values: ArrayRef = Arc::new(Int64Array::from(vec![i64::MIN, -129, -128, 5]));
        assert_eq!(rows(Holds::Int { min: -128, max: 127 }, values.clone()), [0, 1]);
        assert_eq!(rows(Holds::Decimal { precision: 2, scale: 0 }, values), [0, 1, 2]);
    }

    #[test]
    fn a_decimal_that_would_be_rounded_does_not_fit() {
        let values: ArrayRef = Arc::new(
            Decimal128Array::from(vec![12_340, 12_345, 99_999, 100_000]).with_precision_and_scale(10, 3).unwrap(),
        );
        // 12.34, 12.345, 99.999, 100 in DECIMAL(4,2).
        assert_eq!(rows(Holds::Decimal { precision: 4, scale: 2 }, values), [1, 2, 3]);
    }

    #[test]
    fn a_time_finer_than_the_column_or_out_of_its_years_does_not_fit() {
        let values: ArrayRef = Arc::new(TimestampNanosecondArray::from(vec![1_000, 1_001, i64::MAX, 0]));
        assert_eq!(rows(Holds::DateTime { digits: 6 }, values), [1, 2]);
        assert_eq!(rows(Holds::Double, Arc::new(Float64Array::from(vec![1.0, f64::NAN, f64::INFINITY]))), [1, 2]);
    }

    // Proves: P6
    #[test]
    fn json_that_the_column_would_change_does_not_fit() {
        let deep = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        let (deep_own, deep_text) = (deep(101), deep(33));
        for (text, own, as_text) in [
            (r#"{"b":1,"a":[true,null,"x"]}"#, true, true),
            ("18446744073709551615", true, true),
            ("-9223372036854775808", true, true),
            ("18446744073709551617", false, true),
            ("1e20", true, true),
            ("0.1", true, true),
            ("1.50", true, true),
            ("0.1000000000000000000001", false, true),
            ("1e400", false, true),
            ("1e-400", false, true),
            (r#"{"a":1,"a":2}"#, false, true),
            (r#""\ud83d""#, false, true),
            (&deep_text, true, false),
            (&deep_own, false, false),
            ("NaN", false, false),
            ("", false, false),
            ("{} {}", false, false),
        ] {
            let values: ArrayRef = Arc::new(StringArray::from(vec![text]));
            assert_eq!(rows(Holds::Json, values.clone()).is_empty(), own, "{text}");
            assert_eq!(rows(Holds::JsonText, values).is_empty(), as_text, "{text}");
        }
    }

    #[test]
    fn a_deleted_row_is_judged_by_its_key_only() {
        let values: ArrayRef = Arc::new(StringArray::from(vec![None, None, Some("abcd")]));
        let deleted = BooleanArray::from(vec![true, false, true]);
        let narrow = column(Holds::Text { max_chars: 3, max_bytes: 12 }, false);
        let found: Vec<usize> = misfits(&narrow, false, &values, &deleted).into_iter().map(|(row, _)| row).collect();
        assert_eq!(found, [1]);
        let found: Vec<usize> = misfits(&narrow, true, &values, &deleted).into_iter().map(|(row, _)| row).collect();
        assert_eq!(found, [0, 1, 2]);
    }

    #[test]
    fn the_days_of_mysql_are_the_calendars() {
        let day = |text: &str| {
            let text: ArrayRef = Arc::new(StringArray::from(vec![text]));
            cast(&text, &DataType::Date32).unwrap().as_primitive::<Date32Type>().value(0)
        };
        assert_eq!((day("1000-01-01"), day("9999-12-31")), (FIRST_DAY, LAST_DAY));
    }
}
