//! Reading one event: a single pass of the JSON parser that writes straight into the column buffers.
//!
//! The parser is driven by seeds: the event itself, its two images, and their text fields. All other values are taken as raw
//! text, so that no digit is lost, and read by the rules of [`crate::schema::values`]. What no schema knows is skipped unread,
//! without recursion, but not deeper than a parser would go.

use std::fmt;

use serde::Deserializer;
use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;
use serde_json::value::RawValue;

use super::columns::Column;
use super::image::{Image, Seen, Shape};
use super::nested::Trail;
use super::rows::{Op, Rows, Which};
use super::unmapped::Unmapped;
use super::{Fault, TimestampUnit};
use crate::json;
use crate::schema::SourceSchema;
use crate::schema::values;

/// Reads events of one schema.
pub(super) struct Reader {
    pub(super) shape: Shape,
    pub(super) timestamp_unit: TimestampUnit,
    unmapped: Unmapped,
    seen: Seen,
}

/// What a good event says besides its images.
pub(super) struct Event {
    pub(super) op: Op,
    pub(super) ts_ns: i64,
}

impl Reader {
    pub(super) fn new(schema: &SourceSchema, timestamp_unit: TimestampUnit) -> Self {
        Self {
            shape: Shape::new(&schema.fields, &schema.reading),
            timestamp_unit,
            unmapped: Unmapped::default(),
            seen: Seen::default(),
        }
    }

    /// Bytes that defaults may add to one event.
    pub(super) fn default_bytes(&self) -> usize {
        self.shape.default_bytes() * 2
    }

    /// Appends the images of the event in `text` to `rows`. After an error, `rows` holds parts of them and must be cut back.
    pub(super) fn read(&mut self, text: &str, rows: &mut Rows) -> Result<Event, Fault> {
        self.unmapped.forget_pending();
        let mut pass = Pass {
            shape: &self.shape,
            unmapped: &mut self.unmapped,
            seen: &mut self.seen,
            rows,
            parts: Parts::default(),
            fault: None,
        };
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let parsed = EventSeed(&mut pass).deserialize(&mut deserializer).and_then(|()| deserializer.end());
        if let Err(error) = parsed {
            return Err(placed(pass.fault, &error));
        }
        let parts = pass.parts;
        parts.event(&self.shape, self.timestamp_unit, rows)
    }

    /// Counts the unknown fields of the event read last, which turned out good.
    pub(super) fn count_unmapped(&mut self) {
        self.unmapped.count_pending();
    }

    pub(super) fn take_unmapped(&mut self) -> std::collections::BTreeMap<String, u64> {
        self.unmapped.take()
    }
}

/// The fault that stopped the parser, with its place. The parser's own messages hold no values unless they are about types, and
/// those faults are ours.
fn placed(fault: Option<Fault>, error: &serde_json::Error) -> Fault {
    match fault {
        Some(Fault { column, reason }) => {
            Fault { column, reason: format!("{reason}, at line {} column {}", error.line(), error.column()) }
        }
        None if error.classify() == Category::Data => {
            Fault::new(format!("the event has an unexpected form at line {} column {}", error.line(), error.column()))
        }
        None => Fault::new(format!("the payload is not valid JSON: {error}")),
    }
}

/// What was found of an image.
#[derive(Clone, Copy, Default)]
enum Found {
    #[default]
    Nowhere,
    Null,
    /// A whole image; `lacking` is its first required field without a value, if any, and whether it is there but null.
    Image {
        lacking: Option<(usize, bool)>,
    },
}

/// What was found of an event.
#[derive(Default)]
struct Parts {
    op: Option<Op>,
    timestamp: Option<i64>,
    before: Found,
    after: Found,
    /// Bit per known name, against repeats.
    seen: u8,
}

impl Parts {
    fn first_sight(&mut self, part: Part) -> bool {
        let bit = 1 << part as u8;
        let first = self.seen & bit == 0;
        self.seen |= bit;
        first
    }

