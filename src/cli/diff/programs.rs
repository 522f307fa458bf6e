//! A comparison for programs: one JSON object. Values keep their digits.

use std::collections::BTreeMap;
use std::io::Write;

use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::super::show::Stopped;
use super::super::show::arrow_rows::json_lines;
use super::text::version;
use super::{Compared, DiffArgs};
use crate::error::{Error, Kind, Result};
use crate::hold::Key;
use crate::workbench::Tables;
use crate::workbench::difference::{Judged, Judgement};

#[derive(Serialize)]
struct Document<'a> {
    different: bool,
    table: &'a str,
    events: usize,
    old: Named<'a>,
    new: Named<'a>,
    rows: Value,
    columns: Value,
    /// By column of the target.
    changed: Vec<Column<'a>>,
    added: Vec<Sample>,
    gone: Vec<Sample>,
    quarantine: Value,
    sums: Value,
    out_of_order: Value,
}

#[derive(Serialize)]
struct Named<'a> {
    name: &'a str,
    commit: Option<&'a str>,
}

#[derive(Serialize)]
struct Column<'a> {
    column: &'a str,
    rows: usize,
    samples: Vec<Cell>,
}

#[derive(Serialize)]
struct Cell {
    key: Box<RawValue>,
    old: Box<RawValue>,
    new: Box<RawValue>,
}

#[derive(Serialize)]
struct Sample {
    key: Box<RawValue>,
    row: Box<RawValue>,
}

pub(super) fn show(compared: &Compared, args: &DiffArgs, out: &mut impl Write) -> Result<(), Stopped> {
    let Compared { old, new, difference, .. } = compared;
    let limit = if args.summary { 0 } else { args.limit };
    let columns = &difference.columns;
    let retyped: Vec<Value> = columns
        .retyped
        .iter()
        .map(|(name, was, is)| json!({ "column": name, "old": was.to_string(), "new": is.to_string() }))
        .collect();
    let sums =
        difference.sums.iter().map(|(partition, was, is)| json!({ "partition": partition, "old": was, "new": is }));
    let mut changed = Vec::new();
    for (column, keys) in &difference.by_column {
        let cell = |key: &Key| -> Result<Cell> {
            Ok(Cell { key: raw(&key.0)?, old: cell(&old.tables, key, column)?, new: cell(&new.tables, key, column)? })
        };
        let samples = keys.iter().take(limit).map(cell).collect::<Result<_>>()?;
        changed.push(Column { column, rows: keys.len(), samples });
    }
    let document = Document {
        different: !difference.is_none(),
        table: &compared.table,
        events: compared.events,
        old: Named { name: &old.name, commit: compared.commit.as_deref() },
        new: Named { name: &new.name, commit: None },
        rows: json!({
            "old": difference.old_rows, "new": difference.new_rows, "added": difference.added.len(),
            "gone": difference.gone.len(), "changed": difference.changed.len(), "same": difference.same(),
        }),
        columns: json!({ "added": columns.added, "gone": columns.gone, "retyped": retyped }),
        changed,
        added: samples(&new.tables, &difference.added, limit)?,
        gone: samples(&old.tables, &difference.gone, limit)?,
        quarantine: json!({
            "old": old.tables.quarantine.len(), "new": new.tables.quarantine.len(), "different": difference.quarantine.len(),
            "samples": difference.quarantine.iter().take(limit).map(judged).collect::<Vec<_>>(),
        }),
        sums: sums.collect(),
        out_of_order: json!({ "old": difference.out_of_order.0, "new": difference.out_of_order.1 }),
    };
    serde_json::to_writer_pretty(&mut *out, &document).map_err(std::io::Error::from)?;
    writeln!(out)?;
    Ok(())
}

fn judged(event: &Judged) -> Value {
    let keys: Vec<Value> = event.keys.iter().filter_map(|key| serde_json::from_str(&key.0).ok()).collect();
    let side = |judgement: &Judgement| match judgement {
        Judgement::Passed => json!({ "state": "passed" }),
        Judgement::Held => json!({ "state": "held" }),
        Judgement::Refused { stage, model, column, reason } => {
            json!({ "state": "refused", "stage": stage, "model": model, "column": column, "reason": reason })
        }
    };
    json!({
        "partition": event.position.partition, "offset": event.position.offset, "keys": keys,
        "old": side(&event.old), "new": side(&event.new),
    })
}

fn samples(tables: &Tables, keys: &[Key], limit: usize) -> Result<Vec<Sample>> {
    let keys: Vec<&Key> = keys.iter().take(limit).filter(|key| tables.rows.contains_key(*key)).collect();
    let rows = json_lines(&tables.batch(keys.iter().filter_map(|key| tables.rows.get(*key)))?)?;
    keys.iter().zip(rows).map(|(key, row)| Ok(Sample { key: raw(&key.0)?, row: raw(&row)? })).collect()
}

fn cell(tables: &Tables, key: &Key, column: &str) -> Result<Box<RawValue>> {
    let Some(row) = tables.rows.get(key) else { return raw("null") };
    if let Some(version) = version(row, column) {
        return raw(&version.to_string());
    }
    let line = json_lines(&tables.batch([row])?)?.into_iter().next().unwrap_or_default();
    let mut cells: BTreeMap<String, Box<RawValue>> = serde_json::from_str(&line).map_err(unreadable)?;
    cells.remove(column).map_or_else(|| raw("null"), Ok)
}

fn raw(json: &str) -> Result<Box<RawValue>> {
    RawValue::from_string(json.to_owned()).map_err(unreadable)
}

fn unreadable(error: serde_json::Error) -> Error {
    Error::new(Kind::Bug, "a row is no JSON").source(error)
}
