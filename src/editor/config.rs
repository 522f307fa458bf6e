//! The JSON Schema of `afterimage.toml`, from the table of its keys.

use serde_json::{Map, Value, json};

use crate::config::keys::{Absent, Key, Kind, SECTIONS, Section};
use crate::target::MAX_KEY_COLUMNS;

/// A text in which a variable may stand for the value.
const VARIABLE: &str = r"\$\{[A-Za-z_][A-Za-z0-9_]*(:-[^}]*)?\}";

pub(super) fn json_schema() -> Value {
    let mut root = table("", "");
    root["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    root["title"] = json!("afterimage.toml");
    root["description"] = json!("The config of afterimage. docs/config.md describes every key.");
    root["required"] = json!(["kafka", "mysql", "pipelines"]);
    root
}

/// The table at `path` (`*` for a name that the user chooses), with all that is beneath it.
fn table(path: &str, doc: &str) -> Value {
    let section: Option<&&Section> = SECTIONS.iter().find(|section| section.path == path);
    let keys = section.map(|section| section.keys).unwrap_or_default();
    if path == "kafka.properties" {
        let value = json!({ "type": ["string", "number", "boolean", "object"] });
        return json!({ "type": "object", "description": doc, "additionalProperties": value });
    }
    let mut properties: Map<String, Value> = keys.iter().map(|key| (key.name.to_owned(), value(key))).collect();
    let mut named = None;
    for beneath in beneath(path) {
        let below = if path.is_empty() { beneath.to_owned() } else { format!("{path}.{beneath}") };
        let doc = SECTIONS.iter().find(|section| section.path == below).map_or("", |section| section.doc);
        match beneath {
            "*" => named = Some(table(&below, doc)),
            _ => {
                properties.insert(beneath.to_owned(), table(&below, doc));
            }
        }
    }
    let required: Vec<&str> = keys.iter().filter(|key| key.absent == Absent::Refused).map(|key| key.name).collect();
    let mut schema = json!({ "type": "object" });
    if !doc.is_empty() {
        schema["description"] = json!(doc);
    }
    match named {
        Some(named) => {
            schema["additionalProperties"] = named;
            schema["minProperties"] = json!(usize::from(path == "pipelines"));
        }
        None => {
            schema["properties"] = Value::Object(properties);
            schema["additionalProperties"] = json!(false);
        }
    }
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

/// The next names beneath `path`.
fn beneath(path: &str) -> Vec<&'static str> {
    let prefix = if path.is_empty() { String::new() } else { format!("{path}.") };
    let below = SECTIONS.iter().filter_map(|section| section.path.strip_prefix(prefix.as_str()));
    let mut names: Vec<&'static str> = below.filter_map(|rest| rest.split('.').next()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn value(key: &Key) -> Value {
    let mut schema = match key.kind {
        Kind::Text | Kind::Path => json!({ "type": "string" }),
        Kind::Flag => or_variable(json!({ "type": "boolean" })),
        Kind::Count { min, max } => or_variable(json!({ "type": "integer", "minimum": min, "maximum": max })),
        Kind::Duration { min, max } => with_unit("5ms", "ns, us, ms, s, m, h, d", min, max),
        Kind::Size { min, max } => with_unit("32MiB", "B, kB, MB, GB, KiB, MiB, GiB", min, max),
        Kind::Share => json!({ "type": "string", "pattern": format!("%\\s*$|{VARIABLE}"), "examples": ["50%"] }),
        Kind::Choice(choices) => or_variable(json!({ "enum": choices })),
        Kind::Columns => json!({
            "type": "array", "items": { "type": "string" }, "minItems": 1, "maxItems": MAX_KEY_COLUMNS,
        }),
    };
    schema["description"] = json!(key.doc);
    if let Absent::Default(default) = key.absent {
        schema["default"] = match key.kind {
            Kind::Flag | Kind::Count { .. } => default.parse().unwrap_or_else(|_| json!(default)),
            _ => json!(default),
        };
    }
    schema
}

fn or_variable(schema: Value) -> Value {
    json!({ "anyOf": [schema, { "type": "string", "pattern": VARIABLE }] })
}

fn with_unit(example: &str, units: &str, min: &str, max: &str) -> Value {
    json!({
        "type": "string",
        "pattern": format!("^\\s*[0-9][0-9.]*\\s*[A-Za-zµ]+\\s*$|{VARIABLE}"),
        "examples": [example],
        "$comment": format!("{min} to {max}; units: {units}"),
    })
}
