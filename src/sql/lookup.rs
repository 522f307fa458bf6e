//! Lookups: tables that models join by name, in memory, replaced as a whole or changed in part between two batches.
//!
//! In: a file or rows that were read elsewhere, and the key columns. Out: a [`LookupTable`] whose key is never NULL and never there
//! twice: a join on it can't multiply rows. Refused otherwise, with both places named. A batch sees one version of each lookup: only
//! the engine's owner replaces one, and never while a batch runs.

mod arena;
pub(super) mod cells;
mod file;
mod index;
pub(super) mod key;
mod row;
pub(super) mod slot;
mod table;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{Field, Schema, SchemaRef};

use self::slot::LookupSlot;
use self::table::KeyFault;
pub use self::table::LookupTable;
use super::models::{EVENTS, HELD, KNOWN, Models};
use super::plan::plain_type;
use super::{LookupFrom, LookupSpec, ModelSpec};
use crate::diagnostic::{Diagnostic, Span, did_you_mean};

/// How many duplicates of a key are listed one by one.
const LISTED: usize = 5;

/// A lookup of an engine.
#[derive(Debug)]
pub(super) struct Lookup {
    pub(super) name: String,
    key: Vec<String>,
    pub(super) slot: Arc<LookupSlot>,
}

/// Rows as they were read, before anybody looked at their key.
#[derive(Debug, Default)]
struct Read {
    chunks: Vec<RecordBatch>,
    /// For a text file: where its rows stand.
    lines: Option<Lines>,
}

/// The line of each row, kept as the places where it is not simply the next one.
#[derive(Debug, Default)]
struct Lines {
    jumps: Vec<(usize, usize)>,
    rows: usize,
    next: usize,
}

impl Lines {
    /// The next row begins in this line.
    fn push(&mut self, line: usize) {
        if line != self.next || self.rows == 0 {
            self.jumps.push((self.rows, line));
        }
        self.rows += 1;
        self.next = line + 1;
    }

    fn of(&self, row: usize) -> Option<usize> {
        let after = self.jumps.partition_point(|(from, _)| *from <= row);
        let (from, line) = self.jumps.get(after.checked_sub(1)?)?;
        Some(line + row - from)
    }
}

impl LookupTable {
    /// Reads a file: CSV, NDJSON or Parquet, told by its extension. `name` is for messages.
    pub fn from_file(name: &str, key: &[String], path: &Path) -> Result<Self, Vec<Diagnostic>> {
        build(name, key, Some(path), file::read(name, path)?)
    }

    /// A table without rows. Refused where a key column isn't there or has a type that can't be a key.
    pub fn of(name: &str, key: &[String], schema: &SchemaRef) -> Result<Self, Vec<Diagnostic>> {
        Self::from_batches(name, key, vec![RecordBatch::new_empty(Arc::clone(schema))])
    }

    /// Takes over rows that were read elsewhere: at least one batch, all of the same columns.
    pub fn from_batches(name: &str, key: &[String], chunks: Vec<RecordBatch>) -> Result<Self, Vec<Diagnostic>> {
        build(name, key, None, Read { chunks, lines: None })
    }
}

impl Lookup {
    /// Takes the rows of `other`, which were checked when they came in, if the columns are the same.
    pub(super) fn share(&self, other: &Self) {
        if self.slot.schema() == other.slot.schema() && self.key == other.key {
            self.slot.put(other.slot.table());
        }
    }

    /// Replaces all rows; the columns must stay the same. Yields whether any row differs.
    pub(super) fn replace(&self, table: Arc<LookupTable>) -> Result<bool, Vec<Diagnostic>> {
        self.fits(table.schema())?;
        let news = !self.slot.table().same_rows(&table);
        self.slot.put(table);
        Ok(news)
    }

    /// Replaces all rows by some that are known to differ.
    pub(super) fn put(&self, table: Arc<LookupTable>) -> Result<(), Vec<Diagnostic>> {
        self.fits(table.schema())?;
        self.slot.put(table);
        Ok(())
    }

    /// As [`LookupTable::apply`].
    pub(super) fn change(&self, rows: RecordBatch, deleted: &[bool]) -> Result<usize, Vec<Diagnostic>> {
        self.fits(&rows.schema())?;
        let changed = self.slot.change(|table| table.apply(rows, deleted));
        changed.map_err(|error| vec![Diagnostic::error("AI0302", format!("lookup {:?}: {error}", self.name))])
    }

    pub(super) fn key(&self) -> &[String] {
        &self.key
    }

    fn fits(&self, schema: &SchemaRef) -> Result<(), Vec<Diagnostic>> {
        let (old, new) = (columns(self.slot.schema()), columns(schema));
        if old == new {
            return Ok(());
        }
        let message = format!("lookup {:?} had the columns {old}; it comes with {new}", self.name);
        Err(vec![Diagnostic::error("AI0306", message).help("restart to plan the models over the new columns")])
    }
}

/// Loads the lookups of `spec`; those that can't be used are reported and left out.
pub(super) fn load(spec: &ModelSpec, models: &Models, faults: &mut Vec<Diagnostic>) -> Vec<Lookup> {
    let mut seen: BTreeSet<&str> = [EVENTS, HELD, KNOWN].into();
    let mut loaded = Vec::new();
    for lookup in &spec.lookups {
        let name = lookup.name.as_str();
        if !seen.insert(name) || models.get(name).is_some() {
            let message = format!("the lookup {name:?} has the name of a model or of another table");
            faults.push(Diagnostic::error("AI0307", message).help("give the lookup another name"));
            continue;
        }
        match one(lookup) {
            Ok(lookup) => loaded.push(lookup),
            Err(more) => faults.extend(more),
        }
    }
    loaded
}

