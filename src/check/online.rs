//! What only the servers know: topics, our tables, the target's columns. Nothing is changed there.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Report, examine, from_mysql};
use crate::config::{Config, Pipeline};
use crate::diagnostic::Diagnostic;
use crate::error::Error;
use crate::service;
use crate::sink::inspect;
use crate::sink::session::Connector;
use crate::source::Broker;
use crate::sql::Engine;

/// How long the brokers may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) async fn servers(config: &Config, report: &mut Report) {
    let connector = service::connector(config);
    for pipeline in config.pipelines.values() {
        report.add(broker_faults(config, pipeline).await);
        let tables = match from_mysql(pipeline).as_slice() {
            [] => BTreeMap::new(),
            _ => match service::read_tables(pipeline, &connector).await {
                Ok(tables) => tables,
                Err(error) => {
                    report.add([server_fault("AI0403", pipeline, &error)]);
                    BTreeMap::new()
                }
            },
        };
        match examine(pipeline, &tables, report).await.engine {
            Some(mut engine) => report.add(target_faults(pipeline, &connector, &mut engine).await),
            None => report.skip(format!(
                "pipeline {}: whether the table {} takes what latest yields, because the models have faults",
                pipeline.name, pipeline.table
            )),
        }
    }
}

async fn broker_faults(config: &Config, pipeline: &Pipeline) -> Vec<Diagnostic> {
    let asked = async {
        let broker = Broker::new(&config.kafka.brokers, config.kafka.properties.expose(), PATIENCE)?;
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

async fn target_faults(pipeline: &Pipeline, connector: &Connector, engine: &mut Engine) -> Vec<Diagnostic> {
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
