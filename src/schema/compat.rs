//! Compatibility of schema versions, file to file: may the newer one read what was written under the older one?
//!
//! In: two versions. Out: what is different, field by field in the newer file's order, with a verdict for each; and, for what the newer
//! one takes away without saying so in its `breaking`, a fault with its place (AI022x). Adding a field that may be missing, widening a
//! type so that every value stays the same one, and renaming with an alias are fine. Everything else is refused, because events of the
//! older kind stand in the topic and would be refused one by one, or mean something else.

use std::path::Path;

use arrow::datatypes::{DataType, Field};

use super::read::join;
use super::{Breaking, Reading, SourceSchema, Verb, files, is_json, type_of};
use crate::diagnostic::Diagnostic;

/// One difference between two versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Path of the field: in the newer version, or in the older one where it is gone.
    pub field: String,
    pub change: Change,
    pub verdict: Verdict,
}

/// What happened to a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Added,
    Gone,
    /// From its older name, which is an alias now.
    Renamed(String),
    /// Its type, by name.
    Retyped(String, String),
    /// May it be null?
    Nullable(bool),
    /// A name that events may use for it is new, or gone.
    Alias(String, bool),
    /// What stands for it where it is missing; JSON text.
    Default(Option<String>, Option<String>),
    Doc,
}

/// Whether older events are still read as they were.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// They are; why, where it isn't plain.
    Fine(&'static str),
    /// They aren't, and `breaking` says so, for this reason.
    OnPurpose(Verb, String),
    /// They aren't, and nothing says that this is meant.
    Breaking(Verb, &'static str),
}

impl Difference {
    /// Whether the newer version may not be used.
    pub fn is_breaking(&self) -> bool {
        matches!(self.verdict, Verdict::Breaking(..))
    }
}

/// Everything that differs, the newer version's fields first, in its order.
pub fn differences(older: &SourceSchema, newer: &SourceSchema) -> Vec<Difference> {
    let mut compared = Comparison { breaking: &newer.breaking, found: Vec::new() };
    let row = Part { fields: &older.fields, readings: &older.reading };
    compared.members(row, Part { fields: &newer.fields, readings: &newer.reading }, "", "");
    compared.found
}

/// The faults of `newer` as a successor of `older`: what it takes away without a word, and words that nothing answers to.
pub fn faults(older: &SourceSchema, newer: &SourceSchema) -> Vec<Diagnostic> {
    let found = differences(older, newer);
    let mut faults = Vec::new();
    for difference in &found {
        let Verdict::Breaking(verb, why) = &difference.verdict else { continue };
        let what = format!("version {} {}: {why}", newer.version, told(difference, older.version));
        let place = newer.places.get(&difference.field).copied();
        let help = format!(
            "{}, or say that it is meant: \"breaking\": [\"{} {}: <why>\"]",
            remedy(difference),
            verb.name(),
            difference.field
        );
        faults.push(Diagnostic::error(code(*verb), what).file(&newer.path).span(place).help(help));
    }
    for entry in &newer.breaking {
        let used = |difference: &Difference| {
            difference.field == entry.field
                && matches!(&difference.verdict, Verdict::OnPurpose(verb, _) if *verb == entry.verb)
        };
        if !found.iter().any(used) {
            let what = format!(
                "`breaking` says {} {}, which version {} doesn't do",
                entry.verb.name(),
                entry.field,
                newer.version
            );
            let help = format!(
                "take the entry out, or correct it; `afterimage schema diff {} {}` shows what differs",
                older.version, newer.version
            );
            faults.push(Diagnostic::warning("AI0227", what).file(&newer.path).span(entry.span).help(help));
        }
    }
    faults
}

/// The faults of all versions in `dir`, each as the successor of the one before it; gaps in their numbers are warned about.
pub fn check(dir: &Path) -> Vec<Diagnostic> {
    let versions = match SourceSchema::load_all(dir) {
        Ok(versions) => versions,
        Err(faults) => return faults,
    };
    let mut found = Vec::new();
    if let Some(first) = versions.first().filter(|first| !first.breaking.is_empty()) {
        let what = format!("`breaking` in version {}, before which there is none", first.version);
        let span = first.breaking.first().and_then(|entry| entry.span);
        found.push(Diagnostic::warning("AI0227", what).file(&first.path).span(span).help("take it out"));
    }
    for pair in versions.windows(2) {
        let [older, newer] = pair else { continue };
        if older.version.checked_add(1) != Some(newer.version) {
            let what = format!("no version between {} and {}", older.version, newer.version);
            let help = "versions are numbered one by one, so that a missing file is noticed: rename it, or bring the missing one back";
            found.push(Diagnostic::warning("AI0228", what).file(&newer.path).help(help));
        }
        found.extend(faults(older, newer));
    }
    found
}

/// The version called `name`: a number of one in `dir`, or a path of its own.
pub fn version_called(name: &str, dir: &Path) -> Result<SourceSchema, Vec<Diagnostic>> {
    if let Ok(number) = name.parse::<u32>() {
        let known = files(dir)?;
        if let Some((version, path)) = known.iter().find(|(version, _)| *version == number) {
            return SourceSchema::read(*version, path);
        }
        let there: Vec<String> = known.iter().map(|(version, _)| version.to_string()).collect();
        let what = format!("there is no version {number}");
        let help =
            if there.is_empty() { "the folder is empty".to_owned() } else { format!("there are {}", there.join(", ")) };
        return Err(vec![Diagnostic::error("AI0201", what).file(dir).help(help)]);
    }
    let path = Path::new(name);
    let version = path.file_stem().and_then(|stem| stem.to_str()).and_then(super::version_number).unwrap_or(1);
    SourceSchema::read(version, path)
}

fn code(verb: Verb) -> &'static str {
    match verb {
        Verb::Drop => "AI0220",
        Verb::Narrow => "AI0221",
        Verb::Retype => "AI0222",
        Verb::Require => "AI0223",
        Verb::Unalias => "AI0224",
        Verb::Redefault => "AI0225",
    }
}

