//! Everything that people write, checked in one pass: config, schema files, models, lookups, test cases. What can't be checked is named.
//!
//! In: the path of a config. Out: a [`Report`] of every fault that can be known. A fault in one file doesn't hide those of others:
//! pipelines that are sound are checked whatever the rest of the config is, models without a schema up to where it is needed.
//! [`online`] adds what only the servers know, without changing anything there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;

use crate::config::{Config, Environment, LookupFrom, Pipeline};
use crate::diagnostic::{Diagnostic, has_errors};
use crate::service::{self, Examined};
use crate::workbench::fixture;

mod online;
mod watch;

pub use watch::Snapshot;

/// What a check found, and what it couldn't look at.
#[derive(Debug, Default)]
pub struct Report {
    pub faults: Vec<Diagnostic>,
    /// What wasn't checked, each with the reason: never to be taken for passed.
    pub skipped: Vec<String>,
    /// What the servers told that is worth knowing.
    pub found: Vec<String>,
    /// Files and folders that were looked at: when one changes, the report is out of date.
    pub inputs: Vec<PathBuf>,
}

impl Report {
    fn skip(&mut self, what: impl Into<String>) {
        self.skipped.push(what.into());
    }

    /// Two pipelines may share a folder: what is wrong there is said once.
    fn add(&mut self, faults: impl IntoIterator<Item = Diagnostic>) {
        for fault in faults {
            if !self.faults.contains(&fault) {
                self.faults.push(fault);
            }
        }
    }
}

/// Checks the files alone; needs no server.
pub async fn files(path: &Path, environment: &Environment<'_>) -> Report {
    let mut report = Report::default();
    let (config, pipelines) = config(path, environment, &mut report);
    for pipeline in pipelines.values() {
        let absent = from_mysql(pipeline);
        if !absent.is_empty() {
            let what = format!("pipeline {}: lookup {} comes from MySQL", pipeline.name, absent.join(", "));
            let help = "`check --online` reads it, and then the models that join it can be planned";
            let file = config.as_ref().map_or(path, |config| config.path.as_path());
            report.add([Diagnostic::warning("AI0309", what).file(file).help(help)]);
        }
        examine(pipeline, &BTreeMap::new(), &mut report).await;
    }
    report.skip("brokers, topics, privileges and the tables in MySQL: `check --online` asks the servers");
    report
}

/// As [`files`], and asks the brokers and MySQL.
pub async fn online(path: &Path, environment: &Environment<'_>) -> Report {
    let mut report = Report::default();
    let (config, pipelines) = config(path, environment, &mut report);
    let Some(config) = config else {
        for pipeline in pipelines.values() {
            examine(pipeline, &BTreeMap::new(), &mut report).await;
        }
        report.skip("brokers, topics, privileges and the tables in MySQL: the config has faults");
        return report;
    };
    online::servers(&config, &mut report).await;
    report
}

fn config(
    path: &Path,
    environment: &Environment<'_>,
    report: &mut Report,
) -> (Option<Config>, BTreeMap<String, Pipeline>) {
    let read = Config::load_partly(path, environment);
    report.inputs.push(path.to_owned());
    report.add(read.faults);
    for name in read.unread {
        report.skip(format!("pipeline {name}: its part of the config has faults"));
    }
    for pipeline in read.pipelines.values() {
        report.inputs.extend([pipeline.queries.clone(), pipeline.schemas.clone(), fixture::folder(pipeline)]);
        report.inputs.extend(pipeline.lookups.values().filter_map(|lookup| match &lookup.from {
            LookupFrom::File(file) => Some(file.clone()),
            LookupFrom::MySql { .. } | LookupFrom::Topic { .. } => None,
        }));
    }
    (read.config, read.pipelines)
}

/// Names of the lookups whose rows only MySQL has.
fn from_mysql(pipeline: &Pipeline) -> Vec<&str> {
    let lookups = pipeline.lookups.iter();
    lookups
        .filter(|(_, lookup)| matches!(lookup.from, LookupFrom::MySql { .. }))
        .map(|(name, _)| name.as_str())
        .collect()
}

/// Schema, models and lookups of one pipeline; `tables` are lookups that were read elsewhere.
async fn examine(pipeline: &Pipeline, tables: &BTreeMap<String, RecordBatch>, report: &mut Report) -> Examined {
    let mut examined = service::examine(pipeline, tables).await;
    if !examined.unplanned.is_empty() {
        let models = examined.unplanned.join(", ");
        let why = if has_errors(&examined.faults) { "what they read has faults" } else { "what they read isn't known" };
        report.skip(format!("pipeline {}: {models} beyond their syntax, because {why}", pipeline.name));
    }
    let faults = std::mem::take(&mut examined.faults).into_iter();
    let config = report.inputs.first().cloned().unwrap_or_default();
    report.add(faults.map(|fault| match fault.code {
        "AI0136" if fault.file.is_none() => fault.file(&config),
        _ => fault,
    }));
    report.add(crate::workbench::test::check(pipeline, tables).await);
    examined
}
