//! `afterimage test` without its printing: runs the cases beside a pipeline's models and says what came otherwise than expected.
//!
//! In: a pipeline of the config, rows of lookups that were read elsewhere, and which cases to run. Out: a [`Report`]. The models are
//! planned once for each set of settings that cases ask for. The running service asks here, too, before it takes up an edit.

pub mod compare;
mod rebatch;
pub mod update;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;

use self::compare::SectionDiff;
pub use self::rebatch::CutDiff;
use super::fixture::bind::{self, Bound, Check, Gone};
use super::fixture::{self, Case};
use super::{Bench, Tables, Turn};
use crate::config::Pipeline;
use crate::diagnostic::{Diagnostic, Span, has_errors};
use crate::error::Error;

/// Which cases, and how.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Parts of names, with `*` for anything; all cases without any.
    pub filters: Vec<String>,
    /// A filter is a whole name.
    pub exact: bool,
    /// Run each case with other cuts as well, random ones drawn from this seed.
    pub rebatch: Option<u64>,
    /// What is found will be written into the files ([`update`]): columns that exist no more are no fault then.
    pub update: bool,
}

/// What came of a pipeline's cases.
#[derive(Debug, Default)]
pub struct Report {
    /// In the order of their files.
    pub cases: Vec<CaseReport>,
    /// Faults of fixtures, models, schemas and lookups, warnings among them.
    pub faults: Vec<Diagnostic>,
    /// How many cases the filters left out.
    pub left_out: usize,
}

/// What came of one case.
#[derive(Debug)]
pub struct CaseReport {
    pub pipeline: String,
    pub name: String,
    pub about: String,
    pub file: PathBuf,
    pub span: Span,
    pub took: Duration,
    /// None where it passed.
    pub failures: Vec<Failure>,
    /// Its expectations and what was found instead; for [`update`].
    pub outcome: Option<Outcome>,
}

/// One thing that is not as expected.
#[derive(Debug)]
pub enum Failure {
    /// Rows of a section.
    Section(SectionDiff),
    /// The pipeline stopped, or didn't, or for another reason.
    Error { expected: Option<String>, found: Option<String>, span: Span },
    /// Another cut comes to something else.
    Cut(CutDiff),
}

/// What a case expects, and what was found.
#[derive(Debug)]
pub struct Outcome {
    pub checks: Vec<(Check, Vec<compare::FoundRow>)>,
    pub unit: crate::decode::TimestampUnit,
    pub error: Option<String>,
    /// Rows that name columns which exist no more.
    pub gone: Vec<Gone>,
}

impl Report {
    pub fn failed(&self) -> usize {
        self.cases.iter().filter(|case| !case.failures.is_empty()).count()
    }

    /// All that is wrong as faults: a failing case is one, at the first expectation that isn't met.
    pub fn into_faults(self) -> Vec<Diagnostic> {
        let failing = self.cases.iter().filter_map(|case| {
            let (what, span) = match case.failures.first()? {
                Failure::Section(section) => {
                    let row = section.rows.first()?;
                    let names: Vec<&str> = row
                        .differs
                        .iter()
                        .filter_map(|place| section.columns.get(*place))
                        .map(String::as_str)
                        .collect();
                    let columns = if names.is_empty() { String::new() } else { format!(" in {}", names.join(", ")) };
                    (format!("{}, a row is {}{columns}", section.title, row.what), row.span)
                }
                Failure::Error { expected: Some(_), span, .. } => ("it does not stop as it should".to_owned(), *span),
                Failure::Error { span, .. } => ("the pipeline stops".to_owned(), *span),
                Failure::Cut(diff) => (format!("{} comes to something else", diff.cut), case.span),
            };
            let what = format!("the case {}/{} fails: {what}", case.pipeline, case.name);
            let fault = Diagnostic::error(fixture::code::FAILS, what).file(&case.file).span(Some(span));
            Some(fault.help("`afterimage test` shows the rows"))
        });
        let failing: Vec<Diagnostic> = failing.collect();
        self.faults.into_iter().chain(failing).collect()
    }

