//! The command line: subcommands and their flags. What each does is in `cli/<name>.rs`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use exit::Exit;

use crate::config::units;
use crate::source::window::{Place, Span};
use crate::workbench::events::{Events, place};

pub mod check;
pub mod demo;
pub mod diff;
mod exit;
pub mod explain;
pub mod generate;
pub mod generations;
mod load;
pub mod migrate;
pub mod preview;
pub mod quarantine;
pub mod run;
pub mod schema;
mod show;
pub mod status;

/// Keeps MySQL tables equal to the latest state of change topics in Kafka: exactly once, in order per key, by SQL that
/// analysts own.
#[derive(Debug, Parser)]
#[command(name = "afterimage", version, max_term_width = 120)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the service.
    Run(RunArgs),
    /// Find every fault of config, models, schemas and lookups at once; needs no server.
    Check(CheckArgs),
    /// Run the models over events and show their rows and the writes that would follow; needs no server unless asked to.
    Preview(PreviewArgs),
    /// Run old and new models over the same events and show which rows of the target would differ.
    Diff(DiffArgs),
    /// Show the graph of models, their plans, and what each costs.
    Explain(ExplainArgs),
    /// Create or upgrade our tables in MySQL, and the target where it is absent.
    Migrate(MigrateArgs),
    /// Show positions, sums and quarantine of each pipeline, as MySQL has them.
    Status(StatusArgs),
    /// List the versions of models, schema and settings that have been in use; go back to one on purpose.
    Generations(GenerationsArgs),
    /// Look at refused and held events, and decide about them.
    #[command(subcommand)]
    Quarantine(QuarantineCommand),
    /// Schema files: make one from events, compare versions; and alter the target to what the models yield.
    #[command(subcommand)]
    Schema(SchemaCommand),
    /// Write generated changes of users to a file or a topic.
    Generate(GenerateArgs),
    /// Show the whole road on private servers, and compare the outcome with an independent fold.
    Demo(DemoArgs),
}

#[derive(Debug, Clone, Args)]
pub struct ConfigArg {
    /// Config file.
    #[arg(short, long, value_name = "FILE", env = "AFTERIMAGE_CONFIG", default_value = "afterimage.toml")]
    pub config: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Text,
    Json,
}

#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub config: ConfigArg,
    /// Read up to where the topics end now, commit, and exit.
    #[arg(long)]
    pub until_caught_up: bool,
}

#[derive(Debug, Args)]
pub struct CheckArgs {
    #[command(flatten)]
    pub config: ConfigArg,
    /// How to show the faults, on standard output.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// Ask the brokers and MySQL as well: topics, privileges, the target's columns.
    #[arg(long)]
    pub online: bool,
    /// Say what a code means, with an example and what to do; without a code, list all.
    #[arg(long, value_name = "CODE", num_args = 0..=1, default_missing_value = "", conflicts_with = "online")]
    pub explain: Option<String>,
}

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
    #[arg(long, value_name = "PLACE", value_parser = place, requires = "from")]
    pub to: Option<Place>,
    /// Only this partition of the topic; may be given several times.
    #[arg(long, value_name = "N", conflicts_with = "events")]
    pub partition: Vec<i32>,
}

