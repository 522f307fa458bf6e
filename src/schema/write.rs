//! Schema files as text: what [`super::read`] reads, laid out for people and the same for the same schema.

use std::fmt::Write;

use arrow::datatypes::{DataType, Field, FieldRef};
use serde_json::Value;

use super::types::{is_mark, type_of};
use super::{Breaking, SourceSchema};

/// Metadata in the order in which people look for them; others follow by name.
const ORDER: [&str; 3] = ["doc", "aliases", "default"];

/// The text of a schema file.
pub fn text(editor: Option<&str>, doc: Option<&str>, breaking: &[Breaking], fields: &[FieldRef]) -> String {
    let mut members: Vec<String> = Vec::new();
    members.extend(editor.map(|editor| format!("  \"$schema\": {}", Value::from(editor))));
    members.extend(doc.map(|doc| format!("  \"doc\": {}", Value::from(doc))));
    if !breaking.is_empty() {
        let entries: Vec<String> = breaking
            .iter()
            .map(|entry| Value::from(format!("{} {}: {}", entry.verb.name(), entry.field, entry.reason)).to_string())
            .collect();
        members.push(format!("  \"breaking\": [\n    {}\n  ]", entries.join(",\n    ")));
    }
    members.push(format!("  \"fields\": {}", list(fields, 2)));
    format!("{{\n{}\n}}\n", members.join(",\n"))
}

impl SourceSchema {
    /// The text of this version's file, as we would lay it out.
    pub fn text(&self) -> String {
        text(self.editor.as_deref(), self.doc.as_deref(), &self.breaking, &self.fields)
    }
}

fn list(fields: &[FieldRef], indent: usize) -> String {
    let pad = " ".repeat(indent);
    let entries: Vec<String> =
        fields.iter().map(|field| format!("{pad}  {}", entry(field, true, indent + 2))).collect();
    format!("[\n{}\n{pad}]", entries.join(",\n"))
}

/// One field, or the items of a list, which have no name.
fn entry(field: &Field, named: bool, indent: usize) -> String {
    let pad = " ".repeat(indent + 2);
    let mut members: Vec<String> = Vec::new();
    if named {
        members.push(format!("\"name\": {}", Value::from(field.name().as_str())));
    }
    members.push(format!("\"type\": {}", Value::from(type_of(field))));
    if named || !field.is_nullable() {
        members.push(format!("\"nullable\": {}", field.is_nullable()));
    }
    match field.data_type() {
        DataType::Struct(fields) => members.push(format!("\"fields\": {}", list(fields, indent + 2))),
        DataType::List(items) => members.push(format!("\"items\": {}", entry(items, false, indent + 2))),
        _ => {}
    }
    members.extend(metadata(field));
    let nested = matches!(field.data_type(), DataType::Struct(_) | DataType::List(_));
    if !named && !nested {
        return format!("{{ {} }}", members.join(", "));
    }
    let mut text = String::from("{\n");
    for (index, member) in members.iter().enumerate() {
        let comma = if index + 1 < members.len() { "," } else { "" };
        // Writing to a String can't fail.
        let _ = writeln!(text, "{pad}{member}{comma}");
    }
    format!("{text}{}}}", " ".repeat(indent))
}

fn metadata(field: &Field) -> Option<String> {
    let mut entries: Vec<(&String, &String)> = field.metadata().iter().filter(|(key, _)| !is_mark(key)).collect();
    let rank = |key: &str| ORDER.iter().position(|known| *known == key).unwrap_or(ORDER.len());
    entries.sort_by_key(|(key, _)| (rank(key), *key));
    let entries: Vec<String> = entries
        .iter()
        .map(|(key, value)| format!("{}: {}", Value::from(key.as_str()), Value::from(value.as_str())))
        .collect();
    (!entries.is_empty()).then(|| format!("\"metadata\": {{ {} }}", entries.join(", ")))
}
