//! `test`: the cases beside the models, without any server; a line for each, and for a failure the cell that differs.
//!
//! Exit code 1 if a case fails, or if fixtures, models, schemas or lookups are faulty.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::json;

use super::{Exit, Format, TestArgs, load};
use crate::config::Pipeline;
use crate::diagnostic::{Diagnostic, has_errors, printable};
use crate::workbench::fixture;
use crate::workbench::fixture::bind::Gone;
use crate::workbench::test::compare::{RowDiff, SectionDiff};
use crate::workbench::test::{self, CaseReport, Failure, Options, Report, place, update};

mod junit;

pub async fn run(args: &TestArgs) -> Exit {
    match test(args).await {
        Ok(exit) | Err(exit) => exit,
    }
}

/// All cases of a run.
struct Summary {
    report: Report,
    took: Duration,
    /// Where other cuts are drawn from.
    seed: Option<u64>,
}

async fn test(args: &TestArgs) -> Result<Exit, Exit> {
    let config = load::config(&args.config.config)?;
    let pipelines: Vec<&Pipeline> = match args.pipeline.as_deref() {
        Some(name) => vec![load::pipeline(&config, Some(name))?],
        None => config.pipelines.values().collect(),
    };
    if args.list {
        return Ok(list(&pipelines, &options(args)));
    }
    let options = options(args);
    let started = Instant::now();
    let mut report = Report::default();
    for pipeline in pipelines {
        let of_one = test::run(pipeline, &BTreeMap::new(), &options).await;
        report.cases.extend(of_one.cases);
        report.faults.extend(of_one.faults);
        report.left_out += of_one.left_out;
    }
    let summary = Summary { report, took: started.elapsed(), seed: options.rebatch };
    finish(args, &summary)
}

fn options(args: &TestArgs) -> Options {
    let rebatch =
        args.rebatch.then(|| args.seed.unwrap_or_else(|| rand::RngExt::random_range(&mut rand::rng(), 0..1_000_000)));
    Options { filters: args.filters.clone(), exact: args.exact, rebatch, update: args.update }
}

fn finish(args: &TestArgs, summary: &Summary) -> Result<Exit, Exit> {
    let report = &summary.report;
    let mut out = std::io::stdout().lock();
    // A reader that went away (`test | head`) wants no more output; the exit code still counts.
    let _ = match args.format {
        Format::Text => Text::new().show(&mut out, summary),
        Format::Json => show_json(&mut out, summary),
    };
    if args.format == Format::Text {
        load::show(&folded(&report.faults));
    }
    if let Some(path) = &args.junit {
        junit::write(path, report, summary.took).map_err(|error| {
            warn_user!("error: the report {} can't be written: {error}", path.display());
            Exit::Config
        })?;
    }
    if args.update {
        return updated(report, args.format);
    }
    Ok(if report.good() { Exit::Done } else { Exit::Faulty })
}

/// How many rows of a file are shown that name the same unknown column.
const SHOWN: usize = 3;

/// The faults with at most [`SHOWN`] of a file for each unknown column, and how many more there are.
fn folded(faults: &[Diagnostic]) -> Vec<Diagnostic> {
    let alike = |one: &Diagnostic, other: &Diagnostic| {
        one.code == fixture::code::UNKNOWN_COLUMN
            && (one.code, &one.file, &one.message) == (other.code, &other.file, &other.message)
    };
    let mut shown = Vec::new();
    for (place, fault) in faults.iter().enumerate() {
        let count = |faults: Option<&[Diagnostic]>| {
            faults.unwrap_or_default().iter().filter(|other| alike(fault, other)).count()
        };
        match (count(faults.get(..place)), count(faults.get(place..))) {
            (..SHOWN, _) => shown.push(fault.clone()),
            (SHOWN, more) => {
                let rows = if more == 1 { "row" } else { "rows" };
                let mut rest = Diagnostic::error(fault.code, format!("and {more} more {rows}: {}", fault.message));
                rest.file.clone_from(&fault.file);
                shown.push(rest.help("if the column is gone, `afterimage test --update` takes it out of the rows"));
            }
            _ => {}
        }
    }
    shown
}

