//! `preview`: events through decode and models: each model's rows, what is refused and held and why, and the writes that would follow,
//! against empty tables or, with `--online`, against those of the server, which are only read.
//!
//! This is where values may be shown.

use arrow::array::RecordBatch;
use arrow::compute::{SortColumn, concat_batches, lexsort_to_indices, take_record_batch};

use super::show::Stopped;
use super::show::files::FileFormat;
use super::{Exit, PreviewArgs, PreviewFormat, load};
use crate::config::{Config, Pipeline};
use crate::error::{Error, Kind, Result};
use crate::position::Partition;
use crate::record::OwnedRecord;
use crate::service;
use crate::sink::session::Session;
use crate::sink::status;
use crate::workbench::effects::{Effect, effects};
use crate::workbench::events::{Events, Read};
use crate::workbench::online::{self, As, Online};
use crate::workbench::{Bench, Turn};

mod programs;
mod text;

pub async fn run(args: &PreviewArgs) -> Exit {
    match preview(args).await {
        Ok(()) => Exit::Done,
        Err(exit) => exit,
    }
}

/// All that there is to show.
struct Preview<'a> {
    pipeline: &'a Pipeline,
    /// Where the events come from.
    source: String,
    records: usize,
    turns: Vec<Turn>,
    /// Of each turn.
    effects: Vec<Vec<Effect>>,
    bench: Bench,
    online: Option<Online>,
}

async fn preview(args: &PreviewArgs) -> std::result::Result<(), Exit> {
    let files = file_format(args)?;
    let config = load::config(&args.config.config)?;
    let pipeline = load::pipeline(&config, args.pipeline.as_deref())?;
    let events = load::events(&args.events)?;
    let previewed = evaluate(args, &config, pipeline, &events).await?;
    previewed.check_names(&args.model)?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let shown = match files {
        Some((format, folder)) => programs::files(&previewed, args, format, folder),
        None if args.format == PreviewFormat::Ndjson => programs::ndjson(&previewed, args, &mut out),
        None => text::show(&previewed, args, &mut out),
    };
    match shown.and_then(|()| std::io::Write::flush(&mut out).map_err(Stopped::from)) {
        Ok(()) | Err(Stopped::ReaderGone) => Ok(()),
        Err(Stopped::Failed(error)) => Err(load::fail(&error)),
    }
}

/// The files to write, if any; the two flags belong together.
fn file_format(args: &PreviewArgs) -> std::result::Result<Option<(FileFormat, &std::path::Path)>, Exit> {
    let format = match args.format {
        PreviewFormat::Parquet => Some(FileFormat::Parquet),
        PreviewFormat::Arrow => Some(FileFormat::Arrow),
        PreviewFormat::Text | PreviewFormat::Ndjson => None,
    };
    match (format, &args.out) {
        (Some(format), Some(folder)) => Ok(Some((format, folder))),
        (None, None) => Ok(None),
        (Some(_), None) => Err(load::usage("--format parquet and arrow write files: say where with --out FOLDER")),
        (None, Some(_)) => Err(load::usage("--out writes files: say which with --format parquet or --format arrow")),
    }
}

async fn evaluate<'a>(
    args: &PreviewArgs,
    config: &Config,
    pipeline: &'a Pipeline,
    events: &Events,
) -> std::result::Result<Preview<'a>, Exit> {
    let lookups = load::lookups(config, pipeline).await?;
    let prepared = load::bench(pipeline, &lookups).await;
    let (mut bench, warnings) = prepared.map_err(|faults| load::refuse(&faults))?;
    load::show(&warnings);
    let mut read = events.read(config, pipeline).await.map_err(|error| load::fail(&error))?;
    if read.records.is_empty() {
        warn_user!("warning: {} holds no events", events.describe(pipeline));
    }
    let mut session = match args.online {
        true => Some(service::connector(config).connect_reader().await.map_err(|error| load::fail(&error))?),
        false => None,
    };
    if let Some(session) = &mut session {
        place(&mut read, session, pipeline).await.map_err(|error| load::fail(&error))?;
    }
    let records = read.records;
    let batches = load::batches(&records, args.batch);
    let online = match &mut session {
        Some(session) => Some(fill(session, pipeline, &mut bench, &batches, events).await?),
        None => None,
    };
    let turned = turn(&mut bench, &batches, events, online.as_ref()).await;
    let (turns, effects) = turned.map_err(|error| load::fail(&error))?;
    let source = events.describe(pipeline);
    Ok(Preview { pipeline, source, records: records.len(), turns, effects, bench, online })
}

/// Puts events that don't say where they lie behind what the pipeline has read.
async fn place(read: &mut Read, session: &mut Session, pipeline: &Pipeline) -> Result<()> {
    let known = status::partitions(session, &pipeline.name).await?;
    let next = |partition: Partition| {
        let here =
            |known: &&status::PartitionStatus| known.topic == pipeline.topic && known.partition == i64::from(partition);
        known.iter().find(here).map_or(0, |known| known.next_offset)
    };
    read.place_behind(next);
    Ok(())
}

