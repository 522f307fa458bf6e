//! `schema diff` and `schema check`: versions of schema files against each other. No server is needed.
//!
//! The exit code of `diff` is that of diff(1): 0 for no difference, 1 for some, another one where no answer could be found.

use std::io::{self, Write};

use serde_json::json;

use super::gone;
use crate::cli::{Exit, Format, SchemaCheckArgs, SchemaDiffArgs, load};
use crate::config::Pipeline;
use crate::diagnostic::{Diagnostic, has_errors, render_json};
use crate::schema::SourceSchema;
use crate::schema::compat::{self, Change, Difference, Verdict};

pub(super) fn run(args: &SchemaDiffArgs) -> Result<Exit, Exit> {
    let config = load::config(&args.config.config)?;
    let pipeline = load::pipeline(&config, args.pipeline.as_deref())?;
    let (older, newer) = versions(args, pipeline).map_err(|faults| {
        load::show(&faults);
        Exit::Config
    })?;
    let found = compat::differences(&older, &newer);
    let mut out = io::stdout().lock();
    match args.format {
        Format::Json => show_json(&older, &newer, &found, &mut out),
        Format::Text => show_text(&older, &newer, &found, &mut out),
    }
    .map_err(gone)?;
    Ok(if found.is_empty() { Exit::Done } else { Exit::Faulty })
}

pub(super) fn check(args: &SchemaCheckArgs) -> Result<Exit, Exit> {
    let config = load::config(&args.config.config)?;
    let mut faults: Vec<Diagnostic> = Vec::new();
    for pipeline in config.pipelines.values().filter(|it| args.pipeline.as_ref().is_none_or(|name| *name == it.name)) {
        faults.extend(compat::check(&pipeline.schemas));
    }
    if args.pipeline.is_some() {
        load::pipeline(&config, args.pipeline.as_deref())?;
    }
    match args.format {
        Format::Json => render_json(&faults, &mut io::stdout().lock()).map_err(gone)?,
        Format::Text if faults.is_empty() => {
            writeln!(io::stdout(), "every version may follow the one before it").map_err(gone)?;
        }
        Format::Text => load::show(&faults),
    }
    Ok(if has_errors(&faults) { Exit::Faulty } else { Exit::Done })
}

/// The two versions that are meant: those named, or the newest and the one before it.
fn versions(args: &SchemaDiffArgs, pipeline: &Pipeline) -> Result<(SourceSchema, SourceSchema), Vec<Diagnostic>> {
    let dir = &pipeline.schemas;
    if let (Some(older), Some(newer)) = (&args.older, &args.newer) {
        return Ok((compat::version_called(older, dir)?, compat::version_called(newer, dir)?));
    }
    let newest = SourceSchema::load(dir)?;
    if let Some(older) = &args.older {
        return Ok((compat::version_called(older, dir)?, newest));
    }
    let before = crate::schema::files(dir)?.into_iter().rev().nth(1);
    match before {
        Some((version, path)) => Ok((SourceSchema::read(version, &path)?, newest)),
        None => {
            let fault = Diagnostic::error("AI0201", "there is only one version: nothing to compare it with");
            Err(vec![fault.file(dir).help("name another file: `afterimage schema diff other.json 1`")])
        }
    }
}

fn show_text(older: &SourceSchema, newer: &SourceSchema, found: &[Difference], out: &mut impl Write) -> io::Result<()> {
    if found.is_empty() {
        return writeln!(out, "no difference between {} and {}", older.path.display(), newer.path.display());
    }
    writeln!(out, "{} -> {}", older.path.display(), newer.path.display())?;
    let rows: Vec<[String; 3]> = found
        .iter()
        .map(|difference| {
            let (what, detail) = told(&difference.change);
            [what.to_owned(), difference.field.clone(), detail]
        })
        .collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths = [width(0), width(1), width(2)];
    for (row, difference) in rows.iter().zip(found) {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        writeln!(out, "  {}  {}", cells.join("  "), verdict(&difference.verdict))?;
    }
    let breaking = found.iter().filter(|difference| difference.is_breaking()).count();
    if breaking > 0 {
        writeln!(out, "{breaking} of {} refused: `afterimage schema check` says what to do", found.len())?;
    }
    Ok(())
}

fn told(change: &Change) -> (&'static str, String) {
    let or_none = |default: &Option<String>| default.clone().unwrap_or_else(|| "none".to_owned());
    match change {
        Change::Added => ("added", String::new()),
        Change::Gone => ("gone", String::new()),
        Change::Renamed(from) => ("renamed", format!("was {from}")),
        Change::Retyped(from, to) => ("retyped", format!("{from} -> {to}")),
        Change::Nullable(true) => ("nullable", "may be null now".to_owned()),
        Change::Nullable(false) => ("required", "may not be null any more".to_owned()),
        Change::Alias(name, true) => ("alias", format!("+{name}")),
        Change::Alias(name, false) => ("alias", format!("-{name}")),
        Change::Default(from, to) => ("default", format!("{} -> {}", or_none(from), or_none(to))),
        Change::Doc => ("doc", String::new()),
    }
}

fn verdict(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Fine("") => "fine".to_owned(),
        Verdict::Fine(why) => format!("fine: {why}"),
        Verdict::OnPurpose(verb, why) => format!("on purpose ({}): {why}", verb.name()),
        Verdict::Breaking(_, why) => format!("REFUSED: {why}"),
    }
}

fn show_json(older: &SourceSchema, newer: &SourceSchema, found: &[Difference], out: &mut impl Write) -> io::Result<()> {
    let entries: Vec<_> = found
        .iter()
        .map(|difference| {
            let (change, detail) = told(&difference.change);
            let (verdict, why) = match &difference.verdict {
                Verdict::Fine(why) => ("fine", (*why).to_owned()),
                Verdict::OnPurpose(_, why) => ("on_purpose", why.clone()),
                Verdict::Breaking(_, why) => ("refused", (*why).to_owned()),
            };
            json!({ "field": difference.field, "change": change, "detail": detail, "verdict": verdict, "why": why })
        })
        .collect();
    let shown = json!({
        "older": { "version": older.version, "file": older.path },
        "newer": { "version": newer.version, "file": newer.path },
        "differences": entries,
    });
    writeln!(out, "{shown:#}")
}
