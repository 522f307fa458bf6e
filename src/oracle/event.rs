//! One payload: which users it names, and the changes it makes or why it makes none.

use std::collections::BTreeSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::Settings;

/// What a payload comes to.
#[derive(Debug)]
pub(super) enum Verdict {
    Refused(&'static str),
    Good(Event),
}

#[derive(Debug)]
pub(super) struct Event {
    pub(super) ts_ns: i64,
    /// One, or two for a change of key: the delete of the old one, then the new one.
    pub(super) changes: Vec<Change>,
}

#[derive(Debug)]
pub(super) enum Change {
    Upsert(String, Image),
    Delete(String),
}

/// A row of the source, without its key.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) name: Option<String>,
    pub(super) email: Option<String>,
    pub(super) country: Option<String>,
}

impl Change {
    pub(super) fn user(&self) -> &str {
        match self {
            Self::Upsert(user, _) | Self::Delete(user) => user,
        }
    }
}

/// Reads a payload. The users of a good event are those it changes; of a refused one, those whose key can be read, which takes
/// whole and valid JSON.
pub(super) fn read(bytes: &[u8], kafka_ms: Option<i64>, settings: &Settings) -> (BTreeSet<String>, Verdict) {
    let refused = Verdict::Refused("decode");
    let Ok(text) = std::str::from_utf8(bytes) else { return (BTreeSet::new(), refused) };
    let Ok(Value::Object(envelope)) = serde_json::from_str(text) else { return (BTreeSet::new(), refused) };
    let good = if repeats_known_field(text) { None } else { event(&envelope, kafka_ms, settings) };
    match good {
        Some(event) => {
            let users = event.changes.iter().map(|change| change.user().to_owned()).collect();
            (users, Verdict::Good(event))
        }
        None => (readable_users(&envelope), refused),
    }
}

/// Users of a record that is no event: those of the image that its `op` is about, else of the other; of both where the `op` can't tell.
fn readable_users(envelope: &Map<String, Value>) -> BTreeSet<String> {
    let user = |image| envelope.get(image)?.get("userId")?.as_str().map(str::to_owned);
    let (before, after) = (user("before"), user("after"));
    match envelope.get("op").and_then(Value::as_str) {
        Some("c" | "r") => after.or(before).into_iter().collect(),
        Some("d") => before.or(after).into_iter().collect(),
        _ => before.into_iter().chain(after).collect(),
    }
}

/// The event, or none if anything about it is wrong.
fn event(envelope: &Map<String, Value>, kafka_ms: Option<i64>, settings: &Settings) -> Option<Event> {
    let op = envelope.get("op")?.as_str()?;
    let before = image(envelope.get("before"))?;
    let after = image(envelope.get("after"))?;
    let changes = match (op, before, after) {
        ("c" | "r", _, Some((Some(user), image))) => vec![Change::Upsert(user, image)],
        ("u", before, Some((Some(user), image))) => {
            let old = before.and_then(|(old, _)| old).filter(|old| *old != user);
            old.map(Change::Delete).into_iter().chain([Change::Upsert(user, image)]).collect()
        }
        ("d", Some((Some(user), _)), _) => vec![Change::Delete(user)],
        _ => return None,
    };
    let ticks = envelope.get("timestamp")?.as_i64()?;
    let ts_ns = ticks.checked_mul(1_000_000_000 / settings.ticks_per_second)?;
    let too_new =
        |kafka_ms: i64| i128::from(ts_ns) > i128::from(kafka_ms) * 1_000_000 + i128::from(settings.max_future_skew_ns);
    if kafka_ms.is_some_and(too_new) {
        return None;
    }
    Some(Event { ts_ns, changes })
}

/// Key and row of an image; the outer `None` says that it is none, the inner that it is absent.
fn image(value: Option<&Value>) -> Option<Option<(Option<String>, Image)>> {
    let fields = match value {
        None | Some(Value::Null) => return Some(None),
        Some(Value::Object(fields)) => fields,
        Some(_) => return None,
    };
    let text = |name| match fields.get(name) {
        None | Some(Value::Null) => Some(None),
        Some(Value::String(text)) => Some(Some(text.clone())),
        Some(_) => None,
    };
    let image = Image { name: text("name")?, email: text("email")?, country: text("country")? };
    Some(Some((text("userId")?, image)))
}

/// Whether a field that the schema knows stands twice in its object, which [`Value`] cannot tell.
fn repeats_known_field(text: &str) -> bool {
    let Ok(Names::Object(envelope)) = serde_json::from_str(text) else { return false };
    let repeated = |object: &[(String, Names)], known: &[&str]| {
        known.iter().any(|name| object.iter().filter(|(field, _)| field == name).count() > 1)
    };
    repeated(&envelope, &["op", "before", "after", "timestamp"])
        || envelope.iter().any(|(name, image)| match image {
            Names::Object(image) if name == "before" || name == "after" => {
                repeated(image, &["userId", "name", "email", "country"])
            }
            _ => false,
        })
}

/// The names in a JSON text, in order and with repeats.
enum Names {
    Object(Vec<(String, Names)>),
    Other,
}

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NamesVisitor)
    }
}

struct NamesVisitor;

impl<'de> Visitor<'de> for NamesVisitor {
    type Value = Names;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Names, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = map.next_entry()? {
            fields.push(field);
        }
        Ok(Names::Object(fields))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Names, A::Error> {
        while seq.next_element::<Names>()?.is_some() {}
        Ok(Names::Other)
    }

    fn visit_unit<E>(self) -> Result<Names, E> {
        Ok(Names::Other)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Names, E> {
        Ok(Names::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Names, E> {
        Ok(Names::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Names, E> {
        Ok(Names::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Names, E> {
        Ok(Names::Other)
    }

    fn visit_str<E>(self, _: &str) -> Result<Names, E> {
        Ok(Names::Other)
    }
}
