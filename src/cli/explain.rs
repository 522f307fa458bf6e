//! `explain`: the graph of models, which fast rules took them and why not, their plans; with events, rows and time of each.
//!
//! Times are medians over several runs, after one that warms up. A run begins with empty tables, so that all runs do the same.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use super::show::Stopped;
use super::{Exit, ExplainArgs, ExplainFormat, load};
use crate::config::{Config, Pipeline};
use crate::error::Result;
use crate::record::OwnedRecord;
use crate::sql::explain::Explanation;
use crate::workbench::Bench;

mod programs;
mod text;

pub async fn run(args: &ExplainArgs) -> Exit {
    match explain(args).await {
        Ok(()) => Exit::Done,
        Err(exit) => exit,
    }
}

/// What the events cost.
struct Measured {
    source: String,
    events: usize,
    batches: usize,
    runs: u32,
    decode: Duration,
    models: BTreeMap<String, ModelCost>,
    /// Fold, hold, checks and shaping: all between the models.
    rest: Duration,
}

/// What one model costs.
#[derive(Default)]
struct ModelCost {
    rows: usize,
    took: Duration,
}

/// All that there is to show.
struct Explained<'a> {
    pipeline: &'a Pipeline,
    explanation: Explanation,
    measured: Option<Measured>,
}

async fn explain(args: &ExplainArgs) -> std::result::Result<(), Exit> {
    let config = load::config(&args.config.config)?;
    let pipeline = load::pipeline(&config, args.pipeline.as_deref())?;
    if args.events.named().is_none() && !args.events.partition.is_empty() {
        return Err(load::usage("--partition says of which partition: add --topic-last N or --from PLACE"));
    }
    let lookups = load::lookups(&config, pipeline).await?;
    let prepared = load::bench(pipeline, &lookups).await;
    let (mut bench, warnings) = prepared.map_err(|faults| load::refuse(&faults))?;
    load::show(&warnings);
    let explanation = bench.engine().explain();
    load::known_models(&args.model, &explanation)?;
    let measured = measured(args, &config, pipeline, &mut bench).await?;
    let explained = Explained { pipeline, explanation, measured };
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let shown = match args.format {
        ExplainFormat::Text => text::show(&explained, args, &mut out),
        ExplainFormat::Json => programs::json(&explained, args, &mut out),
        ExplainFormat::Dot => programs::dot(&explained, &mut out),
    };
    match shown.and_then(|()| out.flush().map_err(Stopped::from)) {
        Ok(()) | Err(Stopped::ReaderGone) => Ok(()),
        Err(Stopped::Failed(error)) => Err(load::fail(&error)),
    }
}

async fn measured(
    args: &ExplainArgs,
    config: &Config,
    pipeline: &Pipeline,
    bench: &mut Bench,
) -> std::result::Result<Option<Measured>, Exit> {
    let Some(events) = args.events.named() else { return Ok(None) };
    let records = events.read(config, pipeline).await.map_err(|error| load::fail(&error))?.records;
    let source = events.describe(pipeline);
    if records.is_empty() {
        return Err(load::usage(&format!("{source} holds no events: nothing to measure by")));
    }
    let batches = load::batches(&records, args.batch);
    let cost = measure(bench, &batches, args.runs).await.map_err(|error| load::fail(&error))?;
    Ok(Some(Measured { source, events: records.len(), ..cost }))
}

/// One run's times.
#[derive(Default)]
struct Run {
    decode: Duration,
    between: Duration,
    models: BTreeMap<String, ModelCost>,
}

async fn measure(bench: &mut Bench, batches: &[&[OwnedRecord]], runs: u32) -> Result<Measured> {
    one_run(bench, batches).await?;
    let mut all = Vec::new();
    for _ in 0..runs {
        all.push(one_run(bench, batches).await?);
    }
    let mut models: BTreeMap<String, ModelCost> = BTreeMap::new();
    for name in all.first().map(|run| run.models.keys().cloned().collect::<Vec<_>>()).unwrap_or_default() {
        let of = |run: &Run| run.models.get(&name).map(|cost| cost.took).unwrap_or_default();
        let rows = all.first().and_then(|run| run.models.get(&name)).map(|cost| cost.rows).unwrap_or_default();
        let took = median(all.iter().map(of).collect());
        models.insert(name, ModelCost { rows, took });
    }
    Ok(Measured {
        source: String::new(),
        events: 0,
        batches: batches.len(),
        runs,
        decode: median(all.iter().map(|run| run.decode).collect()),
        models,
        rest: median(all.iter().map(|run| run.between).collect()),
    })
}

async fn one_run(bench: &mut Bench, batches: &[&[OwnedRecord]]) -> Result<Run> {
    bench.start(bench.empty()?);
    let mut run = Run::default();
    for batch in batches {
        let turn = bench.run(batch).await?;
        let models: Duration = turn.models.iter().map(|model| model.took).sum();
        run.decode += turn.decode_time;
        run.between += turn.models_time.saturating_sub(models);
        for model in &turn.models {
            let cost = run.models.entry(model.name.clone()).or_default();
            cost.rows += model.rows.num_rows();
            cost.took += model.took;
        }
    }
    Ok(run)
}

/// The middle one; of an even number the smaller of the two.
fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len().saturating_sub(1) / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_one_of_the_times() {
        let ms = |times: &[u64]| median(times.iter().map(|ms| Duration::from_millis(*ms)).collect()).as_millis();
        assert_eq!((ms(&[5]), ms(&[9, 1, 5]), ms(&[4, 3, 2, 1]), ms(&[])), (5, 5, 2, 0));
    }
}
