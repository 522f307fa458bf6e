//! Flags of `schema`.

use clap::{Args, Subcommand};

use super::super::{ConfigArg, Format};
use super::EventsArgs;
use crate::config::units;

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
