//! Which field of the source identifies a row, and other things that the sample says.

use arrow::datatypes::Field;
use serde_json::{Map, Value};

use super::{can_be_key, listed, no_such_field};
use crate::error::{Error, Kind, Result};
use crate::record::OwnedRecord;

/// The events as far as they can be read.
pub(super) struct Sample {
    rows: Vec<Map<String, Value>>,
    /// The Kafka key of each row's record, where it is a text.
    keys: Vec<Option<String>>,
    /// The greatest `timestamp`.
    latest: Option<f64>,
}

impl Sample {
    pub(super) fn new(records: &[OwnedRecord]) -> Self {
        let mut sample = Self { rows: Vec::new(), keys: Vec::new(), latest: None };
        for record in records {
            let event = record.value.as_deref().and_then(|value| serde_json::from_slice::<Value>(value).ok());
            let Some(mut event) = event else { continue };
            let time = event.get("timestamp").and_then(Value::as_f64);
            sample.latest = sample.latest.into_iter().chain(time).reduce(f64::max);
            let image = if event.get("op").and_then(Value::as_str) == Some("d") { "before" } else { "after" };
            if let Some(Value::Object(row)) = event.get_mut(image).map(Value::take) {
                sample.rows.push(row);
                sample.keys.push(record.key.as_ref().and_then(|key| String::from_utf8(key.clone()).ok()));
            }
        }
        sample
    }

    /// The unit in which the events' times lie between 1980 and 2200.
    pub(super) fn timestamp_unit(&self) -> &'static str {
        match self.latest {
            Some(latest) if latest > 0.0 && latest < 1e10 => "s",
            Some(latest) if latest >= 1e16 => "ns",
            Some(latest) if latest >= 1e14 => "us",
            _ => "ms",
        }
    }

    /// Whether every row has a value there.
    fn always(&self, field: &str) -> bool {
        self.rows.iter().all(|row| row.get(field).is_some_and(|value| !value.is_null()))
    }

    /// Whether the records' own keys are its values.
    fn is_records_key(&self, field: &str) -> bool {
        let same = |(row, key): (&Map<String, Value>, &Option<String>)| {
            let value = match row.get(field) {
                Some(Value::String(text)) => text.clone(),
                Some(other) => other.to_string(),
                None => return false,
            };
            key.as_ref().is_some_and(|key| key.trim_matches('"') == value)
        };
        !self.rows.is_empty() && self.rows.iter().zip(&self.keys).all(same)
    }
}

/// The fields of the key, and whether they were guessed.
pub(super) fn of(wanted: &[String], pipeline: &str, fields: &[&Field], sample: &Sample) -> Result<(Vec<String>, bool)> {
    let names: Vec<&str> = fields.iter().map(|field| field.name().as_str()).collect();
    if wanted.is_empty() {
        return guess(pipeline, fields, sample).map(|key| (vec![key], true));
    }
    let mut keys: Vec<String> = Vec::new();
    for name in wanted {
        let field = fields.iter().find(|field| field.name() == name).ok_or_else(|| no_such_field(name, &names))?;
        if !can_be_key(field) {
            let able: Vec<&str> =
                fields.iter().filter(|field| can_be_key(field)).map(|field| field.name().as_str()).collect();
            return Err(Error::new(
                Kind::Config,
                format!("{name} can't be a key: its values are no texts, whole numbers or dates"),
            )
            .remedy(format!("choose among {}", listed(&able))));
        }
        if keys.contains(name) {
            return Err(Error::new(Kind::Config, format!("--key names {name} twice")).remedy("name it once"));
        }
        keys.push(name.clone());
    }
    Ok((keys, false))
}

fn guess(pipeline: &str, fields: &[&Field], sample: &Sample) -> Result<String> {
    let able: Vec<&str> = fields
        .iter()
        .filter(|field| can_be_key(field) && sample.always(field.name()))
        .map(|field| field.name().as_str())
        .collect();
    let plain = |name: &str| name.chars().filter(|letter| letter.is_alphanumeric()).collect::<String>().to_lowercase();
    let whole = plain(pipeline);
    let one = whole.strip_suffix("ies").map(|stem| format!("{stem}y"));
    let one = one.unwrap_or_else(|| whole.strip_suffix('s').unwrap_or(&whole).to_owned());
    let called = |names: &[String]| able.iter().copied().find(|field| names.contains(&plain(field)));
    let own: Vec<String> = ["id", "key", "no", "number", "code", "uuid"]
        .iter()
        .flat_map(|ending| [format!("{one}{ending}"), format!("{whole}{ending}")])
        .collect();
    let by_record = able.iter().copied().find(|field| sample.is_records_key(field));
    let by_ending = || {
        let ending: Vec<&str> = able.iter().copied().filter(|field| plain(field).ends_with("id")).collect();
        // Several may be references to other rows: then only the first field of all is sure enough.
        match ending.as_slice() {
            [only] => Some(*only),
            [first, ..] if fields.first().is_some_and(|field| field.name() == first) => Some(*first),
            _ => None,
        }
    };
    let found = by_record.or_else(|| called(&own)).or_else(|| called(&["id".into(), "uuid".into(), "key".into()]));
    let only = || match able.as_slice() {
        [only] => Some(*only),
        _ => None,
    };
    found.or_else(by_ending).or_else(only).map(str::to_owned).ok_or_else(|| {
        Error::new(Kind::Config, "no field is clearly the one that identifies a row")
            .remedy(format!("say which with --key FIELD: {}", listed(&able)))
    })
}
