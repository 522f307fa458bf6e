//! The process: reads the command line, starts the runtime, turns the outcome into an exit code. See [`afterimage::cli`].

use std::backtrace::Backtrace;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::process::ExitCode;

use afterimage::cli::{self, Cli, Exit};
use clap::Parser;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(report_panic));
    #[cfg(debug_assertions)]
    let _armed = afterimage::failpoint::arm();
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: cannot start the runtime: {error}");
            return Exit::OperatorNeeded.into();
        }
    };
    let exit = catch_unwind(AssertUnwindSafe(|| runtime.block_on(cli::dispatch(&cli)))).unwrap_or(Exit::Bug);
    // A blocking call that hangs must not hold the process: what has to survive is in MySQL.
    runtime.shutdown_background();
    exit.into()
}

/// Says where the panic was. A message put together at run time may quote payload data, so only fixed texts are shown.
fn report_panic(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
    let text = panic.payload().downcast_ref::<&'static str>().copied().unwrap_or("message withheld, it may quote data");
    let backtrace = Backtrace::capture();
    tracing::error!(place, text, "bug: a panic in afterimage, please report it");
    // Not eprintln!: it panics itself where standard error is gone, and a panic within a panic ends the process.
    let _ = writeln!(io::stderr(), "bug: a panic in afterimage at {place}: {text}. Please report it.\n{backtrace}");
}
