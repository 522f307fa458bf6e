//! What each write would change, seen from the table.
//!
//! In: a [`Turn`], and what the server holds, where the tables were filled from one. Out: an [`Effect`] per row of `latest`: the row
//! before, which columns change, and whether anything happens at all.

use arrow::array::RecordBatch;
use datafusion::common::ScalarValue;

use super::Turn;
use super::online::Online;
use super::tables::{Row, Tables, Write, WriteKind};
use crate::error::{Error, Kind, Result};
use crate::sink::stored;

/// What becomes of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Change {
    Insert,
    /// At least one column gets another value.
    Update,
    /// The row gets a newer version and keeps its values.
    Unchanged,
    Delete,
    /// A deletion of what isn't there.
    Absent,
    /// A newer version is stored: nothing happens.
    Superseded,
}

impl Change {
    pub const ALL: [Self; 6] =
        [Self::Insert, Self::Update, Self::Unchanged, Self::Delete, Self::Absent, Self::Superseded];

    pub fn name(self) -> &'static str {
        match self {
            Self::Insert => "insert",
            Self::Update => "update",
            Self::Unchanged => "unchanged",
            Self::Delete => "delete",
            Self::Absent => "absent",
            Self::Superseded => "superseded",
        }
    }
}

/// One write, seen from the table.
#[derive(Debug, Clone)]
pub struct Effect {
    pub write: Write,
    pub change: Change,
    /// Places of the columns that get another value, ascending; of updates only.
    pub changed: Vec<usize>,
}

/// The effects of a batch's writes, in the order of `latest`.
pub fn effects(turn: &Turn, online: Option<&Online>) -> Result<Vec<Effect>> {
    let latest = &turn.evaluation.latest;
    turn.writes.iter().enumerate().map(|(row, write)| effect(latest, row, write, online)).collect()
}

fn effect(latest: &RecordBatch, row: usize, write: &Write, online: Option<&Online>) -> Result<Effect> {
    let mut changed = Vec::new();
    let change = match (write.kind, &write.before) {
        (WriteKind::Superseded, _) => Change::Superseded,
        (WriteKind::Delete, Some(_)) => Change::Delete,
        (WriteKind::Delete, None) => Change::Absent,
        (WriteKind::Insert, _) | (WriteKind::Update, None) => Change::Insert,
        (WriteKind::Update, Some(before)) => {
            changed = changed_columns(latest, row, write, before, online)?;
            if changed.is_empty() { Change::Unchanged } else { Change::Update }
        }
    };
    Ok(Effect { write: write.clone(), change, changed })
}

fn changed_columns(
    latest: &RecordBatch,
    row: usize,
    write: &Write,
    before: &Row,
    online: Option<&Online>,
) -> Result<Vec<usize>> {
    let stored = online.and_then(|online| online.row(&write.key, before));
    let mut changed = Vec::new();
    for (place, cell) in before.cells.iter().enumerate() {
        let Some(values) = latest.columns().get(place) else { continue };
        let same = match (stored, online.and_then(|online| online.target.columns.get(place))) {
            // The server's own text is compared: a value may have more than one in a type of the models.
            (Some(stored), Some(column)) => {
                stored.values.get(place).is_some_and(|old| stored::is_same(column, (values, row), old))
            }
            _ => {
                let new = ScalarValue::try_from_array(values, row)
                    .map_err(|error| Error::new(Kind::Bug, "a value of latest can't be read").source(error))?;
                new == *cell
            }
        };
        if !same {
            changed.push(place);
        }
    }
    Ok(changed)
}

/// The rows before the writes, and which of them each write had; a write without one had none.
pub fn before(tables: &Tables, effects: &[Effect]) -> Result<(RecordBatch, Vec<Option<usize>>)> {
    let mut rows: Vec<&Row> = Vec::new();
    let mut places = Vec::with_capacity(effects.len());
    for effect in effects {
        places.push(effect.write.before.as_ref().map(|row| {
            rows.push(row);
            rows.len() - 1
        }));
    }
    Ok((tables.batch(rows)?, places))
}
