//! A preview for people.

use std::collections::BTreeMap;
use std::io::Write;

use super::super::show::arrow_rows::{Texts, grid};
use super::super::show::grid::Grid;
use super::super::show::terminal::{harmless, width};
use super::super::show::{Stopped, counted};
use super::{Preview, PreviewArgs, is_wanted};
use crate::config::OnError;
use crate::workbench::effects::{Change, Effect, before};

/// Rows of each table unless told otherwise.
const LIMIT: usize = 20;

pub(super) fn show(preview: &Preview<'_>, args: &PreviewArgs, out: &mut impl Write) -> Result<(), Stopped> {
    let (limit, width) = (args.limit.unwrap_or(LIMIT), width());
    let (events, batches) = (counted(preview.records, "event"), preview.turns.len());
    writeln!(
        out,
        "{}: {events} in {}",
        harmless(&preview.source),
        counted(batches, "batch").replace("batchs", "batches")
    )?;
    for (name, rows, took) in preview.models()? {
        if !is_wanted(args, &name) {
            continue;
        }
        let ms = took.as_secs_f64() * 1e3;
        writeln!(out, "\nmodel {name}: {} in {ms:.1} ms", counted(rows.num_rows(), "row"))?;
        write_grid(out, &grid(&rows, limit)?, width)?;
        write_rest(out, rows.num_rows(), limit)?;
    }
    writeln!(out)?;
    quarantine(preview, limit, out)?;
    writes(preview, limit, width, out)?;
    sums(preview, out)
}

fn write_grid(out: &mut impl Write, grid: &Grid, width: Option<usize>) -> Result<(), Stopped> {
    if !grid.is_empty() {
        grid.write(out, width)?;
    }
    Ok(())
}

fn write_rest(out: &mut impl Write, count: usize, limit: usize) -> Result<(), Stopped> {
    if count > limit {
        writeln!(out, "  and {} more", count - limit)?;
    }
    Ok(())
}

/// What doesn't pass, what came late, what nobody knows.
fn quarantine(preview: &Preview<'_>, limit: usize, out: &mut impl Write) -> Result<(), Stopped> {
    let refused: Vec<_> = preview.turns.iter().flat_map(|turn| &turn.evaluation.refused).collect();
    for refusal in refused.iter().take(limit) {
        let model = refusal.model.as_deref().map(|model| format!(" by {model}")).unwrap_or_default();
        let (stage, position, reason) = (refusal.stage.name(), refusal.position, harmless(&refusal.reason));
        writeln!(out, "refused at {stage}{model}: {position}: {reason}")?;
    }
    write_rest(out, refused.len(), limit)?;
    if preview.pipeline.on_error == OnError::Stop && !refused.is_empty() {
        writeln!(
            out,
            "on_error = \"stop\": the service would stop at the first of these, and nothing behind it would follow"
        )?;
    }
    let held: Vec<_> = preview.turns.iter().flat_map(|turn| &turn.evaluation.held).collect();
    for held in held.iter().take(limit) {
        let users: Vec<&str> = held.keys.iter().map(|key| &*key.0).collect();
        writeln!(out, "held: {} waits for {}", held.position, harmless(&users.join(", ")))?;
    }
    write_rest(out, held.len(), limit)?;
    let late: Vec<_> = preview.turns.iter().flat_map(|turn| &turn.out_of_order).collect();
    for event in late.iter().take(limit) {
        let key = harmless(&event.key.0);
        let (position, at, known) = (event.position, time(event.ts_ns), time(event.known.ts_ns));
        writeln!(
            out,
            "out of order: {position} of {key} is of {at}; partition {} offset {} before it is of {known}",
            event.known.partition, event.known.offset
        )?;
    }
    write_rest(out, late.len(), limit)?;
    let mut unmapped: BTreeMap<&str, u64> = BTreeMap::new();
    for (field, count) in preview.turns.iter().flat_map(|turn| &turn.unmapped) {
        *unmapped.entry(field).or_default() += count;
    }
    for (field, count) in unmapped {
        let events = counted(usize::try_from(count).unwrap_or(usize::MAX), "event");
        writeln!(out, "no schema knows the field {}, which {events} had", harmless(field))?;
    }
    Ok(())
}

