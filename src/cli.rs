//! The command line: subcommands and their flags. What each does is in `cli/<name>.rs`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use args::{
    DiffArgs, EventsArgs, ExplainArgs, ExplainFormat, PreviewArgs, PreviewFormat, QuarantineCommand,
    QuarantineListArgs, QuarantineMarkArgs, QuarantineShowArgs, QuarantineState, SchemaApplyArgs, SchemaCheckArgs,
    SchemaCommand, SchemaDiffArgs, SchemaInferArgs, SchemaPlanArgs, TestArgs, WishArgs,
};
pub use exit::Exit;

use crate::config::{pipeline_name_fault, units};
use crate::editor::FileKind;

mod args;
pub mod check;
pub mod completions;
pub mod demo;
pub mod diff;
mod exit;
pub mod explain;
pub mod generate;
pub mod generations;
pub mod init;
mod load;
pub mod migrate;
pub mod preview;
pub mod quarantine;
pub mod run;
pub mod schema;
mod show;
pub mod status;
pub mod test;

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
    /// Run the cases in queries/<pipeline>/tests against the models; needs no server.
    Test(TestArgs),
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
    /// Write a new pipeline from sample events: its part of the config, schema file and models.
    Init(InitArgs),
    /// Print a script that completes commands and flags in a shell.
    Completions(CompletionsArgs),
    /// Print the JSON Schema of a kind of file, for editors.
    JsonSchema(JsonSchemaArgs),
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
    #[arg(long, value_enum, default_value_t = CheckFormat::Text)]
    pub format: CheckFormat,
    /// Check again whenever a file changes, until Ctrl-C.
    #[arg(long)]
    pub watch: bool,
    /// Ask the brokers and MySQL as well: topics, privileges, the target's columns.
    #[arg(long)]
    pub online: bool,
    /// Say what a code means, with an example and what to do; without a code, list all.
    #[arg(long, value_name = "CODE", num_args = 0..=1, default_missing_value = "", conflicts_with_all = ["online", "watch"])]
    pub explain: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CheckFormat {
    /// For people.
    Text,
    /// One object: faults, how many errors and warnings, what was skipped.
    Json,
    /// SARIF 2.1.0, for code scanners.
    Sarif,
    /// Commands that GitHub's runners show beside the lines.
    Github,
}

#[derive(Debug, Args)]
pub struct InitArgs {
    #[command(flatten)]
    pub config: ConfigArg,
    /// The new pipeline's name: letters, digits, `_` and `-`.
    #[arg(value_parser = pipeline_name)]
    pub name: String,
    /// Sample events, one JSON object per line; the more, the better.
    #[arg(short, long, value_name = "FILE")]
    pub events: PathBuf,
    /// Topic to read; `<name>_cdc` without it.
    #[arg(long)]
    pub topic: Option<String>,
    /// Table to write; called like the pipeline without it.
    #[arg(long)]
    pub table: Option<String>,
    /// Field of the events that identifies a row, several separated by commas; guessed without it.
    #[arg(short, long, value_name = "FIELD", value_delimiter = ',')]
    pub key: Vec<String>,
}

#[derive(Debug, Args)]
pub struct CompletionsArgs {
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
pub struct JsonSchemaArgs {
    /// Which file it describes.
    #[arg(value_enum)]
    pub file: FileKind,
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

fn pipeline_name(text: &str) -> Result<String, String> {
    match pipeline_name_fault(text) {
        Some(fault) => Err(format!("a pipeline's name {fault}")),
        None => Ok(text.to_owned()),
    }
}

/// Runs what the command line asks for.
pub async fn dispatch(cli: &Cli) -> Exit {
    match &cli.command {
        Command::Run(args) => run::run(args).await,
        Command::Check(args) => check::run(args).await,
        Command::Preview(args) => preview::run(args).await,
        Command::Test(args) => test::run(args).await,
        Command::Diff(args) => diff::run(args).await,
        Command::Explain(args) => explain::run(args).await,
        Command::Migrate(args) => migrate::run(args).await,
        Command::Status(args) => status::run(args).await,
        Command::Generations(args) => generations::run(args).await,
        Command::Quarantine(command) => quarantine::run(command).await,
        Command::Schema(command) => schema::run(command).await,
        Command::Generate(args) => generate::run(args).await,
        Command::Init(args) => init::run(args).await,
        Command::Completions(args) => completions::run(args),
        Command::JsonSchema(args) => completions::json_schema(args),
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
            "afterimage check --watch --format github",
            "afterimage check --explain",
            "afterimage init orders --events sample.ndjson --key orderId,line --topic order_cdc",
            "afterimage completions zsh",
            "afterimage json-schema config",
            "afterimage check --explain AI0118",
            "afterimage preview --pipeline users --events e.ndjson",
            "afterimage test",
            "afterimage test key_change users/hold* --rebatch --seed 7 --junit report.xml",
            "afterimage test -p users --exact users/create --update --format json",
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
