//! `check`: every fault of what people write, at once, with its place and a remedy. Exit code 1 if one is an error.
//!
//! Offline it plans and runs every model over empty input. `--online` also asks the brokers for the topics and MySQL for our tables
//! and the targets, without changing anything.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use super::{CheckArgs, Exit, Format};
use crate::config::{Config, LookupFrom, Pipeline, process_environment};
use crate::diagnostic::{Diagnostic, Severity, has_errors, render, render_json};
use crate::error::Error;
use crate::service;
use crate::sink::inspect;
use crate::sink::session::Connector;
use crate::source::Broker;

pub async fn run(args: &CheckArgs) -> Exit {
    let faults = match Config::load(&args.config.config, &process_environment) {
        Ok((config, mut faults)) => {
            for pipeline in config.pipelines.values() {
                faults.extend(pipeline_faults(&config, pipeline, args.online).await);
            }
            faults
        }
        Err(faults) => faults,
    };
    // A reader that went away (`check | head`) wants no more output; the exit code still counts.
    let _ = show(&faults, args.format, &mut io::stdout().lock());
    if has_errors(&faults) { Exit::Faulty } else { Exit::Done }
}

async fn pipeline_faults(config: &Config, pipeline: &Pipeline, online: bool) -> Vec<Diagnostic> {
    let connector = service::connector(config);
    let mut faults = Vec::new();
    if online {
        faults.extend(broker_faults(config, pipeline).await);
    }
    let from_mysql: Vec<&str> = pipeline
        .lookups
        .iter()
        .filter(|(_, lookup)| matches!(lookup.from, LookupFrom::MySql { .. }))
        .map(|(name, _)| name.as_str())
        .collect();
    let tables = if from_mysql.is_empty() {
        BTreeMap::new()
    } else if online {
        match service::read_tables(pipeline, &connector).await {
            Ok(tables) => tables,
            Err(error) => {
                faults.push(server_fault("AI0403", pipeline, &error));
                return faults;
            }
        }
    } else {
        let what = format!(
            "pipeline {}: models not checked, lookup {} comes from MySQL",
            pipeline.name,
            from_mysql.join(", ")
        );
        let help = "check --online reads it, and then the models can be planned";
        faults.push(Diagnostic::warning("AI0309", what).file(&config.path).help(help));
        return faults;
    };
    match service::prepare(pipeline, &tables).await {
        Ok((_, mut engine, warnings)) => {
            faults.extend(warnings);
            if online {
                faults.extend(target_faults(pipeline, &connector, &mut engine).await);
            }
        }
        Err(more) => faults.extend(more),
    }
    faults
}

async fn broker_faults(config: &Config, pipeline: &Pipeline) -> Vec<Diagnostic> {
    let asked = async {
        let broker = Broker::new(&config.kafka.brokers, config.kafka.properties.expose(), Duration::from_secs(10))?;
        broker.topic(&pipeline.topic).await
    };
    match asked.await {
        Ok(Some(_)) => Vec::new(),
        Ok(None) => {
            let what = format!("pipeline {}: topic `{}` does not exist", pipeline.name, pipeline.topic);
            vec![Diagnostic::error("AI0402", what).file(&config.path).help("create it, or correct `topic`")]
        }
        Err(error) => vec![server_fault("AI0401", pipeline, &error)],
    }
}

async fn target_faults(pipeline: &Pipeline, connector: &Connector, engine: &mut crate::sql::Engine) -> Vec<Diagnostic> {
    let wanted = engine.derive_target(&pipeline.table);
    let looked = async {
        let mut session = connector.connect().await?;
        let missing = inspect::unmigrated(&mut session).await?;
        let target = inspect::target(&mut session, &pipeline.table, &pipeline.key, Some(&wanted)).await?;
        Ok((missing, target))
    };
    let (missing, target) = match looked.await {
        Ok(found) => found,
        Err(error) => return vec![server_fault("AI0403", pipeline, &error)],
    };
    let mut faults = Vec::new();
    if !missing.is_empty() {
        let what = format!("the database lacks {}", missing.join(", "));
        faults.push(Diagnostic::error("AI0404", what).help("run `afterimage migrate`"));
    }
    match target {
        Ok(found) => {
            faults.extend(found.spare.iter().map(|column| {
                let what = format!("latest doesn't yield the column {column} of the table {}", pipeline.table);
                Diagnostic::warning("AI0431", what).help("it is left to its default; add it to the SELECT to fill it")
            }));
            faults.extend(engine.set_target(found.target).err().unwrap_or_default());
        }
        Err(more) => faults.extend(more),
    }
    faults
}

fn server_fault(code: &'static str, pipeline: &Pipeline, error: &Error) -> Diagnostic {
    Diagnostic::error(code, format!("pipeline {}: {error}", pipeline.name))
}

fn show(faults: &[Diagnostic], format: Format, out: &mut impl Write) -> io::Result<()> {
    match format {
        Format::Json => render_json(faults, out),
        Format::Text if faults.is_empty() => writeln!(out, "no faults"),
        Format::Text => {
            let color = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
            render(faults, out, color)?;
            if faults.iter().all(|fault| fault.severity == Severity::Warning) {
                writeln!(out, "nothing that refuses the start")?;
            }
            Ok(())
        }
    }
}