/// What the newer version does, as the rest of a sentence.
fn told(difference: &Difference, older: u32) -> String {
    let field = &difference.field;
    match &difference.change {
        Change::Added => format!("adds `{field}`"),
        Change::Gone => format!("lacks `{field}` of version {older}"),
        Change::Renamed(from) => format!("renames `{from}` to `{field}`"),
        Change::Retyped(from, to) => format!("makes `{field}` {to}, which was {from}"),
        Change::Nullable(true) => format!("lets `{field}` be null"),
        Change::Nullable(false) => format!("wants `{field}` to be never null"),
        Change::Alias(name, true) => format!("calls `{field}` {name} too"),
        Change::Alias(name, false) => format!("no longer knows `{field}` as {name}"),
        Change::Default(..) => format!("has another default for `{field}`"),
        Change::Doc => format!("describes `{field}` anew"),
    }
}

/// What to do about a breaking difference.
fn remedy(difference: &Difference) -> &'static str {
    match &difference.change {
        Change::Gone => "keep it, or name the field that it became with `aliases`",
        Change::Added => "let it be null, or give it a `default`",
        Change::Nullable(_) => "leave it nullable, or give it a `default`",
        Change::Alias(..) => "keep the alias",
        Change::Default(..) => "keep the default",
        _ => "keep the type, or take a wider one",
    }
}

/// Fields at one place of a version.
#[derive(Clone, Copy)]
struct Part<'s> {
    fields: &'s [std::sync::Arc<Field>],
    readings: &'s [Reading],
}

impl<'s> Part<'s> {
    fn iter(self) -> impl Iterator<Item = (&'s Field, &'s Reading)> {
        self.fields.iter().map(|field| &**field).zip(self.readings)
    }
}

struct Comparison<'s> {
    breaking: &'s [Breaking],
    found: Vec<Difference>,
}

