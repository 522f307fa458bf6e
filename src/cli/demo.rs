//! `demo`: the whole road on private servers, compared with an independent fold. Exit code 1 if one row differs.

use super::{DemoArgs, DemoServer, Exit, load};
use crate::demo::server::Program;
use crate::demo::{self, Options};

pub async fn run(args: &DemoArgs) -> Exit {
    let program = match args.server {
        DemoServer::Auto => Program::find(),
        DemoServer::Mariadb => Program::mariadb(),
        DemoServer::Mysql => Program::mysql(),
    };
    let program = match program {
        Ok(program) => program,
        Err(error) => return load::fail(&error),
    };
    let options =
        Options { program, events: args.events, seed: args.seed, keep: args.keep, folder: args.folder.clone() };
    match demo::run(&options).await {
        Ok(comparison) if comparison.faults.is_empty() => Exit::Done,
        Ok(_) => Exit::Faulty,
        Err(error) => load::fail(&error),
    }
}
