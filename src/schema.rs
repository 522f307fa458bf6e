//! Schema files: how the source's row looks, one file per version, `schemas/<pipeline>/<version>.json`, the newest wins.
//!
//! ```json
//! {
//!   "doc": "One user as the source stores it.",
//!   "fields": [
//!     { "name": "userId", "type": "utf8", "nullable": false, "metadata": { "doc": "Primary key." } },
//!     { "name": "mail", "type": "utf8", "metadata": { "aliases": "[\"email\"]", "default": "" } }
//!   ]
//! }
//! ```
//!
//! Types: `utf8`, `int8` to `int64`, `uint8` to `uint64`, `float32`, `float64`, `boolean`, `date32`, `timestamp(s|ms|us|ns)` (UTC),
//! `decimal128(precision, scale)`, `binary` (base64). A field is nullable unless it says otherwise. Metadata are texts, as in Arrow:
//! `doc`; `aliases`, a JSON array of older names; `default`, what stands for the field in events that lack it (not in those where it
//! is null), written as in an event, text without quotes.
//!
//! Out: the row's Arrow fields. Every fault of a file is found at once, with its place (codes AI02xx).

use std::path::{Path, PathBuf};

use arrow::datatypes::{DataType, Field, Fields, TimeUnit};

use crate::diagnostic::Diagnostic;

mod read;
pub mod values;

/// The newest version of a pipeline's source row.
#[derive(Debug, Clone)]
pub struct SourceSchema {
    pub version: u32,
    /// The file it was read from.
    pub path: PathBuf,
    pub doc: Option<String>,
    /// The row's fields in the file's order, each with its metadata.
    pub fields: Fields,
    /// What events may call the fields and what stands for a missing one; parallel to `fields`.
    pub(crate) reading: Vec<Reading>,
}

/// How one field is read from events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Reading {
    pub(crate) aliases: Vec<String>,
    /// JSON text of the value that stands for a missing field.
    pub(crate) default: Option<String>,
}

impl SourceSchema {
    /// Reads the newest version in `dir`.
    pub fn load(dir: &Path) -> Result<Self, Vec<Diagnostic>> {
        let (version, path) = newest(dir)?;
        let text = std::fs::read_to_string(&path).map_err(|error| {
            vec![Diagnostic::error("AI0201", format!("the schema file can't be read: {error}")).file(&path)]
        })?;
        Self::parse(version, &path, &text)
    }

    /// Reads one version from the text of its file; `path` is for messages.
    pub fn parse(version: u32, path: &Path, text: &str) -> Result<Self, Vec<Diagnostic>> {
        read::schema(version, path, text)
    }
}

/// The version file in `dir` with the highest number.
fn newest(dir: &Path) -> Result<(u32, PathBuf), Vec<Diagnostic>> {
    let unreadable = |error: std::io::Error| {
        vec![
            Diagnostic::error("AI0201", format!("the folder of schema files can't be read: {error}"))
                .file(dir)
                .help("name the folder in the pipeline's `schemas`, or create it with a first file `1.json`"),
        ]
    };
    let mut faults = Vec::new();
    let mut newest: Option<(u32, PathBuf)> = None;
    for entry in std::fs::read_dir(dir).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        match path.file_stem().and_then(|stem| stem.to_str()).and_then(version_number) {
            Some(version) if newest.as_ref().is_none_or(|(highest, _)| version > *highest) => {
                newest = Some((version, path));
            }
            Some(_) => {}
            None => faults.push(
                Diagnostic::error("AI0202", "the name of a schema file is its version, a whole number from 1")
                    .file(&path)
                    .help("rename it, e.g. to `1.json`; the highest number is the one in use"),
            ),
        }
    }
    match newest {
        Some(newest) if faults.is_empty() => Ok(newest),
        None if faults.is_empty() => Err(vec![
            Diagnostic::error("AI0201", "the folder holds no schema file")
                .file(dir)
                .help("describe the source's row in a file `1.json`"),
        ]),
        _ => Err(faults),
    }
}

/// Versions are kept in signed 32 bits and written one way only, so that no two files have the same.
fn version_number(stem: &str) -> Option<u32> {
    let version: u32 = stem.parse().ok()?;
    (version > 0 && i32::try_from(version).is_ok() && version.to_string() == stem).then_some(version)
}