impl Comparison<'_> {
    fn fine(&mut self, field: &str, change: Change, why: &'static str) {
        self.found.push(Difference { field: field.to_owned(), change, verdict: Verdict::Fine(why) });
    }

    /// Something that is refused unless `breaking` names it.
    fn breaks(&mut self, field: &str, change: Change, verb: Verb, why: &'static str) {
        let said = self.breaking.iter().find(|entry| entry.verb == verb && entry.field == field);
        let verdict = match said {
            Some(entry) => Verdict::OnPurpose(verb, entry.reason.clone()),
            None => Verdict::Breaking(verb, why),
        };
        self.found.push(Difference { field: field.to_owned(), change, verdict });
    }

    /// The row, or the members of a struct that both versions have.
    fn members(&mut self, older: Part<'_>, newer: Part<'_>, older_path: &str, path: &str) {
        let mut met: Vec<&str> = Vec::new();
        for (field, reading) in newer.iter() {
            let at = join(path, field.name());
            // Events of the older kind use the older name first of all.
            let names = std::iter::once(field.name()).chain(&reading.aliases);
            let before = names.filter_map(|name| older.iter().find(|(other, _)| other.name() == name)).next();
            match before {
                Some((other, other_reading)) => {
                    met.push(other.name());
                    let older_at = join(older_path, other.name());
                    if other.name() != field.name() {
                        self.fine(&at, Change::Renamed(older_at.clone()), "older events use the alias");
                    }
                    self.aliases(&at, (other, other_reading), (field, reading));
                    self.field((other, other_reading), (field, reading), &older_at, &at);
                }
                None if !field.is_nullable() && reading.default.is_none() => {
                    let why = "older events lack it, and it may be neither null nor missing";
                    self.breaks(&at, Change::Added, Verb::Require, why);
                }
                None => self.fine(&at, Change::Added, ""),
            }
        }
        for (field, _) in older.iter().filter(|(field, _)| !met.contains(&field.name().as_str())) {
            let why = "older and newer events that carry it lose it";
            self.breaks(&join(older_path, field.name()), Change::Gone, Verb::Drop, why);
        }
    }

    /// One field in both versions.
    fn field(&mut self, older: (&Field, &Reading), newer: (&Field, &Reading), older_path: &str, path: &str) {
        let ((older, was), (newer, is)) = (older, newer);
        self.types((older, was), (newer, is), older_path, path);
        match (older.is_nullable(), newer.is_nullable()) {
            (true, false) => {
                let why = "older events may hold a null there";
                self.breaks(path, Change::Nullable(false), Verb::Require, why);
            }
            (false, true) => self.fine(path, Change::Nullable(true), ""),
            _ => {}
        }
        if was.default != is.default {
            let change = Change::Default(was.default.clone(), is.default.clone());
            if was.default.is_none() {
                self.fine(path, change, "where older events lacked it there was no value");
            } else {
                self.breaks(path, change, Verb::Redefault, "events that lack it meant the older one");
            }
        }
        if older.metadata().get("doc") != newer.metadata().get("doc") {
            self.fine(path, Change::Doc, "");
        }
    }

    fn aliases(&mut self, path: &str, older: (&Field, &Reading), newer: (&Field, &Reading)) {
        let ((older, was), (newer, is)) = (older, newer);
        let known_before = |name: &String| older.name() == name || was.aliases.contains(name);
        for name in is.aliases.iter().filter(|name| !known_before(name)) {
            self.fine(path, Change::Alias(name.clone(), true), "");
        }
        let known_now = |name: &String| newer.name() == name || is.aliases.contains(name);
        for name in was.aliases.iter().filter(|name| !known_now(name)) {
            let why = "events that use it would lose the field";
            self.breaks(path, Change::Alias(name.clone(), false), Verb::Unalias, why);
        }
    }

    fn types(&mut self, older: (&Field, &Reading), newer: (&Field, &Reading), older_path: &str, path: &str) {
        let ((older, was), (newer, is)) = (older, newer);
        match (older.data_type(), newer.data_type()) {
            (DataType::Struct(old), DataType::Struct(new)) => {
                let old = Part { fields: old, readings: &was.inner };
                self.members(old, Part { fields: new, readings: &is.inner }, older_path, path);
            }
            (DataType::List(old), DataType::List(new)) => {
                let nothing = Reading::default();
                let old_reading = was.inner.first().unwrap_or(&nothing);
                let new_reading = is.inner.first().unwrap_or(&nothing);
                let (older_path, path) = (format!("{older_path}[]"), format!("{path}[]"));
                self.field((old, old_reading), (new, new_reading), &older_path, &path);
            }
            _ => {
                let change = Change::Retyped(type_of(older), type_of(newer));
                match widening(older, newer) {
                    Step::Same => {}
                    Step::Wider => self.fine(path, change, "every value stays the same one"),
                    Step::Narrower => self.breaks(path, change, Verb::Narrow, "values of older events may not fit"),
                    Step::Other => {
                        self.breaks(path, change, Verb::Retype, "values of older events are of another kind");
                    }
                }
            }
        }
    }
}

