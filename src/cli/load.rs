//! What most commands begin with: the config, or its faults on standard error; events, lookups, a session at the database.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::Path;

use arrow::array::RecordBatch;

use super::{EventsArgs, Exit};
use crate::config::{Config, LookupFrom, OnError, Pipeline, process_environment};
use crate::diagnostic::{Diagnostic, did_you_mean, render};
use crate::error::Error;
use crate::record::OwnedRecord;
use crate::service;
use crate::sink::session::Session;
use crate::sql::explain::Explanation;
use crate::workbench::Bench;
use crate::workbench::events::Events;

/// Reads the config; shows its warnings, or its faults and ends the command.
pub(super) fn config(path: &Path) -> Result<Config, Exit> {
    match Config::load(path, &process_environment) {
        Ok((config, warnings)) => {
            show(&warnings);
            Ok(config)
        }
        Err(faults) => {
            show(&faults);
            Err(Exit::Config)
        }
    }
}

/// Shows faults on standard error.
pub(super) fn show(faults: &[Diagnostic]) {
    let color = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    // Nothing can be done about a standard error that is gone.
    let _ = render(faults, &mut std::io::stderr().lock(), color);
}

/// Shows an error and says how the command ends.
pub(super) fn fail(error: &Error) -> Exit {
    warn_user!("error: {error}");
    Exit::of(error)
}

/// The pipeline that is meant: the one named, or the only one.
pub(super) fn pipeline<'a>(config: &'a Config, name: Option<&str>) -> Result<&'a Pipeline, Exit> {
    let names: Vec<&str> = config.pipelines.keys().map(String::as_str).collect();
    let found = match (name, names.as_slice()) {
        (Some(name), _) => config.pipelines.get(name),
        (None, [_]) => config.pipelines.values().next(),
        (None, _) => None,
    };
    found.ok_or_else(|| {
        let wanted = name.map_or_else(
            || "name a pipeline with --pipeline".to_owned(),
            |name| format!("there is no pipeline {name}"),
        );
        warn_user!("error: {wanted}; the config has {}", names.join(", "));
        Exit::Config
    })
}

/// Connects with the config's account.
pub(super) async fn session(config: &Config) -> Result<Session, Exit> {
    service::connector(config).connect().await.map_err(|error| fail(&error))
}

/// Shows faults that end the command.
pub(super) fn refuse(faults: &[Diagnostic]) -> Exit {
    show(faults);
    Exit::Config
}

/// Says what is wrong with the command line.
pub(super) fn usage(what: &str) -> Exit {
    warn_user!("error: {what}");
    Exit::Config
}

/// Rows of the lookups that no file has: read where the servers answer, there is no other way to know them.
pub(super) async fn lookups(config: &Config, pipeline: &Pipeline) -> Result<BTreeMap<String, RecordBatch>, Exit> {
    let mut tables = service::read_topics(config, pipeline).await.map_err(|error| fail(&error))?;
    if pipeline.lookups.values().any(|lookup| matches!(lookup.from, LookupFrom::MySql { .. })) {
        let read = service::read_tables(pipeline, &service::connector(config)).await;
        tables.extend(read.map_err(|error| fail(&error))?);
    }
    Ok(tables)
}

/// The pipeline without servers. One that stops at the first refused event would show nothing behind it: here it goes on.
pub(super) async fn bench(
    pipeline: &Pipeline,
    lookups: &BTreeMap<String, RecordBatch>,
) -> Result<(Bench, Vec<Diagnostic>), Vec<Diagnostic>> {
    let mut pipeline = pipeline.clone();
    if pipeline.on_error == OnError::Stop {
        pipeline.on_error = OnError::SkipEvent;
    }
    Bench::prepare(&pipeline, lookups).await
}

/// The events that the command line names; they must be named.
pub(super) fn events(args: &EventsArgs) -> Result<Events, Exit> {
    args.named().ok_or_else(|| usage("say which events: --events FILE, --topic-last N or --from PLACE"))
}

/// `records` in batches of `size`, or in one; none for no records.
pub(super) fn batches(records: &[OwnedRecord], size: Option<u32>) -> Vec<&[OwnedRecord]> {
    let size = size.and_then(|size| usize::try_from(size).ok()).unwrap_or(records.len());
    records.chunks(size.max(1)).collect()
}

/// Refuses names of models that there are not.
pub(super) fn known_models(names: &[String], explained: &Explanation) -> Result<(), Exit> {
    let known: Vec<&str> = explained.models.iter().map(|model| model.name.as_str()).collect();
    let Some(unknown) = names.iter().find(|name| !known.contains(&name.as_str())) else { return Ok(()) };
    let hint = match did_you_mean(unknown, known.iter().copied()) {
        Some(meant) => format!("did you mean {meant}?"),
        None => format!("there are {}", known.join(", ")),
    };
    Err(usage(&format!("there is no model {unknown}; {hint}")))
}
