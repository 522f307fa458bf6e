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
//! `decimal128(precision, scale)`, `binary` (base64), `json` (whatever it is, kept as its text), `struct` with its `fields`, `list`
//! with its `items`. A field is nullable unless it says otherwise. Metadata are texts, as in Arrow: `doc`; `aliases`, a JSON array of
//! older names; `default`, what stands for the field in events that lack it (not in those where it is null), written as in an event,
//! text without quotes. `breaking` lists what this version takes away on purpose ([`compat`]); `$schema` is for editors.
//!
//! Out: the row's Arrow fields. Every fault of a file is found at once, with its place (codes AI02xx).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields};

use crate::diagnostic::{Diagnostic, Span};

pub mod compat;
pub mod infer;
mod read;
mod types;
pub mod values;
pub mod write;

pub(crate) use read::{FIELD_KEYS, FILE_KEYS, ITEM_KEYS, METADATA};
pub(crate) use types::{TYPES, type_named};
pub use types::{as_json, is_json, type_name, type_of};

/// The newest version of a pipeline's source row.
#[derive(Debug, Clone)]
pub struct SourceSchema {
    pub version: u32,
    /// The file it was read from.
    pub path: PathBuf,
    pub doc: Option<String>,
    /// The file's `$schema`: where editors find what such files may hold.
    pub editor: Option<String>,
    /// The row's fields in the file's order, each with its metadata.
    pub fields: Fields,
    /// What events may call the fields and what stands for a missing one; parallel to `fields`.
    pub(crate) reading: Vec<Reading>,
    /// What the file says it takes away on purpose.
    pub breaking: Vec<Breaking>,
    /// Where each field's name stands in the file, by path: `address.zip`, `lines[].sku`.
    pub(crate) places: BTreeMap<String, Span>,
}

/// One entry of `breaking`: `drop phone: the product is gone`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breaking {
    pub verb: Verb,
    /// Path of the field.
    pub field: String,
    pub reason: String,
    pub span: Option<Span>,
}

/// What a newer version may take away from an older one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    /// The field is gone.
    Drop,
    /// Its type holds less than before.
    Narrow,
    /// Its type is another one.
    Retype,
    /// It may no longer be null or missing.
    Require,
    /// A name that events used for it is gone.
    Unalias,
    /// What stands for it in events that lack it is another value.
    Redefault,
}

impl Verb {
    pub const ALL: [Self; 6] = [Self::Drop, Self::Narrow, Self::Retype, Self::Require, Self::Unalias, Self::Redefault];

    pub fn name(self) -> &'static str {
        match self {
            Self::Drop => "drop",
            Self::Narrow => "narrow",
            Self::Retype => "retype",
            Self::Require => "require",
            Self::Unalias => "unalias",
            Self::Redefault => "redefault",
        }
    }
}

/// How one field is read from events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Reading {
    pub(crate) aliases: Vec<String>,
    /// JSON text of the value that stands for a missing field.
    pub(crate) default: Option<String>,
    /// The same for what is inside: of a struct its fields, of a list its items alone.
    pub(crate) inner: Vec<Reading>,
}

impl Reading {
    /// Whether it, or anything inside of it, has a default.
    fn has_default(&self) -> bool {
        self.default.is_some() || self.inner.iter().any(Self::has_default)
    }
}

impl SourceSchema {
    /// Reads the newest version in `dir`.
    pub fn load(dir: &Path) -> Result<Self, Vec<Diagnostic>> {
        let Some((version, path)) = files(dir)?.pop() else {
            return Err(vec![
                Diagnostic::error("AI0201", "the folder holds no schema file")
                    .file(dir)
                    .help("describe the source's row in a file `1.json`"),
            ]);
        };
        Self::read(version, &path)
    }

    /// Reads every version in `dir`, the oldest first; every fault of every file at once.
    pub fn load_all(dir: &Path) -> Result<Vec<Self>, Vec<Diagnostic>> {
        let (mut schemas, mut faults) = (Vec::new(), Vec::new());
        for (version, path) in files(dir)? {
            match Self::read(version, &path) {
                Ok(schema) => schemas.push(schema),
                Err(more) => faults.extend(more),
            }
        }
        if faults.is_empty() { Ok(schemas) } else { Err(faults) }
    }

    /// Reads one version from its file.
    pub fn read(version: u32, path: &Path) -> Result<Self, Vec<Diagnostic>> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            vec![Diagnostic::error("AI0201", format!("the schema file can't be read: {error}")).file(path)]
        })?;
        Self::parse(version, path, &text)
    }

    /// Reads one version from the text of its file; `path` is for messages.
    pub fn parse(version: u32, path: &Path, text: &str) -> Result<Self, Vec<Diagnostic>> {
        read::schema(version, path, text)
    }
}

/// The version files in `dir` with their numbers, ascending; none where there are none.
pub fn files(dir: &Path) -> Result<Vec<(u32, PathBuf)>, Vec<Diagnostic>> {
    let unreadable = |error: std::io::Error| {
        vec![
            Diagnostic::error("AI0201", format!("the folder of schema files can't be read: {error}"))
                .file(dir)
                .help("name the folder in the pipeline's `schemas`, or create it with a first file `1.json`"),
        ]
    };
    let (mut found, mut faults) = (Vec::new(), Vec::new());
    for entry in std::fs::read_dir(dir).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        match path.file_stem().and_then(|stem| stem.to_str()).and_then(version_number) {
            Some(version) => found.push((version, path)),
            None => faults.push(
                Diagnostic::error("AI0202", "the name of a schema file is its version, a whole number from 1")
                    .file(&path)
                    .help("rename it, e.g. to `1.json`; the highest number is the one in use"),
            ),
        }
    }
    found.sort_unstable();
    if faults.is_empty() { Ok(found) } else { Err(faults) }
}

/// Versions are kept in signed 32 bits and written one way only, so that no two files have the same.
fn version_number(stem: &str) -> Option<u32> {
    let version: u32 = stem.parse().ok()?;
    (version > 0 && i32::try_from(version).is_ok() && version.to_string() == stem).then_some(version)
}

/// The fields as they stand inside a row image: all nullable, at every depth, because the image itself, or the struct around a
/// field, may be absent. Which of them may not be null where their parent is there is the decoder's to enforce.
pub fn image_fields(schema: &SourceSchema) -> Fields {
    schema.fields.iter().map(|field| nullable(field)).collect()
}

/// `field`, and whatever is inside of it, as it stands in an image.
pub(crate) fn nullable(field: &Field) -> Field {
    let data_type = match field.data_type() {
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(|field| nullable(field)).collect()),
        DataType::List(items) => DataType::List(Arc::new(nullable(items))),
        other => other.clone(),
    };
    Field::clone(field).with_data_type(data_type).with_nullable(true)
}

#[cfg(test)]
mod tests;