    /// Judges the event as a whole and completes its images.
    fn event(&self, shape: &Shape, unit: TimestampUnit, rows: &mut Rows) -> Result<Event, Fault> {
        let op = self.op.ok_or_else(|| Fault::field("op", "is missing"))?;
        let timestamp = self.timestamp.ok_or_else(|| Fault::field("timestamp", "is missing"))?;
        let ts_ns = unit
            .to_ns(timestamp)
            .ok_or_else(|| Fault::field("timestamp", "is out of range: event times reach from 1677 to 2262"))?;
        let (needed, found, other) = match op {
            Op::Create | Op::Read | Op::Update => (Which::After, self.after, self.before),
            Op::Delete => (Which::Before, self.before, self.after),
        };
        let because = |what: &str| Fault::field(needed.name(), &format!("{what}, but op {} needs it", op.name()));
        match found {
            Found::Nowhere => return Err(because("is missing")),
            Found::Null => return Err(because("is null")),
            Found::Image { lacking: Some((index, is_null)) } => {
                let rest = if is_null { "is null, but may not be" } else { "is missing" };
                return Err(Fault::field(&path(shape, needed, index), rest));
            }
            Found::Image { lacking: None } => {}
        }
        let unneeded = rows.image(if needed == Which::After { Which::Before } else { Which::After });
        match other {
            Found::Nowhere => unneeded.push_null(),
            Found::Image { .. } if op != Op::Update => unneeded.drop_last(),
            Found::Null | Found::Image { .. } => {}
        }
        Ok(Event { op, ts_ns })
    }
}

fn path(shape: &Shape, which: Which, index: usize) -> String {
    let name = shape.fields.get(index).map(|field| &*field.name).unwrap_or_default();
    format!("{}.{name}", which.name())
}

/// The members of an event that mean something to us.
#[derive(Clone, Copy)]
enum Part {
    Op,
    Before,
    After,
    Timestamp,
    /// What change producers put beside them; skipped without a word.
    Quiet,
    Unknown,
}

impl Part {
    fn named(name: &str) -> Self {
        match name {
            "op" => Self::Op,
            "before" => Self::Before,
            "after" => Self::After,
            "timestamp" => Self::Timestamp,
            "source" | "transaction" | "schema" | "ts_ms" | "ts_us" | "ts_ns" => Self::Quiet,
            _ => Self::Unknown,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Op => "op",
            Self::Before => "before",
            Self::After => "after",
            Self::Timestamp => "timestamp",
            Self::Quiet | Self::Unknown => "another member",
        }
    }
}

/// One pass over one event.
struct Pass<'r> {
    shape: &'r Shape,
    unmapped: &'r mut Unmapped,
    seen: &'r mut Seen,
    rows: &'r mut Rows,
    parts: Parts,
    /// Why the pass was stopped by us; the parser's error then only tells where.
    fault: Option<Fault>,
}

