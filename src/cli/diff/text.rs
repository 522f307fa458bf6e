//! A comparison for people.

use std::io::Write;

use super::super::show::grid::Grid;
use super::super::show::terminal::{harmless, width};
use super::super::show::{Stopped, counted};
use super::{Compared, DiffArgs};
use crate::hold::Key;
use crate::sink::positions::SumChanges;
use crate::target::VERSION_COLUMNS;
use crate::workbench::Row;
use crate::workbench::Tables;
use crate::workbench::difference::{Difference, Judgement, cell_text};

pub(super) fn show(compared: &Compared, args: &DiffArgs, out: &mut impl Write) -> Result<(), Stopped> {
    let Compared { old, new, difference, .. } = compared;
    let commit = compared.commit.as_deref().and_then(|commit| commit.get(..10));
    let commit = commit.map(|commit| format!(" ({commit})")).unwrap_or_default();
    writeln!(out, "old: {}{commit}, new: {}", harmless(&old.name), new.name)?;
    writeln!(out, "over {} of {}, from empty tables\n", counted(compared.events, "event"), harmless(&compared.source))?;
    let Difference { old_rows, new_rows, added, gone, changed, .. } = difference;
    writeln!(
        out,
        "rows of {}: {old_rows} old, {new_rows} new: {} added, {} gone, {} changed, {} the same",
        harmless(&compared.table),
        added.len(),
        gone.len(),
        changed.len(),
        difference.same()
    )?;
    columns(difference, out)?;
    for (name, keys) in &difference.by_column {
        writeln!(out, "  {} differs in {}", harmless(name), counted(keys.len(), "row"))?;
    }
    if !args.summary {
        samples(compared, args.limit, out)?;
    }
    quarantine(compared, args, out)?;
    sums(difference, out)?;
    if difference.is_none() {
        writeln!(out, "no difference")?;
    }
    Ok(())
}

fn columns(difference: &Difference, out: &mut impl Write) -> Result<(), Stopped> {
    let columns = &difference.columns;
    for (what, names) in [("added", &columns.added), ("gone", &columns.gone)] {
        if !names.is_empty() {
            writeln!(out, "  columns {what}: {}", harmless(&names.join(", ")))?;
        }
    }
    for (name, was, is) in &columns.retyped {
        writeln!(out, "  column {} is of another type: {was} → {is}", harmless(name))?;
    }
    Ok(())
}

fn samples(compared: &Compared, limit: usize, out: &mut impl Write) -> Result<(), Stopped> {
    let Compared { old, new, difference, .. } = compared;
    for (what, keys, tables) in [("added", &difference.added, &new.tables), ("gone", &difference.gone, &old.tables)] {
        if keys.is_empty() {
            continue;
        }
        writeln!(out, "\n{what}: {}", counted(keys.len(), "row"))?;
        let mut grid = Grid::new([]);
        for field in tables.columns().fields() {
            grid.push_column(field.name(), field.data_type().is_numeric());
        }
        for row in keys.iter().take(limit).filter_map(|key| tables.rows.get(key)) {
            grid.push(row.cells.iter().map(cell_text));
        }
        write_grid(&grid, keys.len(), limit, out)?;
    }
    for (name, keys) in &difference.by_column {
        writeln!(out, "\nchanged: {} in {}", harmless(name), counted(keys.len(), "row"))?;
        let mut grid = Grid::new(["key", "old", "new"]);
        for key in keys.iter().take(limit) {
            grid.push([key.0.to_string(), cell(&old.tables, key, name), cell(&new.tables, key, name)]);
        }
        write_grid(&grid, keys.len(), limit, out)?;
    }
    Ok(())
}

fn write_grid(grid: &Grid, count: usize, limit: usize, out: &mut impl Write) -> Result<(), Stopped> {
    if !grid.is_empty() {
        grid.write(out, width())?;
    }
    if count > limit {
        writeln!(out, "  and {} more", count - limit)?;
    }
    Ok(())
}

/// A value of a row, also of its version.
pub(super) fn cell(tables: &Tables, key: &Key, column: &str) -> String {
    let Some(row) = tables.rows.get(key) else { return String::new() };
    if let Some(version) = version(row, column) {
        return version.to_string();
    }
    let cell = tables.columns().index_of(column).ok().and_then(|place| row.cells.get(place));
    cell.map(cell_text).unwrap_or_default()
}

pub(super) fn version(row: &Row, column: &str) -> Option<i64> {
    let [ts, partition, offset] = VERSION_COLUMNS;
    match column {
        name if name == ts => Some(row.version.ts_ns),
        name if name == partition => Some(i64::from(row.version.partition)),
        name if name == offset => Some(row.version.offset),
        _ => None,
    }
}

fn quarantine(compared: &Compared, args: &DiffArgs, out: &mut impl Write) -> Result<(), Stopped> {
    let judged = &compared.difference.quarantine;
    if judged.is_empty() {
        return Ok(());
    }
    let (was, is) = (compared.old.tables.quarantine.len(), compared.new.tables.quarantine.len());
    writeln!(out, "\nquarantine: {was} old, {is} new; {} judged differently", counted(judged.len(), "event"))?;
    if args.summary {
        return Ok(());
    }
    let mut grid = Grid::new([">partition", ">offset", "keys", "old", "new"]);
    for event in judged.iter().take(args.limit) {
        let keys: Vec<&str> = event.keys.iter().map(|key| &*key.0).collect();
        let (partition, offset) = (event.position.partition.to_string(), event.position.offset.to_string());
        grid.push([partition, offset, keys.join(", "), words(&event.old), words(&event.new)]);
    }
    write_grid(&grid, judged.len(), args.limit, out)
}

fn words(judgement: &Judgement) -> String {
    match judgement {
        Judgement::Passed => "passed".to_owned(),
        Judgement::Held => "held".to_owned(),
        Judgement::Refused { stage, model, reason, .. } => {
            let by = model.as_deref().map(|model| format!(" by {model}")).unwrap_or_default();
            format!("refused at {stage}{by}: {reason}")
        }
    }
}

fn sums(difference: &Difference, out: &mut impl Write) -> Result<(), Stopped> {
    if !difference.sums.is_empty() {
        writeln!(out, "\nsums")?;
    }
    for (partition, was, is) in &difference.sums {
        let (was, is) = (named(was), named(is));
        let changed = was.iter().zip(&is).filter(|(was, is)| was.1 != is.1);
        let parts: Vec<String> = changed.map(|(was, is)| format!("{} {} → {}", was.0, was.1, is.1)).collect();
        writeln!(out, "  partition {partition}: {}", parts.join(", "))?;
    }
    let (was, is) = difference.out_of_order;
    if was != is {
        writeln!(out, "events out of order: {was} → {is}")?;
    }
    Ok(())
}

fn named(sums: &SumChanges) -> [(&'static str, i64); 9] {
    [
        ("read", sums.read),
        ("ignored", sums.ignored),
        ("refused", sums.refused),
        ("held", sums.held),
        ("accepted", sums.accepted),
        ("changes", sums.changes),
        ("upserted", sums.upserted),
        ("deleted", sums.deleted),
        ("superseded", sums.superseded),
    ]
}
