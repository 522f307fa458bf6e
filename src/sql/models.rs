//! The models of a pipeline's folder and the order in which they run.
//!
//! In: a folder. Out: [`Models`], one per `*.sql` file, each parsed or with the faults that prevent it, and [`order`]: a sequence
//! in which every model comes after all that it reads. Refused: a ring of models that read each other, unknown tables.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::parse::{self, Parsed};
use crate::diagnostic::{Diagnostic, did_you_mean, has_errors};

/// The decoded batch.
pub(super) const EVENTS: &str = "events";
/// Users on hold; the engine makes it from `enriched`.
pub(super) const HELD: &str = "held";
/// What the target knew of the suspects before the batch; only for `out_of_order`.
pub(super) const KNOWN: &str = "known";

pub(super) const CHANGES: &str = "changes";
pub(super) const ENRICHED: &str = "enriched";
pub(super) const ACCEPTED: &str = "accepted";
pub(super) const LATEST: &str = "latest";
pub(super) const OUT_OF_ORDER: &str = "out_of_order";
pub(super) const METRICS: &str = "metrics";

/// Models that every pipeline must have, and what each is for.
pub(super) const REQUIRED: [(&str, &str); 4] = [
    (CHANGES, "turns events into row images, one row per change"),
    (ENRICHED, "joins lookups and sets `_error` where a row can't be used"),
    (ACCEPTED, "keeps the rows that neither failed nor wait behind a failed one"),
    (LATEST, "keeps the newest row of each key"),
];

/// One model: a file with one SELECT.
#[derive(Debug, Clone)]
pub struct Model {
    pub name: String,
    pub file: PathBuf,
    pub sql: String,
    /// `None` where the text can't be used; the faults say why.
    pub(super) parsed: Option<Parsed>,
}

impl Model {
    /// Names of the tables and models that it reads.
    pub fn reads(&self) -> impl Iterator<Item = &str> {
        self.parsed.iter().flat_map(|parsed| parsed.reads.iter().map(|read| read.name.as_str()))
    }
}

/// All models of a folder, by name.
#[derive(Debug, Clone)]
pub struct Models {
    pub dir: PathBuf,
    pub models: Vec<Model>,
}

impl Models {
    /// Reads and parses every `*.sql` file of `dir`; all faults at once.
    pub fn load(dir: &Path) -> Result<Self, Vec<Diagnostic>> {
        let (models, faults) = Self::read(dir);
        if has_errors(&faults) { Err(faults) } else { Ok(models) }
    }

    /// As [`load`](Self::load), but keeps what can be used, so that the rest can be checked too.
    pub(super) fn read(dir: &Path) -> (Self, Vec<Diagnostic>) {
        let mut faults = Vec::new();
        let mut models = Vec::new();
        for file in sql_files(dir, &mut faults) {
            let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            if let Some(fault) = bad_name(&name, &file) {
                faults.push(fault);
                continue;
            }
            let sql = match fs::read_to_string(&file) {
                Ok(sql) => sql,
                Err(error) => {
                    faults.push(Diagnostic::error("AI0101", format!("the model can't be read: {error}")).file(&file));
                    String::new()
                }
            };
            let parsed = match parse::parse(&file, &sql) {
                Ok(parsed) => Some(parsed),
                Err(more) => {
                    if !sql.is_empty() || faults.last().is_none_or(|fault| fault.code != "AI0101") {
                        faults.extend(more);
                    }
                    None
                }
            };
            models.push(Model { name, file, sql, parsed });
        }
        if !has_errors(&faults) || !models.is_empty() {
            faults.extend(missing(dir, &models));
        }
        (Self { dir: dir.to_owned(), models }, faults)
    }

    pub fn get(&self, name: &str) -> Option<&Model> {
        self.models.iter().find(|model| model.name == name)
    }

    /// Everything that `name` reads, directly or through others, `name` itself included: models and tables.
    pub(super) fn ancestry(&self, name: &str) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let mut open = vec![name.to_owned()];
        while let Some(next) = open.pop() {
            if !found.insert(next.clone()) {
                continue;
            }
            open.extend(implied(&next).map(str::to_owned));
            if let Some(model) = self.get(&next) {
                open.extend(model.reads().map(str::to_owned));
            }
        }
        found
    }
}

/// The model from which the engine makes a table of its own.
fn implied(table: &str) -> Option<&'static str> {
    match table {
        HELD => Some(ENRICHED),
        KNOWN => Some(ACCEPTED),
        _ => None,
    }
}

fn sql_files(dir: &Path, faults: &mut Vec<Diagnostic>) -> Vec<PathBuf> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) => {
            faults.push(
                Diagnostic::error("AI0101", format!("the folder of models can't be read: {error}"))
                    .file(dir)
                    .help("set `queries` of the pipeline to the folder that holds its .sql files"),
            );
            return Vec::new();
        }
    };
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.is_file() && path.extension().is_some_and(|extension| extension == "sql"))
        // Editors keep unsaved work in hidden files beside the real one.
        .filter(|path| !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.')))
        .collect();
    files.sort();
    if files.is_empty() {
        faults.push(Diagnostic::error("AI0101", "the folder holds no model (no .sql file)").file(dir));
    }
    files
}