impl Pass<'_> {
    fn stop<E: de::Error>(&mut self, fault: Fault) -> E {
        self.fault = Some(fault);
        E::custom("refused")
    }

    fn part<'de, A: MapAccess<'de>>(&mut self, part: Part, map: &mut A) -> Result<(), A::Error> {
        match part {
            Part::Op => {
                let raw = map.next_value::<&RawValue>()?.get();
                self.parts.op = json::string(raw).and_then(|name| Op::named(&name));
                if self.parts.op.is_none() {
                    return Err(self.stop(Fault::field("op", "is none of c, u, d, r")));
                }
            }
            Part::Before => self.parts.before = map.next_value_seed(ImageSeed { pass: self, which: Which::Before })?,
            Part::After => self.parts.after = map.next_value_seed(ImageSeed { pass: self, which: Which::After })?,
            Part::Timestamp => {
                let raw = map.next_value::<&RawValue>()?.get();
                match values::int(raw) {
                    Ok(timestamp) => self.parts.timestamp = Some(timestamp),
                    Err(wrong) => {
                        let rest = format!("{wrong}, a whole number of 64 bits is expected");
                        return Err(self.stop(Fault::field("timestamp", &rest)));
                    }
                }
            }
            Part::Quiet | Part::Unknown => self.skip(map, 1)?,
        }
        Ok(())
    }

    /// Skips a value that stands `levels` deep.
    fn skip<'de, A: MapAccess<'de>>(&mut self, map: &mut A, levels: usize) -> Result<(), A::Error> {
        let raw = map.next_value::<&RawValue>()?.get();
        if raw.starts_with(['{', '[']) && json::deeper_than(raw, json::MAX_DEPTH - levels) {
            return Err(self.too_deep());
        }
        Ok(())
    }

    fn field<'de, A: MapAccess<'de>>(&mut self, which: Which, index: usize, map: &mut A) -> Result<bool, A::Error> {
        if !self.seen.insert(index) {
            let rest = "stands in the image twice, under one name or under an alias";
            return Err(self.stop(Fault::field(&path(self.shape, which, index), rest)));
        }
        let wrong = match self.rows.image(which).column(index) {
            Some(Column::Text(text)) => {
                let mut wrong = None;
                match map.next_value_seed(TextSeed { text, wrong: &mut wrong }) {
                    Ok(is_value) => return Ok(is_value),
                    Err(error) if wrong.is_none() => return Err(error),
                    Err(_) => wrong.unwrap_or_default(),
                }
            }
            Some(column) => {
                let raw = map.next_value::<&RawValue>()?.get();
                if raw == "null" {
                    column.push_null();
                    return Ok(false);
                }
                let mut trail = Trail::default();
                if column.is_nested() {
                    if json::deeper_than(raw, json::MAX_DEPTH - 2) {
                        return Err(self.too_deep());
                    }
                    trail = Trail::of(self.shape.fields.get(index).map(|field| &*field.name).unwrap_or_default());
                }
                match column.push(raw, &mut trail) {
                    Ok(()) => {
                        trail.unknown.iter().for_each(|path| self.unmapped.note(path));
                        return Ok(true);
                    }
                    Err(wrong) if trail.blame.is_some() => return Err(self.stop_inside(which, index, wrong, trail)),
                    Err(wrong) => wrong,
                }
            }
            None => "has no column",
        };
        let expected = self.shape.fields.get(index).map(|field| field.type_name.as_str()).unwrap_or_default();
        Err(self.stop(Fault::field(&path(self.shape, which, index), &format!("{wrong}, {expected} is expected"))))
    }

    /// Stops for the sake of a part of a field's value.
    fn stop_inside<E: de::Error>(&mut self, which: Which, index: usize, wrong: &str, trail: Trail) -> E {
        let (rest, expected) = trail.blame.unwrap_or_default();
        let expected = expected.map(|expected| format!(", {expected} is expected")).unwrap_or_default();
        let place = format!("{}{rest}", path(self.shape, which, index));
        self.stop(Fault::field(&place, &format!("{wrong}{expected}")))
    }

    fn too_deep<E: de::Error>(&mut self) -> E {
        self.stop(Fault::new(format!("the event is nested deeper than {} levels", json::MAX_DEPTH)))
    }

    fn end_image(&mut self, which: Which, null: Option<usize>) -> Found {
        let image: &mut Image = self.rows.image(which);
        let mut lacking = null.map(|index| (index, true));
        for (index, field) in self.shape.fields.iter().enumerate() {
            if self.seen.contains(index) {
                continue;
            }
            let is_value = image.push_missing(index, self.shape);
            if !is_value && field.required && lacking.is_none_or(|(first, _)| index < first) {
                lacking = Some((index, false));
            }
        }
        image.end_row();
        Found::Image { lacking }
    }
}

/// Answers of visitors to kinds of JSON values that they don't take: each stops the pass with a sentence of ours.
macro_rules! wrong_kinds {
    ($($kind:ident)*) => { $(wrong_kinds!(@ $kind);)* };
    (@ null) => {
        fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
            Err(self.wrong("is null"))
        }
    };
    (@ boolean) => {
        fn visit_bool<E: de::Error>(self, _: bool) -> Result<Self::Value, E> {
            Err(self.wrong("is a boolean"))
        }
    };
    (@ number) => {
        fn visit_u64<E: de::Error>(self, _: u64) -> Result<Self::Value, E> {
            Err(self.wrong("is a number"))
        }
        fn visit_i64<E: de::Error>(self, _: i64) -> Result<Self::Value, E> {
            Err(self.wrong("is a number"))
        }
        fn visit_f64<E: de::Error>(self, _: f64) -> Result<Self::Value, E> {
            Err(self.wrong("is a number"))
        }
    };
    (@ string) => {
        fn visit_str<E: de::Error>(self, _: &str) -> Result<Self::Value, E> {
            Err(self.wrong("is a string"))
        }
    };
    (@ array) => {
        fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<Self::Value, A::Error> {
            Err(self.wrong("is an array"))
        }
    };
    (@ object) => {
        fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<Self::Value, A::Error> {
            Err(self.wrong("is an object"))
        }
    };
}

