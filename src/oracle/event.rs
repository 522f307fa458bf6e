//! One payload: which users it names, and the changes it makes or why it makes none.

use std::collections::BTreeSet;

use super::Settings;
use super::json::{self, Json};

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
    let document = std::str::from_utf8(bytes).ok().and_then(json::parse);
    let Some(envelope) = document.as_ref().and_then(Object::of) else { return (BTreeSet::new(), refused) };
    match event(&envelope, kafka_ms, settings) {
        Some(event) => {
            let users = event.changes.iter().map(|change| change.user().to_owned()).collect();
            (users, Verdict::Good(event))
        }
        None => (readable_users(&envelope), refused),
    }
}

/// The members of an object whose names are texts.
struct Object<'a>(&'a [(Option<String>, Json<'a>)]);

impl<'a> Object<'a> {
    fn of(json: &'a Json<'a>) -> Option<Self> {
        match json {
            Json::Object(members) if members.iter().all(|(name, _)| name.is_some()) => Some(Self(members)),
            _ => None,
        }
    }

    /// The member `name`; of repeated ones the last.
    fn get(&self, name: &str) -> Option<&'a Json<'a>> {
        self.0.iter().rev().find(|(member, _)| member.as_deref() == Some(name)).map(|(_, value)| value)
    }

    fn repeats_any(&self, names: &[&str]) -> bool {
        let times = |name: &str| self.0.iter().filter(|(member, _)| member.as_deref() == Some(name)).count();
        names.iter().any(|name| times(name) > 1)
    }
}

/// Users of a record that is no event: those of the image that its `op` is about, else of the other; of both where the `op` can't tell.
fn readable_users(envelope: &Object<'_>) -> BTreeSet<String> {
    let user = |image| Object::of(envelope.get(image)?)?.get("userId")?.text().map(str::to_owned);
    let (before, after) = (user("before"), user("after"));
    match envelope.get("op").and_then(Json::text) {
        Some("c" | "r") => after.or(before).into_iter().collect(),
        Some("d") => before.or(after).into_iter().collect(),
        _ => before.into_iter().chain(after).collect(),
    }
}

/// The event, or none if anything about it is wrong.
fn event(envelope: &Object<'_>, kafka_ms: Option<i64>, settings: &Settings) -> Option<Event> {
    if envelope.repeats_any(&["op", "before", "after", "timestamp"]) {
        return None;
    }
    let op = envelope.get("op")?.text()?;
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
    let ts_ns = envelope.get("timestamp")?.whole()?.checked_mul(1_000_000_000 / settings.ticks_per_second)?;
    let now_ns = i128::from(kafka_ms.unwrap_or(settings.clock_ms)) * 1_000_000;
    if i128::from(ts_ns) > now_ns + i128::from(settings.max_future_skew_ns) {
        return None;
    }
    Some(Event { ts_ns, changes })
}

/// Key and row of an image; the outer `None` says that it is none, the inner that it is absent.
fn image(value: Option<&Json<'_>>) -> Option<Option<(Option<String>, Image)>> {
    let fields = match value {
        None | Some(Json::Null) => return Some(None),
        Some(value) => Object::of(value)?,
    };
    if fields.repeats_any(&["userId", "name", "email", "country"]) {
        return None;
    }
    let text = |name| match fields.get(name) {
        None | Some(Json::Null) => Some(None),
        Some(value) => value.text().map(|text| Some(text.to_owned())),
    };
    let image = Image { name: text("name")?, email: text("email")?, country: text("country")? };
    Some(Some((text("userId")?, image)))
}