/// Rewrites the expectations of cases that failed; what can't be mended this way still fails.
fn updated(report: &Report, format: Format) -> Result<Exit, Exit> {
    // Standard output has one JSON document where that is asked for.
    let tell = |line: String| match format {
        Format::Text => say!("{line}"),
        Format::Json => warn_user!("{line}"),
    };
    let mut files: BTreeMap<PathBuf, Vec<&CaseReport>> = BTreeMap::new();
    for case in &report.cases {
        let sections = case.failures.iter().any(|failure| matches!(failure, Failure::Section(_)));
        if sections || !gone(case).is_empty() {
            files.entry(case.file.clone()).or_default().push(case);
        }
    }
    let unknown: BTreeSet<&PathBuf> = report
        .faults
        .iter()
        .filter(|fault| fault.code == fixture::code::UNKNOWN_COLUMN)
        .filter_map(|fault| fault.file.as_ref())
        .collect();
    let mut removed: BTreeMap<&str, usize> = BTreeMap::new();
    for (file, cases) in &files {
        if unknown.contains(file) {
            tell(format!("not updated {}: mend the names of its columns first", file.display()));
            continue;
        }
        match update::rewrite(file, cases) {
            Ok(true) => {
                tell(format!("updated {}", file.display()));
                let columns = cases.iter().flat_map(|case| gone(case)).flat_map(|row| &row.columns);
                columns.for_each(|column| *removed.entry(column).or_default() += 1);
            }
            Ok(false) => {}
            Err(error) => {
                warn_user!("error: {} can't be written: {error}", file.display());
                return Err(Exit::Config);
            }
        }
    }
    for (column, rows) in removed {
        let rows = if rows == 1 { "1 row".to_owned() } else { format!("{rows} rows") };
        tell(format!("removed column {} from {rows}", printable(column)));
    }
    let left = report.cases.iter().flat_map(|case| &case.failures);
    let left = left.filter(|failure| !matches!(failure, Failure::Section(_))).count();
    Ok(if left == 0 && !has_errors(&report.faults) { Exit::Done } else { Exit::Faulty })
}

/// The rows of a case that name columns which exist no more.
fn gone(case: &CaseReport) -> &[Gone] {
    let stops = case.failures.iter().any(|failure| matches!(failure, Failure::Error { .. }));
    case.outcome.as_ref().filter(|_| !stops).map_or(&[], |outcome| &outcome.gone)
}

/// `--list`: the names, without running anything.
fn list(pipelines: &[&Pipeline], options: &Options) -> Exit {
    let mut faults: Vec<Diagnostic> = Vec::new();
    let mut out = std::io::stdout().lock();
    for pipeline in pipelines {
        let (cases, wrong) = fixture::load(&fixture::folder(pipeline));
        for case in cases.iter().filter(|case| options.chooses(&pipeline.name, &case.name)) {
            // As above.
            let _ = writeln!(out, "{}/{}", pipeline.name, printable(&case.name));
        }
        faults.extend(wrong);
    }
    load::show(&faults);
    if has_errors(&faults) { Exit::Faulty } else { Exit::Done }
}

/// The report for people.
struct Text {
    color: bool,
}

const RED: &str = "\x1b[31m";
const GREEN: &str = "\x1b[32m";
const BOLD: &str = "\x1b[1m";
const PLAIN: &str = "\x1b[0m";

impl Text {
    fn new() -> Self {
        let color =
            std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { color }
    }

    fn paint(&self, style: &str, text: &str) -> String {
        if self.color { format!("{style}{text}{PLAIN}") } else { text.to_owned() }
    }

