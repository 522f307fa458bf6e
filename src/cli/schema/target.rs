//! `schema plan` and `schema apply`: the `ALTER TABLE`s that bring the target to what the models yield.

use std::io::{self, Write};
use std::time::Duration;

use serde_json::json;

use super::gone;
use crate::cli::{Exit, Format, SchemaApplyArgs, SchemaPlanArgs, WishArgs, load};
use crate::config::{Config, Pipeline};
use crate::service;
use crate::sink::evolve::apply::{Bounds, Progress, apply as apply_plan};
use crate::sink::evolve::plan::plan as make_plan;
use crate::sink::evolve::{Class, Phase, Plan, Statement, Wishes};
use crate::target::Target;

pub(super) async fn plan(args: &SchemaPlanArgs) -> Result<Exit, Exit> {
    let config = load::config(&args.config.config)?;
    let pipeline = load::pipeline(&config, args.pipeline.as_deref())?;
    let wanted = wanted(&config, pipeline).await?;
    let connector = service::connector(&config);
    let plan = make_plan(&connector, &wanted, &pipeline.key, &wishes(&args.wishes)).await;
    let plan = plan.map_err(|error| load::fail(&error))?;
    let mut out = io::stdout().lock();
    match args.format {
        Format::Json => show_json(&plan, &mut out),
        Format::Text => show_text(&plan, &mut out),
    }
    .map_err(gone)?;
    Ok(if plan.is_empty() { Exit::Done } else { Exit::Faulty })
}

pub(super) async fn apply(args: &SchemaApplyArgs) -> Result<Exit, Exit> {
    let config = load::config(&args.config.config)?;
    let pipeline = load::pipeline(&config, args.pipeline.as_deref())?;
    let wanted = wanted(&config, pipeline).await?;
    let connector = service::connector(&config);
    let bounds = Bounds { lock_timeout: args.lock_timeout, allow_blocking: args.allow_blocking };
    let mut told = Told::default();
    let applied = apply_plan(&connector, &wanted, &pipeline.key, &wishes(&args.wishes), bounds, &mut told).await;
    let plan = applied.map_err(|error| load::fail(&error))?;
    for conflict in &plan.conflicts {
        warn_user!("not done: {conflict}");
    }
    if plan.is_empty() {
        say!("nothing to do: {} holds what the models yield", plan.table);
    } else {
        say!("{} statements run", told.run);
    }
    Ok(if plan.conflicts.is_empty() { Exit::Done } else { Exit::OperatorNeeded })
}

/// What the models ask for, planned over the newest schema.
async fn wanted(config: &Config, pipeline: &Pipeline) -> Result<Target, Exit> {
    let tables = load::lookups(config, pipeline).await?;
    match service::prepare(pipeline, &tables).await {
        Ok((_, engine, warnings)) => {
            load::show(&warnings);
            Ok(engine.derive_target(&pipeline.table))
        }
        Err(faults) => {
            load::show(&faults);
            Err(Exit::Config)
        }
    }
}

fn wishes(args: &WishArgs) -> Wishes {
    Wishes { drop: args.drop.clone(), rename: args.rename.clone(), widen: args.widen.clone() }
}

/// Statements as they run, one line each.
#[derive(Default)]
struct Told {
    run: usize,
}

impl Progress for Told {
    fn begins(&mut self, statement: &Statement) {
        say!("{};", statement.sql);
    }

    fn waits(&mut self, _: &Statement, so_far: Duration) {
        say!("-- the table is in use, waiting for {:.0} s by now", so_far.as_secs_f64());
    }

    fn done(&mut self, _: &Statement, took: Duration) {
        self.run += 1;
        say!("-- done in {:.2} s", took.as_secs_f64());
    }

    fn was_done(&mut self, _: &Statement) {
        say!("-- was done already");
    }
}

fn show_text(plan: &Plan, out: &mut impl Write) -> io::Result<()> {
    if plan.is_empty() {
        writeln!(out, "nothing to do: {} holds what the models yield", plan.table)?;
    }
    let mut phase = None;
    for statement in &plan.statements {
        if phase.replace(statement.phase) != Some(statement.phase) {
            writeln!(out, "-- {}", heading(statement.phase))?;
        }
        writeln!(out, "-- {}: {}", statement.class.name(), explained(statement.class))?;
        writeln!(out, "{};", statement.sql)?;
    }
    for conflict in &plan.conflicts {
        writeln!(out, "-- not planned: {conflict}")?;
    }
    for note in &plan.notes {
        writeln!(out, "-- note: {note}")?;
    }
    Ok(())
}

fn heading(phase: Phase) -> &'static str {
    match phase {
        Phase::Before => "before the models that use it are rolled out; those of now go on",
        Phase::Between => {
            "together with the models: from here until they are rolled out the pipeline waits, nothing is lost \
             (without a pause: add the new column, roll out, drop the old one)"
        }
        Phase::After => "after the models without it are rolled out everywhere; those of before would wait for it",
    }
}

fn explained(class: Class) -> &'static str {
    match class {
        Class::Instant => "only the catalogue changes",
        Class::Online => "rows are written meanwhile",
        Class::Blocking => "nobody can write while the table is copied; apply wants --allow-blocking",
        Class::Unknown => "couldn't be tried on a copy",
    }
}

fn show_json(plan: &Plan, out: &mut impl Write) -> io::Result<()> {
    let statements: Vec<_> = plan
        .statements
        .iter()
        .map(|statement| {
            let changes: Vec<String> = statement.changes.iter().map(|change| change.told()).collect();
            json!({
                "sql": statement.sql,
                "class": statement.class.name(),
                "phase": statement.phase.name(),
                "changes": changes,
            })
        })
        .collect();
    let shown =
        json!({ "table": plan.table, "statements": statements, "conflicts": plan.conflicts, "notes": plan.notes });
    writeln!(out, "{shown:#}")
}
