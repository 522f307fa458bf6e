//! `status`: positions, sums and quarantine as MySQL has them, and what a running instance on this machine says of itself.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Exit, Format, StatusArgs, load};
use crate::config::Config;
use crate::error::Result;
use crate::sink::generations;
use crate::sink::session::Session;
use crate::sink::status::{self, PartitionStatus};

pub async fn run(args: &StatusArgs) -> Exit {
    let config = match load::config(&args.config.config) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    // A dead database is when the instance's own word matters most, so neither depends on the other.
    let instance = instance(&config).await;
    let stored = match crate::service::connector(&config).connect().await {
        Ok(mut session) => stored(&config, &mut session).await,
        Err(error) => Err(error),
    };
    match args.format {
        Format::Json => {
            let tables = stored.as_ref().map_or_else(|error| json!({ "error": error.to_string() }), Value::clone);
            say!("{:#}", json!({ "instance": instance, "tables": tables }));
        }
        Format::Text => {
            show_instance(instance.as_ref(), &config);
            if let Ok(tables) = &stored {
                show_tables(tables);
            }
        }
    }
    match stored {
        Ok(_) => Exit::Done,
        Err(error) => load::fail(&error),
    }
}

/// `/api/v1/status` of an instance that this config would start here, if one answers.
async fn instance(config: &Config) -> Option<Value> {
    if !config.http.enabled {
        return None;
    }
    let ask = async {
        let mut stream = tokio::net::TcpStream::connect(config.http.listen).await.ok()?;
        let request = format!("GET /api/v1/status HTTP/1.0\r\nHost: {}\r\n\r\n", config.http.listen);
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        let (_, body) = answer.split_once("\r\n\r\n")?;
        serde_json::from_str(body).ok()
    };
    tokio::time::timeout(Duration::from_secs(2), ask).await.ok().flatten()
}

async fn stored(config: &Config, session: &mut Session) -> Result<Value> {
    let mut pipelines = serde_json::Map::new();
    for name in config.pipelines.keys() {
        let partitions = status::partitions(session, name).await?;
        let quarantine: serde_json::Map<String, Value> = status::quarantine_counts(session, name)
            .await?
            .into_iter()
            .map(|(state, count)| (state, count.into()))
            .collect();
        let newest = generations::list(session, name).await?.into_iter().next().map(|entry| entry.generation);
        let last = status::last_summary(session, name).await?.map(|(at, lag_records, freshness_ms)| {
            json!({ "at": at, "lag_records": lag_records, "freshness_ms": freshness_ms })
        });
        pipelines.insert(
            name.clone(),
            json!({
                "generation": newest, "partitions": partitions, "quarantine": quarantine, "last_summary": last
            }),
        );
    }
    Ok(Value::Object(pipelines))
}

fn show_instance(instance: Option<&Value>, config: &Config) {
    let Some(pipelines) = instance.and_then(Value::as_array) else {
        say!("no instance answers at {}", config.http.listen);
        return;
    };
    let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    for pipeline in pipelines {
        say!(
            "instance here: {} is {} since {} {}",
            text(pipeline, "pipeline"),
            text(pipeline, "state"),
            text(pipeline, "since"),
            text(pipeline, "reason")
        );
        show_files(pipeline);
        for (partition, reason) in pipeline.get("halted").and_then(Value::as_object).into_iter().flatten() {
            say!("  partition {partition} halted: {}", reason.as_str().unwrap_or_default());
        }
        for (name, lookup) in pipeline.get("lookups").and_then(Value::as_object).into_iter().flatten() {
            say!("  {}", lookup_line(name, lookup));
        }
    }
}

