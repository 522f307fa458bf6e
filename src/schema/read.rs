//! Reading one schema file: every fault in it at once, each with its place.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field};

use super::types::type_named;
use super::{Breaking, Reading, SourceSchema, Verb, as_json, type_of, values};
use crate::diagnostic::{Diagnostic, Span, did_you_mean, has_errors};
use crate::json;

/// Metadata that mean something to us; other names are the writer's own.
pub(crate) const METADATA: [&str; 3] = ["doc", "aliases", "default"];
/// Keys of the file itself, of a field, and of a list's items.
pub(crate) const FILE_KEYS: [&str; 4] = ["$schema", "doc", "breaking", "fields"];
pub(crate) const FIELD_KEYS: [&str; 6] = ["name", "type", "nullable", "fields", "items", "metadata"];
pub(crate) const ITEM_KEYS: [&str; 5] = ["type", "nullable", "fields", "items", "metadata"];
/// Most levels of structs and lists inside each other.
pub(super) const MAX_LEVELS: usize = 16;
/// Name of a list's items in Arrow.
const ITEM: &str = "item";

/// One field of the file and where its parts stand.
struct Entry<'t> {
    field: Field,
    reading: Reading,
    /// The text of its name, for the place.
    name: &'t str,
}

/// The parts of a field, or of a list's items, as they are read.
struct Parts<'t> {
    data_type: Option<&'t str>,
    nullable: bool,
    fields: Option<&'t str>,
    items: Option<&'t str>,
    metadata: Vec<(String, String, &'t str)>,
}

pub(super) fn schema(version: u32, path: &Path, text: &str) -> Result<SourceSchema, Vec<Diagnostic>> {
    let mut reader = Reader { text, path, faults: Vec::new(), places: BTreeMap::new() };
    let file = reader.file().unwrap_or_default();
    if has_errors(&reader.faults) {
        reader.faults.sort_by_key(|fault| fault.span);
        return Err(reader.faults);
    }
    let places = reader.places;
    let File { doc, editor, breaking, entries } = file;
    let (fields, reading): (Vec<Field>, _) = entries.into_iter().map(|entry| (entry.field, entry.reading)).unzip();
    Ok(SourceSchema { version, path: path.to_owned(), doc, editor, fields: fields.into(), reading, breaking, places })
}

/// What a file says.
#[derive(Default)]
struct File<'t> {
    doc: Option<String>,
    editor: Option<String>,
    breaking: Vec<Breaking>,
    entries: Vec<Entry<'t>>,
}

struct Reader<'t> {
    text: &'t str,
    path: &'t Path,
    faults: Vec<Diagnostic>,
    places: BTreeMap<String, Span>,
}