async fn fill(
    session: &mut Session,
    pipeline: &Pipeline,
    bench: &mut Bench,
    batches: &[&[OwnedRecord]],
    events: &Events,
) -> std::result::Result<Online, Exit> {
    let filled = online::fill(bench, session, pipeline, batches, taken(events)).await;
    filled.map_err(|refused| match refused {
        online::Refused::Faults(faults) => load::refuse(&faults),
        online::Refused::Error(error) => load::fail(&error),
    })
}

/// A file's events are taken for news; the topic's stand where they stand.
fn taken(events: &Events) -> As {
    match events {
        Events::File(_) => As::News,
        Events::Topic { .. } => As::History,
    }
}

async fn turn(
    bench: &mut Bench,
    batches: &[&[OwnedRecord]],
    events: &Events,
    online: Option<&Online>,
) -> Result<(Vec<Turn>, Vec<Vec<Effect>>)> {
    let tables = bench.tables();
    let keys: Vec<String> =
        tables.columns().fields().iter().take(tables.key_len()).map(|field| field.name().clone()).collect();
    let (mut turns, mut all) = (Vec::new(), Vec::new());
    for batch in batches {
        let mut turn = bench.run(batch).await?;
        if online.is_some() && taken(events) == As::History {
            // What is stored of a user may come from the event itself or from one behind it, which is no evidence against it.
            turn.out_of_order.retain(|late| {
                late.known.partition != late.position.partition || late.known.offset < late.position.offset
            });
        }
        all.push(effects(&turn, online)?);
        for model in &mut turn.models {
            model.rows = by_event(&model.rows, &keys)?;
        }
        turns.push(turn);
    }
    Ok((turns, all))
}

/// The rows in the order of their events, where they say which those are, and of an event's rows by `keys`, deletes behind the others: the
/// same preview twice looks the same.
fn by_event(rows: &RecordBatch, keys: &[String]) -> Result<RecordBatch> {
    let column = |name: &str| Some(SortColumn { values: rows.column_by_name(name)?.clone(), options: None });
    let (Some(partition), Some(offset)) = (column("_partition"), column("_offset")) else { return Ok(rows.clone()) };
    let of_an_event = column("_deleted").into_iter().chain(keys.iter().filter_map(|key| column(key)));
    let places: Vec<SortColumn> = [partition, offset].into_iter().chain(of_an_event).collect();
    let order = lexsort_to_indices(&places, None).and_then(|order| take_record_batch(rows, &order));
    order.map_err(|error| Error::new(Kind::Bug, "the rows of a model can't be put in order").source(error))
}

impl Preview<'_> {
    /// Models that ran, in running order, each with its rows of all batches and the time that they took.
    fn models(&self) -> Result<Vec<(String, RecordBatch, std::time::Duration)>> {
        let mut names: Vec<&str> = Vec::new();
        for model in self.turns.iter().flat_map(|turn| &turn.models) {
            if !names.contains(&model.name.as_str()) {
                names.push(&model.name);
            }
        }
        let explained = self.bench.engine().explain();
        let order = |name: &str| explained.models.iter().position(|model| model.name == name);
        names.sort_by_key(|name| order(name));
        names.into_iter().map(|name| self.rows_of(name)).collect()
    }

    fn rows_of(&self, name: &str) -> Result<(String, RecordBatch, std::time::Duration)> {
        let models: Vec<_> =
            self.turns.iter().flat_map(|turn| &turn.models).filter(|model| model.name == name).collect();
        let batches: Vec<&RecordBatch> = models.iter().map(|model| &model.rows).collect();
        let bug = || Error::new(Kind::Bug, format!("the rows of {name} don't fit together"));
        let schema = batches.first().ok_or_else(bug)?.schema();
        let rows = concat_batches(&schema, batches).map_err(|error| bug().source(error))?;
        Ok((name.to_owned(), rows, models.iter().map(|model| model.took).sum()))
    }

    /// Refuses names of models that there are not.
    fn check_names(&self, names: &[String]) -> std::result::Result<(), Exit> {
        load::known_models(names, &self.bench.engine().explain())
    }
}

/// Whether `name` is to be shown.
fn is_wanted(args: &PreviewArgs, name: &str) -> bool {
    args.model.is_empty() || args.model.iter().any(|model| model == name)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, BooleanArray, Int32Array, Int64Array, StringArray};

    use super::*;

    #[test]
    fn rows_of_one_event_have_an_order_whatever_order_they_come_in() {
        // An event at offset 2 that gives b the key a, and one before it.
        let rows = [("c", 1, false), ("a", 2, false), ("b", 2, true)];
        let batch = |order: [usize; 3]| {
            let picked = order.map(|at| rows[at]);
            let columns: [(&str, ArrayRef); 4] = [
                ("id", Arc::new(StringArray::from_iter_values(picked.iter().map(|row| row.0)))),
                ("_deleted", Arc::new(picked.iter().map(|row| Some(row.2)).collect::<BooleanArray>())),
                ("_partition", Arc::new(Int32Array::from(vec![0; 3]))),
                ("_offset", Arc::new(Int64Array::from_iter_values(picked.iter().map(|row| row.1)))),
            ];
            RecordBatch::try_from_iter(columns).unwrap()
        };
        let keys = ["id".to_owned()];
        for order in [[0, 1, 2], [0, 2, 1], [2, 1, 0], [1, 0, 2]] {
            assert_eq!(by_event(&batch(order), &keys).unwrap(), batch([0, 1, 2]), "{order:?}");
        }
    }
}
