//! A pipeline's lookups, from its config: where each comes from, and reading those that aren't files, for the service and for tools.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema};
use tokio::sync::watch as signal;

use super::connector;
use crate::config::{self, Config};
use crate::error::{Error, Kind, Result};
use crate::pipeline::health::Health;
use crate::pipeline::{Lookup, Lookups, Origin};
use crate::sink;
use crate::sink::session::Connector;
use crate::source::FollowOptions;
use crate::sql::Engine;

pub(super) fn no_rows(columns: &[(String, DataType)]) -> RecordBatch {
    let fields: Vec<Field> = columns.iter().map(|(name, kind)| Field::new(name, kind.clone(), true)).collect();
    RecordBatch::new_empty(Arc::new(Schema::new(fields)))
}

/// Lookups that come from MySQL, read once; waits for nothing.
pub async fn read_tables(pipeline: &config::Pipeline, connector: &Connector) -> Result<BTreeMap<String, RecordBatch>> {
    let mut tables = BTreeMap::new();
    for (name, lookup) in &pipeline.lookups {
        if let config::LookupFrom::MySql { query, .. } = &lookup.from {
            let table = sink::lookup::read(connector, query).await;
            tables.insert(name.clone(), table.map_err(|error| error.at(format!("lookup {name}")))?);
        }
    }
    Ok(tables)
}

/// Loads the lookups anew, into an engine that was planned over others; `None`: asked to stop meanwhile.
pub(super) async fn load_into(
    config: &Config,
    pipeline: &config::Pipeline,
    health: &Health,
    engine: &Engine,
    stop: &mut signal::Receiver<bool>,
) -> Result<Option<Lookups>> {
    let mut lookups = lookups(config, pipeline, health);
    let Some(tables) = lookups.load(stop).await? else { return Ok(None) };
    for (name, table) in tables {
        engine.put_lookup(&name, table).map_err(|faults| {
            let first = faults.first().map(|fault| format!("[{}] {}", fault.code, fault.message)).unwrap_or_default();
            Error::new(Kind::Config, first).remedy("start again")
        })?;
    }
    Ok(Some(lookups))
}

/// Lookups that are topics, as they are now: for tools, which follow nothing.
pub async fn read_topics(config: &Config, pipeline: &config::Pipeline) -> Result<BTreeMap<String, RecordBatch>> {
    let mut tables = BTreeMap::new();
    for lookup in lookup_origins(config, pipeline) {
        let Some(config::LookupFrom::Topic { columns, .. }) = pipeline.lookups.get(&lookup.name).map(|it| &it.from)
        else {
            continue;
        };
        let (name, schema) = (lookup.name.clone(), no_rows(columns).schema());
        let read = tokio::task::spawn_blocking(move || crate::pipeline::lookups::topic_rows(&lookup)).await;
        let read =
            read.unwrap_or_else(|error| Err(Error::new(Kind::Bug, "reading a topic has panicked").source(error)));
        let table = read.map_err(|error| error.at(format!("lookup {name}")))?;
        let rows = table.batches().and_then(|batches| arrow::compute::concat_batches(&schema, &batches));
        let rows = rows.map_err(|error| Error::new(Kind::Config, format!("lookup {name}")).source(error))?;
        tables.insert(name, rows);
    }
    Ok(tables)
}

/// The lookups of one pipeline; nothing is read yet.
pub(super) fn lookups(config: &Config, pipeline: &config::Pipeline, health: &Health) -> Lookups {
    Lookups::new(&pipeline.name, connector(config), health.clone(), lookup_origins(config, pipeline))
}

fn lookup_origins(config: &Config, pipeline: &config::Pipeline) -> Vec<Lookup> {
    let lookups = pipeline.lookups.iter().map(|(name, lookup)| Lookup {
        name: name.clone(),
        key: lookup.key.clone(),
        origin: match &lookup.from {
            config::LookupFrom::File(path) => Origin::File(path.clone()),
            config::LookupFrom::MySql { query, refresh } => Origin::MySql { query: query.clone(), refresh: *refresh },
            config::LookupFrom::Topic { topic, columns } => Origin::Topic {
                options: FollowOptions {
                    brokers: config.kafka.brokers.clone(),
                    properties: config.kafka.properties.expose().clone(),
                    group: pipeline.group.clone(),
                    topic: topic.clone(),
                    client_id: format!("afterimage-{}-{name}", pipeline.name),
                },
                columns: columns.clone(),
            },
        },
    });
    lookups.collect()
}
