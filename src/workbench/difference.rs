//! What two versions of a pipeline's models make of the same events, compared.
//!
//! In: the tables that each of them ends with. Out: a [`Difference`]: rows of the target that came, went and changed, by column,
//! and what differs in quarantine and sums. Which batch wrote what plays no part: only what stands in the end.

use std::collections::BTreeMap;

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::common::ScalarValue;

use super::tables::{Quarantined, Row, Tables};
use crate::hold::Key;
use crate::position::{Partition, Position};
use crate::sink::positions::SumChanges;
use crate::target::VERSION_COLUMNS;

/// See the module page. Everything is in the order of keys, columns and positions.
#[derive(Debug, Default)]
pub struct Difference {
    /// Rows of the target.
    pub old_rows: usize,
    pub new_rows: usize,
    pub columns: ColumnChanges,
    /// Keys that have a row in the new table only.
    pub added: Vec<Key>,
    /// Keys that have a row in the old table only.
    pub gone: Vec<Key>,
    /// Keys whose row has another value in a column that both tables have.
    pub changed: Vec<Key>,
    /// By column, in the new table's order and then those of the version: the keys whose value differs.
    pub by_column: Vec<(String, Vec<Key>)>,
    pub quarantine: Vec<Judged>,
    /// Sums that differ, old and new.
    pub sums: Vec<(Partition, SumChanges, SumChanges)>,
    /// Events out of order, old and new.
    pub out_of_order: (usize, usize),
}

/// The target's columns.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ColumnChanges {
    pub added: Vec<String>,
    pub gone: Vec<String>,
    /// With the old and the new type.
    pub retyped: Vec<(String, DataType, DataType)>,
}

/// An event that the two sides judge differently.
#[derive(Debug, PartialEq, Eq)]
pub struct Judged {
    pub position: Position,
    pub keys: Vec<Key>,
    pub old: Judgement,
    pub new: Judgement,
}

/// What became of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement {
    /// Accepted or ignored.
    Passed,
    Held,
    /// Where, by which model, and why.
    Refused {
        stage: &'static str,
        model: Option<String>,
        column: Option<String>,
        reason: String,
    },
}

impl Difference {
    pub fn between(old: &Tables, new: &Tables) -> Self {
        let mut difference = Self {
            old_rows: old.rows.len(),
            new_rows: new.rows.len(),
            columns: column_changes(old, new),
            added: new.rows.keys().filter(|key| !old.rows.contains_key(*key)).cloned().collect(),
            gone: old.rows.keys().filter(|key| !new.rows.contains_key(*key)).cloned().collect(),
            quarantine: judgements(old, new),
            sums: sums(old, new),
            out_of_order: (old.out_of_order.len(), new.out_of_order.len()),
            ..Self::default()
        };
        difference.compare_rows(old, new);
        difference
    }

    /// Whether there is none. Times and rows of single models don't count.
    pub fn is_none(&self) -> bool {
        self.columns == ColumnChanges::default()
            && self.added.is_empty()
            && self.gone.is_empty()
            && self.changed.is_empty()
            && self.quarantine.is_empty()
            && self.sums.is_empty()
            && self.out_of_order.0 == self.out_of_order.1
    }

    /// Rows that are the same on both sides.
    pub fn same(&self) -> usize {
        self.new_rows.saturating_sub(self.added.len() + self.changed.len())
    }

    fn compare_rows(&mut self, old: &Tables, new: &Tables) {
        let common = common_columns(old, new);
        let mut by_column: Vec<(String, Vec<Key>)> = common
            .iter()
            .map(|(name, _, _)| (*name).to_owned())
            .chain(VERSION_COLUMNS.map(str::to_owned))
            .map(|name| (name, Vec::new()))
            .collect();
        for (key, row) in &new.rows {
            let Some(before) = old.rows.get(key) else { continue };
            let mut differs: Vec<bool> =
                common.iter().map(|(_, place, from)| !is_same(before, *from, row, *place)).collect();
            let (was, is) = (before.version, row.version);
            differs.extend([was.ts_ns != is.ts_ns, was.partition != is.partition, was.offset != is.offset]);
            if differs.contains(&true) {
                self.changed.push(key.clone());
            }
            for ((_, keys), _) in by_column.iter_mut().zip(&differs).filter(|(_, differs)| **differs) {
                keys.push(key.clone());
            }
        }
        by_column.retain(|(_, keys)| !keys.is_empty());
        self.by_column = by_column;
    }
}

