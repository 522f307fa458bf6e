//! Typed reading of the file's tables, after [`super::keys`]. A fault is noted with its place and reading goes on.
//!
//! Every read yields `None` where the key is absent without a default, or where its value is faulty; in the second case the
//! fault is noted, so a config that can't be put together always has at least one.

use std::cell::RefCell;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keys::{self, Absent, Kind, Section};
use super::units::{self, UnitFault};
use super::variables::{Environment, fill, pieces};
use crate::diagnostic::{Diagnostic, Span, did_you_mean};

/// Bytes of the file where something stands.
pub(super) type Place = Range<usize>;

/// Codes of config faults; docs/config.md lists their meanings.
pub(super) mod code {
    pub(in crate::config) const UNREADABLE: &str = "AI0001";
    pub(in crate::config) const SYNTAX: &str = "AI0002";
    pub(in crate::config) const UNKNOWN_KEY: &str = "AI0003";
    pub(in crate::config) const MISSING_KEY: &str = "AI0004";
    pub(in crate::config) const WRONG_TYPE: &str = "AI0005";
    pub(in crate::config) const WRONG_UNIT: &str = "AI0006";
    pub(in crate::config) const OUT_OF_RANGE: &str = "AI0007";
    pub(in crate::config) const UNKNOWN_CHOICE: &str = "AI0008";
    pub(in crate::config) const VARIABLE: &str = "AI0009";
    pub(in crate::config) const FILE_UNREADABLE: &str = "AI0010";
    pub(in crate::config) const URL: &str = "AI0011";
    pub(in crate::config) const ADDRESS: &str = "AI0012";
    pub(in crate::config) const NAME: &str = "AI0013";
    pub(in crate::config) const SAME_TOPIC: &str = "AI0014";
    pub(in crate::config) const SAME_TABLE: &str = "AI0015";
    pub(in crate::config) const PROPERTY_REFUSED: &str = "AI0016";
    pub(in crate::config) const CONTRADICTION: &str = "AI0017";
    pub(in crate::config) const SECRET_EXPOSED: &str = "AI0018";
    pub(in crate::config) const INSECURE: &str = "AI0019";
}

/// A text as written, and with its variables filled in.
#[derive(Debug, Clone)]
pub(super) struct Text {
    pub written: String,
    pub value: String,
    /// `None` for a default.
    pub place: Option<Place>,
}

/// One table of the file; an absent one reads as an empty one.
pub(super) struct Table<'d> {
    pub section: &'static Section,
    /// Its path as messages show it, e.g. `pipelines.users`.
    pub shown: String,
    entries: Option<&'d DeTable<'d>>,
    /// Its name in the file, where faults of the table as a whole are shown.
    pub place: Option<Place>,
}

pub(super) struct Reader<'d> {
    source: &'d str,
    pub file: &'d Path,
    pub environment: &'d Environment<'d>,
    /// Byte offsets at which lines start.
    lines: Vec<usize>,
    faults: RefCell<Vec<Diagnostic>>,
}

impl<'d> Reader<'d> {
    pub(super) fn new(source: &'d str, file: &'d Path, environment: &'d Environment<'d>) -> Self {
        let lines = std::iter::once(0).chain(source.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { source, file, environment, lines, faults: RefCell::default() }
    }

    pub(super) fn into_faults(self) -> Vec<Diagnostic> {
        self.faults.into_inner()
    }

    /// Notes an error at `place`.
    pub(super) fn fault(
        &self,
        code: &'static str,
        place: Option<&Place>,
        what: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.note(Diagnostic::error(code, what), place, help.into());
    }

    pub(super) fn warning(
        &self,
        code: &'static str,
        place: Option<&Place>,
        what: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.note(Diagnostic::warning(code, what), place, help.into());
    }

    fn note(&self, fault: Diagnostic, place: Option<&Place>, help: String) {
        let fault = fault.file(self.file).span(place.map(|place| self.span(place)));
        self.faults.borrow_mut().push(if help.is_empty() { fault } else { fault.help(help) });
    }

    pub(super) fn span(&self, place: &Place) -> Span {
        let (line, column) = self.line_and_column(place.start);
        let (end_line, end_column) = self.line_and_column(place.end.max(place.start));
        Span { line, column, end_line, end_column }
    }

    fn line_and_column(&self, at: usize) -> (usize, usize) {
        let line = self.lines.partition_point(|start| *start <= at);
        let start = self.lines.get(line.saturating_sub(1)).copied().unwrap_or_default();
        let column = self.source.get(start..at).map_or(0, |text| text.chars().count());
        (line, column + 1)
    }

    /// The file's outermost table.
    pub(super) fn root(&self, entries: &'d DeTable<'d>) -> Table<'d> {
        let root = Table { section: &keys::ROOT, shown: String::new(), entries: Some(entries), place: None };
        self.refuse_unknown_keys(&root);
        root
    }

