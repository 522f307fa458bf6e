//! What was seen at one place of the rows: a field, or the items of a list.

use std::collections::HashMap;

use arrow::datatypes::{DataType, Field, TimeUnit};

use super::answers_to;
use crate::json;
use crate::schema::read::MAX_LEVELS;
use crate::schema::{Reading, SourceSchema, values};

/// An object with more different members than this is no struct but a map.
const MAX_MEMBERS: usize = 256;

/// What the version in use says about a place.
pub(super) enum Known<'s> {
    /// The row, or a struct's members.
    Members(&'s [std::sync::Arc<Field>], &'s [Reading]),
    Items(&'s Field, Option<&'s Reading>),
    Value(&'s Field),
}

impl<'s> Known<'s> {
    pub(super) fn row(schema: &'s SourceSchema) -> Self {
        Self::Members(&schema.fields, &schema.reading)
    }

    fn of(field: &'s Field, reading: Option<&'s Reading>) -> Self {
        let inner = reading.map(|reading| reading.inner.as_slice()).unwrap_or_default();
        match field.data_type() {
            DataType::Struct(fields) => Self::Members(fields, inner),
            DataType::List(items) => Self::Items(items, inner.first()),
            _ => Self::Value(field),
        }
    }

    fn member(&self, name: &str) -> Option<Known<'s>> {
        let Self::Members(fields, readings) = self else { return None };
        let (field, reading) =
            fields.iter().zip(readings.iter()).find(|(field, reading)| answers_to(field, reading, name))?;
        Some(Self::of(field, Some(reading)))
    }

    /// Whether the value, whose own parts are judged by themselves, is none of this place.
    fn refuses(&self, raw: &str) -> bool {
        match self {
            Self::Members(..) => !raw.starts_with('{'),
            Self::Items(..) => !raw.starts_with('['),
            Self::Value(field) => values::check(raw, field).is_err(),
        }
    }
}

/// See the module page. Counts are of samples that decide whether it may be null; types come from all samples.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Values that are not null; of the row itself, and of structs, how often they were there.
    values: u64,
    nulls: u64,
    /// Values that the version in use refuses.
    pub(super) misfits: u64,
    /// Values of any sample.
    any: u64,
    pub(super) booleans: u64,
    pub(super) numbers: Numbers,
    pub(super) texts: Texts,
    pub(super) objects: u64,
    pub(super) arrays: u64,
    /// Members by name, and their names as first seen.
    members: HashMap<String, Seen>,
    order: Vec<String>,
    /// Objects with too many different members, or deeper than schemas go.
    pub(super) opaque: bool,
    pub(super) items: Option<Box<Seen>>,
}

#[derive(Debug)]
pub(super) struct Numbers {
    pub(super) count: u64,
    /// Without fraction and exponent, all of them.
    pub(super) whole: bool,
    pub(super) exponents: bool,
    /// Most digits after the point as written, and most digits before it.
    pub(super) scale: usize,
    pub(super) digits: usize,
    /// Within `i64`, and within `u64`, all of them.
    pub(super) signed: bool,
    pub(super) unsigned: bool,
    /// A double holds every one of them as it is written.
    pub(super) double: bool,
}

impl Default for Numbers {
    fn default() -> Self {
        Self {
            count: 0,
            whole: true,
            exponents: false,
            scale: 0,
            digits: 0,
            signed: true,
            unsigned: true,
            double: true,
        }
    }
}

impl Numbers {
    fn note(&mut self, raw: &str) {
        self.count += 1;
        let exponent = raw.contains(['e', 'E']);
        let (whole, fraction) = raw.split_once('.').unwrap_or((raw, ""));
        self.exponents |= exponent;
        self.whole &= !exponent && fraction.is_empty();
        self.scale = self.scale.max(fraction.len());
        self.digits = self.digits.max(whole.trim_start_matches('-').trim_start_matches('0').len());
        self.signed &= raw.parse::<i64>().is_ok();
        self.unsigned &= raw.parse::<u64>().is_ok();
        self.double &= values::float64(raw)
            .is_ok_and(|value| values::significant_digits(&format!("{value:e}")) == values::significant_digits(raw));
    }
}

#[derive(Debug)]
pub(super) struct Texts {
    pub(super) count: u64,
    /// All of them are dates, or times to this many nanoseconds.
    pub(super) dates: bool,
    pub(super) times: bool,
    pub(super) finest: TimeUnit,
}

impl Default for Texts {
    fn default() -> Self {
        Self { count: 0, dates: true, times: true, finest: TimeUnit::Millisecond }
    }
}

impl Texts {
    fn note(&mut self, raw: &str) {
        self.count += 1;
        self.dates = self.dates && values::date32(raw).is_ok();
        if !self.times {
            return;
        }
        let units = [TimeUnit::Millisecond, TimeUnit::Microsecond, TimeUnit::Nanosecond];
        let fits = |unit: &TimeUnit| values::timestamp(raw, &DataType::Timestamp(*unit, None)).is_ok();
        match units.into_iter().skip_while(|unit| *unit != self.finest).find(fits) {
            Some(unit) => self.finest = unit,
            None => self.times = false,
        }
    }
}

impl Seen {
    /// Notes a value; `counts` says whether it, and what it lacks, is held against being never null.
    pub(super) fn note(&mut self, raw: &str, counts: bool, known: Option<&Known<'_>>, level: usize) {
        if raw == "null" {
            self.nulls += u64::from(counts);
            return;
        }
        self.any += 1;
        self.values += u64::from(counts);
        self.misfits += u64::from(known.is_some_and(|known| known.refuses(raw)));
        match raw.as_bytes().first() {
            Some(b'{') => self.note_object(raw, counts, known, level),
            Some(b'[') => {
                self.arrays += 1;
                let inner = match known {
                    Some(Known::Items(items, reading)) => Some(Known::of(items, *reading)),
                    _ => None,
                };
                let items = self.items.get_or_insert_default();
                if level >= MAX_LEVELS {
                    items.opaque = true;
                }
                for element in json::elements(raw).unwrap_or_default() {
                    if level < MAX_LEVELS {
                        items.note(element, true, inner.as_ref(), level + 1);
                    }
                }
            }
            Some(b'"') => self.texts.note(raw),
            Some(b't' | b'f') => self.booleans += 1,
            _ => self.numbers.note(raw),
        }
    }

    fn note_object(&mut self, raw: &str, counts: bool, known: Option<&Known<'_>>, level: usize) {
        self.objects += 1;
        if level >= MAX_LEVELS {
            self.opaque = true;
            return;
        }
        for (name, value) in json::members(raw).unwrap_or_default() {
            let inner = known.and_then(|known| known.member(&name));
            if !self.members.contains_key(&name) {
                if self.order.len() >= MAX_MEMBERS {
                    self.opaque = true;
                    continue;
                }
                self.order.push(name.clone());
            }
            self.members.entry(name).or_default().note(value, counts, inner.as_ref(), level + 1);
        }
    }

    /// The members as first seen.
    pub(super) fn members(&self) -> impl Iterator<Item = (&String, &Seen)> {
        self.order.iter().filter_map(|name| self.members.get_key_value(name))
    }

    /// How often the members could have been there.
    pub(super) fn rows(&self) -> u64 {
        self.values
    }

    pub(super) fn values(&self) -> u64 {
        self.values
    }

    pub(super) fn nulls(&self) -> u64 {
        self.nulls
    }

    /// Whether any sample had a value.
    pub(super) fn has_values(&self) -> bool {
        self.any > 0
    }
}