/// Columns of both tables: name, place in the new one, place in the old one.
fn common_columns<'a>(old: &Tables, new: &'a Tables) -> Vec<(&'a str, usize, usize)> {
    let fields = new.columns().fields().iter().enumerate();
    fields
        .filter_map(|(place, field)| Some((field.name().as_str(), place, old.columns().index_of(field.name()).ok()?)))
        .collect()
}

fn column_changes(old: &Tables, new: &Tables) -> ColumnChanges {
    let missing = |of: &Tables, from: &Tables| -> Vec<String> {
        let fields = of.columns().fields().iter().filter(|field| from.columns().index_of(field.name()).is_err());
        fields.map(|field| field.name().clone()).collect()
    };
    let types = |(name, place, from): (&str, usize, usize)| {
        let (was, is) = (old.columns().field(from).data_type(), new.columns().field(place).data_type());
        (was != is).then(|| (name.to_owned(), was.clone(), is.clone()))
    };
    ColumnChanges {
        added: missing(new, old),
        gone: missing(old, new),
        retyped: common_columns(old, new).into_iter().filter_map(types).collect(),
    }
}

/// Whether two cells hold one value; of different types: whether they read the same.
fn is_same(old: &Row, from: usize, new: &Row, place: usize) -> bool {
    match (old.cells.get(from), new.cells.get(place)) {
        (Some(old), Some(new)) if old.data_type() == new.data_type() => old == new,
        (Some(old), Some(new)) => old.is_null() == new.is_null() && cell_text(old) == cell_text(new),
        (None, None) => true,
        _ => false,
    }
}

/// A cell as people read it.
pub fn cell_text(cell: &ScalarValue) -> String {
    if cell.is_null() {
        return "NULL".to_owned();
    }
    let shown = |values: ArrayRef| {
        let format = FormatOptions::new();
        ArrayFormatter::try_new(values.as_ref(), &format).ok()?.value(0).try_to_string().ok()
    };
    cell.to_array().ok().and_then(shown).unwrap_or_else(|| cell.to_string())
}

fn judgement(record: Option<&Quarantined>) -> Judgement {
    match record.map(|record| &record.why) {
        None => Judgement::Passed,
        Some(None) => Judgement::Held,
        Some(Some(why)) => Judgement::Refused {
            stage: why.stage.name(),
            model: why.model.clone(),
            column: why.column.clone(),
            reason: why.reason.clone(),
        },
    }
}

fn judgements(old: &Tables, new: &Tables) -> Vec<Judged> {
    let mut all: BTreeMap<Position, &Quarantined> =
        old.quarantine.iter().map(|(position, record)| (*position, record)).collect();
    all.extend(new.quarantine.iter().map(|(position, record)| (*position, record)));
    let judged = |(position, record): (Position, &Quarantined)| {
        let (was, is) = (judgement(old.quarantine.get(&position)), judgement(new.quarantine.get(&position)));
        (was != is).then(|| Judged { position, keys: record.keys.clone(), old: was, new: is })
    };
    all.into_iter().filter_map(judged).collect()
}

fn sums(old: &Tables, new: &Tables) -> Vec<(Partition, SumChanges, SumChanges)> {
    let of = |tables: &Tables, partition| tables.sums.get(&partition).copied().unwrap_or_default();
    let mut partitions: Vec<Partition> = old.sums.keys().chain(new.sums.keys()).copied().collect();
    partitions.sort_unstable();
    partitions.dedup();
    let sums = partitions.into_iter().map(|partition| (partition, of(old, partition), of(new, partition)));
    sums.filter(|(_, was, is)| was != is).collect()
}
