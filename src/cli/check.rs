//! `check`: every fault of what people write, at once, with its place and a remedy. Exit code 1 if one is an error.

use std::io::{self, IsTerminal, Write};

use super::{CheckArgs, Exit, Format};
use crate::config::{Config, process_environment};
use crate::diagnostic::{Diagnostic, has_errors, render, render_json};

pub async fn run(args: &CheckArgs) -> Exit {
    let faults = match Config::load(&args.config.config, &process_environment) {
        Ok((_, warnings)) => warnings,
        Err(faults) => faults,
    };
    // A reader that went away (`check | head`) wants no more output; the exit code still counts.
    let _ = show(&faults, args.format, &mut io::stdout().lock());
    if has_errors(&faults) { Exit::Faulty } else { Exit::Done }
}

fn show(faults: &[Diagnostic], format: Format, out: &mut impl Write) -> io::Result<()> {
    match format {
        Format::Json => render_json(faults, out),
        Format::Text if faults.is_empty() => writeln!(out, "no faults"),
        Format::Text => {
            let color = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
            render(faults, out, color)
        }
    }
}
