//! `completions`: a script that teaches a shell the commands and flags. `json-schema`: what editors need to complete and check files.

use std::io::{self, Write};

use clap::CommandFactory;

use super::{Cli, CompletionsArgs, Exit, JsonSchemaArgs};
use crate::editor;

pub fn run(args: &CompletionsArgs) -> Exit {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "afterimage", &mut script);
    written(&script)
}

pub fn json_schema(args: &JsonSchemaArgs) -> Exit {
    written(editor::text(args.file).as_bytes())
}

fn written(text: &[u8]) -> Exit {
    // A reader that went away wants no more of it.
    let _ = io::stdout().lock().write_all(text);
    Exit::Done
}