fn bad_name(name: &str, file: &Path) -> Option<Diagnostic> {
    if [EVENTS, HELD, KNOWN].contains(&name) {
        let fault = Diagnostic::error("AI0103", format!("{name:?} is a table of the engine's own")).file(file);
        return Some(fault.help("give the model another name"));
    }
    let plain = name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_');
    let starts = name.chars().next().is_some_and(|letter| letter.is_ascii_alphabetic() || letter == '_');
    (!plain || !starts).then(|| {
        Diagnostic::error("AI0103", format!("{name:?} can't be a model's name"))
            .file(file)
            .help("other models call it by the file's name: use letters, digits and underscores")
    })
}

fn missing(dir: &Path, models: &[Model]) -> Vec<Diagnostic> {
    let names: Vec<&str> = models.iter().map(|model| model.name.as_str()).collect();
    let absent = REQUIRED.iter().filter(|(name, _)| !names.contains(name));
    absent
        .map(|(name, purpose)| {
            let fault = Diagnostic::error("AI0102", format!("the model {name:?} is missing")).file(dir);
            let strangers = names.iter().copied().filter(|other| !REQUIRED.iter().any(|(role, _)| role == other));
            match did_you_mean(name, strangers) {
                Some(alike) => fault.help(format!("{name}.sql {purpose}; is {alike}.sql meant to be it?")),
                None => fault.help(format!("add {name}.sql, which {purpose}")),
            }
        })
        .collect()
}

/// Indexes of the models that can run, each after all that it reads. A model that reads an unknown table or stands in a ring
/// is left out and reported; models behind such a one stay in (planning skips them).
pub(super) fn order(models: &Models, tables: &[&str], faults: &mut Vec<Diagnostic>) -> Vec<usize> {
    let index: BTreeMap<&str, usize> =
        models.models.iter().enumerate().map(|(index, model)| (model.name.as_str(), index)).collect();
    unknown_tables(models, tables, &index, faults);
    let mut walk = Walk {
        models,
        index: &index,
        state: vec![State::New; models.models.len()],
        path: Vec::new(),
        done: Vec::new(),
    };
    for start in 0..models.models.len() {
        walk.visit(start, faults);
    }
    walk.done
}

fn unknown_tables(models: &Models, tables: &[&str], index: &BTreeMap<&str, usize>, faults: &mut Vec<Diagnostic>) {
    for model in &models.models {
        for read in model.parsed.iter().flat_map(|parsed| &parsed.reads) {
            if tables.contains(&read.name.as_str()) || index.contains_key(read.name.as_str()) {
                continue;
            }
            let fault = Diagnostic::error("AI0107", format!("no table or model {:?}", read.name))
                .file(&model.file)
                .span(read.span);
            let known = tables.iter().copied().chain(index.keys().copied().filter(|name| *name != model.name));
            faults.push(match did_you_mean(&read.name, known.clone()) {
                Some(meant) => fault.help(format!("did you mean {meant:?}?")),
                None => fault.help(format!("there are {}", known.collect::<Vec<_>>().join(", "))),
            });
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    New,
    Open,
    Done,
    /// Stands in a ring that was reported.
    Ring,
}

/// Depth-first walk along what models read.
struct Walk<'a> {
    models: &'a Models,
    index: &'a BTreeMap<&'a str, usize>,
    state: Vec<State>,
    path: Vec<usize>,
    done: Vec<usize>,
}

impl Walk<'_> {
    fn visit(&mut self, at: usize, faults: &mut Vec<Diagnostic>) {
        match self.state[at] {
            State::Done | State::Ring => return,
            State::Open => return self.ring(at, faults),
            State::New => {}
        }
        self.state[at] = State::Open;
        self.path.push(at);
        let reads: Vec<usize> = self.models.models[at]
            .reads()
            .filter_map(|name| self.index.get(implied(name).unwrap_or(name)).copied())
            .collect();
        for read in reads {
            self.visit(read, faults);
        }
        self.path.pop();
        if self.state[at] == State::Open {
            self.state[at] = State::Done;
            self.done.push(at);
        }
    }

    fn ring(&mut self, at: usize, faults: &mut Vec<Diagnostic>) {
        let from = self.path.iter().position(|open| *open == at).unwrap_or_default();
        let ring: Vec<usize> = self.path[from..].to_vec();
        let mut text = String::new();
        for (place, member) in ring.iter().enumerate() {
            let model = &self.models.models[*member];
            let next = ring.get(place + 1).or(ring.first()).map(|next| self.models.models[*next].name.as_str());
            text.push_str(&model.name);
            text.push_str(" reads ");
            // A ring through a table of the engine's own looks like none unless the table is named.
            let through = model.reads().find(|read| implied(read).is_some() && implied(read) == next);
            if let Some(table) = through {
                text.push_str(&format!("{table}, which is made from "));
            }
            if place + 1 == ring.len() {
                text.push_str(next.unwrap_or_default());
            }
            self.state[*member] = State::Ring;
        }
        let first = &self.models.models[at];
        let next = ring.get(1).copied().unwrap_or(at);
        let wanted = &self.models.models[next].name;
        let span = first.parsed.iter().flat_map(|parsed| &parsed.reads).find_map(|read| {
            (implied(&read.name).unwrap_or(&read.name) == wanted.as_str()).then_some(read.span).flatten()
        });
        faults.push(
            Diagnostic::error("AI0108", format!("models read each other in a ring: {text}"))
                .file(&first.file)
                .span(span)
                .help("move what they share into a model that both read"),
        );
    }
}