    fn show(&self, out: &mut impl Write, summary: &Summary) -> std::io::Result<()> {
        let report = &summary.report;
        for case in &report.cases {
            let good = case.failures.is_empty();
            let verdict = if good { self.paint(GREEN, "ok  ") } else { self.paint(RED, "FAIL") };
            let name = format!("{}/{}", case.pipeline, printable(&case.name));
            writeln!(out, "{verdict} {name} ({} ms)", case.took.as_millis())?;
        }
        for case in report.cases.iter().filter(|case| !case.failures.is_empty()) {
            let name = format!("{}/{}", case.pipeline, printable(&case.name));
            writeln!(out, "\n{} {}", self.paint(RED, "FAIL"), self.paint(BOLD, &name))?;
            if let Some(about) = case.about.lines().next() {
                writeln!(out, "  {}", printable(about))?;
            }
            for failure in &case.failures {
                self.failure(out, case, failure)?;
            }
        }
        let (count, failed) = (report.cases.len(), report.failed());
        let left_out = if report.left_out > 0 { format!(", {} left out", report.left_out) } else { String::new() };
        let verdict =
            if failed == 0 { format!("{count} passed") } else { format!("{} passed, {failed} failed", count - failed) };
        if count > 0 {
            writeln!(out)?;
        }
        if let Some(seed) = summary.seed.filter(|_| count > 0) {
            writeln!(out, "other cuts from --seed {seed}")?;
        }
        let none =
            if count == 0 && report.left_out == 0 { "; cases stand in queries/<pipeline>/tests/*.yaml" } else { "" };
        writeln!(out, "{verdict}{left_out} in {:.2} s{none}", summary.took.as_secs_f64())
    }

    fn failure(&self, out: &mut impl Write, case: &CaseReport, failure: &Failure) -> std::io::Result<()> {
        match failure {
            Failure::Section(section) => self.section(out, case, section),
            Failure::Error { expected, found, span } => {
                writeln!(out, "\n  {}", place(&case.file, *span))?;
                match (expected, found) {
                    (None, Some(found)) => writeln!(out, "  the pipeline stops: {}", printable(found)),
                    (Some(expected), None) => {
                        writeln!(out, "  the pipeline should stop with {expected:?}, but it goes on")
                    }
                    (Some(expected), Some(found)) => {
                        writeln!(out, "  the pipeline should stop with {expected:?}, but it says: {}", printable(found))
                    }
                    (None, None) => Ok(()),
                }
            }
            Failure::Cut(diff) => {
                writeln!(out, "\n  {}", place(&case.file, case.span))?;
                writeln!(out, "  another cut comes to something else: {}", diff.cut)?;
                writeln!(out, "  its batches (partition@offset): {}", diff.batches)?;
                diff.lines.iter().try_for_each(|line| writeln!(out, "    {}", printable(line)))
            }
        }
    }

    /// Rows below each other, `-` what is expected and `+` what is found, with a mark below each cell that differs.
    fn section(&self, out: &mut impl Write, case: &CaseReport, section: &SectionDiff) -> std::io::Result<()> {
        writeln!(out, "\n  {}", self.paint(BOLD, &section.title))?;
        for row in &section.rows {
            self.row(out, case, section, row)?;
        }
        Ok(())
    }

    fn row(
        &self,
        out: &mut impl Write,
        case: &CaseReport,
        section: &SectionDiff,
        row: &RowDiff,
    ) -> std::io::Result<()> {
        writeln!(out, "  {} row, {}", row.what, place(&case.file, row.span))?;
        let lines = [Some(&section.columns), row.expected.as_ref(), row.found.as_ref()];
        let shown: Vec<usize> = (0..section.columns.len())
            .filter(|column| {
                lines.iter().skip(1).flatten().any(|cells| cells.get(*column).is_some_and(|cell| !cell.is_empty()))
            })
            .collect();
        let cell = |cells: &Vec<String>, column: usize| short(cells.get(column).map_or("", String::as_str));
        let width =
            |column: usize| lines.iter().flatten().map(|cells| cell(cells, column).chars().count()).max().unwrap_or(0);
        let line = |cells: &Vec<String>| {
            let padded = shown.iter().map(|column| format!("{:width$}", cell(cells, *column), width = width(*column)));
            padded.collect::<Vec<_>>().join(" | ").trim_end().to_owned()
        };
        writeln!(out, "      {}", line(&section.columns))?;
        if let Some(expected) = &row.expected {
            writeln!(out, "    {}", self.paint(RED, &format!("- {}", line(expected))))?;
        }
        if let Some(found) = &row.found {
            writeln!(out, "    {}", self.paint(GREEN, &format!("+ {}", line(found))))?;
        }
        if !row.differs.is_empty() {
            let marks = shown.iter().map(|column| {
                let mark = if row.differs.contains(column) { "^" } else { " " };
                mark.repeat(width(*column))
            });
            writeln!(out, "      {}", marks.collect::<Vec<_>>().join("   ").trim_end())?;
        }
        Ok(())
    }
}

