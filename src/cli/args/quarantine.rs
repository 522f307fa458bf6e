//! Flags of `quarantine`.

use clap::{Args, Subcommand, ValueEnum};

use super::super::{ConfigArg, Format};

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
