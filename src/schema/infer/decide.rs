//! From what was seen to fields: types, whether they may be null, and what their docs say.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Fields, TimeUnit};

use super::seen::Seen;
use super::{ENOUGH_ROWS, answers_to, is_nested};
use crate::schema::read::join;
use crate::schema::{Reading, as_json, type_of};

/// Digits after the point of numbers that are taken for decimals, such as money, rather than for measurements.
const MONEY_DIGITS: std::ops::RangeInclusive<usize> = 2..=4;
/// Digits that `decimal128` holds, and those that we give to a decimal that needs fewer.
const MAX_DIGITS: usize = 38;
const USUAL_DIGITS: usize = 18;

/// Type of a place, and what is to be said about it.
struct Decided {
    data_type: DataType,
    json: bool,
    remark: Option<String>,
}

/// The members of what was seen, all of them.
pub(super) fn fields(seen: &Seen, path: &str, notes: &mut Vec<String>) -> Vec<Field> {
    seen.members().map(|(name, member)| field(name, member, seen.rows(), &join(path, name), true, notes)).collect()
}

/// The fields of the version in use, unchanged, and behind them what it doesn't know.
pub(super) fn extend(
    seen: &Seen,
    known: &Fields,
    readings: &[Reading],
    path: &str,
    added: &mut Vec<String>,
    notes: &mut Vec<String>,
) -> Vec<Field> {
    let mut extended = Vec::with_capacity(known.len());
    for (field, reading) in known.iter().zip(readings) {
        let sightings = seen.members().filter(|(name, _)| answers_to(field, reading, name)).map(|(_, member)| member);
        let mut grown = Field::clone(field);
        for member in sightings {
            grown = extend_field(&grown, reading, member, &join(path, field.name()), added, notes);
        }
        extended.push(grown);
    }
    let is_known = |name: &str| known.iter().zip(readings).any(|(field, reading)| answers_to(field, reading, name));
    for (name, member) in seen.members().filter(|(name, _)| !is_known(name)) {
        let path = join(path, name);
        // A new field is lacking in every older event.
        extended.push(field(name, member, seen.rows(), &path, false, notes));
        added.push(path);
    }
    extended
}

fn extend_field(
    field: &Field,
    reading: &Reading,
    seen: &Seen,
    path: &str,
    added: &mut Vec<String>,
    notes: &mut Vec<String>,
) -> Field {
    if seen.misfits > 0 {
        let (count, type_name) = (seen.misfits, type_of(field));
        let values = if count == 1 { "1 value is none".to_owned() } else { format!("{count} values are none") };
        notes.push(format!("`{path}` is {type_name}, and {values}: such events are refused; left as it is"));
    }
    let inner = match (field.data_type(), &seen.items) {
        (DataType::Struct(fields), _) => {
            DataType::Struct(extend(seen, fields, &reading.inner, path, added, notes).into())
        }
        (DataType::List(items), Some(seen)) => match reading.inner.first() {
            Some(reading) if is_nested(items.data_type()) || seen.misfits > 0 => {
                DataType::List(Arc::new(extend_field(items, reading, seen, &format!("{path}[]"), added, notes)))
            }
            _ => return field.clone(),
        },
        _ => return field.clone(),
    };
    field.clone().with_data_type(inner)
}

/// A field called `name` of rows that were seen `rows` times.
fn field(name: &str, seen: &Seen, rows: u64, path: &str, may_be_required: bool, notes: &mut Vec<String>) -> Field {
    let Decided { data_type, json, remark } = decide(seen, path, notes);
    let lacking = rows.saturating_sub(seen.values());
    let required = may_be_required && lacking == 0 && rows >= ENOUGH_ROWS;
    let field = Field::new(name, data_type, !required);
    let mut doc = match (seen.values(), seen.nulls()) {
        (values, 0) => format!("In {values} of {rows} samples."),
        (values, nulls) => format!("In {values} of {rows} samples, null in {nulls}."),
    };
    if let Some(remark) = remark {
        doc = format!("{doc} {remark}");
    }
    let field = field.with_metadata(HashMap::from([("doc".to_owned(), doc)]));
    if json { as_json(field) } else { field }
}

