//! Lookups: tables that models join by name, in memory, replaced as a whole between two batches.
//!
//! In: a file or rows that were read elsewhere, and the key columns. Out: a [`Lookup`] whose key is never NULL and never there
//! twice: a join on it can't multiply rows. Refused otherwise, with both lines named.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{Field, Schema, SchemaRef};
use hashbrown::HashMap;

use super::keys::KeyTexts;
use super::lookup_file;
use super::models::{EVENTS, HELD, KNOWN, Models};
use super::plan::plain_type;
use super::slots::Slot;
use super::{LookupFrom, LookupSpec, ModelSpec};
use crate::diagnostic::{Diagnostic, did_you_mean};

/// How many duplicates of a key are listed one by one.
const LISTED: usize = 5;

/// A lookup in memory.
#[derive(Debug)]
pub(super) struct Lookup {
    pub(super) name: String,
    key: Vec<String>,
    pub(super) slot: Arc<Slot>,
    /// The rows to start with.
    first: RecordBatch,
}

/// A lookup's rows and, for a file, the line of each.
pub(super) struct Table {
    pub(super) rows: RecordBatch,
    /// Empty where rows have no lines.
    pub(super) lines: Vec<usize>,
}

impl Lookup {
    /// Reads the rows of a file instead of those that are there.
    pub(super) fn reload(&self, path: &Path) -> Result<bool, Vec<Diagnostic>> {
        let table = lookup_file::read(&self.name, path)?;
        self.replace(table, Some(path))
    }

    /// Takes the rows of `other`, which were checked when they came in, if the columns are the same.
    pub(super) fn share(&self, other: &Self) {
        if self.slot.schema() == other.slot.schema() && self.key == other.key {
            self.slot.fill(&other.slot.batches());
        }
    }

    /// Replaces all rows; the columns must stay the same. Yields whether any row differs.
    pub(super) fn replace(&self, table: Table, file: Option<&Path>) -> Result<bool, Vec<Diagnostic>> {
        let rows = plain(table.rows)?;
        let (old, new) = (columns(self.slot.schema()), columns(&rows.schema()));
        if old != new {
            let message = format!("lookup {:?} had the columns {old}; it comes with {new}", self.name);
            return Err(vec![
                Diagnostic::error("AI0306", message).help("restart to plan the models over the new columns"),
            ]);
        }
        let rows = RecordBatch::try_new(Arc::clone(self.slot.schema()), rows.columns().to_vec())
            .map_err(|error| vec![Diagnostic::error("AI0306", error.to_string())])?;
        let table = Table { rows, lines: table.lines };
        let faults = key_faults(&self.name, &self.key, file, &table);
        if !faults.is_empty() {
            return Err(faults);
        }
        let news = self.slot.batches().first() != Some(&table.rows);
        self.slot.fill(&[table.rows]);
        Ok(news)
    }
}

/// Puts the first rows of each lookup into its slot.
pub(super) fn fill(lookups: &[Lookup]) {
    for lookup in lookups {
        lookup.slot.fill(std::slice::from_ref(&lookup.first));
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
    let (file, table) = match &spec.from {
        LookupFrom::File(path) => (Some(path.as_path()), lookup_file::read(&spec.name, path)?),
        LookupFrom::Table(rows) => (None, Table { rows: rows.clone(), lines: Vec::new() }),
    };
    let table = Table { rows: plain(table.rows)?, lines: table.lines };
    let faults = key_faults(&spec.name, &spec.key, file, &table);
    if !faults.is_empty() {
        return Err(faults);
    }
    let rows = table.rows;
    let slot = Slot::new(&spec.name, rows.schema(), rows.num_rows());
    Ok(Lookup { name: spec.name.clone(), key: spec.key.clone(), slot, first: rows })
}

/// The rows in the types that models see: nullable, texts and bytes in one representation.
fn plain(rows: RecordBatch) -> Result<RecordBatch, Vec<Diagnostic>> {
    let fields: Vec<Field> = rows
        .schema()
        .fields()
        .iter()
        .map(|field| Field::new(field.name(), plain_type(field.data_type()), true))
        .collect();
    let columns: Result<Vec<ArrayRef>, _> =
        rows.columns().iter().zip(&fields).map(|(values, field)| cast(values, field.data_type())).collect();
    columns
        .and_then(|columns| RecordBatch::try_new(Arc::new(Schema::new(fields)), columns))
        .map_err(|error| vec![Diagnostic::error("AI0302", error.to_string())])
}

fn columns(schema: &SchemaRef) -> String {
    let columns: Vec<String> =
        schema.fields().iter().map(|field| format!("{} {}", field.name(), field.data_type())).collect();
    columns.join(", ")
}

/// Key columns that aren't there, NULLs in them, and keys that stand there twice.
fn key_faults(name: &str, key: &[String], file: Option<&Path>, table: &Table) -> Vec<Diagnostic> {
    let placed = |code, message: String| {
        let fault = Diagnostic::error(code, message);
        match file {
            Some(file) => fault.file(file),
            None => fault,
        }
    };
    let schema = table.rows.schema();
    let mut faults = Vec::new();
    let mut values = Vec::new();
    for column in key {
        match table.rows.column_by_name(column) {
            Some(found) => values.push(Arc::clone(found)),
            None => {
                let fault = placed("AI0303", format!("the lookup {name:?} has no column {column:?}, its key"));
                let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
                faults.push(match did_you_mean(column, names.iter().copied()) {
                    Some(meant) => fault.help(format!("did you mean {meant:?}?")),
                    None => fault.help(format!("it has {}", names.join(", "))),
                });
            }
        }
    }
    if key.is_empty() {
        faults.push(
            placed("AI0303", format!("the lookup {name:?} has no key"))
                .help("set `key` to the columns that identify a row"),
        );
    }
    if !faults.is_empty() {
        return faults;
    }
    let place = |row: usize| table.lines.get(row).map_or(format!("row {}", row + 1), |line| format!("line {line}"));
    let Ok(texts) = KeyTexts::new(&values) else {
        return vec![placed("AI0303", format!("the key of lookup {name:?} has a type that can't be a key"))];
    };
    let mut first: HashMap<Box<str>, usize> = HashMap::with_capacity(table.rows.num_rows());
    let mut text = String::new();
    let mut more = 0_usize;
    for row in 0..table.rows.num_rows() {
        let fault = if !texts.write(row, &mut text) {
            placed("AI0305", format!("the key of lookup {name:?} is empty in {}", place(row)))
        } else if let Some(earlier) = first.get(text.as_str()) {
            let (earlier, row) = (place(*earlier), place(row));
            placed("AI0304", format!("the key of lookup {name:?} in {row} stands in {earlier} already"))
                .help("a key may stand there once, otherwise a join would multiply rows")
        } else {
            first.insert(text.as_str().into(), row);
            continue;
        };
        if faults.len() < LISTED {
            faults.push(fault.span(line_span(table, row)));
        } else {
            more += 1;
        }
    }
    if more > 0 {
        faults.push(placed("AI0304", format!("and {more} more rows of lookup {name:?} with such keys")));
    }
    faults
}

fn line_span(table: &Table, row: usize) -> Option<crate::diagnostic::Span> {
    let line = *table.lines.get(row)?;
    Some(crate::diagnostic::Span { line, column: 1, end_line: line, end_column: 2 })
}
