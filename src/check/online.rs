//! What only the servers know: topics, our tables, the target's columns. Nothing is changed there.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Report, examine, from_mysql};
use crate::config::{Config, LookupFrom, Pipeline, units};
use crate::diagnostic::Diagnostic;
use crate::error::Error;
use crate::service;
use crate::sink::session::Connector;
use crate::sink::{inspect, privileges};
use crate::source::{Broker, topic_config};
use crate::sql::Engine;

/// How long the brokers may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) async fn servers(config: &Config, report: &mut Report) {
    let connector = service::connector(config);
    for pipeline in config.pipelines.values() {
        topic(config, pipeline, report).await;
        lookup_topics(config, pipeline, report).await;
        account(pipeline, &connector, report).await;
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

/// Records that are deleted sooner than this are gone after a long weekend.
const SHORT: Duration = Duration::from_secs(3 * 24 * 60 * 60);

/// The topic, and what becomes of its records.
async fn topic(config: &Config, pipeline: &Pipeline, report: &mut Report) {
    let (brokers, properties) = (&config.kafka.brokers, config.kafka.properties.expose());
    let asked = async { Broker::new(brokers, properties, PATIENCE)?.topic(&pipeline.topic).await };
    let named = format!("pipeline {}: topic `{}`", pipeline.name, pipeline.topic);
    let found = match asked.await {
        Ok(Some(found)) => found,
        Ok(None) => {
            let fault = Diagnostic::error("AI0402", format!("{named} does not exist"));
            return report.add([fault.file(&config.path).help("create it, or correct `topic`")]);
        }
        Err(error) => return report.add([server_fault("AI0401", pipeline, &error)]),
    };
    let partitions = found.partitions.len();
    let retention = topic_config::retention(brokers, properties, &pipeline.topic, PATIENCE).await;
    let Ok(Some(retention)) = retention else {
        report.found.push(format!("{named} has {partitions} partitions"));
        return report.skip(format!("{named}: how long it keeps records, the brokers don't tell (DESCRIBE_CONFIGS)"));
    };
    let kept =
        retention.time.map_or_else(|| "for ever".to_owned(), |time| format!("for {}", units::show_duration(time)));
    report.found.push(format!("{named} has {partitions} partitions, records are kept {kept}"));
    if retention.compacted == Some(true) {
        let help = "compact only a topic whose record key is the row's key; what was replaced before it was read is missing in \
                    the sums and in out_of_order_events";
        report.add([Diagnostic::warning("AI0406", format!("{named} is compacted: events go before they are read"))
            .file(&config.path)
            .help(help)]);
    }
    if let Some(time) = retention.time.filter(|time| *time < SHORT) {
        let what = format!("{named} keeps records for {} only", units::show_duration(time));
        let help = "after a longer outage records are gone and the pipeline halts: raise retention.ms above the longest outage";
        report.add([Diagnostic::warning("AI0407", what).file(&config.path).help(help)]);
    }
}

/// What the account lacks, and settings of the server that go against the promises.
async fn account(pipeline: &Pipeline, connector: &Connector, report: &mut Report) {
    let looked = async {
        let mut session = connector.connect().await?;
        let settings = privileges::settings(&mut session).await?;
        Ok((privileges::missing(connector, &pipeline.table).await?, settings))
    };
    let (missing, settings) = match looked.await {
        Ok(found) => found,
        Err(error) => {
            let what = format!("pipeline {}: privileges and settings, because MySQL can't be asked", pipeline.name);
            report.skip(what);
            // Another question says so with a code of its own, unless the models keep it from being asked.
            return report.add([server_fault("AI0403", pipeline, &error)]);
        }
    };
    report.add(missing.into_iter().map(|missing| {
        let on = missing.table.map_or_else(|| "the database".to_owned(), |table| format!("`{table}`"));
        let what = format!("the account of mysql.url lacks {} on {on}", missing.privileges.join(", "));
        Diagnostic::error("AI0405", what).help(format!("{};", missing.grant))
    }));
    report.add(settings.into_iter().map(|(what, why, refused)| {
        let what = format!("the server's {what}");
        if refused { Diagnostic::error("AI0408", what) } else { Diagnostic::warning("AI0408", what) }.help(why)
    }));
}

/// Topics that are lookups; that they are compacted is as it should be.
async fn lookup_topics(config: &Config, pipeline: &Pipeline, report: &mut Report) {
    for (name, lookup) in &pipeline.lookups {
        let LookupFrom::Topic { topic, .. } = &lookup.from else { continue };
        let asked = async {
            Broker::new(&config.kafka.brokers, config.kafka.properties.expose(), PATIENCE)?.topic(topic).await
        };
        match asked.await {
            Ok(Some(_)) => {}
            Ok(None) => {
                let what = format!("pipeline {}: topic `{topic}` of lookup {name} does not exist", pipeline.name);
                report.add([Diagnostic::error("AI0402", what)
                    .file(&config.path)
                    .help("create it, or correct `topic` of the lookup")]);
            }
            Err(error) => report.add([server_fault("AI0401", pipeline, &error)]),
        }
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
