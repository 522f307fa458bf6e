//! Reading one schema file: every fault in it at once, each with its place.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use arrow::datatypes::{DataType, Field};

use super::{Reading, SourceSchema, type_name, type_named, values};
use crate::diagnostic::{Diagnostic, Span, did_you_mean, has_errors};
use crate::json;

/// Metadata that mean something to us; other names are the writer's own.
const METADATA: [&str; 3] = ["doc", "aliases", "default"];

/// One field of the file and where its parts stand.
struct Entry<'t> {
    field: Field,
    reading: Reading,
    /// The text of its name, for the place.
    name: &'t str,
}

pub(super) fn schema(version: u32, path: &Path, text: &str) -> Result<SourceSchema, Vec<Diagnostic>> {
    let mut reader = Reader { text, path, faults: Vec::new() };
    let (doc, entries) = reader.file();
    if has_errors(&reader.faults) {
        return Err(reader.faults);
    }
    let (fields, reading): (Vec<Field>, _) = entries.into_iter().map(|entry| (entry.field, entry.reading)).unzip();
    Ok(SourceSchema { version, path: path.to_owned(), doc, fields: fields.into(), reading })
}

struct Reader<'t> {
    text: &'t str,
    path: &'t Path,
    faults: Vec<Diagnostic>,
}

impl<'t> Reader<'t> {
    fn file(&mut self) -> (Option<String>, Vec<Entry<'t>>) {
        let mut doc = None;
        let mut entries = None;
        if let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(self.text) {
            self.not_json(&error);
            return (None, Vec::new());
        }
        let Some(members) = self.object(self.text, "a schema file") else { return (None, Vec::new()) };
        for (name, raw) in members {
            match name.as_str() {
                "doc" => doc = self.string(raw, "`doc`"),
                "fields" => entries = Some(self.fields(raw)),
                _ => self.unknown(&name, raw, ["doc", "fields"]),
            }
        }
        let entries = match entries {
            Some(entries) => entries,
            None => {
                self.fault("AI0204", self.text, "`fields` is missing", "list the row's fields under it");
                Vec::new()
            }
        };
        self.refuse_shared_names(&entries);
        (doc, entries)
    }

    fn fields(&mut self, raw: &'t str) -> Vec<Entry<'t>> {
        let Ok(elements) = json::elements(raw) else {
            self.fault("AI0204", raw, format!("`fields` {}, an array is expected", json::kind(raw)), "");
            return Vec::new();
        };
        if elements.is_empty() {
            self.fault("AI0204", raw, "`fields` is empty", "a row has at least the fields of its key");
        }
        elements.into_iter().filter_map(|element| self.field(element)).collect()
    }

    fn field(&mut self, raw: &'t str) -> Option<Entry<'t>> {
        let (mut name, mut data_type, mut nullable, mut metadata) = (None, None, true, Vec::new());
        let members = self.object(raw, "a field")?;
        if !members.iter().any(|(key, _)| key == "name") {
            self.fault("AI0204", raw, "a field without `name`", "");
        }
        for (key, value) in members {
            match key.as_str() {
                "name" => name = self.string(value, "`name`").map(|content| (content, value)),
                "type" => data_type = Some(self.data_type(value)),
                "nullable" => match values::boolean(value) {
                    Ok(given) => nullable = given,
                    Err(wrong) => {
                        self.fault("AI0204", value, format!("`nullable` {wrong}, true or false is expected"), "");
                    }
                },
                "metadata" => metadata = self.metadata(value),
                _ => self.unknown(&key, value, ["name", "type", "nullable", "metadata"]),
            }
        }
        let (name, name_raw) = name?;
        if name.is_empty() {
            self.fault("AI0204", name_raw, "a field's name is empty", "");
        }
        if data_type.is_none() {
            self.fault("AI0204", name_raw, format!("the field \"{name}\" has no `type`"), "e.g. \"type\": \"utf8\"");
        }
        let data_type = data_type??;
        let reading = self.reading(&name, &data_type, &metadata);
        let metadata: HashMap<String, String> = metadata.into_iter().map(|(key, value, _)| (key, value)).collect();
        Some(Entry { field: Field::new(name, data_type, nullable).with_metadata(metadata), reading, name: name_raw })
    }

    fn data_type(&mut self, raw: &'t str) -> Option<DataType> {
        let name = self.string(raw, "`type`")?;
        match type_named(name.trim()) {
            Ok(data_type) => Some(data_type),
            Err(help) => {
                self.fault("AI0205", raw, format!("\"{name}\" is no type that events can carry"), help);
                None
            }
        }
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

    fn reading(&mut self, name: &str, data_type: &DataType, metadata: &[(String, String, &'t str)]) -> Reading {
        let mut reading = Reading::default();
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
                "default" => match default(content, data_type) {
                    Ok(default) => reading.default = Some(default),
                    Err(wrong) => self.fault(
                        "AI0208",
                        raw,
                        format!("`default` of \"{name}\" {wrong}, {} is expected", type_name(data_type)),
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

    fn unknown<const N: usize>(&mut self, name: &str, raw: &'t str, known: [&'static str; N]) {
        let help = match did_you_mean(name, known) {
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

    /// Notes a fault at `raw`, which must be a slice of the file's text.
    fn fault(&mut self, code: &'static str, raw: &str, message: impl Into<String>, help: impl Into<String>) {
        let start = (raw.as_ptr() as usize).saturating_sub(self.text.as_ptr() as usize);
        let mut fault =
            Diagnostic::error(code, message).file(self.path).span(span(self.text, start..start + raw.len()));
        let help: String = help.into();
        if !help.is_empty() {
            fault = fault.help(help);
        }
        self.faults.push(fault);
    }
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
fn default(content: &str, data_type: &DataType) -> Result<String, values::Wrong> {
    let quoted = serde_json::Value::from(content).to_string();
    let bare = serde_json::from_str::<&serde_json::value::RawValue>(content).map(|raw| raw.get());
    match bare {
        Ok(raw) if !matches!(data_type, DataType::Utf8 | DataType::Binary) && !raw.starts_with('"') => {
            values::check(raw, data_type).map(|()| raw.to_owned())
        }
        _ => values::check(&quoted, data_type).map(|()| quoted),
    }
}
