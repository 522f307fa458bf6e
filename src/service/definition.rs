//! What a pipeline's definition consists of, and by what it is told apart.
//!
//! In: the pipeline's config and the files it names. Out: its [`Marks`], byte for byte: a comment that changes makes another definition,
//! and so does everything else that may decide what is written: the models, the newest schema file, topic, table, key, version,
//! `on_error`, timestamps' unit and skew, names and keys of lookups and the queries and topics they come from. Not: rows of lookups, tests, batch
//! sizes, addresses.

use std::path::{Path, PathBuf};

use crate::config::{LookupFrom, OnError, Pipeline};
use crate::generation::{Fingerprint, Fingerprinter, Marks};
use crate::schema;

/// The marks of the definition as its files are now. A file that can't be read counts as such: it has its fault elsewhere.
pub fn marks(pipeline: &Pipeline) -> Marks {
    let mut schema = Fingerprinter::default();
    schema.part("timestamp_unit", format!("{:?}", pipeline.timestamp_unit).as_bytes());
    schema.part("max_future_skew", format!("{:?}", pipeline.max_future_skew).as_bytes());
    match schema::files(&pipeline.schemas).ok().and_then(|mut files| files.pop()) {
        Some((version, path)) => file(&mut schema, &format!("schema {version}"), &path),
        None => schema.part("schema", b"unreadable"),
    }
    let schema = schema.finish();
    let mut whole = Fingerprinter::default();
    whole.part("schema", &schema.0);
    for (name, value) in settings(pipeline) {
        whole.part(&name, value.as_bytes());
    }
    for path in models(&pipeline.queries) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        file(&mut whole, &name, &path);
    }
    Marks { whole: whole.finish(), schema }
}

fn settings(pipeline: &Pipeline) -> Vec<(String, String)> {
    let mut settings = vec![
        ("topic".to_owned(), pipeline.topic.clone()),
        ("table".to_owned(), pipeline.table.clone()),
        ("key".to_owned(), pipeline.key.join("\n")),
        ("version".to_owned(), format!("{:?}", pipeline.version)),
        ("hold_keys".to_owned(), (pipeline.on_error == OnError::HoldKey).to_string()),
    ];
    for (name, lookup) in &pipeline.lookups {
        settings.push((format!("lookup {name}"), lookup.key.join("\n")));
        match &lookup.from {
            LookupFrom::File(_) => {}
            LookupFrom::MySql { query, .. } => settings.push((format!("query of lookup {name}"), query.clone())),
            LookupFrom::Topic { topic, columns } => {
                settings.push((format!("topic of lookup {name}"), format!("{topic}\n{columns:?}")));
            }
        }
    }
    settings
}

/// The files of the models, in order.
fn models(folder: &Path) -> Vec<PathBuf> {
    let hidden = |path: &Path| path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> =
        entries.filter(|path| !hidden(path) && path.extension().is_some_and(|it| it == "sql")).collect();
    files.sort();
    files
}

fn file(made: &mut Fingerprinter, name: &str, path: &Path) {
    match std::fs::read(path) {
        Ok(content) => made.part(name, &content),
        Err(_) => made.part(&format!("unreadable {name}"), b""),
    }
}

/// The mark of everything that is judged before a definition is taken up: the definition, older schema files, and its tests.
pub fn judged(pipeline: &Pipeline) -> Fingerprint {
    let mut made = Fingerprinter::default();
    made.part("definition", &marks(pipeline).whole.0);
    for path in watched(pipeline) {
        file(&mut made, &path.to_string_lossy(), &path);
    }
    made.finish()
}

/// Files whose change may be one of the definition or of its tests: all of them, in order.
pub fn watched(pipeline: &Pipeline) -> Vec<PathBuf> {
    let mut files = models(&pipeline.queries);
    let schemas = std::fs::read_dir(&pipeline.schemas).into_iter().flatten().flatten().map(|entry| entry.path());
    files.extend(schemas.filter(|path| path.extension().is_some_and(|it| it == "json")));
    let mut folders = vec![(tests(pipeline), 0)];
    // A symlink may lead back to where it stands.
    while let Some((folder, depth)) = folders.pop().filter(|(_, depth)| *depth < 8) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if entry.file_name().to_string_lossy().starts_with('.') {
                continue;
            }
            if path.is_dir() { folders.push((path, depth + 1)) } else { files.push(path) }
        }
    }
    files.sort();
    files
}

fn tests(pipeline: &Pipeline) -> PathBuf {
    pipeline.queries.join("tests")
}