/// Which definition an instance runs, and why the files there aren't it.
fn show_files(pipeline: &Value) {
    let at = |value: &Value, path: &str| value.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (print, state) = (at(pipeline, "/fingerprint"), at(pipeline, "/reload/state"));
    let generation = pipeline.get("generation").and_then(Value::as_i64).unwrap_or(0);
    say!(
        "  generation {generation} ({}); the files are {} since {}",
        print.get(..12).unwrap_or("not registered"),
        if state == "current" { "what runs".to_owned() } else { state },
        at(pipeline, "/reload/since"),
    );
    for fault in pipeline.pointer("/reload/faults").and_then(Value::as_array).into_iter().flatten() {
        let place = match (at(fault, "/file"), fault.get("line").and_then(Value::as_u64)) {
            (file, Some(line)) => {
                format!("{file}:{line}:{}: ", fault.get("column").and_then(Value::as_u64).unwrap_or(1))
            }
            (file, None) if !file.is_empty() => format!("{file}: "),
            (_, None) => String::new(),
        };
        let help = at(fault, "/help");
        let help = if help.is_empty() { help } else { format!(" ({help})") };
        say!("    {place}[{}] {}{help}", at(fault, "/code"), at(fault, "/message"));
    }
}

/// A lookup in one line: what is there, how old it is, and what keeps it from being newer.
fn lookup_line(name: &str, lookup: &Value) -> String {
    let text = |key: &str| lookup.get(key).and_then(Value::as_str).unwrap_or_default();
    let number = |key: &str| lookup.get(key).and_then(Value::as_i64).unwrap_or_default();
    let mut line = format!("lookup {name} ({}): {} rows", text("source"), number("rows"));
    if let Some(age) = lookup.get("age_seconds").and_then(Value::as_f64) {
        line.push_str(&format!(", looked at {age:.0} s ago"));
    }
    if let Some(lag) = lookup.get("lag_records").and_then(Value::as_i64) {
        line.push_str(&format!(", {lag} records behind its topic"));
    }
    if let Some(loading) = lookup.get("loading").and_then(Value::as_str) {
        line.push_str(&format!(", loading: {loading}"));
    }
    for (key, words) in [("bad_records", "bad records"), ("refresh_failures", "failed refreshes")] {
        if number(key) > 0 {
            line.push_str(&format!(", {} {words}", number(key)));
        }
    }
    match text("last_error") {
        "" => line,
        error => format!("{line}; {error}"),
    }
}

fn show_tables(tables: &Value) {
    for (name, pipeline) in tables.as_object().into_iter().flatten() {
        match pipeline.get("generation").and_then(Value::as_i64) {
            Some(generation) => say!("\npipeline {name}, generation {generation}"),
            None => say!("\npipeline {name}"),
        }
        say!(
            "  {:<20} {:>4} {:>12} {:>10} {:>8} {:>8} {:>8} {:>10} {:>10} {:>10} {:>8} {:>10}  owner",
            "topic",
            "part",
            "next offset",
            "read",
            "ignored",
            "refused",
            "held",
            "accepted",
            "changes",
            "upserted",
            "deleted",
            "superseded"
        );
        let rows = pipeline
            .get("partitions")
            .cloned()
            .and_then(|rows| serde_json::from_value::<Vec<PartitionStatus>>(rows).ok());
        for row in rows.unwrap_or_default() {
            say!(
                "  {:<20} {:>4} {:>12} {:>10} {:>8} {:>8} {:>8} {:>10} {:>10} {:>10} {:>8} {:>10}  {}",
                row.topic,
                row.partition,
                row.next_offset,
                row.read,
                row.ignored,
                row.refused,
                row.held,
                row.accepted,
                row.changes,
                row.upserted,
                row.deleted,
                row.superseded,
                row.owner
            );
        }
        let states: Vec<String> = pipeline
            .get("quarantine")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .map(|(state, count)| format!("{count} {state}"))
            .collect();
        say!("  quarantine: {}", if states.is_empty() { "empty".to_owned() } else { states.join(", ") });
        if let Some(last) = pipeline.get("last_summary").filter(|last| !last.is_null()) {
            say!("  last summary: {last}");
        }
    }
}
