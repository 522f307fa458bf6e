//! `check`: every fault of what people write, at once, with its place and a remedy. Exit code 1 if one is an error.
//!
//! Offline it plans and runs every model over empty input. `--online` also asks the brokers for the topics and MySQL for our tables
//! and the targets, without changing anything. `--explain` says more about a code.

use std::io::{self, IsTerminal, Write};

use super::{CheckArgs, Exit, Format};
use crate::check::{self, Report};
use crate::config::process_environment;
use crate::diagnostic::{Severity, codes, has_errors, render, render_json};

pub async fn run(args: &CheckArgs) -> Exit {
    if let Some(code) = &args.explain {
        return explain(code);
    }
    let path = &args.config.config;
    let report = match args.online {
        true => check::online(path, &process_environment).await,
        false => check::files(path, &process_environment).await,
    };
    // A reader that went away (`check | head`) wants no more output; the exit code still counts.
    let _ = show(&report, args.format, &mut io::stdout().lock());
    if has_errors(&report.faults) { Exit::Faulty } else { Exit::Done }
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
            eprintln!("error: there is no code {code:?}: {help}");
            return Exit::Config;
        }
    };
    let _ = io::stdout().lock().write_all(text.as_bytes());
    Exit::Done
}

fn show(report: &Report, format: Format, out: &mut impl Write) -> io::Result<()> {
    match format {
        Format::Json => return render_json(&report.faults, out),
        Format::Text if report.faults.is_empty() => writeln!(out, "no faults")?,
        Format::Text => {
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
    for skipped in &report.skipped {
        writeln!(out, "skipped: {skipped}")?;
    }
    Ok(())
}