fn decide(seen: &Seen, path: &str, notes: &mut Vec<String>) -> Decided {
    let plain = |data_type| Decided { data_type, json: false, remark: None };
    let said = |data_type, remark: &str| Decided { remark: Some(remark.to_owned()), ..plain(data_type) };
    let json = |remark: &str| Decided { json: true, ..said(DataType::Utf8, remark) };
    if !seen.has_values() {
        notes.push(format!("`{path}` was never seen with a value: its type is a guess"));
        return json("Never seen with a value: whatever comes is kept as JSON.");
    }
    let kinds: Vec<&str> = [
        ("booleans", seen.booleans),
        ("numbers", seen.numbers.count),
        ("texts", seen.texts.count),
        ("objects", seen.objects),
        ("arrays", seen.arrays),
    ]
    .into_iter()
    .filter_map(|(kind, count)| (count > 0).then_some(kind))
    .collect();
    if kinds.len() > 1 {
        let kinds = kinds.join(" and ");
        notes.push(format!("`{path}` holds {kinds}: kept as JSON"));
        return json(&format!("Holds {kinds}: kept as JSON."));
    }
    match kinds.first().copied() {
        Some("booleans") => plain(DataType::Boolean),
        Some("numbers") => number(seen, path, notes),
        Some("texts") if seen.texts.times => said(
            DataType::Timestamp(seen.texts.finest, Some("UTC".into())),
            &format!("Every text was an RFC 3339 time, read to {}.", unit(seen.texts.finest)),
        ),
        Some("texts") if seen.texts.dates => said(DataType::Date32, "Every text was a date."),
        Some("texts") => plain(DataType::Utf8),
        Some("objects") if seen.opaque => {
            notes.push(format!("`{path}` has members without end, or stands too deep for a struct: kept as JSON"));
            json("An object with ever new members: kept as JSON.")
        }
        Some("objects") => {
            let members = fields(seen, path, notes);
            match members.is_empty() {
                true => json("Only seen as an empty object: kept as JSON."),
                false => plain(DataType::Struct(members.into())),
            }
        }
        _ => items(seen, path, notes),
    }
}

fn items(seen: &Seen, path: &str, notes: &mut Vec<String>) -> Decided {
    let json = |remark: &str| Decided { data_type: DataType::Utf8, json: true, remark: Some(remark.to_owned()) };
    let Some(items) = seen.items.as_ref().filter(|items| items.has_values() || items.nulls() > 0) else {
        return json("Only seen empty: kept as JSON.");
    };
    if items.opaque && !items.has_values() {
        return json("Nested too deep for a schema: kept as JSON.");
    }
    let decided = decide(items, &format!("{path}[]"), notes);
    let item = Field::new("item", decided.data_type, true);
    let item: FieldRef = Arc::new(if decided.json { as_json(item) } else { item });
    let remark = decided.remark.map(|remark| format!("Items: {remark}"));
    Decided { data_type: DataType::List(item), json: false, remark }
}

fn number(seen: &Seen, path: &str, notes: &mut Vec<String>) -> Decided {
    let numbers = &seen.numbers;
    let plain = |data_type| Decided { data_type, json: false, remark: None };
    let decimal = |digits: usize| -> Option<DataType> {
        let precision = if digits <= USUAL_DIGITS { USUAL_DIGITS } else { MAX_DIGITS };
        (digits <= MAX_DIGITS).then_some(DataType::Decimal128(precision as u8, numbers.scale as i8))
    };
    let digits = numbers.digits + numbers.scale;
    if numbers.whole {
        return match (numbers.signed, numbers.unsigned, decimal(digits)) {
            (true, ..) => plain(DataType::Int64),
            (_, true, _) => plain(DataType::UInt64),
            (_, _, Some(_)) => plain(DataType::Decimal128(MAX_DIGITS as u8, 0)),
            _ => too_long(path, notes),
        };
    }
    match decimal(digits) {
        Some(data_type) if !numbers.exponents && MONEY_DIGITS.contains(&numbers.scale) => {
            Decided { remark: Some(format!("Up to {} digits after the point.", numbers.scale)), ..plain(data_type) }
        }
        _ if numbers.double => plain(DataType::Float64),
        Some(data_type) if !numbers.exponents => plain(data_type),
        _ => too_long(path, notes),
    }
}

fn too_long(path: &str, notes: &mut Vec<String>) -> Decided {
    notes.push(format!("`{path}` holds numbers with more digits than any type: kept as JSON"));
    Decided {
        data_type: DataType::Utf8,
        json: true,
        remark: Some("Numbers with more digits than any type holds: kept as JSON.".to_owned()),
    }
}

fn unit(unit: TimeUnit) -> &'static str {
    match unit {
        TimeUnit::Second => "seconds",
        TimeUnit::Millisecond => "milliseconds",
        TimeUnit::Microsecond => "microseconds",
        TimeUnit::Nanosecond => "nanoseconds",
    }
}
