//! Flags of what tries models on events: `preview`, `diff`, `explain`, and `test`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::super::{ConfigArg, Format};
use crate::source::window::{Place, Span};
use crate::workbench::events::{Events, place};

/// Which events to try models on.
#[derive(Debug, Clone, Args)]
#[command(group = clap::ArgGroup::new("source").args(["events", "topic_last", "from"]))]
pub struct EventsArgs {
    /// Events, one JSON object per line; `-` reads standard input.
    #[arg(short, long, value_name = "FILE")]
    pub events: Option<PathBuf>,
    /// The last N records of each partition of the pipeline's topic. Reads only: joins no group, commits nothing.
    #[arg(long, value_name = "N")]
    pub topic_last: Option<usize>,
    /// The topic's records from here on: an offset, a time (2024-05-01T12:00:00Z), or how long ago (90m).
    #[arg(long, value_name = "PLACE", value_parser = place)]
    pub from: Option<Place>,
    /// Up to here, exclusively; up to the end without it.
    #[arg(long, value_name = "PLACE", value_parser = place, requires = "from", conflicts_with_all = ["events", "topic_last"])]
    pub to: Option<Place>,
    /// Only this partition of the topic; may be given several times.
    #[arg(long, value_name = "N", conflicts_with = "events")]
    pub partition: Vec<i32>,
}

impl EventsArgs {
    /// The events that are meant, if any are named.
    pub(in crate::cli) fn named(&self) -> Option<Events> {
        let topic = |span| Events::Topic { span, partitions: self.partition.clone() };
        match (&self.events, self.topic_last, self.from) {
            (Some(file), _, _) => Some(Events::File(file.clone())),
            (_, Some(count), _) => Some(topic(Span::Last(count))),
            (_, _, Some(from)) => Some(topic(Span::Between { from, to: self.to })),
            (None, None, None) => None,
        }
    }
}

#[derive(Debug, Args)]
pub struct PreviewArgs {
    #[command(flatten)]
    pub config: ConfigArg,
    /// Pipeline to run; may be left out where there is only one.
    #[arg(short, long, value_name = "NAME")]
    pub pipeline: Option<String>,
    #[command(flatten)]
    pub events: EventsArgs,
    /// Cut the events into batches of N; all are one batch without it.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub batch: Option<u32>,
    /// Against the tables as the server has them instead of empty ones. Reads only; SELECT is all that it needs.
    #[arg(long)]
    pub online: bool,
    /// Show this model's rows only; may be given several times.
    #[arg(short, long, value_name = "NAME")]
    pub model: Vec<String>,
    /// Rows to show of each table; 20 for people, all for programs unless given.
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// How to show the rows.
    #[arg(long, value_enum, default_value_t = PreviewFormat::Text)]
    pub format: PreviewFormat,
    /// Write files into this folder: one for each model, and `writes`, `quarantine`.
    #[arg(long, value_name = "FOLDER")]
    pub out: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PreviewFormat {
    /// Tables for people.
    Text,
    /// One JSON object per line.
    Ndjson,
    /// Files; needs --out.
    Parquet,
    /// Files (Arrow IPC); needs --out.
    Arrow,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("before").required(true).args(["old", "rev"]))]
pub struct DiffArgs {
    #[command(flatten)]
    pub config: ConfigArg,
    /// Pipeline to compare; may be left out where there is only one.
    #[arg(short, long, value_name = "NAME")]
    pub pipeline: Option<String>,
    #[command(flatten)]
    pub events: EventsArgs,
    /// Folder with the old models.
    #[arg(long, value_name = "FOLDER")]
    pub old: Option<PathBuf>,
    /// Revision of git with the old models, schemas and lookups, such as `HEAD` or `main~3`. The checkout is not touched.
    #[arg(long, value_name = "REVISION")]
    pub rev: Option<String>,
    /// Cut the events into batches of N; all are one batch without it.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub batch: Option<u32>,
    /// Differences to show of each kind.
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub limit: usize,
    /// Counts only, no rows.
    #[arg(long)]
    pub summary: bool,
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

#[derive(Debug, Args)]
pub struct ExplainArgs {
    #[command(flatten)]
    pub config: ConfigArg,
    /// Pipeline to explain; may be left out where there is only one.
    #[arg(short, long, value_name = "NAME")]
    pub pipeline: Option<String>,
    /// With events, rows and time of each model are measured.
    #[command(flatten)]
    pub events: EventsArgs,
    /// This model only, with its plans; may be given several times.
    #[arg(short, long, value_name = "NAME")]
    pub model: Vec<String>,
    /// Show the logical and physical plan of every model.
    #[arg(long)]
    pub plans: bool,
    /// How often to run the events; the median counts. One run more comes before, to warm up.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub runs: u32,
    /// Cut the events into batches of N; all are one batch without it.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub batch: Option<u32>,
    /// `dot` is the graph alone, for Graphviz.
    #[arg(long, value_enum, default_value_t = ExplainFormat::Text)]
    pub format: ExplainFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExplainFormat {
    Text,
    Json,
    Dot,
}

#[derive(Debug, Args)]
pub struct TestArgs {
    #[command(flatten)]
    pub config: ConfigArg,
    /// Cases whose name (`pipeline/file` or `pipeline/file/case`) holds one of these; `*` stands for anything.
    #[arg(value_name = "NAME")]
    pub filters: Vec<String>,
    /// Names are whole names.
    #[arg(long, requires = "filters")]
    pub exact: bool,
    /// Cases of this pipeline only.
    #[arg(short, long, value_name = "NAME")]
    pub pipeline: Option<String>,
    /// List the cases instead of running them.
    #[arg(long)]
    pub list: bool,
    /// Run each case with other batch cuts, too: all must come to the same.
    #[arg(long)]
    pub rebatch: bool,
    /// The same seed makes the same cuts.
    #[arg(long, value_name = "N", requires = "rebatch")]
    pub seed: Option<u64>,
    /// Write what was found into the files, in place of what was expected.
    #[arg(long)]
    pub update: bool,
    /// Write the report to this file as well, as JUnit's XML.
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
    /// How to show the report, on standard output.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}
