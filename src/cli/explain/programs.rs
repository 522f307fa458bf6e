//! An explanation for programs: one JSON object, or the graph in Graphviz's language.

use std::io::Write;

use serde_json::{Value, json};

use super::super::show::Stopped;
use super::{ExplainArgs, Explained};
use crate::sql::explain::TableKind;

pub(super) fn json(explained: &Explained<'_>, args: &ExplainArgs, out: &mut impl Write) -> Result<(), Stopped> {
    let unwritable = |error: serde_json::Error| Stopped::from(std::io::Error::from(error));
    let ms = |time: std::time::Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
    let mut models = Vec::new();
    for model in &explained.explanation.models {
        if !args.model.is_empty() && !args.model.contains(&model.name) {
            continue;
        }
        let mut node = serde_json::to_value(model).map_err(unwritable)?;
        let cost = explained.measured.as_ref().and_then(|measured| measured.models.get(&model.name));
        if let (Value::Object(node), Some(cost)) = (&mut node, cost) {
            node.insert("rows".to_owned(), json!(cost.rows));
            node.insert("ms".to_owned(), json!(ms(cost.took)));
        }
        models.push(node);
    }
    let measured = explained.measured.as_ref().map(|measured| {
        json!({
            "events": measured.events, "batches": measured.batches, "runs": measured.runs,
            "decode_ms": ms(measured.decode), "rest_ms": ms(measured.rest),
        })
    });
    let pipeline = explained.pipeline;
    let document = json!({
        "pipeline": pipeline.name, "topic": pipeline.topic, "table": pipeline.table,
        "tables": explained.explanation.tables, "models": models, "measured": measured,
    });
    serde_json::to_writer_pretty(&mut *out, &document).map_err(unwritable)?;
    writeln!(out)?;
    Ok(())
}

pub(super) fn dot(explained: &Explained<'_>, out: &mut impl Write) -> Result<(), Stopped> {
    writeln!(out, "digraph {} {{", quoted(&explained.pipeline.name))?;
    writeln!(out, "  rankdir=LR;\n  node [shape=box, style=rounded];")?;
    for table in &explained.explanation.tables {
        let label = match (table.kind, table.rows) {
            (TableKind::Lookup, Some(rows)) => format!("{}\n{rows} rows", table.name),
            _ => table.name.clone(),
        };
        writeln!(out, "  {} [shape=cylinder, style=solid, label={}];", quoted(&table.name), quoted(&label))?;
        if let Some(model) = table.made_from {
            writeln!(out, "  {} -> {} [style=dashed];", quoted(model), quoted(&table.name))?;
        }
    }
    for model in &explained.explanation.models {
        let cost = explained.measured.as_ref().and_then(|measured| measured.models.get(&model.name));
        let label = match cost {
            Some(cost) => format!("{}\n{} rows, {:.2} ms", model.name, cost.rows, cost.took.as_secs_f64() * 1e3),
            None => model.name.clone(),
        };
        writeln!(out, "  {} [label={}];", quoted(&model.name), quoted(&label))?;
    }
    for model in &explained.explanation.models {
        for read in &model.reads {
            writeln!(out, "  {} -> {};", quoted(read), quoted(&model.name))?;
        }
    }
    let target = format!("table {}", explained.pipeline.table);
    writeln!(out, "  {} [shape=cylinder, style=solid];", quoted(&target))?;
    writeln!(out, "  \"latest\" -> {};\n}}", quoted(&target))?;
    Ok(())
}

/// A text of Graphviz; `\n` breaks a line there, too.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}
