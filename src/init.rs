//! `init`: a new pipeline from sample events: its section of the config, schema file and models.
//!
//! In: a name and a file of events. Out: a [`Plan`], files that don't exist yet and a section to append, which together pass `check`:
//! that is tried before anything is written. Nothing that is there is changed but for what is appended to the config.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use arrow::datatypes::{DataType, Field};

use crate::check;
use crate::diagnostic::{Diagnostic, Severity, did_you_mean};
use crate::editor::{self, FileKind};
use crate::error::{Error, Kind, Result};
use crate::generate::read_events_file;
use crate::record::OwnedRecord;
use crate::schema::{self, infer};

mod config;
mod fixture;
mod key;
mod models;
mod names;

#[cfg(test)]
mod tests;

/// What somebody asks for.
#[derive(Debug, Clone)]
pub struct Wish {
    pub name: String,
    /// Sample events, one JSON object per line.
    pub events: PathBuf,
    /// `<name>_cdc` unless given.
    pub topic: Option<String>,
    /// The name unless given.
    pub table: Option<String>,
    /// Fields of the source that identify a row; guessed where there are none.
    pub key: Vec<String>,
    pub config: PathBuf,
}

/// One column of the new table.
#[derive(Debug, Clone)]
struct Column {
    /// The source's field.
    field: String,
    name: String,
    is_key: bool,
}

/// What would be written.
#[derive(Debug)]
pub struct Plan {
    pub config: PathBuf,
    /// To be appended to the config; the whole of it where there is none.
    pub section: String,
    pub config_exists: bool,
    /// New files.
    pub files: Vec<(PathBuf, String)>,
    /// The key, as it was found.
    pub key: String,
    /// What a person should look at.
    pub notes: Vec<String>,
}

/// Where the JSON Schemas for editors are put, beside the config.
const EDITOR_FOLDER: &str = "json-schema";

/// Works out the new pipeline and tries it; writes nothing.
pub async fn plan(wish: &Wish) -> Result<Plan> {
    let root = wish.config.parent().unwrap_or(Path::new("")).to_owned();
    let records = read_events_file(&wish.events, 1_000)?;
    let existing = config::existing(&wish.config, &wish.name)?;
    let sample = key::Sample::new(&records);
    let mut notes = Vec::new();
    let (schema, columns, key) = rows(wish, &records, &sample, &mut notes)?;
    let attempts: [fn(&DataType) -> bool; 2] = [|_| true, |kind| !kind.is_nested()];
    let mut faults = Vec::new();
    for keep in attempts {
        let kept = |column: &&Column| {
            schema.fields.iter().any(|field| *field.name() == column.field && keep(field.data_type()))
        };
        let chosen: Vec<Column> = columns.iter().filter(kept).cloned().collect();
        let left_out: Vec<String> =
            columns.iter().filter(|column| !kept(column)).map(|column| column.field.clone()).collect();
        let section = config::section(wish, &chosen, sample.timestamp_unit());
        let mut files = files(wish, &schema, &chosen);
        let trial = try_out(wish, &records, &section, &files).await?;
        faults = trial.faults;
        if faults.is_empty() {
            match trial.case {
                Some(case) => files.push((case_file(wish), case)),
                None => notes.push("no test was written: what the sample comes to can't be written down".to_owned()),
            }
            if !left_out.is_empty() {
                notes.push(format!("left out of the models, because they hold other values: {}", left_out.join(", ")));
            }
            return finished(wish, &root, existing, section, files, key, notes);
        }
    }
    let faults: Vec<String> = faults.iter().map(|fault| format!("[{}] {}", fault.code, fault.message)).collect();
    let what = format!("the new pipeline would not pass `check`: {}", faults.join("; "));
    Err(Error::new(Kind::Bug, what).remedy("nothing was written; please report it with the sample"))
}

/// The schema, the columns that follow from it, and the key in words.
fn rows(
    wish: &Wish,
    records: &[OwnedRecord],
    sample: &key::Sample,
    notes: &mut Vec<String>,
) -> Result<(infer::Inferred, Vec<Column>, String)> {
    let payloads = records.iter().filter_map(|record| record.value.as_deref());
    let mut schema = infer::infer(payloads, &[], None)?;
    notes.append(&mut schema.notes);
    if schema.skipped > 0 {
        notes.push(format!("{} of the events have no row and were left out", schema.skipped));
    }
    let nameless = schema.fields.iter().filter(|field| field.name().is_empty()).count();
    if nameless > 0 {
        notes.push("a field without a name was left out".to_owned());
    }
    let fields: Vec<&Field> =
        schema.fields.iter().map(AsRef::as_ref).filter(|field| !field.name().is_empty()).collect();
    let (keys, guessed) = key::of(&wish.key, &wish.name, &fields, sample)?;
    let mut columns: Vec<Column> = Vec::new();
    for field in &fields {
        let taken: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
        let name = names::column(field.name(), &taken);
        columns.push(Column { field: field.name().clone(), name, is_key: keys.contains(field.name()) });
    }
    // The key comes first, in the order in which it was named.
    columns.sort_by_key(|column| keys.iter().position(|key| *key == column.field).unwrap_or(keys.len()));
    let shown: Vec<String> = keys.clone();
    let key = match guessed {
        true => format!("{} (guessed; --key says otherwise)", shown.join(", ")),
        false => shown.join(", "),
    };
    let marked = fields.iter().map(|field| match keys.contains(field.name()) {
        true => Field::clone(field).with_nullable(false),
        false => Field::clone(field),
    });
    schema.fields = marked.collect::<Vec<_>>().into();
    Ok((schema, columns, key))
}