    /// Whether every case could run and passed.
    pub fn good(&self) -> bool {
        self.failed() == 0 && !has_errors(&self.faults)
    }
}

impl Options {
    /// Whether a case of this pipeline is asked for.
    pub fn chooses(&self, pipeline: &str, name: &str) -> bool {
        let full = format!("{pipeline}/{name}");
        let fits = |filter: &String| match self.exact {
            true => *filter == full || filter == name,
            false => globbed(&full, filter),
        };
        self.filters.is_empty() || self.filters.iter().any(fits)
    }
}

/// Whether the parts of `filter` between its stars stand in `text` one after the other.
fn globbed(text: &str, filter: &str) -> bool {
    let mut rest = text;
    for part in filter.split('*') {
        let Some(at) = rest.find(part) else { return false };
        rest = rest.get(at + part.len()..).unwrap_or_default();
    }
    true
}

/// Runs the cases of one pipeline; `lookups` has rows of such lookups as aren't in files, for cases that don't give them.
pub async fn run(pipeline: &Pipeline, lookups: &BTreeMap<String, RecordBatch>, options: &Options) -> Report {
    let (cases, faults) = fixture::load(&fixture::folder(pipeline));
    let mut runner = Runner { pipeline, lookups, benches: Vec::new(), report: Report { faults, ..Report::default() } };
    for case in &cases {
        if !options.chooses(&pipeline.name, &case.name) {
            runner.report.left_out += 1;
            continue;
        }
        runner.case(case, options).await;
    }
    runner.report
}

/// The faults of a pipeline's fixtures, without running any: for `check`. Models that can't be planned are for others to report.
pub async fn check(pipeline: &Pipeline, lookups: &BTreeMap<String, RecordBatch>) -> Vec<Diagnostic> {
    let (cases, faults) = fixture::load(&fixture::folder(pipeline));
    let mut runner = Runner { pipeline, lookups, benches: Vec::new(), report: Report { faults, ..Report::default() } };
    for case in &cases {
        let Some(place) = runner.bench(case).await else { continue };
        let Some(planned) = runner.benches.get(place) else { continue };
        if let Err(faults) = bind::bind(case, &planned.bench, pipeline, false) {
            runner.report.faults.extend(faults);
        }
    }
    let own = |fault: &Diagnostic| fault.code.starts_with("AI05");
    runner.report.faults.into_iter().filter(own).collect()
}

struct Runner<'p> {
    pipeline: &'p Pipeline,
    lookups: &'p BTreeMap<String, RecordBatch>,
    benches: Vec<Planned>,
    report: Report,
}

/// An engine, planned for some settings and lookups.
struct Planned {
    settings: fixture::Settings,
    lookups: BTreeMap<String, RecordBatch>,
    bench: Bench,
}

/// How a case ended with one cut.
pub(super) struct Ran {
    pub turns: Vec<Turn>,
    pub tables: Tables,
    pub error: Option<Error>,
}

