//! `schema`: the files that say how the source's row looks, and the target that follows them.

use super::{Exit, SchemaCommand};

mod diff;
mod infer;
mod target;

pub async fn run(command: &SchemaCommand) -> Exit {
    let outcome = match command {
        SchemaCommand::Infer(args) => infer::run(args).await,
        SchemaCommand::Diff(args) => diff::run(args),
        SchemaCommand::Check(args) => diff::check(args),
        SchemaCommand::Plan(args) => target::plan(args).await,
        SchemaCommand::Apply(args) => target::apply(args).await,
    };
    match outcome {
        Ok(exit) | Err(exit) => exit,
    }
}

/// What stops a command whose standard output is gone (`| head`): there is nobody left to tell.
fn gone(_: std::io::Error) -> Exit {
    Exit::Done
}