/// The new files, relative to the config.
fn files(wish: &Wish, schema: &infer::Inferred, columns: &[Column]) -> Vec<(PathBuf, String)> {
    let editor = format!("../../{EDITOR_FOLDER}/{}", FileKind::Schema.file_name());
    let schema = schema.clone().with_editor(editor).text();
    let mut files = vec![(Path::new("schemas").join(&wish.name).join("1.json"), schema)];
    let queries = Path::new("queries").join(&wish.name);
    files.extend(models::all(&wish.name, columns).map(|(model, sql)| (queries.join(format!("{model}.sql")), sql)));
    files
}

/// What came of trying the new pipeline by itself.
struct Trial {
    faults: Vec<Diagnostic>,
    /// Its first test, which passes.
    case: Option<String>,
}

fn case_file(wish: &Wish) -> PathBuf {
    Path::new("queries").join(&wish.name).join("tests/first.yaml")
}

async fn try_out(wish: &Wish, records: &[OwnedRecord], section: &str, files: &[(PathBuf, String)]) -> Result<Trial> {
    let failed =
        |error| Error::new(Kind::Config, "the new pipeline can't be tried in a temporary folder").source(error);
    let dir = tempdir().map_err(failed)?;
    let written = files.iter().try_for_each(|(path, text)| create(&dir.0.join(path), text));
    written.map_err(failed)?;
    let path = dir.0.join("afterimage.toml");
    create(&path, &format!("{}{section}", config::HEAD)).map_err(failed)?;
    let report = check::files(&path, &|_| None).await;
    let faults: Vec<Diagnostic> = report.faults.into_iter().filter(|fault| fault.severity == Severity::Error).collect();
    let case = match fixture::blank(records) {
        Some(blank) if faults.is_empty() => {
            let file = dir.0.join(case_file(wish));
            create(&file, &blank).map_err(failed)?;
            fixture::filled(&path, &file).await
        }
        _ => None,
    };
    Ok(Trial { faults, case })
}

/// A folder of our own that goes when this is dropped.
struct TempDir(PathBuf);

impl Drop for TempDir {
    fn drop(&mut self) {
        // What is left behind is the system's to clean up.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn tempdir() -> std::io::Result<TempDir> {
    let token: u64 = rand::RngExt::random(&mut rand::rng());
    let path = std::env::temp_dir().join(format!("afterimage-init-{token:016x}"));
    std::fs::create_dir(&path)?;
    Ok(TempDir(path))
}

fn finished(
    wish: &Wish,
    root: &Path,
    existing: Option<String>,
    section: String,
    files: Vec<(PathBuf, String)>,
    key: String,
    notes: Vec<String>,
) -> Result<Plan> {
    let mut files: Vec<(PathBuf, String)> = files.into_iter().map(|(path, text)| (root.join(path), text)).collect();
    let there: Vec<String> =
        files.iter().filter(|(path, _)| path.exists()).map(|(path, _)| path.display().to_string()).collect();
    if !there.is_empty() {
        return Err(Error::new(Kind::Config, format!("{} is there already", there.join(", ")))
            .remedy("init overwrites nothing: choose another name, or move it away"));
    }
    for kind in FileKind::ALL {
        let path = root.join(EDITOR_FOLDER).join(kind.file_name());
        if !path.exists() {
            files.push((path, editor::text(kind)));
        }
    }
    let config_exists = existing.is_some();
    let section = match existing {
        Some(text) => config::appended(&wish.config, &text, &section)?,
        None => format!("#:schema ./{EDITOR_FOLDER}/{}\n{}{section}", FileKind::Config.file_name(), config::HEAD),
    };
    Ok(Plan { config: wish.config.clone(), section, config_exists, files, key, notes })
}

/// Writes what is planned; the config comes last, so that a pipeline is never named whose files aren't there.
pub fn write(plan: &Plan) -> Result<()> {
    for (path, text) in &plan.files {
        create(path, text).map_err(|error| unwritten(path, error))?;
    }
    let config = &plan.config;
    match plan.config_exists {
        true => std::fs::OpenOptions::new()
            .append(true)
            .open(config)
            .and_then(|mut file| file.write_all(plan.section.as_bytes())),
        false => create(config, &plan.section),
    }
    .map_err(|error| unwritten(config, error))
}

fn unwritten(path: &Path, error: std::io::Error) -> Error {
    Error::new(Kind::Config, format!("can't write {}", path.display()))
        .remedy("what was written before it is there; remove it before another try")
        .source(error)
}

/// Writes a file that must not be there yet, with the folders above it.
fn create(path: &Path, text: &str) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all(text.as_bytes())
}

/// Fields that can be a key, as a refusal lists them.
fn listed(names: &[&str]) -> String {
    if names.is_empty() { "none can be one".to_owned() } else { names.join(", ") }
}

fn no_such_field(name: &str, names: &[&str]) -> Error {
    let remedy = match did_you_mean(name, names.iter().copied()) {
        Some(meant) => format!("did you mean {meant}?"),
        None => format!("the fields are {}", listed(names)),
    };
    Error::new(Kind::Config, format!("no event has a field {name:?}")).remedy(remedy)
}

/// Whether a field of the source's schema can tell rows apart.
fn can_be_key(field: &Field) -> bool {
    let kind = field.data_type();
    let scalar = kind.is_integer()
        || matches!(kind, DataType::Utf8 | DataType::Date32 | DataType::Timestamp(..) | DataType::Decimal128(..));
    scalar && !schema::is_json(field)
}
