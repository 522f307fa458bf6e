//! `schema infer`: a schema file from events: the first version, or the next one with what the version in use doesn't know.

use std::io::Write;
use std::path::Path;

use super::gone;
use crate::cli::{Exit, SchemaInferArgs, load};
use crate::record::OwnedRecord;
use crate::schema::infer::{Inferred, infer};
use crate::schema::{self, SourceSchema};

pub(super) async fn run(args: &SchemaInferArgs) -> Result<Exit, Exit> {
    let config = load::config(&args.config.config)?;
    let pipeline = load::pipeline(&config, args.pipeline.as_deref())?;
    let source = load::events(&args.events)?;
    let known = newest(&pipeline.schemas)?;
    let records = source.read(&config, pipeline).await.map_err(|error| load::fail(&error))?;
    let payloads = records.records.iter().filter_map(|record: &OwnedRecord| record.value.as_deref());
    let inferred = infer(payloads, &pipeline.key, known.as_ref()).map_err(|error| load::fail(&error))?;
    tell(&inferred, known.as_ref());
    if inferred.added.is_empty() {
        return Ok(Exit::Done);
    }
    let path = pipeline.schemas.join(format!("{}.json", inferred.version));
    if !args.write {
        std::io::stdout().write_all(inferred.text().as_bytes()).map_err(gone)?;
        warn_user!("nothing is written: --write makes it {}", path.display());
        return Ok(Exit::Done);
    }
    write(&path, &inferred.text()).map_err(|error| load::usage(&format!("{}: {error}", path.display())))?;
    warn_user!("written: {}", path.display());
    Ok(Exit::Done)
}

/// The version in use; none where there is no file yet.
fn newest(dir: &Path) -> Result<Option<SourceSchema>, Exit> {
    if !dir.exists() {
        return Ok(None);
    }
    let faulty = |faults: Vec<_>| {
        load::show(&faults);
        Exit::Config
    };
    match schema::files(dir).map_err(faulty)?.pop() {
        Some((version, path)) => SourceSchema::read(version, &path).map(Some).map_err(faulty),
        None => Ok(None),
    }
}

/// What a person should know, on standard error: standard output is the file's.
fn tell(inferred: &Inferred, known: Option<&SourceSchema>) {
    let skipped = match inferred.skipped {
        0 => String::new(),
        count => format!(", not read as events: {count}"),
    };
    warn_user!("{} events with rows{skipped}", inferred.events);
    match (known, inferred.added.as_slice()) {
        (Some(known), []) => warn_user!("version {} knows every field", known.version),
        (Some(known), added) => warn_user!("unknown to version {}: {}", known.version, added.join(", ")),
        (None, added) => warn_user!("{} fields", added.len()),
    }
    for note in &inferred.notes {
        warn_user!("note: {note}");
    }
}

/// Makes the file; one that is there already is left alone.
fn write(path: &Path, text: &str) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut file = std::fs::File::create_new(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}