impl Runner<'_> {
    async fn case(&mut self, case: &Case, options: &Options) {
        let started = Instant::now();
        let Some(place) = self.bench(case).await else { return };
        let Some(planned) = self.benches.get_mut(place) else { return };
        let bench = &mut planned.bench;
        let bound = match bind::bind(case, bench, self.pipeline, options.update) {
            Ok(bound) => bound,
            Err(faults) => {
                self.report.faults.extend(faults);
                return;
            }
        };
        let before = bench.engine().lookup_tables();
        for (name, rows) in &bound.lookups {
            if let Err(faults) = bench.engine_mut().set_lookup(name, rows.clone()) {
                let span =
                    case.given.lookups.iter().find(|(given, _)| given.text == *name).map(|(given, _)| given.span);
                let placed = faults
                    .into_iter()
                    .map(|fault| Diagnostic::error(fixture::code::LOOKUP, fault.message).file(&case.file).span(span));
                self.report.faults.extend(placed);
                return;
            }
        }
        let (failures, outcome) = judge(case, bench, &bound, options).await;
        for name in bound.lookups.keys() {
            if let Some(table) = before.get(name) {
                // It is what was there before.
                let _ = bench.engine_mut().put_lookup(name, std::sync::Arc::clone(table));
            }
        }
        self.report.cases.push(CaseReport {
            pipeline: self.pipeline.name.clone(),
            name: case.name.clone(),
            about: case.about.clone(),
            file: case.file.clone(),
            span: case.span,
            took: started.elapsed(),
            failures,
            outcome: Some(outcome),
        });
    }

    /// The bench for a case; `None` where nothing can be planned, and that is noted once.
    async fn bench(&mut self, case: &Case) -> Option<usize> {
        let lookups = match bind::foreign_lookups(case, self.pipeline, self.lookups) {
            Ok(lookups) => lookups,
            Err(faults) => {
                self.report.faults.extend(faults);
                return None;
            }
        };
        let same = |planned: &Planned| planned.settings == case.settings && planned.lookups == lookups;
        if let Some(place) = self.benches.iter().position(same) {
            return Some(place);
        }
        match Bench::prepare(&case.settings.over(self.pipeline), &lookups).await {
            Ok((bench, _)) => {
                self.benches.push(Planned { settings: case.settings.clone(), lookups, bench });
                Some(self.benches.len() - 1)
            }
            Err(faults) => {
                let known = &mut self.report.faults;
                for fault in faults {
                    if !known.contains(&fault) {
                        known.push(fault);
                    }
                }
                None
            }
        }
    }
}

/// Runs a case with the cut that is written, and with others where that is asked for.
async fn judge(case: &Case, bench: &mut Bench, bound: &Bound, options: &Options) -> (Vec<Failure>, Outcome) {
    let ran = go(bench, bound, &bound.batches).await;
    let mut failures = Vec::new();
    let error = ran.error.as_ref().map(ToString::to_string);
    let wanted = case.expect.error.as_ref();
    let as_wanted = match (wanted, &error) {
        (Some(wanted), Some(error)) => error.to_lowercase().contains(&wanted.text.to_lowercase()),
        (None, None) => true,
        _ => false,
    };
    if !as_wanted {
        let span = wanted.map_or(case.span, |wanted| wanted.span);
        failures.push(Failure::Error {
            expected: wanted.map(|wanted| wanted.text.clone()),
            found: error.clone(),
            span,
        });
    }
    let mut checks = Vec::new();
    for check in &bound.checks {
        let found = compare::found(check, &ran.turns, &ran.tables);
        // What a pipeline that stopped unexpectedly didn't come to is no news.
        if as_wanted {
            failures.extend(compare::compare(check, &found, bound.unit).map(Failure::Section));
        }
        checks.push((check.clone(), found));
    }
    if let (Some(seed), None, None) = (options.rebatch, &error, wanted) {
        failures.extend(rebatch::other_cuts(bench, bound, &ran.tables, seed).await.map(Failure::Cut));
    }
    (failures, Outcome { checks, unit: bound.unit, error, gone: bound.gone.clone() })
}

/// The batches along the road, up to the first that stops the pipeline.
pub(super) async fn go(bench: &mut Bench, bound: &Bound, batches: &[Vec<crate::record::OwnedRecord>]) -> Ran {
    bench.start(bound.tables.clone());
    let mut turns = Vec::with_capacity(batches.len());
    let mut error = None;
    for batch in batches {
        match bench.run(batch).await {
            Ok(turn) => turns.push(turn),
            Err(stopped) => {
                error = Some(stopped);
                break;
            }
        }
    }
    Ran { turns, tables: bench.tables().clone(), error }
}

/// The line of a place, as people write it.
pub fn place(file: &Path, span: Span) -> String {
    format!("{}:{}:{}", file.display(), span.line, span.column)
}
