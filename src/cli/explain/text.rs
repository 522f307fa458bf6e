//! An explanation for people.

use std::io::Write;
use std::time::Duration;

use super::super::show::grid::Grid;
use super::super::show::terminal::{harmless, width};
use super::super::show::{Stopped, counted};
use super::{ExplainArgs, Explained, Measured};
use crate::sql::explain::{ModelNode, TableKind, TableNode};

pub(super) fn show(explained: &Explained<'_>, args: &ExplainArgs, out: &mut impl Write) -> Result<(), Stopped> {
    let pipeline = explained.pipeline;
    writeln!(out, "pipeline {}: topic {} to table {}\n", pipeline.name, pipeline.topic, harmless(&pipeline.table))?;
    graph(explained, out)?;
    if let Some(measured) = &explained.measured {
        costs(measured, out)?;
    }
    let named = |model: &ModelNode| args.model.contains(&model.name);
    for model in &explained.explanation.models {
        let plans = args.plans || named(model);
        if !args.model.is_empty() && !named(model) || !plans && model.verdicts.is_empty() {
            continue;
        }
        writeln!(out, "\n{} ({})", model.name, model.file.display())?;
        verdicts(model, out)?;
        if plans {
            plan("logical", &model.logical, out)?;
            plan("physical", &model.physical, out)?;
        }
    }
    Ok(())
}

/// The models in running order, with what each reads and what becomes of it.
fn graph(explained: &Explained<'_>, out: &mut impl Write) -> Result<(), Stopped> {
    let measured = explained.measured.as_ref();
    let mut grid = Grid::new(["model", "reads", "goes to"]);
    if measured.is_some() {
        for name in ["rows", "ms"] {
            grid.push_column(name, true);
        }
    }
    for model in &explained.explanation.models {
        let reads: Vec<String> = model.reads.iter().map(|name| read(name, &explained.explanation.tables)).collect();
        let mut cells = vec![model.name.clone(), reads.join(", "), goes_to(explained, model)];
        if let Some(measured) = measured {
            let cost = measured.models.get(&model.name);
            cells.push(cost.map_or_else(|| "-".to_owned(), |cost| cost.rows.to_string()));
            cells.push(cost.map_or_else(|| "-".to_owned(), |cost| ms(cost.took)));
        }
        grid.push(cells);
    }
    grid.write(out, width())?;
    Ok(())
}

fn read(name: &str, tables: &[TableNode]) -> String {
    match tables.iter().find(|table| table.name == name) {
        Some(TableNode { kind: TableKind::Lookup, rows: Some(rows), .. }) => {
            format!("{name} (lookup, {})", counted(*rows, "row"))
        }
        _ => name.to_owned(),
    }
}

/// Models that read it, and the engine's own uses.
pub(super) fn goes_to(explained: &Explained<'_>, model: &ModelNode) -> String {
    let own = match model.name.as_str() {
        "latest" => Some(format!("table {}", explained.pipeline.table)),
        "out_of_order" => Some("evidence".to_owned()),
        "metrics" => Some("figures".to_owned()),
        _ => None,
    };
    let readers = explained.explanation.models.iter().filter(|reader| reader.reads.contains(&model.name));
    let names: Vec<String> = readers.map(|reader| reader.name.clone()).chain(own).collect();
    if names.is_empty() { "nowhere".to_owned() } else { names.join(", ") }
}

fn costs(measured: &Measured, out: &mut impl Write) -> Result<(), Stopped> {
    let Measured { events, batches, runs, .. } = measured;
    let models: Duration = measured.models.values().map(|cost| cost.took).sum();
    let all = measured.decode + models + measured.rest;
    let batches = if *batches == 1 { "1 batch".to_owned() } else { format!("{batches} batches") };
    writeln!(
        out,
        "\n{} of {} in {batches}, median of {}: {} ms = decode {} + models {} + fold, hold and checks {}",
        counted(*events, "event"),
        harmless(&measured.source),
        counted(usize::try_from(*runs).unwrap_or_default(), "run"),
        ms(all),
        ms(measured.decode),
        ms(models),
        ms(measured.rest)
    )?;
    Ok(())
}

fn verdicts(model: &ModelNode, out: &mut impl Write) -> Result<(), Stopped> {
    for verdict in &model.verdicts {
        let took = if verdict.took { "yes" } else { "no" };
        writeln!(out, "  {}: {took}, {}", verdict.rule, harmless(&verdict.why))?;
    }
    Ok(())
}

fn plan(kind: &str, plan: &str, out: &mut impl Write) -> Result<(), Stopped> {
    writeln!(out, "  {kind} plan")?;
    for line in plan.lines() {
        writeln!(out, "    {}", harmless(line))?;
    }
    Ok(())
}

fn ms(time: Duration) -> String {
    format!("{:.2}", time.as_secs_f64() * 1e3)
}
