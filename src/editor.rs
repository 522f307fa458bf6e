//! JSON Schemas (draft 2020-12) of the files that people write, so that editors complete and check them while they are written.
//!
//! Made from the tables that the readers follow. They are kept in `docs/json-schema/`, where the shipped files name them; a test
//! keeps those copies current.

use clap::ValueEnum;
use serde_json::Value;

use crate::workbench::fixture;

mod config;
mod schema;

/// A kind of file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FileKind {
    /// `afterimage.toml`
    Config,
    /// `schemas/<pipeline>/<version>.json`
    Schema,
    /// `queries/<pipeline>/tests/*.yaml`
    Fixture,
}

impl FileKind {
    pub const ALL: [Self; 3] = [Self::Config, Self::Schema, Self::Fixture];

    /// The name of its schema's file.
    pub fn file_name(self) -> &'static str {
        match self {
            Self::Config => "config.json",
            Self::Schema => "schema.json",
            Self::Fixture => "fixture.json",
        }
    }
}

pub fn json_schema(kind: FileKind) -> Value {
    match kind {
        FileKind::Config => config::json_schema(),
        FileKind::Schema => schema::json_schema(),
        FileKind::Fixture => fixture::json_schema(),
    }
}

/// The schema's text, as it stands in a file.
pub fn text(kind: FileKind) -> String {
    format!("{:#}\n", json_schema(kind))
}

#[cfg(test)]
mod tests;
