//! `preview`: a file of events through decode and models, with no server at all: each model's rows, what is refused and held and why,
//! and the writes that would follow against an empty table.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::Write;
use std::path::Path;

use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::util::pretty::pretty_format_batches;

use super::{Exit, PreviewArgs, load};
use crate::config::{Config, LookupFrom, Pipeline, TimestampUnit};
use crate::decode::{DecodeRefusal, Decoded};
use crate::diagnostic::printable;
use crate::error::{Error, Kind, Result};
use crate::generate::{OwnedRecord, read_events_file};
use crate::hold::HoldSet;
use crate::position::Partition;
use crate::service;
use crate::sql::{Engine, Input};
use crate::work::{Evaluation, Refusal};

pub async fn run(args: &PreviewArgs) -> Exit {
    match preview(args).await {
        Ok(exit) | Err(exit) => exit,
    }
}

async fn preview(args: &PreviewArgs) -> std::result::Result<Exit, Exit> {
    let config = load::config(&args.config.config)?;
    let pipeline = load::pipeline(&config, args.pipeline.as_deref())?;
    let tables = tables(&config, pipeline).await.map_err(|error| load::fail(&error))?;
    let (schema, mut engine, warnings) = service::prepare(pipeline, &tables).await.map_err(|faults| {
        load::show(&faults);
        Exit::Config
    })?;
    load::show(&warnings);
    let ticks_per_second = match pipeline.timestamp_unit {
        TimestampUnit::Second => 1,
        TimestampUnit::Millisecond => 1_000,
        TimestampUnit::Microsecond => 1_000_000,
        TimestampUnit::Nanosecond => 1_000_000_000,
    };
    let standard_input = Path::new("/dev/stdin");
    let events = if args.events == Path::new("-") { standard_input } else { args.events.as_path() };
    let records = read_events_file(events, ticks_per_second).map_err(|error| load::fail(&error))?;
    let mut decoder = service::decoder(pipeline, &schema);
    let shown = async {
        let decoded = decoder.decode(records.iter().map(OwnedRecord::as_raw))?;
        let evaluation = evaluate(&mut engine, &decoded, &records).await?;
        // Nothing is stored yet, so nothing is known of anybody.
        let suspects: Vec<_> = evaluation.suspects.iter().map(|row| (*row, None)).collect();
        let mut out = std::io::stdout().lock();
        show_models(&mut out, &engine, args.limit).map_err(gone)?;
        show_outcome(&mut out, &decoded, &evaluation, args.limit).map_err(gone)?;
        let late = engine.evidence(&suspects).await?;
        for event in &late {
            writeln!(out, "out of order: {} of {} is older than {:?}", event.position, event.key, event.known)
                .map_err(gone)?;
        }
        Ok(())
    };
    match shown.await {
        Ok(()) => Ok(Exit::Done),
        Err(error) => Err(load::fail(&error)),
    }
}

/// Lookups from MySQL and from topics are read where the servers answer; there is no other way to know their rows.
async fn tables(config: &Config, pipeline: &Pipeline) -> Result<BTreeMap<String, RecordBatch>> {
    let mut tables = service::read_topics(config, pipeline).await?;
    if pipeline.lookups.values().any(|lookup| matches!(lookup.from, LookupFrom::MySql { .. })) {
        tables.extend(service::read_tables(pipeline, &service::connector(config)).await?);
    }
    Ok(tables)
}

async fn evaluate(engine: &mut Engine, decoded: &Decoded, records: &[OwnedRecord]) -> Result<Evaluation> {
    let decode_refused: Vec<Refusal> = decoded.refused.iter().map(DecodeRefusal::to_refusal).collect();
    let partitions: BTreeSet<Partition> = records.iter().map(|record| record.partition).collect();
    let partitions: Vec<Partition> = partitions.into_iter().collect();
    let input = Input {
        events: decoded.events.clone(),
        salvage: decoded.salvage.clone(),
        decode_refused: &decode_refused,
        ignored: &decoded.ignored,
        forced: &[],
        holds: &HoldSet::default(),
        rerun: &HashSet::new(),
        high_water_ns: &BTreeMap::new(),
        partitions: &partitions,
    };
    engine.evaluate(input).await
}

fn show_models(out: &mut impl Write, engine: &Engine, limit: usize) -> std::io::Result<()> {
    for (name, rows, took) in engine.tables() {
        writeln!(out, "model {name}: {} rows in {:.1} ms", rows.num_rows(), took.as_secs_f64() * 1e3)?;
        show_rows(out, rows, limit)?;
    }
    Ok(())
}

fn show_outcome(out: &mut impl Write, decoded: &Decoded, evaluation: &Evaluation, limit: usize) -> std::io::Result<()> {
    for refusal in evaluation.refused.iter().take(limit) {
        let model = refusal.model.as_deref().map(|model| format!(" by {model}")).unwrap_or_default();
        writeln!(
            out,
            "refused at {}{model}: {}: {}",
            refusal.stage.name(),
            refusal.position,
            printable(&refusal.reason)
        )?;
    }
    for held in evaluation.held.iter().take(limit) {
        let users: Vec<&str> = held.keys.iter().map(|key| &*key.0).collect();
        writeln!(out, "held: {} waits for {}", held.position, printable(&users.join(", ")))?;
    }
    for (field, count) in &decoded.unmapped {
        writeln!(out, "no schema knows the field {}: {count} events carry it", printable(field))?;
    }
    let deleted = evaluation.latest.column_by_name("_deleted").and_then(|column| column.as_boolean_opt());
    if let Some(deleted) = deleted {
        let kept: BooleanArray = deleted.iter().map(|deleted| Some(deleted != Some(true))).collect();
        for (what, chosen) in [("upserts", &kept), ("deletes", deleted)] {
            let rows = filter_record_batch(&evaluation.latest, chosen).map_err(std::io::Error::other)?;
            writeln!(out, "writes that would follow: {} {what}", rows.num_rows())?;
            show_rows(out, &rows, limit)?;
        }
    }
    for sums in &evaluation.sums {
        let (classes, changes) = (&sums.classes, &sums.changes);
        writeln!(
            out,
            "partition {}: read {} = ignored {} + refused {} + held {} + accepted {}; changes {} = upserted {} + deleted {} + superseded {}",
            sums.partition,
            classes.read,
            classes.ignored,
            classes.refused,
            classes.held,
            classes.accepted,
            changes.changes,
            changes.upserted,
            changes.deleted,
            changes.superseded
        )?;
    }
    Ok(())
}

fn show_rows(out: &mut impl Write, rows: &RecordBatch, limit: usize) -> std::io::Result<()> {
    if rows.num_rows() > 0 {
        let shown = rows.slice(0, rows.num_rows().min(limit));
        let table = pretty_format_batches(&[shown]).map_err(std::io::Error::other)?.to_string();
        for line in table.lines() {
            writeln!(out, "{}", printable(line))?;
        }
    }
    if rows.num_rows() > limit {
        writeln!(out, "and {} more", rows.num_rows() - limit)?;
    }
    Ok(())
}

fn gone(error: std::io::Error) -> Error {
    Error::new(Kind::Config, "the preview could not be written").source(error)
}