    /// The table `name` in `parent`.
    pub(super) fn table(&self, parent: &Table<'d>, name: &str, section: &'static Section) -> Table<'d> {
        let table = self.free_table(parent, name, section);
        self.refuse_unknown_keys(&table);
        table
    }

    /// A table whose keys the user chooses.
    pub(super) fn free_table(&self, parent: &Table<'d>, name: &str, section: &'static Section) -> Table<'d> {
        let shown = if parent.shown.is_empty() { name.to_owned() } else { format!("{}.{name}", parent.shown) };
        let found = parent.entries.and_then(|entries| entries.get_key_value(name));
        let entries = found.and_then(|(_, value)| match value.get_ref() {
            DeValue::Table(entries) => Some(entries),
            other => {
                self.wrong_type(&shown, "a table", other, &value.span());
                None
            }
        });
        Table { section, shown, entries, place: found.map(|(key, _)| key.span()) }
    }

    /// The tables in `parent` that have names of the user's choice, with their names.
    pub(super) fn tables(&self, parent: &Table<'d>, section: &'static Section) -> Vec<(String, Table<'d>)> {
        let names = parent.entries.into_iter().flatten().map(|(key, _)| key.get_ref().to_string());
        names
            .map(|name| {
                let table = self.table(parent, &name, section);
                (name, table)
            })
            .collect()
    }

    fn refuse_unknown_keys(&self, table: &Table<'d>) {
        let names = table.section.names();
        for (key, _) in table.entries.into_iter().flatten() {
            let name = key.get_ref().as_ref();
            if names.contains(&name) {
                continue;
            }
            let place = if table.shown.is_empty() { String::new() } else { format!(" in [{}]", table.shown) };
            let help = match (did_you_mean(name, names.iter().copied()), keys::belongs_in(name)) {
                (Some(meant), _) => format!("did you mean \"{meant}\"?"),
                (None, Some((meant, section))) => format!("\"{meant}\" belongs in {section}"),
                (None, None) => format!("known here: {}", names.join(", ")),
            };
            self.fault(code::UNKNOWN_KEY, Some(&key.span()), format!("unknown key \"{name}\"{place}"), help);
        }
    }

    /// The entries of a table as they are, for tables whose keys the user chooses.
    pub(super) fn entries(
        &self,
        table: &Table<'d>,
    ) -> impl Iterator<Item = (&'d str, Place, &'d Spanned<DeValue<'d>>)> {
        table.entries.into_iter().flatten().map(|(key, value)| (key.get_ref().as_ref(), key.span(), value))
    }

    /// Where the value of `name` stands.
    pub(super) fn place(&self, table: &Table<'d>, name: &str) -> Option<Place> {
        self.present(table, name).map(Spanned::span)
    }

    fn present(&self, table: &Table<'d>, name: &str) -> Option<&'d Spanned<DeValue<'d>>> {
        table.entries?.get(name)
    }

    /// The value of `name`, or its default; a required key that is absent is noted.
    fn value(&self, table: &Table<'d>, name: &str) -> Option<Found<'d>> {
        if let Some(value) = self.present(table, name) {
            return Some(Found::Written(value));
        }
        match table.section.key(name).map(|key| key.absent) {
            Some(Absent::Default(text)) => Some(Found::Default(text)),
            Some(Absent::Refused) => {
                let what = format!("\"{name}\" is missing in [{}]", table.shown);
                let doc = table.section.key(name).map_or("", |key| key.doc).replace('`', "\"");
                self.fault(code::MISSING_KEY, table.place.as_ref(), what, format!("add it: {doc}"));
                None
            }
            Some(Absent::Means(_)) | None => None,
        }
    }

    /// A string, its variables filled in.
    pub(super) fn text(&self, table: &Table<'d>, name: &str) -> Option<Text> {
        match self.value(table, name)? {
            Found::Default(text) => Some(Text { written: text.to_owned(), value: text.to_owned(), place: None }),
            Found::Written(value) => {
                let (written, place) = self.string(table, name, value)?;
                let value = self.filled(written, &place)?;
                Some(Text { written: written.to_owned(), value, place: Some(place) })
            }
        }
    }

    /// A string as it stands in the file, and its place.
    pub(super) fn written(&self, table: &Table<'d>, name: &str) -> Option<(&'d str, Place)> {
        match self.value(table, name)? {
            Found::Written(value) => self.string(table, name, value),
            Found::Default(_) => None,
        }
    }

    fn string(&self, table: &Table<'d>, name: &str, value: &'d Spanned<DeValue<'d>>) -> Option<(&'d str, Place)> {
        match value.get_ref() {
            DeValue::String(text) => Some((text.as_ref(), value.span())),
            other => {
                let key = table.section.key(name);
                match key.map(|key| key.kind) {
                    Some(Kind::Duration { .. } | Kind::Size { .. } | Kind::Share) => {
                        let example = if matches!(key, Some(key) if matches!(key.kind, Kind::Size { .. })) {
                            "32MiB"
                        } else {
                            "5ms"
                        };
                        let example = if matches!(key, Some(key) if key.kind == Kind::Share) { "50%" } else { example };
                        let what =
                            format!("{}.{name} must be a string with a unit, found {}", table.shown, type_name(other));
                        self.fault(code::WRONG_UNIT, Some(&value.span()), what, format!("write it like \"{example}\""));
                    }
                    _ => self.wrong_type(&format!("{}.{name}", table.shown), "a string", other, &value.span()),
                }
                None
            }
        }
    }

    /// `written` with its variables filled in; what is wrong with them is noted.
    pub(super) fn filled(&self, written: &str, place: &Place) -> Option<String> {
        match pieces(written).and_then(|pieces| fill(&pieces, self.environment)) {
            Ok(value) => Some(value),
            Err(fault) => {
                self.fault(code::VARIABLE, Some(place), fault.what, fault.help);
                None
            }
        }
    }

    pub(super) fn wrong_type(&self, shown: &str, expected: &str, found: &DeValue<'_>, place: &Place) {
        let what = format!("{shown} must be {expected}, found {}", type_name(found));
        self.fault(code::WRONG_TYPE, Some(place), what, "");
    }

    /// A path, relative to the config file.
    pub(super) fn path(&self, table: &Table<'d>, name: &str) -> Option<PathBuf> {
        self.text(table, name).map(|text| self.beside(&text.value))
    }

    /// `path` as seen from the folder of the config file.
    pub(super) fn beside(&self, path: &str) -> PathBuf {
        self.file.parent().unwrap_or(Path::new("")).join(path)
    }

    pub(super) fn flag(&self, table: &Table<'d>, name: &str) -> Option<bool> {
        let value = match self.value(table, name)? {
            Found::Default(text) => return Some(text == "true"),
            Found::Written(value) => value,
        };
        match value.get_ref() {
            DeValue::Boolean(flag) => Some(*flag),
            // A variable can stand only in a string.
            DeValue::String(written) if written.contains("${") => {
                let filled = self.filled(written, &value.span())?;
                let flag = filled.parse().ok();
                if flag.is_none() {
                    let what = format!("{}.{name}: {written} stands for neither true nor false", table.shown);
                    self.fault(code::WRONG_TYPE, Some(&value.span()), what, "");
                }
                flag
            }
            other => {
                self.wrong_type(&format!("{}.{name}", table.shown), "true or false", other, &value.span());
                None
            }
        }
    }

    pub(super) fn count(&self, table: &Table<'d>, name: &str) -> Option<u64> {
        let Some(Kind::Count { min, max }) = table.section.key(name).map(|key| key.kind) else { return None };
        let value = match self.value(table, name)? {
            Found::Default(text) => return text.parse().ok(),
            Found::Written(value) => value,
        };
        let number = match value.get_ref() {
            DeValue::Integer(digits) => i128::from_str_radix(digits.as_str(), digits.radix()).ok(),
            DeValue::String(written) if written.contains("${") => {
                self.filled(written, &value.span())?.trim().parse::<i128>().ok()
            }
            other => {
                self.wrong_type(&format!("{}.{name}", table.shown), "a whole number", other, &value.span());
                return None;
            }
        };
        let count = number.and_then(|number| u64::try_from(number).ok()).filter(|count| (min..=max).contains(count));
        if count.is_none() {
            let what = format!("{}.{name} must be a whole number from {min} to {max}", table.shown);
            self.fault(code::OUT_OF_RANGE, Some(&value.span()), what, "");
        }
        count
    }

    pub(super) fn duration(&self, table: &Table<'d>, name: &str) -> Option<Duration> {
        let Some(Kind::Duration { min, max }) = table.section.key(name).map(|key| key.kind) else { return None };
        self.measured(table, name, units::duration, (min, max))
    }

    /// In bytes.
    pub(super) fn size(&self, table: &Table<'d>, name: &str) -> Option<usize> {
        let Some(Kind::Size { min, max }) = table.section.key(name).map(|key| key.kind) else { return None };
        self.measured(table, name, units::size, (min, max))
    }

    /// From 0 to 1.
    pub(super) fn share(&self, table: &Table<'d>, name: &str) -> Option<f64> {
        self.measured(table, name, units::share, ("0%", "100%"))
    }

    fn measured<T: PartialOrd>(
        &self,
        table: &Table<'d>,
        name: &str,
        read: fn(&str) -> Result<T, UnitFault>,
        (min, max): (&str, &str),
    ) -> Option<T> {
        let text = self.text(table, name)?;
        let place = text.place.as_ref();
        let value = match read(&text.value) {
            Ok(value) => value,
            // What a variable stands for is not shown: it may be a secret that was put into the wrong place.
            Err(fault) if text.value == text.written => {
                self.fault(code::WRONG_UNIT, place, format!("{}.{name}: {}", table.shown, fault.what), fault.help);
                return None;
            }
            Err(fault) => {
                let what = format!("{}.{name}: what \"{}\" stands for cannot be read", table.shown, text.written);
                self.fault(code::WRONG_UNIT, place, what, fault.help);
                return None;
            }
        };
        let within = read(min).is_ok_and(|min| value >= min) && read(max).is_ok_and(|max| value <= max);
        if !within {
            let what = format!("{}.{name} must be from {min} to {max}", table.shown);
            self.fault(code::OUT_OF_RANGE, place, what, "");
        }
        within.then_some(value)
    }

    /// One of the key's choices; `all` gives what each stands for.
    pub(super) fn choice<T: Copy>(&self, table: &Table<'d>, name: &str, all: &[(&str, T)]) -> Option<T> {
        let text = self.text(table, name)?;
        let found = all.iter().find(|(choice, _)| *choice == text.value).map(|(_, value)| *value);
        if found.is_none() {
            let choices: Vec<&str> = all.iter().map(|(choice, _)| *choice).collect();
            let list = format!("choose from: {}", choices.join(", "));
            let help = match did_you_mean(&text.written, choices) {
                Some(meant) => format!("did you mean \"{meant}\"? {list}"),
                None => list,
            };
            let what = format!("\"{}\" is no value of {}.{name}", text.written, table.shown);
            self.fault(code::UNKNOWN_CHOICE, text.place.as_ref(), what, help);
        }
        found
    }

    /// A list of strings, each with its place; variables filled in.
    pub(super) fn texts(&self, table: &Table<'d>, name: &str) -> Option<Vec<Text>> {
        let Found::Written(value) = self.value(table, name)? else { return None };
        let shown = format!("{}.{name}", table.shown);
        let DeValue::Array(items) = value.get_ref() else {
            let what = format!("{shown} must be a list of strings, found {}", type_name(value.get_ref()));
            let help = if value.get_ref().is_str() { "write it in brackets: [\"...\"]" } else { "" };
            self.fault(code::WRONG_TYPE, Some(&value.span()), what, help);
            return None;
        };
        let texts = items.iter().map(|item| match item.get_ref() {
            DeValue::String(written) => {
                let value = self.filled(written, &item.span())?;
                Some(Text { written: written.to_string(), value, place: Some(item.span()) })
            }
            other => {
                self.wrong_type(&shown, "a list of strings", other, &item.span());
                None
            }
        });
        // Every item is looked at before the list is given up.
        texts.collect::<Vec<Option<Text>>>().into_iter().collect()
    }
}

enum Found<'d> {
    Written(&'d Spanned<DeValue<'d>>),
    Default(&'static str),
}

fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
