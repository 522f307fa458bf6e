//! `migrate`: creates and upgrades our tables, and targets that don't exist yet, from what the models yield.

use std::collections::BTreeMap;

use super::{Exit, MigrateArgs, load};
use crate::config::Config;
use crate::service;
use crate::sink::migrate;
use crate::target::Target;

pub async fn run(args: &MigrateArgs) -> Exit {
    match migrate(args).await {
        Ok(()) => Exit::Done,
        Err(exit) => exit,
    }
}

async fn migrate(args: &MigrateArgs) -> Result<(), Exit> {
    let config = load::config(&args.config.config)?;
    let targets = targets(&config).await?;
    let mut session = load::session(&config).await?;
    let statements = migrate::plan(&mut session, &targets).await.map_err(|error| load::fail(&error))?;
    for statement in &statements {
        say!("{statement};\n");
    }
    if statements.is_empty() {
        say!("nothing to do: all tables are as this version needs them");
    } else if !args.dry_run {
        migrate::run(&mut session, &statements).await.map_err(|error| load::fail(&error))?;
        say!("-- {} statements run", statements.len());
    }
    Ok(())
}

/// The tables that the models' last columns ask for.
pub(super) async fn targets(config: &Config) -> Result<Vec<Target>, Exit> {
    let connector = service::connector(config);
    let mut targets = Vec::new();
    for pipeline in config.pipelines.values() {
        let tables = service::read_tables(pipeline, &connector).await.map_err(|error| load::fail(&error))?;
        let tables: BTreeMap<_, _> = tables;
        match service::prepare(pipeline, &tables).await {
            Ok((_, engine, _)) => targets.push(engine.derive_target(&pipeline.table)),
            Err(faults) => {
                load::show(&faults);
                return Err(Exit::Config);
            }
        }
    }
    Ok(targets)
}