impl<'t> Reader<'t> {
    fn file(&mut self) -> Option<File<'t>> {
        if let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(self.text) {
            self.not_json(&error);
            return None;
        }
        let mut file = File::default();
        let members = self.object(self.text, "a schema file")?;
        if !members.iter().any(|(name, _)| name == "fields") {
            self.fault("AI0204", self.text, "`fields` is missing", "list the row's fields under it");
        }
        for (name, raw) in members {
            match name.as_str() {
                "doc" => file.doc = self.string(raw, "`doc`"),
                "fields" => file.entries = self.fields(raw, "", 1),
                "breaking" => file.breaking = self.breaking(raw),
                // For editors; whatever it names, the file means the same.
                "$schema" => file.editor = self.string(raw, "`$schema`"),
                _ => self.unknown(&name, raw, &FILE_KEYS),
            }
        }
        Some(file)
    }

    /// The fields of the row, or of the struct at `path`, which stand `level` structs and lists deep.
    fn fields(&mut self, raw: &'t str, path: &str, level: usize) -> Vec<Entry<'t>> {
        let Ok(elements) = json::elements(raw) else {
            self.fault("AI0204", raw, format!("`fields` {}, an array is expected", json::kind(raw)), "");
            return Vec::new();
        };
        if elements.is_empty() {
            let help = if level == 1 {
                "a row has at least the fields of its key"
            } else {
                "list the struct's fields, or make it \"json\", which takes whatever there is"
            };
            self.fault("AI0204", raw, "`fields` is empty", help);
        }
        let entries: Vec<_> = elements.into_iter().filter_map(|element| self.field(element, path, level)).collect();
        self.refuse_shared_names(&entries);
        entries
    }

    fn field(&mut self, raw: &'t str, path: &str, level: usize) -> Option<Entry<'t>> {
        let mut name = None;
        let members = self.object(raw, "a field")?;
        if !members.iter().any(|(key, _)| key == "name") {
            self.fault("AI0204", raw, "a field without `name`", "");
        }
        if let Some((_, value)) = members.iter().find(|(key, _)| key == "name") {
            name = self.string(value, "`name`").map(|content| (content, *value));
        }
        let shown = name.as_ref().map(|(name, _)| name.clone()).unwrap_or_default();
        let parts = self.parts(members, &FIELD_KEYS);
        let has_type = parts.data_type.is_some();
        let built = self.build(&shown, parts, &join(path, &shown), level);
        let (name, name_raw) = name?;
        if name.is_empty() {
            self.fault("AI0204", name_raw, "a field's name is empty", "");
        }
        if !has_type {
            self.fault("AI0204", name_raw, format!("the field \"{name}\" has no `type`"), "e.g. \"type\": \"utf8\"");
        }
        let (field, reading) = built?;
        if let Some(span) = self.place(name_raw) {
            self.places.insert(join(path, &name), span);
        }
        Some(Entry { field, reading, name: name_raw })
    }

    fn parts(&mut self, members: Vec<(String, &'t str)>, known: &[&'static str]) -> Parts<'t> {
        let mut parts = Parts { data_type: None, nullable: true, fields: None, items: None, metadata: Vec::new() };
        for (key, value) in members {
            match key.as_str() {
                key if !known.contains(&key) => self.unknown(key, value, known),
                "type" => parts.data_type = Some(value),
                "nullable" => match values::boolean(value) {
                    Ok(given) => parts.nullable = given,
                    Err(wrong) => {
                        self.fault("AI0204", value, format!("`nullable` {wrong}, true or false is expected"), "");
                    }
                },
                "fields" => parts.fields = Some(value),
                "items" => parts.items = Some(value),
                "metadata" => parts.metadata = self.metadata(value),
                _ => {}
            }
        }
        parts
    }

    /// The Arrow field of `parts`, called `name`, whose path is `path`.
    fn build(&mut self, name: &str, parts: Parts<'t>, path: &str, level: usize) -> Option<(Field, Reading)> {
        let type_raw = parts.data_type?;
        let type_name = self.string(type_raw, "`type`")?;
        let mut json = false;
        let (data_type, inner) = match type_name.trim() {
            "struct" | "list" if level >= MAX_LEVELS => {
                let what = format!("\"{path}\" stands more than {MAX_LEVELS} structs and lists deep");
                self.fault("AI0210", type_raw, what, "make an outer one \"json\", which takes whatever there is");
                return None;
            }
            "struct" => {
                let Some(raw) = parts.fields else {
                    self.fault("AI0211", type_raw, format!("the struct \"{name}\" has no `fields`"), STRUCT_HELP);
                    return None;
                };
                let entries = self.fields(raw, path, level + 1);
                let (fields, inner): (Vec<Field>, Vec<Reading>) =
                    entries.into_iter().map(|entry| (entry.field, entry.reading)).unzip();
                (DataType::Struct(fields.into()), inner)
            }
            "list" => {
                let Some(raw) = parts.items else {
                    self.fault("AI0211", type_raw, format!("the list \"{name}\" has no `items`"), LIST_HELP);
                    return None;
                };
                let (items, reading) = self.items(raw, name, path, level)?;
                (DataType::List(Arc::new(items)), vec![reading])
            }
            scalar => {
                json = scalar == "json";
                (self.scalar(scalar, type_raw)?, Vec::new())
            }
        };
        for (key, raw, word) in [("fields", parts.fields, "struct"), ("items", parts.items, "list")] {
            if let Some(raw) = raw
                && type_name.trim() != word
            {
                let help = format!("only a \"{word}\" has `{key}`: change the type, or leave them out");
                self.fault("AI0211", raw, format!("`{key}` of \"{name}\", whose type is {type_name}"), help);
            }
        }
        let metadata: HashMap<String, String> =
            parts.metadata.iter().map(|(key, value, _)| (key.clone(), value.clone())).collect();
        let mut field = Field::new(name, data_type, parts.nullable).with_metadata(metadata);
        if json {
            field = as_json(field);
        }
        let reading = Reading { inner, ..self.reading(&field, &parts.metadata) };
        Some((field, reading))
    }

    fn items(&mut self, raw: &'t str, list: &str, path: &str, level: usize) -> Option<(Field, Reading)> {
        let members = self.object(raw, "`items`")?;
        let parts = self.parts(members, &ITEM_KEYS);
        if parts.data_type.is_none() {
            self.fault("AI0204", raw, format!("the items of \"{list}\" have no `type`"), "e.g. \"type\": \"utf8\"");
        }
        if let Some((_, _, raw)) = parts.metadata.iter().find(|(key, ..)| key == "aliases") {
            let what = format!("`aliases` of the items of \"{list}\", which have no name");
            self.fault("AI0211", raw, what, "leave it out");
        }
        let (field, reading) = self.build(ITEM, parts, &format!("{path}[]"), level + 1)?;
        // One default stands for any number of items: a short event could grow beyond any bound.
        if reading.has_default() {
            let what = format!("a `default` inside of the items of \"{list}\"");
            self.fault("AI0211", raw, what, "leave it out: COALESCE in the SQL does the same");
        }
        Some((field, reading))
    }

    fn scalar(&mut self, name: &str, raw: &'t str) -> Option<DataType> {
        match type_named(name) {
            Ok(data_type) => Some(data_type),
            Err(help) => {
                self.fault("AI0205", raw, format!("\"{name}\" is no type that events can carry"), help);
                None
            }
        }
    }

    fn breaking(&mut self, raw: &'t str) -> Vec<Breaking> {
        let Ok(elements) = json::elements(raw) else {
            self.fault("AI0204", raw, format!("`breaking` {}, an array is expected", json::kind(raw)), BREAKING_HELP);
            return Vec::new();
        };
        let mut found = Vec::new();
        for raw in elements {
            let Some(text) = self.string(raw, "an entry of `breaking`") else { continue };
            match breaking(&text) {
                Some((verb, field, reason)) => {
                    found.push(Breaking { verb, field, reason, span: self.place(raw) });
                }
                None => self.fault("AI0212", raw, "an entry of `breaking` that can't be read", BREAKING_HELP),
            }
        }
        found
    }

    /// Name, value and the value's raw text of each entry.
    fn metadata(&mut self, raw: &'t str) -> Vec<(String, String, &'t str)> {
        let mut metadata = Vec::new();
        for (key, value) in self.object(raw, "`metadata`").unwrap_or_default() {
            if !METADATA.contains(&key.as_str())
                && let Some(meant) = did_you_mean(&key, METADATA)
            {
                self.fault("AI0204", value, format!("unknown key \"{key}\""), format!("did you mean \"{meant}\"?"));
            }
            if let Some(content) = self.string(value, &format!("`{key}`")) {
                metadata.push((key, content, value));
            }
        }
        metadata
    }

    fn reading(&mut self, field: &Field, metadata: &[(String, String, &'t str)]) -> Reading {
        let mut reading = Reading::default();
        let name = field.name();
        for (key, content, raw) in metadata {
            match key.as_str() {
                "aliases" => match serde_json::from_str(content) {
                    Ok(aliases) => reading.aliases = aliases,
                    Err(_) => self.fault(
                        "AI0207",
                        raw,
                        format!("`aliases` of \"{name}\" is no JSON array of names"),
                        r#"write it as a text, e.g. "aliases": "[\"user_id\"]""#,
                    ),
                },
                "default" => match default(content, field) {
                    Ok(default) => reading.default = Some(default),
                    Err(wrong) => self.fault(
                        "AI0208",
                        raw,
                        format!("`default` of \"{name}\" {wrong}, {} is expected", type_of(field)),
                        "write it as it would stand in an event, text without quotes",
                    ),
                },
                _ => {}
            }
        }
        reading
    }

    fn refuse_shared_names(&mut self, entries: &[Entry<'t>]) {
        let mut owners: HashMap<&str, &str> = HashMap::new();
        for entry in entries {
            let name = entry.field.name();
            let names = std::iter::once(name.as_str()).chain(entry.reading.aliases.iter().map(String::as_str));
            for called in names {
                let Some(other) = owners.insert(called, name) else { continue };
                let message = match called == name && other == name {
                    true => format!("two fields are called \"{name}\""),
                    false => format!("the fields \"{other}\" and \"{name}\" both answer to \"{called}\""),
                };
                self.fault("AI0206", entry.name, message, "a name or alias belongs to one field only");
            }
        }
    }

    /// Members of an object; repeated names are a fault.
    fn object(&mut self, raw: &'t str, what: &str) -> Option<Vec<(String, &'t str)>> {
        let Ok(members) = json::members(raw) else {
            self.fault("AI0204", raw, format!("{what} {}, an object is expected", json::kind(raw.trim_start())), "");
            return None;
        };
        for (index, (name, value)) in members.iter().enumerate() {
            if members.iter().take(index).any(|(earlier, _)| earlier == name) {
                self.fault("AI0204", value, format!("the key \"{name}\" stands here twice"), "");
            }
        }
        Some(members)
    }

    fn string(&mut self, raw: &'t str, what: &str) -> Option<String> {
        let content = json::string(raw);
        if content.is_none() {
            let help =
                if what == "`default`" || what == "`aliases`" { "metadata are texts: put it in quotes" } else { "" };
            self.fault("AI0204", raw, format!("{what} {}, a text is expected", json::kind(raw)), help);
        }
        content.map(Into::into)
    }

    fn unknown(&mut self, name: &str, raw: &'t str, known: &[&'static str]) {
        let help = match did_you_mean(name, known.iter().copied()) {
            Some(meant) => format!("did you mean \"{meant}\"?"),
            None => format!("the keys here are {}", known.join(", ")),
        };
        self.fault("AI0204", raw, format!("unknown key \"{name}\""), help);
    }

    fn not_json(&mut self, error: &serde_json::Error) {
        let line = error.line().max(1);
        // The parser counts bytes.
        let before = self.text.split('\n').nth(line - 1).unwrap_or_default().char_indices();
        let column = before.take_while(|(byte, _)| byte + 1 < error.column()).count() + 1;
        let text = error.to_string();
        let what = text.split(" at line ").next().unwrap_or_default();
        let span = Span { line, column, end_line: line, end_column: column + 1 };
        let fault = Diagnostic::error("AI0203", format!("the schema file is not valid JSON: {what}"));
        self.faults.push(fault.file(self.path).span(Some(span)));
    }

    /// The place of `raw`, which must be a slice of the file's text.
    fn place(&self, raw: &str) -> Option<Span> {
        let start = (raw.as_ptr() as usize).saturating_sub(self.text.as_ptr() as usize);
        span(self.text, start..start + raw.len())
    }

    /// Notes a fault at `raw`, which must be a slice of the file's text.
    fn fault(&mut self, code: &'static str, raw: &str, message: impl Into<String>, help: impl Into<String>) {
        let mut fault = Diagnostic::error(code, message).file(self.path).span(self.place(raw));
        let help: String = help.into();
        if !help.is_empty() {
            fault = fault.help(help);
        }
        self.faults.push(fault);
    }
}

const STRUCT_HELP: &str = r#"e.g. "fields": [{ "name": "zip", "type": "utf8" }]"#;
const LIST_HELP: &str = r#"e.g. "items": { "type": "utf8" }"#;
const BREAKING_HELP: &str = r#"write what happens to which field, and why, e.g. "drop phone: the product is gone"; the verbs are drop, narrow, retype, require, unalias, redefault"#;

/// Verb, field and reason of an entry of `breaking`.
fn breaking(text: &str) -> Option<(Verb, String, String)> {
    let (what, reason) = text.split_once(':')?;
    let (verb, field) = what.trim().split_once(char::is_whitespace)?;
    let verb = Verb::ALL.into_iter().find(|known| known.name() == verb)?;
    let (field, reason) = (field.trim(), reason.trim());
    (!field.is_empty() && !reason.is_empty()).then(|| (verb, field.to_owned(), reason.to_owned()))
}

/// The path of the field `name` inside `path`.
pub(super) fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// The place of `bytes` in `text`; long pieces are marked on their first line only.
fn span(text: &str, bytes: Range<usize>) -> Option<Span> {
    let before = text.get(..bytes.start)?;
    let piece = text.get(bytes)?;
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|character| *character != '\n').count() + 1;
    let width = piece.lines().next().unwrap_or_default().chars().count().max(1);
    Some(Span { line, column, end_line: line, end_column: column + width })
}

/// The JSON text of a default: as written where it is a value of the type, else as a string.
fn default(content: &str, field: &Field) -> Result<String, values::Wrong> {
    let quoted = serde_json::Value::from(content).to_string();
    let bare = serde_json::from_str::<&serde_json::value::RawValue>(content).map(|raw| raw.get());
    let text = matches!(field.data_type(), DataType::Utf8 | DataType::Binary) && !super::is_json(field);
    match bare {
        Ok(raw) if !text && (!raw.starts_with('"') || super::is_json(field)) => {
            values::check(raw, field).map(|()| raw.to_owned())
        }
        _ => values::check(&quoted, field).map(|()| quoted),
    }
}