impl EventsArgs {
    /// The events that are meant, if any are named.
    fn named(&self) -> Option<Events> {
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
pub struct MigrateArgs {
    #[command(flatten)]
    pub config: ConfigArg,
    /// Print the statements instead of running them.
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    pub config: ConfigArg,
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct GenerationsArgs {
    #[command(subcommand)]
    pub command: Option<GenerationsCommand>,
    #[command(flatten)]
    pub config: ConfigArg,
    /// Generations of this pipeline only.
    #[arg(short, long, value_name = "NAME")]
    pub pipeline: Option<String>,
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

#[derive(Debug, Subcommand)]
pub enum GenerationsCommand {
    /// Make the files here the newest generation, also where they were in use before.
    Adopt(GenerationsAdoptArgs),
}

#[derive(Debug, Args)]
pub struct GenerationsAdoptArgs {
    #[command(flatten)]
    pub config: ConfigArg,
    /// May be left out where there is only one.
    #[arg(short, long, value_name = "NAME")]
    pub pipeline: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum QuarantineCommand {
    /// List refused and held events, oldest first.
    List(QuarantineListArgs),
    /// Show one event with its original bytes.
    Show(QuarantineShowArgs),
    /// Have refused events run again, and then those that wait behind them.
    Retry(QuarantineMarkArgs),
    /// Give refused events up, so that those behind them go on.
    Discard(QuarantineMarkArgs),
}

#[derive(Debug, Args)]
pub struct QuarantineListArgs {
    #[command(flatten)]
    pub config: ConfigArg,
    /// Events of this pipeline only.
    #[arg(short, long, value_name = "NAME")]
    pub pipeline: Option<String>,
    /// Events of this key only: its value, or a JSON array where the key has several columns.
    #[arg(short, long)]
    pub key: Option<String>,
    #[arg(long)]
    pub partition: Option<i32>,
    #[arg(long, requires = "partition")]
    pub offset: Option<i64>,
    /// Events in this state only.
    #[arg(long, value_enum)]
    pub state: Option<QuarantineState>,
    /// Events to list.
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub limit: u64,
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

#[derive(Debug, Args)]
pub struct QuarantineShowArgs {
    #[command(flatten)]
    pub config: ConfigArg,
    /// May be left out where there is only one.
    #[arg(short, long, value_name = "NAME")]
    pub pipeline: Option<String>,
    #[arg(long)]
    pub partition: i32,
    #[arg(long)]
    pub offset: i64,
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// Which events `retry` and `discard` are about: all conditions given must hold.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("which").required(true).multiple(true).args(["key", "partition", "all"]))]
pub struct QuarantineMarkArgs {
    #[command(flatten)]
    pub config: ConfigArg,
    /// May be left out where there is only one.
    #[arg(short, long, value_name = "NAME")]
    pub pipeline: Option<String>,
    /// Events of this key: its value, or a JSON array where the key has several columns.
    #[arg(short, long)]
    pub key: Option<String>,
    /// Events of this partition.
    #[arg(long)]
    pub partition: Option<i32>,
    /// The event at this offset of the partition.
    #[arg(long, requires = "partition")]
    pub offset: Option<i64>,
    /// Every refused event of the pipeline.
    #[arg(long, conflicts_with_all = ["key", "partition", "offset"])]
    pub all: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum QuarantineState {
    /// Waits for a decision.
    Refused,
    /// Is to be run again.
    Retry,
    /// Waits behind a refused event of its key.
    Held,
    /// Was run again and accepted.
    Resolved,
    /// Was given up.
    Discarded,
}

#[derive(Debug, Subcommand)]
pub enum SchemaCommand {
    /// Make a schema file from events: the first version, or the next one with what the version in use doesn't know.
    Infer(SchemaInferArgs),
    /// Show what differs between two versions, and whether the newer one may follow; exit code 1 if anything differs.
    Diff(SchemaDiffArgs),
    /// Hold every version against the one before it; needs no server.
    Check(SchemaCheckArgs),
    /// Print the statements that bring the target to what the models yield, and how the server would run each; exit code 1 if there
    /// are any.
    Plan(SchemaPlanArgs),
    /// Run them.
    Apply(SchemaApplyArgs),
}

#[derive(Debug, Args)]
pub struct SchemaInferArgs {
    #[command(flatten)]
    pub config: ConfigArg,
    /// May be left out where there is only one.
    #[arg(short, long, value_name = "NAME")]
    pub pipeline: Option<String>,
    #[command(flatten)]
    pub events: EventsArgs,
    /// Write the file instead of printing it; one that is there is never overwritten.
    #[arg(long)]
    pub write: bool,
}

#[derive(Debug, Args)]
pub struct SchemaDiffArgs {
    #[command(flatten)]
    pub config: ConfigArg,
    /// May be left out where there is only one.
    #[arg(short, long, value_name = "NAME")]
    pub pipeline: Option<String>,
    /// A version's number, or a file; the one before the newest without it.
    pub older: Option<String>,
    /// A version's number, or a file; the newest one without it.
    pub newer: Option<String>,
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

#[derive(Debug, Args)]
pub struct SchemaCheckArgs {
    #[command(flatten)]
    pub config: ConfigArg,
    /// This pipeline only.
    #[arg(short, long, value_name = "NAME")]
    pub pipeline: Option<String>,
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// What may be done to the target beyond adding and widening.
#[derive(Debug, Clone, Args)]
pub struct WishArgs {
    /// Drop this column, which the models don't yield; may be given several times.
    #[arg(long, value_name = "COLUMN")]
    pub drop: Vec<String>,
    /// Rename a column instead of adding the new one; may be given several times.
    #[arg(long, value_name = "OLD=NEW", value_parser = pair)]
    pub rename: Vec<(String, String)>,
    /// Widen a text or binary column, e.g. `name=varchar(500)`; may be given several times.
    #[arg(long, value_name = "COLUMN=TYPE", value_parser = pair)]
    pub widen: Vec<(String, String)>,
}

#[derive(Debug, Args)]
pub struct SchemaPlanArgs {
    #[command(flatten)]
    pub config: ConfigArg,
    /// May be left out where there is only one.
    #[arg(short, long, value_name = "NAME")]
    pub pipeline: Option<String>,
    #[command(flatten)]
    pub wishes: WishArgs,
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

#[derive(Debug, Args)]
pub struct SchemaApplyArgs {
    #[command(flatten)]
    pub config: ConfigArg,
    /// May be left out where there is only one.
    #[arg(short, long, value_name = "NAME")]
    pub pipeline: Option<String>,
    #[command(flatten)]
    pub wishes: WishArgs,
    /// Run statements that keep writers out, too.
    #[arg(long)]
    pub allow_blocking: bool,
    /// How long each statement tries to get the table for itself. It asks for a second at a time and makes room in between.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub lock_timeout: std::time::Duration,
}

/// `a=b` as a and b.
fn pair(text: &str) -> Result<(String, String), String> {
    let (left, right) = text.split_once('=').ok_or("write it like old=new")?;
    let (left, right) = (left.trim(), right.trim());
    let is_name = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_alphanumeric() || "_()$, ".contains(c));
    if !is_name(left) || !is_name(right) {
        return Err("write it like old=new".to_owned());
    }
    Ok((left.to_owned(), right.to_owned()))
}

fn duration(text: &str) -> Result<std::time::Duration, String> {
    units::duration(text).map_err(|fault| format!("{} ({})", fault.what, fault.help))
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("where").required(true).args(["out", "topic"]))]
pub struct GenerateArgs {
    /// Events to generate.
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    pub events: u64,
    /// Users that they are about.
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    pub users: u32,
    /// Partitions to spread them over.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(i32).range(1..))]
    pub partitions: i32,
    /// The same seed makes the same events.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Share of a kind of events, e.g. `late=2%`; may be given several times.
    #[arg(long = "share", value_name = "KIND=PERCENT", value_parser = named_share)]
    pub shares: Vec<(String, f64)>,
    /// Write them to this file, one JSON object per line; `-` writes standard output.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Send them to this topic.
    #[arg(long)]
    pub topic: Option<String>,
    /// Brokers of the topic; otherwise those of the config file.
    #[arg(long, value_name = "HOST:PORT", requires = "topic")]
    pub brokers: Option<String>,
    /// Config file whose brokers and properties are used.
    #[arg(short, long, value_name = "FILE", env = "AFTERIMAGE_CONFIG", default_value = "afterimage.toml")]
    pub config: PathBuf,
    /// Events per second; as fast as possible without it.
    #[arg(long, value_name = "N", requires = "topic", value_parser = clap::value_parser!(u64).range(1..))]
    pub rate: Option<u64>,
}

#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Events to stream.
    #[arg(long, value_name = "N", default_value_t = 60_000)]
    pub events: u64,
    /// The same seed makes the same events.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Server to start; `auto` takes the first that is there.
    #[arg(long, value_enum, default_value_t = DemoServer::Auto)]
    pub server: DemoServer,
    /// Leave the servers running until Ctrl-C.
    #[arg(long)]
    pub keep: bool,
    /// Put config, models, schema and recorded events into this folder, which is made or empty, and leave the service running on
    /// it until Ctrl-C, with changes that go on trickling in.
    #[arg(long, value_name = "DIR", conflicts_with = "keep")]
    pub folder: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DemoServer {
    Auto,
    Mysql,
    Mariadb,
}

/// `late=2%` as the kind's name and a share from 0 to 1.
fn named_share(text: &str) -> Result<(String, f64), String> {
    let (name, share) = text.split_once('=').ok_or("write it like late=2%")?;
    let share = units::share(share).map_err(|fault| format!("{} ({})", fault.what, fault.help))?;
    Ok((name.trim().to_owned(), share))
}

/// Runs what the command line asks for.
pub async fn dispatch(cli: &Cli) -> Exit {
    match &cli.command {
        Command::Run(args) => run::run(args).await,
        Command::Check(args) => check::run(args).await,
        Command::Preview(args) => preview::run(args).await,
        Command::Diff(args) => diff::run(args).await,
        Command::Explain(args) => explain::run(args).await,
        Command::Migrate(args) => migrate::run(args).await,
        Command::Status(args) => status::run(args).await,
        Command::Generations(args) => generations::run(args).await,
        Command::Quarantine(command) => quarantine::run(command).await,
        Command::Schema(command) => schema::run(command).await,
        Command::Generate(args) => generate::run(args).await,
        Command::Demo(args) => demo::run(args).await,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_definitions_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn usual_lines_are_understood() {
        for line in [
            "afterimage run",
            "afterimage run --config a.toml --until-caught-up",
            "afterimage check -c a.toml --format json --online",
            "afterimage check --explain",
            "afterimage check --explain AI0118",
            "afterimage preview --pipeline users --events e.ndjson",
            "afterimage preview --topic-last 100 --partition 0 --partition 2 --online --format ndjson --model latest",
            "afterimage preview --from 90m --to 2024-05-01T12:00:00Z --out x --format parquet --batch 10",
            "afterimage diff --rev HEAD --events e.ndjson --summary",
            "afterimage diff --old queries.old --topic-last 10 --format json",
            "afterimage explain",
            "afterimage explain --events - --runs 3 --format dot",
            "afterimage migrate --dry-run",
            "afterimage status --format json",
            "afterimage generations",
            "afterimage generations --pipeline users --format json",
            "afterimage generations adopt -c a.toml --pipeline users",
            "afterimage quarantine list --state held --limit 5",
            "afterimage quarantine show --partition 0 --offset 7",
            "afterimage quarantine retry --key 123",
            "afterimage quarantine discard --partition 0 --offset 7 --pipeline users",
            "afterimage quarantine retry --all",
            "afterimage schema infer --events e.ndjson --write",
            "afterimage schema infer --topic-last 1000 --pipeline users",
            "afterimage schema diff",
            "afterimage schema diff 1 2 --format json",
            "afterimage schema check --pipeline users",
            "afterimage schema plan --drop phone --rename mail=email --widen name=varchar(500)",
            "afterimage schema apply --allow-blocking --lock-timeout 2m",
            "afterimage generate --events 10 --share late=2% --share malformed=0.5% --out -",
            "afterimage generate --topic user_cdc --brokers 127.0.0.1:9092 --rate 100",
            "afterimage demo --server mariadb --keep",
            "afterimage demo --folder playground",
        ] {
            parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }

    #[test]
    fn events_come_from_one_place() {
        for line in [
            "afterimage preview --events a --topic-last 1",
            "afterimage preview --events a --partition 1",
            "afterimage preview --topic-last 1 --from 5",
            "afterimage preview --events a --to 5",
            "afterimage preview --from yesterday",
            "afterimage preview --events a --batch 0",
            "afterimage diff --events a",
            "afterimage diff --events a --old b --rev c",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn marking_needs_to_say_which_events() {
        for line in [
            "afterimage quarantine retry",
            "afterimage quarantine discard --pipeline users",
            "afterimage quarantine discard --offset 7",
            "afterimage quarantine discard --all --key 1",
            "afterimage generate",
            "afterimage generate --out a --topic b",
            "afterimage generate --out a --share late=2",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