/// Names of the types, as suggestions.
const TYPES: [&str; 17] = [
    "utf8",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float32",
    "float64",
    "boolean",
    "date32",
    "timestamp(ms)",
    "timestamp(us)",
    "decimal128(18,2)",
    "binary",
];

/// What a schema file calls `data_type`.
pub fn type_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Timestamp(unit, _) => format!("timestamp({})", unit_name(*unit)),
        DataType::Decimal128(precision, scale) => format!("decimal128({precision},{scale})"),
        other => format!("{other:?}").to_lowercase(),
    }
}

fn unit_name(unit: TimeUnit) -> &'static str {
    match unit {
        TimeUnit::Second => "s",
        TimeUnit::Millisecond => "ms",
        TimeUnit::Microsecond => "us",
        TimeUnit::Nanosecond => "ns",
    }
}

/// The type that a schema file calls `name`; otherwise what to write instead.
pub(crate) fn type_named(name: &str) -> Result<DataType, String> {
    let simple = match name {
        "utf8" => DataType::Utf8,
        "int8" => DataType::Int8,
        "int16" => DataType::Int16,
        "int32" => DataType::Int32,
        "int64" => DataType::Int64,
        "uint8" => DataType::UInt8,
        "uint16" => DataType::UInt16,
        "uint32" => DataType::UInt32,
        "uint64" => DataType::UInt64,
        "float32" => DataType::Float32,
        "float64" => DataType::Float64,
        "boolean" => DataType::Boolean,
        "date32" => DataType::Date32,
        "binary" => DataType::Binary,
        _ => return parametrized(name),
    };
    Ok(simple)
}

fn parametrized(name: &str) -> Result<DataType, String> {
    let (base, parameters) = match name.strip_suffix(')').and_then(|name| name.split_once('(')) {
        Some((base, parameters)) => (base.trim(), parameters.split(',').map(str::trim).collect()),
        None => (name, Vec::new()),
    };
    match (base, parameters.as_slice()) {
        ("timestamp", [unit]) => {
            let unit = match *unit {
                "s" => TimeUnit::Second,
                "ms" => TimeUnit::Millisecond,
                "us" => TimeUnit::Microsecond,
                "ns" => TimeUnit::Nanosecond,
                _ => return Err("the unit is one of s, ms, us, ns".to_owned()),
            };
            Ok(DataType::Timestamp(unit, Some("UTC".into())))
        }
        ("timestamp", _) => {
            Err("write the unit too: timestamp(s), timestamp(ms), timestamp(us) or timestamp(ns)".to_owned())
        }
        ("decimal128", [precision, scale]) => match (precision.parse::<u8>(), scale.parse::<i8>()) {
            (Ok(precision @ 1..=38), Ok(scale)) if scale >= 0 && scale as u8 <= precision => {
                Ok(DataType::Decimal128(precision, scale))
            }
            _ => Err("the precision is 1 to 38, the scale 0 to the precision".to_owned()),
        },
        ("decimal128", _) => Err("write precision and scale too, e.g. decimal128(18,2)".to_owned()),
        _ => {
            let candidate = suggestion(base);
            Err(match candidate {
                Some(candidate) => format!("did you mean \"{candidate}\"?"),
                None => format!("the types are {}", TYPES.join(", ")),
            })
        }
    }
}

/// The type meant by another system's name for it, or by a slip of the pen.
fn suggestion(name: &str) -> Option<&'static str> {
    match name.to_lowercase().as_str() {
        "string" | "varchar" | "char" | "text" | "str" | "largeutf8" => Some("utf8"),
        "int" | "integer" => Some("int32"),
        "bigint" | "long" => Some("int64"),
        "smallint" | "short" => Some("int16"),
        "tinyint" | "byte" => Some("int8"),
        "double" => Some("float64"),
        "float" | "real" => Some("float32"),
        "bool" => Some("boolean"),
        "date" => Some("date32"),
        "datetime" | "time" | "timestamptz" => Some("timestamp(ms)"),
        "decimal" | "numeric" => Some("decimal128(18,2)"),
        "bytes" | "blob" | "varbinary" => Some("binary"),
        other => crate::diagnostic::did_you_mean(other, TYPES),
    }
}

/// The fields as they stand inside a row image: all nullable, because the image itself may be absent.
pub fn image_fields(schema: &SourceSchema) -> Fields {
    schema.fields.iter().map(|field| Field::clone(field).with_nullable(true)).collect()
}

#[cfg(test)]
mod tests;