fn one(spec: &LookupSpec) -> Result<Lookup, Vec<Diagnostic>> {
    let table = match &spec.from {
        LookupFrom::File(path) => Arc::new(LookupTable::from_file(&spec.name, &spec.key, path)?),
        LookupFrom::Table(rows) => Arc::new(LookupTable::from_batches(&spec.name, &spec.key, vec![rows.clone()])?),
        LookupFrom::Loaded(table) => Arc::clone(table),
    };
    let slot = LookupSlot::new(&spec.name, &spec.key, table);
    Ok(Lookup { name: spec.name.clone(), key: spec.key.clone(), slot })
}

fn build(name: &str, key: &[String], file: Option<&Path>, read: Read) -> Result<LookupTable, Vec<Diagnostic>> {
    let placed = |code, message: String| {
        let fault = Diagnostic::error(code, message);
        match file {
            Some(file) => fault.file(file),
            None => fault,
        }
    };
    let Read { chunks, lines } = read;
    let broken = |error: arrow::error::ArrowError| vec![placed("AI0302", format!("lookup {name:?}: {error}"))];
    // One after the other: what is cast away is gone before the next one comes.
    let chunks = chunks.into_iter().map(plain).collect::<Result<Vec<_>, _>>().map_err(broken)?;
    let Some(schema) = chunks.first().map(RecordBatch::schema) else {
        return Err(vec![placed("AI0302", format!("the lookup {name:?} has no columns"))]);
    };
    let chunks = chunks.into_iter().map(shrunk).collect::<Result<Vec<_>, _>>().map_err(broken)?;
    let faults = key_columns(name, key, &schema, &placed);
    if !faults.is_empty() {
        return Err(faults);
    }
    let Some(mut table) = LookupTable::empty(&schema, key).map_err(broken)? else {
        return Err(vec![placed("AI0303", format!("the key of lookup {name:?} has a type that can't be a key"))]);
    };
    let line = |row: usize| lines.as_ref().and_then(|lines| lines.of(row));
    let place = |row: usize| line(row).map_or(format!("row {}", row + 1), |line| format!("line {line}"));
    let span = |row: usize| line(row).map(|line| Span { line, column: 1, end_line: line, end_column: 2 });
    let (mut found, mut more) = (Vec::new(), 0_usize);
    let filled = table.fill(chunks, |row, fault| match found.len() {
        LISTED => more += 1,
        _ => found.push((row, fault)),
    });
    filled.map_err(broken)?;
    let listed = found.into_iter().map(|(row, fault)| {
        let fault = match fault {
            KeyFault::Null => placed("AI0305", format!("the key of lookup {name:?} is empty in {}", place(row))),
            KeyFault::Double(earlier) => {
                let (earlier, row) = (place(table.ordinal(earlier)), place(row));
                placed("AI0304", format!("the key of lookup {name:?} in {row} stands in {earlier} already"))
                    .help("a key may stand there once, otherwise a join would multiply rows")
            }
        };
        fault.span(span(row))
    });
    let mut faults: Vec<Diagnostic> = listed.collect();
    if more > 0 {
        faults.push(placed("AI0304", format!("and {more} more rows of lookup {name:?} with such keys")));
    }
    if faults.is_empty() { Ok(table) } else { Err(faults) }
}

/// The rows in the types that models see: nullable, texts and bytes in one representation.
fn plain(rows: RecordBatch) -> Result<RecordBatch, arrow::error::ArrowError> {
    let schema = plain_schema(&rows.schema());
    let columns: Result<Vec<ArrayRef>, _> =
        rows.columns().iter().zip(schema.fields()).map(|(values, field)| cast(values, field.data_type())).collect();
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    RecordBatch::try_new_with_options(schema, columns?, &options)
}

/// The rows without the room that their builders kept for more.
fn shrunk(rows: RecordBatch) -> Result<RecordBatch, arrow::error::ArrowError> {
    let (schema, mut columns, count) = rows.into_parts();
    for column in &mut columns {
        if let Some(column) = Arc::get_mut(column) {
            column.shrink_to_fit();
        }
    }
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(count));
    RecordBatch::try_new_with_options(schema, columns, &options)
}

fn plain_schema(schema: &SchemaRef) -> SchemaRef {
    let plain = |field: &Arc<Field>| Field::new(field.name(), plain_type(field.data_type()), true);
    Arc::new(Schema::new(schema.fields().iter().map(plain).collect::<Vec<_>>()))
}

fn columns(schema: &SchemaRef) -> String {
    let columns: Vec<String> =
        schema.fields().iter().map(|field| format!("{} {}", field.name(), field.data_type())).collect();
    columns.join(", ")
}

/// Key columns that aren't there.
fn key_columns(
    name: &str,
    key: &[String],
    schema: &SchemaRef,
    placed: &impl Fn(&'static str, String) -> Diagnostic,
) -> Vec<Diagnostic> {
    if key.is_empty() {
        let fault = placed("AI0303", format!("the lookup {name:?} has no key"));
        return vec![fault.help("set `key` to the columns that identify a row")];
    }
    let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    let absent = key.iter().filter(|column| !names.contains(&column.as_str()));
    absent
        .map(|column| {
            let fault = placed("AI0303", format!("the lookup {name:?} has no column {column:?}, its key"));
            match did_you_mean(column, names.iter().copied()) {
                Some(meant) => fault.help(format!("did you mean {meant:?}?")),
                None => fault.help(format!("it has {}", names.join(", "))),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests;