/// How one type follows another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Same,
    /// Every value of the older type, as events write it, is the same value in the newer one.
    Wider,
    /// The same kind of value, but not all of them.
    Narrower,
    Other,
}

/// How the type of `newer` follows that of `older`, both without parts of their own; a struct or list against anything else too.
pub fn widening(older: &Field, newer: &Field) -> Step {
    let (from, to) = (older.data_type(), newer.data_type());
    match (is_json(older), is_json(newer)) {
        (true, true) => return Step::Same,
        // Its text takes the place of the value: to the SQL it is something else.
        (true, false) | (false, true) => return Step::Other,
        (false, false) => {}
    }
    if from == to {
        return Step::Same;
    }
    let wider = match (from, to) {
        _ if from.is_integer() && to.is_integer() => whole_range(from).zip(whole_range(to)).is_some_and(holds),
        (_, DataType::Decimal128(precision, scale)) if from.is_integer() => {
            digits(from).is_some_and(|digits| i16::from(digits) <= i16::from(*precision) - i16::from(*scale))
        }
        (DataType::Float32, DataType::Float64) => true,
        (DataType::Decimal128(precision, scale), DataType::Decimal128(more, finer)) => {
            finer >= scale && i16::from(*more) - i16::from(*finer) >= i16::from(*precision) - i16::from(*scale)
        }
        _ => false,
    };
    // A time as a number counts the type's units: in another unit it would be another time.
    match (from.is_numeric() && to.is_numeric(), from.is_integer() && to.is_floating()) {
        _ if wider => Step::Wider,
        (true, false) => Step::Narrower,
        _ => Step::Other,
    }
}

/// The whole numbers of an integer type.
fn whole_range(kind: &DataType) -> Option<(i128, i128)> {
    Some(match kind {
        DataType::Int8 => (i8::MIN.into(), i8::MAX.into()),
        DataType::Int16 => (i16::MIN.into(), i16::MAX.into()),
        DataType::Int32 => (i32::MIN.into(), i32::MAX.into()),
        DataType::Int64 => (i64::MIN.into(), i64::MAX.into()),
        DataType::UInt8 => (0, u8::MAX.into()),
        DataType::UInt16 => (0, u16::MAX.into()),
        DataType::UInt32 => (0, u32::MAX.into()),
        DataType::UInt64 => (0, u64::MAX.into()),
        _ => return None,
    })
}

/// Whether the second range holds the first.
fn holds((inner, outer): ((i128, i128), (i128, i128))) -> bool {
    outer.0 <= inner.0 && inner.1 <= outer.1
}

/// Most digits of an integer type's numbers.
fn digits(kind: &DataType) -> Option<u8> {
    Some(match kind {
        DataType::Int8 | DataType::UInt8 => 3,
        DataType::Int16 | DataType::UInt16 => 5,
        DataType::Int32 | DataType::UInt32 => 10,
        DataType::Int64 => 19,
        DataType::UInt64 => 20,
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