fn time(ns: i64) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(ns)).map_or_else(|_| ns.to_string(), |time| time.to_string())
}

fn writes(preview: &Preview<'_>, limit: usize, width: Option<usize>, out: &mut impl Write) -> Result<(), Stopped> {
    let mut counts: BTreeMap<Change, usize> = BTreeMap::new();
    for effect in preview.effects.iter().flatten() {
        *counts.entry(effect.change).or_default() += 1;
    }
    let named = |(change, count): (&Change, &usize)| match change {
        Change::Insert | Change::Update | Change::Delete => counted(*count, change.name()),
        Change::Unchanged | Change::Absent | Change::Superseded => format!("{count} {}", change.name()),
    };
    let parts: Vec<String> = counts.iter().map(named).collect();
    let table = harmless(&preview.pipeline.table);
    let against = if preview.online.is_some() { format!("{table} as it is now") } else { format!("an empty {table}") };
    let what = if parts.is_empty() { "none".to_owned() } else { parts.join(", ") };
    writeln!(out, "writes that would follow, to {against}: {what}")?;
    let mut grid = Grid::new(["write"]);
    for field in preview.bench.tables().columns().fields() {
        grid.push_column(field.name(), field.data_type().is_numeric());
    }
    let (mut left, mut all) = (limit, 0);
    for (turn, effects) in preview.turns.iter().zip(&preview.effects) {
        all += effects.len();
        let shown = effects.get(..left.min(effects.len())).unwrap_or_default();
        left -= shown.len();
        push_writes(preview, &turn.evaluation.latest, shown, &mut grid)?;
    }
    write_grid(out, &grid, width)?;
    write_rest(out, all, limit)
}

/// A line per write: the row as it will be, `old → new` where a value changes, the row that goes where one is deleted.
fn push_writes(
    preview: &Preview<'_>,
    latest: &arrow::array::RecordBatch,
    effects: &[Effect],
    grid: &mut Grid,
) -> Result<(), Stopped> {
    let (old, places) = before(preview.bench.tables(), effects)?;
    let width = preview.bench.tables().columns().fields().len();
    let texts = |rows: &arrow::array::RecordBatch| -> crate::error::Result<Vec<Vec<String>>> {
        let columns = rows.columns().iter().take(width);
        columns
            .map(|values| {
                Texts::new(values.as_ref()).map(|texts| (0..rows.num_rows()).map(|row| texts.of(row)).collect())
            })
            .collect()
    };
    let (new, old) = (texts(&latest.slice(0, effects.len()))?, texts(&old)?);
    for (row, effect) in effects.iter().enumerate() {
        let cell = |column: usize| {
            let text = |cells: &Vec<Vec<String>>, row: usize| {
                cells.get(column).and_then(|cells| cells.get(row)).cloned().unwrap_or_default()
            };
            let old = || places.get(row).copied().flatten().map(|place| text(&old, place));
            match effect.change {
                Change::Update if effect.changed.contains(&column) => {
                    format!("{} → {}", old().unwrap_or_default(), text(&new, row))
                }
                Change::Delete => old().unwrap_or_else(|| text(&new, row)),
                _ => text(&new, row),
            }
        };
        grid.push(std::iter::once(effect.change.name().to_owned()).chain((0..width).map(cell)));
    }
    Ok(())
}

fn sums(preview: &Preview<'_>, out: &mut impl Write) -> Result<(), Stopped> {
    for (partition, sums) in &preview.bench.tables().sums {
        writeln!(
            out,
            "partition {partition}: read {} = ignored {} + refused {} + held {} + accepted {}; changes {} = upserted {} + deleted {} + superseded {}",
            sums.read,
            sums.ignored,
            sums.refused,
            sums.held,
            sums.accepted,
            sums.changes,
            sums.upserted,
            sums.deleted,
            sums.superseded
        )?;
    }
    Ok(())
}