/// A cell that fits on a screen.
fn short(cell: &str) -> String {
    let cell = printable(cell);
    match cell.char_indices().nth(60) {
        Some((at, _)) => format!("{}...", cell.get(..at).unwrap_or_default()),
        None => cell.to_string(),
    }
}

fn show_json(out: &mut impl Write, summary: &Summary) -> std::io::Result<()> {
    let report = &summary.report;
    let cases: Vec<serde_json::Value> = report.cases.iter().map(case_json).collect();
    let faults: Vec<serde_json::Value> = report.faults.iter().map(fault_json).collect();
    let document = json!({
        "cases": cases,
        "faults": faults,
        "passed": report.cases.len() - report.failed(),
        "failed": report.failed(),
        "left_out": report.left_out,
        "seconds": summary.took.as_secs_f64(),
        "seed": summary.seed,
    });
    serde_json::to_writer_pretty(&mut *out, &document)?;
    writeln!(out)
}

fn fault_json(fault: &Diagnostic) -> serde_json::Value {
    json!({
        "code": fault.code,
        "message": fault.message,
        "help": fault.help,
        "file": fault.file.as_ref().map(|file| file.display().to_string()),
        "line": fault.span.map(|span| span.line),
        "column": fault.span.map(|span| span.column),
    })
}

fn case_json(case: &CaseReport) -> serde_json::Value {
    let failures: Vec<serde_json::Value> = case.failures.iter().map(failure_json).collect();
    json!({
        "pipeline": case.pipeline,
        "name": case.name,
        "file": case.file.display().to_string(),
        "line": case.span.line,
        "seconds": case.took.as_secs_f64(),
        "passed": case.failures.is_empty(),
        "failures": failures,
    })
}

fn failure_json(failure: &Failure) -> serde_json::Value {
    match failure {
        Failure::Section(section) => {
            let rows: Vec<serde_json::Value> = section
                .rows
                .iter()
                .map(|row| {
                    let cells = |cells: &Option<Vec<String>>| {
                        let named = |cells: &Vec<String>| -> serde_json::Map<String, serde_json::Value> {
                            let pairs = section.columns.iter().zip(cells).filter(|(_, cell)| !cell.is_empty());
                            pairs.map(|(name, cell)| (name.clone(), cell.as_str().into())).collect()
                        };
                        cells.as_ref().map(named)
                    };
                    let differs: Vec<&String> =
                        row.differs.iter().filter_map(|place| section.columns.get(*place)).collect();
                    json!({
                        "what": row.what,
                        "line": row.span.line,
                        "column": row.span.column,
                        "expected": cells(&row.expected),
                        "found": cells(&row.found),
                        "differs": differs,
                    })
                })
                .collect();
            json!({ "section": section.title, "rows": rows })
        }
        Failure::Error { expected, found, .. } => json!({ "section": "error", "expected": expected, "found": found }),
        Failure::Cut(diff) => {
            json!({ "section": "rebatch", "cut": diff.cut, "batches": diff.batches, "differences": diff.lines })
        }
    }
}

/// The report of one case as lines without colour; for JUnit.
fn as_lines(case: &CaseReport) -> String {
    let mut lines = Vec::new();
    for failure in &case.failures {
        // Writing to memory can't fail.
        let _ = Text { color: false }.failure(&mut lines, case, failure);
    }
    String::from_utf8_lossy(&lines).trim().to_owned()
}
