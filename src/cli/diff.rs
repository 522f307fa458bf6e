//! `diff`: old models and new ones over the same events; which rows of the target would differ, and how.
//!
//! The exit code is that of diff(1): 0 for no difference, 1 for some, another one where no answer could be found. Both sides begin with
//! empty tables and use the config and MySQL lookups as they are now. Values may be shown here.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use arrow::array::RecordBatch;

use super::show::Stopped;
use super::{DiffArgs, Exit, Format, load};
use crate::config::Pipeline;
use crate::diagnostic::{Diagnostic, render};
use crate::record::OwnedRecord;
use crate::workbench::difference::Difference;
use crate::workbench::revision::{self, AtRevision};
use crate::workbench::{Bench, Tables};

mod programs;
mod text;

pub async fn run(args: &DiffArgs) -> Exit {
    match diff(args).await {
        Ok(exit) | Err(exit) => exit,
    }
}

/// One side of the comparison.
struct Side {
    /// As people call it.
    name: String,
    tables: Tables,
}

/// All that there is to show.
struct Compared {
    table: String,
    source: String,
    events: usize,
    old: Side,
    new: Side,
    /// The old side's commit.
    commit: Option<String>,
    difference: Difference,
}

/// Where the old models are.
enum Old {
    Folder(Box<Pipeline>),
    Revision(Box<AtRevision>),
}

async fn diff(args: &DiffArgs) -> Result<Exit, Exit> {
    let config = load::config(&args.config.config)?;
    let pipeline = load::pipeline(&config, args.pipeline.as_deref())?;
    let events = load::events(&args.events)?;
    let old = old(args, pipeline)?;
    let lookups = load::lookups(&config, pipeline).await?;
    let records = events.read(&config, pipeline).await.map_err(|error| load::fail(&error))?.records;
    let source = events.describe(pipeline);
    if records.is_empty() {
        return Err(load::usage(&format!("{source} holds no events: nothing to compare by")));
    }
    let batches = load::batches(&records, args.batch);
    // Faults of both sides, before either is run.
    let (before, after) = (prepare(&old, &lookups).await, load::bench(pipeline, &lookups).await);
    let name = old_name(args);
    if let Err(faults) = &before {
        show_faults(&format!("the old side, {name}"), faults, &old, &name);
    }
    if let Err(faults) = &after {
        show_faults("the new side, the working tree", faults, &old, &name);
    }
    let (Ok((before, _)), Ok((after, warnings))) = (before, after) else { return Err(Exit::Config) };
    load::show(&warnings);
    let (before, after) = (turn(before, &batches, "old").await?, turn(after, &batches, "new").await?);
    let difference = Difference::between(&before, &after);
    let compared = Compared {
        table: pipeline.table.clone(),
        source,
        events: records.len(),
        old: Side { name, tables: before },
        new: Side { name: "the working tree".to_owned(), tables: after },
        commit: if let Old::Revision(at) = &old { Some(at.commit.clone()) } else { None },
        difference,
    };
    show(&compared, args)
}

fn show(compared: &Compared, args: &DiffArgs) -> Result<Exit, Exit> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let shown = match args.format {
        Format::Text => text::show(compared, args, &mut out),
        Format::Json => programs::show(compared, args, &mut out),
    };
    let exit = if compared.difference.is_none() { Exit::Done } else { Exit::Faulty };
    match shown.and_then(|()| out.flush().map_err(Stopped::from)) {
        Ok(()) | Err(Stopped::ReaderGone) => Ok(exit),
        Err(Stopped::Failed(error)) => Err(load::fail(&error)),
    }
}

fn old(args: &DiffArgs, pipeline: &Pipeline) -> Result<Old, Exit> {
    match (&args.old, &args.rev) {
        (Some(folder), _) => Ok(Old::Folder(Box::new(Pipeline { queries: folder.clone(), ..pipeline.clone() }))),
        (None, Some(rev)) => {
            let at = revision::read(pipeline, rev).map_err(|error| load::fail(&error))?;
            for path in &at.as_now {
                warn_user!("warning: there was no {} at {rev}: the old side uses what is there now", path.display());
            }
            Ok(Old::Revision(Box::new(at)))
        }
        (None, None) => Err(load::usage("say what to compare with: --rev REVISION or --old FOLDER")),
    }
}

fn old_name(args: &DiffArgs) -> String {
    let folder = || args.old.as_deref().map(Path::display).map(|path| path.to_string()).unwrap_or_default();
    args.rev.clone().unwrap_or_else(folder)
}

async fn prepare(
    old: &Old,
    lookups: &BTreeMap<String, RecordBatch>,
) -> Result<(Bench, Vec<Diagnostic>), Vec<Diagnostic>> {
    match old {
        Old::Folder(pipeline) => load::bench(pipeline, lookups).await,
        Old::Revision(at) => load::bench(&at.pipeline, lookups).await,
    }
}

/// Faults with their side; files of a revision by git's own names for them, as `HEAD:queries/users/latest.sql`.
fn show_faults(side: &str, faults: &[Diagnostic], old: &Old, revision: &str) {
    let mut text = Vec::new();
    // Writing to memory can't fail.
    let _ = render(faults, &mut text, false);
    let mut text = String::from_utf8_lossy(&text).into_owned();
    if let Old::Revision(at) = old {
        text = at.copies.renamed(&text, revision);
    }
    warn_user!("faults of {side}:\n{text}");
}

async fn turn(mut bench: Bench, batches: &[&[OwnedRecord]], side: &str) -> Result<Tables, Exit> {
    for batch in batches {
        bench.run(batch).await.map_err(|error| load::fail(&error.at(format!("the {side} side"))))?;
    }
    Ok(bench.into_tables())
}
