//! A schema from events: what their row images have in common, so that every one of them can be read.
//!
//! In: the payloads of change events, the pipeline's key, and the version in use, if there is one. Out: the fields of a first version,
//! or of the next one, which adds what the version in use doesn't know and changes nothing of what it does. The same samples give the
//! same fields, in the order in which they were first seen.
//!
//! Types are the narrowest that can be told apart from JSON, and hold every sample exactly: whole numbers `int64` (`uint64`,
//! `decimal128(38,0)`), other numbers `decimal128` where they are written like money (no exponent, 2 to 4 digits after the point),
//! else `float64`; texts `date32` or `timestamp` where every one of them is such a date or time, else `utf8`; objects `struct`, arrays
//! `list`. What has no type in common, or was never seen with a value, is `json`.

use arrow::datatypes::{DataType, Field, Fields};

use super::write;
use super::{Reading, SourceSchema};
use crate::error::{Error, Kind, Result};
use crate::json;
use seen::{Known, Seen};

mod decide;
mod seen;

#[cfg(test)]
mod tests;

/// A field that so many rows had without a null is taken to be never null. With fewer it stays nullable: an event that lacks a field
/// which may not be null is refused, and a few samples are no ground for that.
pub const ENOUGH_ROWS: u64 = 100;

/// What the samples say.
#[derive(Debug, Clone)]
pub struct Inferred {
    /// The version that these fields are for: 1, or the one after that in use.
    pub version: u32,
    pub fields: Fields,
    /// Events whose rows were looked at.
    pub events: u64,
    /// Events that could not be: no JSON, no known `op`, no image.
    pub skipped: u64,
    /// Paths of the fields that the version in use doesn't know, in order; without one, of all.
    pub added: Vec<String>,
    /// What a person should look at before the file is used, one sentence each.
    pub notes: Vec<String>,
    doc: String,
    editor: Option<String>,
}

impl Inferred {
    /// The text of the schema file.
    pub fn text(&self) -> String {
        write::text(self.editor.as_deref(), Some(&self.doc), &[], &self.fields)
    }

    /// The same with another `$schema` for editors.
    #[must_use]
    pub fn with_editor(mut self, editor: impl Into<String>) -> Self {
        self.editor = Some(editor.into());
        self
    }
}

/// Looks through `events`, payloads such as `{"op":"c","after":{..},..}`. `key` are the target's key columns: the field that is called
/// like one (`userId` for `user_id`) is never null. [`Kind::Config`] if no event has a row.
pub fn infer<'a>(
    events: impl IntoIterator<Item = &'a [u8]>,
    key: &[String],
    known: Option<&SourceSchema>,
) -> Result<Inferred> {
    let mut row = Seen::default();
    let (mut read, mut skipped) = (0, 0);
    let top = known.map(Known::row);
    for event in events {
        if look(event, &mut row, top.as_ref()).is_some() { read += 1 } else { skipped += 1 }
    }
    if row.members().next().is_none() {
        let what = format!("no row in {} events", read + skipped);
        return Err(Error::new(Kind::Config, what)
            .remedy("events look like {\"op\":\"c\",\"before\":null,\"after\":{..},\"timestamp\":..}, one per line"));
    }
    let mut notes = Vec::new();
    let mut added = Vec::new();
    let fields = match known {
        Some(schema) => decide::extend(&row, &schema.fields, &schema.reading, "", &mut added, &mut notes),
        None => {
            let fields = decide::fields(&row, "", &mut notes);
            added.extend(fields.iter().map(|field| field.name().clone()));
            fields
                .into_iter()
                .map(|field| if is_key(field.name(), key) { required(field, &row, &mut notes) } else { field })
                .collect()
        }
    };
    if known.is_none() && !fields.iter().any(|field| is_key(field.name(), key)) && !key.is_empty() {
        notes.push(format!(
            "no field is called like the key ({}): make the fields that it comes from \"nullable\": false",
            key.join(", ")
        ));
    }
    let version = known.map_or(1, |schema| schema.version + 1);
    let doc = match known.and_then(|schema| schema.doc.clone()) {
        Some(doc) => doc,
        None => format!("The source's row, from {read} sample events."),
    };
    let editor = known.and_then(|schema| schema.editor.clone());
    Ok(Inferred { version, fields: fields.into(), events: read, skipped, added, notes, doc, editor })
}

/// Notes one event; `None` where it can't be read.
fn look(event: &[u8], row: &mut Seen, known: Option<&Known<'_>>) -> Option<()> {
    let text = std::str::from_utf8(event).ok()?;
    let members = json::members(text).ok()?;
    if json::deeper_than(text, json::MAX_DEPTH) {
        return None;
    }
    let member = |wanted: &str| members.iter().rev().find(|(name, _)| name == wanted).map(|(_, raw)| *raw);
    let op = member("op").and_then(json::string)?;
    let images = [("before", &*op == "d"), ("after", matches!(&*op, "c" | "r" | "u"))];
    if !images.iter().any(|(_, needed)| *needed) {
        return None;
    }
    let mut found = None;
    for (name, needed) in images {
        let Some(raw) = member(name).filter(|raw| raw.starts_with('{')) else { continue };
        // Which fields may be null is told by the images that an event can't do without: only those are held against it.
        row.note(raw, needed, known, 1);
        found = found.or(needed.then_some(()));
    }
    found
}

/// Whether the source's field is the target's key column by another spelling.
fn is_key(field: &str, key: &[String]) -> bool {
    let plain = |name: &str| name.replace('_', "").to_lowercase();
    key.iter().any(|column| plain(column) == plain(field))
}

fn required(field: Field, row: &Seen, notes: &mut Vec<String>) -> Field {
    let lacking =
        row.members().find(|(name, _)| *name == field.name()).map_or(0, |(_, seen)| row.rows() - seen.values());
    if lacking > 0 {
        notes.push(format!("`{}` is the key, but {lacking} rows lack it: those events are refused", field.name()));
    }
    field.with_nullable(false)
}

/// The names that events may use for a field.
fn answers_to(field: &Field, reading: &Reading, name: &str) -> bool {
    field.name() == name || reading.aliases.iter().any(|alias| alias == name)
}

/// Whether values of the type have parts of their own.
fn is_nested(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Struct(_) | DataType::List(_))
}
