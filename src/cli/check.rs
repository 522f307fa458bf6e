//! `check`: every fault of what people write, at once, with its place and a remedy. Exit code 1 if one is an error.
//!
//! Offline it plans and runs every model over empty input. `--online` also asks the brokers for the topics and MySQL for our tables
//! and the targets, without changing anything. `--watch` does so again whenever a file changes. `--explain` says more about a code.

use std::io::{self, IsTerminal, Write};

use tokio::signal::unix::{SignalKind, signal};

use super::{CheckArgs, CheckFormat, Exit};
use crate::check::{self, Report, Snapshot};
use crate::config::process_environment;
use crate::diagnostic::{Severity, codes, has_errors, render, render_github, render_sarif, report_json};

pub async fn run(args: &CheckArgs) -> Exit {
    if let Some(code) = &args.explain {
        return explain(code);
    }
    if args.watch {
        return watch(args).await;
    }
    let report = report(args).await;
    // A reader that went away (`check | head`) wants no more output; the exit code still counts.
    let _ = show(&report, args.format, &mut io::stdout().lock());
    if has_errors(&report.faults) { Exit::Faulty } else { Exit::Done }
}

async fn report(args: &CheckArgs) -> Report {
    let path = &args.config.config;
    match args.online {
        true => check::online(path, &process_environment).await,
        false => check::files(path, &process_environment).await,
    }
}

/// Checks again whenever a file changes, until Ctrl-C.
async fn watch(args: &CheckArgs) -> Exit {
    let mut inputs = vec![args.config.config.clone()];
    // From here on, so that none is lost that comes while the check runs.
    let mut interrupt = match signal(SignalKind::interrupt()) {
        Ok(interrupt) => interrupt,
        Err(error) => {
            warn_user!("error: cannot listen for signals: {error}");
            return Exit::Bug;
        }
    };
    loop {
        // Taken first: what is saved while the check runs is a change.
        let before = Snapshot::of(&inputs);
        let report = report(args).await;
        let before = if report.inputs == inputs { before } else { Snapshot::of(&report.inputs) };
        inputs.clone_from(&report.inputs);
        let shown = {
            let mut out = io::stdout().lock();
            let clear = if io::stdout().is_terminal() { "\u{1b}[2J\u{1b}[3J\u{1b}[H" } else { "" };
            let shown = write!(out, "{clear}").and_then(|()| show(&report, args.format, &mut out));
            shown.and_then(|()| match args.format {
                CheckFormat::Text => writeln!(out, "watching {} files and folders, Ctrl-C ends", inputs.len()),
                _ => Ok(()),
            })
        };
        if shown.and_then(|()| io::stdout().flush()).is_err() {
            return Exit::Done;
        }
        tokio::select! {
            () = before.changed(&inputs) => {}
            _ = interrupt.recv() => return Exit::Done,
        }
    }
}

/// What is to be known about `code`; all codes where it is empty.
fn explain(code: &str) -> Exit {
    let text = match codes::find(code) {
        _ if code.is_empty() => codes::list(),
        Ok(found) => codes::page(found),
        Err(meant) => {
            let help = meant.map_or_else(
                || "`afterimage check --explain` lists all".to_owned(),
                |meant| format!("did you mean {meant}?"),
            );
            warn_user!("error: there is no code {code:?}: {help}");
            return Exit::Config;
        }
    };
    let _ = io::stdout().lock().write_all(text.as_bytes());
    Exit::Done
}

fn show(report: &Report, format: CheckFormat, out: &mut impl Write) -> io::Result<()> {
    let root = std::env::current_dir().unwrap_or_default();
    match format {
        CheckFormat::Json => return report_json(&report.faults, &report.skipped, out),
        CheckFormat::Sarif => return render_sarif(&report.faults, &root, out),
        CheckFormat::Github => return render_github(&report.faults, &root, out),
        CheckFormat::Text if report.faults.is_empty() => writeln!(out, "no faults")?,
        CheckFormat::Text => {
            let color = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
            render(&report.faults, out, color)?;
            if report.faults.iter().all(|fault| fault.severity == Severity::Warning) {
                writeln!(out, "nothing that refuses the start")?;
            }
            if let Some(code) = report.faults.first().map(|fault| fault.code) {
                writeln!(out, "more about a code: afterimage check --explain {code}")?;
            }
        }
    }
    for found in &report.found {
        writeln!(out, "found: {found}")?;
    }
    for skipped in &report.skipped {
        writeln!(out, "skipped: {skipped}")?;
    }
    Ok(())
}
