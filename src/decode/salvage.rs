//! What can still be read of a bad record: only to find out which users it names, so that they wait (promise P5).
//!
//! Nothing is guessed. A payload that is no JSON text as a whole (not UTF-8, cut off, followed by more, nested too deep) names
//! nobody. Otherwise every field of an image that is a value of its type is read, and every other is NULL.

use super::envelope::Reader;
use super::image::Shape;
use super::nested::Trail;
use super::rows::{Op, Rows, Which};
use crate::json;
use crate::record::RawRecord;
use crate::schema::values;

/// How much of an image could be read.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Readable {
    Nothing,
    Something,
    /// Every required field: it names a user.
    Key,
}

/// Appends one row for `record` to `rows`.
pub(super) fn read(reader: &Reader, record: &RawRecord<'_>, value: &[u8], rows: &mut Rows) {
    let text = std::str::from_utf8(value).unwrap_or_default();
    let members = match json::members(text) {
        Ok(members) if !json::deeper_than(text, json::MAX_DEPTH) => members,
        _ => Vec::new(),
    };
    // Of repeated members the last one counts, as most readers of JSON have it.
    let member = |wanted: &str| members.iter().rev().find(|(name, _)| name == wanted).map(|(_, raw)| *raw);
    let named = member("op").and_then(json::string).as_deref().and_then(Op::named);
    let before = image(&reader.shape, member("before"), rows, Which::Before);
    let after = image(&reader.shape, member("after"), rows, Which::After);
    let ts_ns =
        member("timestamp").and_then(|raw| values::int(raw).ok()).and_then(|units| reader.timestamp_unit.to_ns(units));
    let op = op(named, before, after);
    let used: &[Which] = match (op, named) {
        (None, _) => &[],
        (Some(Op::Delete), _) => &[Which::Before],
        (Some(_), Some(Op::Create | Op::Read)) => &[Which::After],
        (Some(_), _) => &[Which::Before, Which::After],
    };
    for (which, readable) in [(Which::Before, before), (Which::After, after)] {
        if readable != Readable::Nothing && !used.contains(&which) {
            rows.image(which).drop_last();
        }
    }
    rows.push(record, op, ts_ns.unwrap_or_default());
}

/// The op under which the models find the users: by the image that the event's own op calls for if that one names a user, else
/// by the other.
fn op(named: Option<Op>, before: Readable, after: Readable) -> Option<Op> {
    let delete_first = named == Some(Op::Delete);
    for enough in [Readable::Key, Readable::Something] {
        let (before, after) = (before >= enough, after >= enough);
        match (before, after) {
            (true, true) => return Some(if delete_first { Op::Delete } else { Op::Update }),
            (true, false) => return Some(Op::Delete),
            (false, true) => return Some(Op::Update),
            (false, false) => {}
        }
    }
    None
}

/// Appends what can be read of an image; one that holds nothing readable is NULL as a whole.
fn image(shape: &Shape, raw: Option<&str>, rows: &mut Rows, which: Which) -> Readable {
    let image = rows.image(which);
    let Some(members) = raw.and_then(|raw| json::members(raw).ok()) else {
        image.push_null();
        return Readable::Nothing;
    };
    let mut given: Vec<Option<&str>> = vec![None; shape.fields.len()];
    for (name, raw) in members {
        let slot = shape.find(&name, usize::MAX).and_then(|index| given.get_mut(index));
        if let Some(slot) = slot {
            *slot = Some(raw);
        }
    }
    let (mut any, mut all_required) = (false, true);
    for (index, (field, raw)) in shape.fields.iter().zip(given).enumerate() {
        let is_value = match raw {
            None => image.push_missing(index, shape),
            Some(raw) => {
                let pushed = raw != "null"
                    && image.column(index).is_some_and(|column| column.push(raw, &mut Trail::default()).is_ok());
                if !pushed && let Some(column) = image.column(index) {
                    column.push_null();
                }
                any |= pushed;
                pushed
            }
        };
        all_required &= is_value || !field.required;
    }
    image.end_row();
    match (any, all_required) {
        (false, _) => {
            image.drop_last();
            Readable::Nothing
        }
        (true, true) => Readable::Key,
        (true, false) => Readable::Something,
    }
}