/// The event: an object, nothing else.
struct EventSeed<'p, 'r>(&'p mut Pass<'r>);

impl EventSeed<'_, '_> {
    fn wrong<E: de::Error>(self, kind: &str) -> E {
        self.0.stop(Fault::new(format!("the payload {kind}, an object is expected")))
    }
}

impl<'de> DeserializeSeed<'de> for EventSeed<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for EventSeed<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event")
    }

    wrong_kinds!(null boolean number string array);

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let pass = self.0;
        loop {
            let unmapped = &mut *pass.unmapped;
            let seed = Name(|name: &str| {
                let part = Part::named(name);
                if matches!(part, Part::Unknown) {
                    unmapped.note(name);
                }
                part
            });
            let Some(part) = map.next_key_seed(seed)? else { return Ok(()) };
            let repeats = !matches!(part, Part::Quiet | Part::Unknown) && !pass.parts.first_sight(part);
            if repeats {
                return Err(pass.stop(Fault::field(part.name(), "stands in the event twice")));
            }
            pass.part(part, &mut map)?;
        }
    }
}

/// One image: an object or null.
struct ImageSeed<'p, 'r> {
    pass: &'p mut Pass<'r>,
    which: Which,
}

impl ImageSeed<'_, '_> {
    fn wrong<E: de::Error>(self, kind: &str) -> E {
        self.pass.stop(Fault::field(self.which.name(), &format!("{kind}, an object is expected")))
    }
}

impl<'de> DeserializeSeed<'de> for ImageSeed<'_, '_> {
    type Value = Found;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Found, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ImageSeed<'_, '_> {
    type Value = Found;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a row image")
    }

    wrong_kinds!(boolean number string array);

    fn visit_unit<E: de::Error>(self) -> Result<Found, E> {
        self.pass.rows.image(self.which).push_null();
        Ok(Found::Null)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Found, A::Error> {
        let Self { pass, which } = self;
        pass.seen.clear(pass.shape.fields.len());
        let mut guess = 0;
        let mut null: Option<usize> = None;
        loop {
            let (shape, unmapped) = (pass.shape, &mut *pass.unmapped);
            let seed = Name(|name: &str| {
                let index = shape.find(name, guess);
                if index.is_none() {
                    unmapped.note(name);
                }
                index
            });
            let Some(found) = map.next_key_seed(seed)? else { break };
            let Some(index) = found else {
                pass.skip(&mut map, 2)?;
                continue;
            };
            let is_value = pass.field(which, index, &mut map)?;
            let required = shape.fields.get(index).is_some_and(|field| field.required);
            if !is_value && required && null.is_none_or(|first| index < first) {
                null = Some(index);
            }
            guess = index + 1;
        }
        Ok(pass.end_image(which, null))
    }
}

/// A text field: a string or null. Yields whether it is a value.
struct TextSeed<'p> {
    text: &'p mut super::columns::Bytes,
    wrong: &'p mut Option<values::Wrong>,
}

impl TextSeed<'_> {
    fn wrong<E: de::Error>(self, kind: values::Wrong) -> E {
        *self.wrong = Some(kind);
        E::custom("refused")
    }
}

impl<'de> DeserializeSeed<'de> for TextSeed<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for TextSeed<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    wrong_kinds!(boolean number array object);

    fn visit_str<E: de::Error>(self, text: &str) -> Result<bool, E> {
        self.text.append(text.as_bytes());
        Ok(true)
    }

    fn visit_unit<E: de::Error>(self) -> Result<bool, E> {
        super::columns::Cells::push_null(self.text);
        Ok(false)
    }
}

/// A member's name, handed to a function without a copy.
struct Name<F>(F);

impl<'de, T, F: FnOnce(&str) -> T> DeserializeSeed<'de> for Name<F> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de, T, F: FnOnce(&str) -> T> Visitor<'de> for Name<F> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a member's name")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<T, E> {
        Ok((self.0)(name))
    }
}
