//! `init`: a new pipeline from sample events, and what to do next.

use std::io::{self, Write};

use super::{Exit, InitArgs, load};
use crate::init::{self, Plan, Wish};

pub async fn run(args: &InitArgs) -> Exit {
    let wish = Wish {
        name: args.name.clone(),
        events: args.events.clone(),
        topic: args.topic.clone(),
        table: args.table.clone(),
        key: args.key.clone(),
        config: args.config.config.clone(),
    };
    let done = async {
        let plan = init::plan(&wish).await?;
        init::write(&plan)?;
        Ok(plan)
    };
    match done.await {
        Ok(plan) => {
            // The files are there, whether anybody reads about them or not.
            let _ = told(&plan, args, &mut io::stdout().lock());
            Exit::Done
        }
        Err(error) => load::fail(&error),
    }
}

fn told(plan: &Plan, args: &InitArgs, out: &mut impl Write) -> io::Result<()> {
    for (path, _) in &plan.files {
        writeln!(out, "wrote    {}", path.display())?;
    }
    let verb = if plan.config_exists { "appended" } else { "wrote" };
    writeln!(out, "{verb:8} {}", plan.config.display())?;
    writeln!(out, "key      {}", plan.key)?;
    for note in &plan.notes {
        writeln!(out, "note     {note}")?;
    }
    let (name, events) = (&args.name, args.events.display());
    writeln!(
        out,
        "\nnext:
  look at schemas/{name}/1.json: are the types right, may the fields be null?
  look at queries/{name}/changes.sql: are these the table's columns?
  afterimage check
  afterimage test
  afterimage preview --pipeline {name} --events {events}
  afterimage migrate --dry-run    # once brokers and database in {} are right",
        plan.config.display()
    )
}
