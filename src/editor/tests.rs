//! The copies in docs/ are current, the shipped files name them, and what they say is what the readers do.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::*;
use crate::schema::{FIELD_KEYS, FILE_KEYS, ITEM_KEYS, METADATA};

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_copies_in_the_docs_are_current() {
    for kind in FileKind::ALL {
        let path = repository().join("docs/json-schema").join(kind.file_name());
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(&path, text(kind)).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text(kind), "run this test with UPDATE_DOCS=1");
    }
}

#[test]
fn the_shipped_files_name_their_schemas() {
    let config = std::fs::read_to_string(repository().join("docs/afterimage.toml")).unwrap();
    assert_eq!(config.lines().next(), Some("#:schema ./json-schema/config.json"));
    let schema = std::fs::read_to_string(repository().join("schemas/users/1.json")).unwrap();
    let schema: Value = serde_json::from_str(&schema).unwrap();
    let named = schema["$schema"].as_str().unwrap();
    assert!(repository().join("schemas/users").join(named).is_file(), "{named}");
    let tests = repository().join("queries/users/tests");
    for entry in std::fs::read_dir(&tests).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        let first = text.lines().next().unwrap_or_default();
        let named = first.strip_prefix("# yaml-language-server: $schema=").unwrap_or_default();
        assert!(tests.join(named).is_file(), "{first}");
    }
}

fn matches(pattern: &str, text: &str) -> bool {
    let texts = arrow::array::StringArray::from(vec![text]);
    arrow::compute::regexp_is_match_scalar(&texts, pattern, None).unwrap().value(0)
}

/// As much of JSON Schema as is used here; `None` is fine, otherwise where it isn't.
fn breach(root: &Value, schema: &Value, value: &Value, at: &str) -> Option<String> {
    if let Some(reference) = schema["$ref"].as_str() {
        return breach(root, root.pointer(reference.trim_start_matches('#')).unwrap(), value, at);
    }
    if schema == false {
        return Some(format!("{at}: nothing may stand here"));
    }
    let is = |kind: &str| match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        other => panic!("{other}"),
    };
    let kinds: Vec<&str> = match &schema["type"] {
        Value::String(kind) => vec![kind],
        Value::Array(kinds) => kinds.iter().map(|kind| kind.as_str().unwrap()).collect(),
        _ => Vec::new(),
    };
    if !kinds.is_empty() && !kinds.iter().any(|kind| is(kind)) {
        return Some(format!("{at}: {value} is none of {kinds:?}"));
    }
    if let Some(choices) = schema["enum"].as_array()
        && !choices.contains(value)
    {
        return Some(format!("{at}: {value} is none of {choices:?}"));
    }
    if let (Some(pattern), Some(text)) = (schema["pattern"].as_str(), value.as_str())
        && !matches(pattern, text)
    {
        return Some(format!("{at}: {text:?} doesn't match {pattern}"));
    }
    if let Some(any) = schema["anyOf"].as_array() {
        let breaches: Vec<String> = any.iter().filter_map(|schema| breach(root, schema, value, at)).collect();
        if breaches.len() == any.len() {
            return Some(breaches.join(", and "));
        }
    }
    if let Some(members) = value.as_object() {
        for name in schema["required"].as_array().into_iter().flatten() {
            if !members.contains_key(name.as_str().unwrap()) {
                return Some(format!("{at}: {name} is missing"));
            }
        }
        for (name, value) in members {
            let known = schema["properties"].get(name);
            let schema = known.or(schema.get("additionalProperties"));
            let found = schema.and_then(|schema| breach(root, schema, value, &format!("{at}.{name}")));
            if found.is_some() {
                return found;
            }
        }
    }
    let items = value.as_array().into_iter().flatten();
    items.into_iter().find_map(|item| breach(root, schema.get("items")?, item, &format!("{at}[]")))
}

fn config(text: &str) -> Option<String> {
    let value: Value = serde_json::to_value(toml::from_str::<toml::Value>(text).unwrap()).unwrap();
    let schema = json_schema(FileKind::Config);
    breach(&schema, &schema, &value, "config")
}

#[test]
fn configs_that_are_read_are_valid_and_others_are_not() {
    let shipped = std::fs::read_to_string(repository().join("docs/afterimage.toml")).unwrap();
    assert_eq!(config(&shipped), None);
    for (from, to) in [
        ("brokers =", "broker ="),
        ("brokers =", "# brokers ="),
        ("key = [\"user_id\"]", "key = \"user_id\""),
        ("key = [\"user_id\"]", "key = []"),
        ("max_wait = \"5ms\"", "max_wait = 5"),
        ("max_wait = \"5ms\"", "max_wait = \"5\""),
        ("max_events = 32768", "max_events = \"many\""),
        ("on_error = \"hold_key\"", "on_error = \"hold\""),
        ("[pipelines.users]", "[pipeline.users]"),
    ] {
        assert!(shipped.contains(from), "{from}");
        let broken = shipped.replacen(from, to, 1);
        let refused = crate::config::Config::parse(&broken, Path::new("afterimage.toml"), &|_| Some("x".into()));
        assert!(refused.is_err(), "{to}");
        // What the small validator above knows nothing of: minItems.
        assert!(config(&broken).is_some() || to == "key = []", "{to}");
    }
    assert_eq!(config(&shipped.replace("max_events = 32768", "max_events = \"${MAX:-10}\"")), None);
}

#[test]
fn every_key_of_a_schema_file_is_described() {
    let page = json_schema(FileKind::Schema);
    for (place, keys) in [("", &FILE_KEYS[..]), ("/$defs/field", &FIELD_KEYS[..]), ("/$defs/item", &ITEM_KEYS[..])] {
        let properties = page.pointer(&format!("{place}/properties")).unwrap().as_object().unwrap();
        assert!(keys.iter().all(|key| properties[*key].is_object()), "{properties:?}");
        assert_eq!(properties.len(), keys.len());
    }
    let metadata = page.pointer("/$defs/field/properties/metadata/properties").unwrap();
    assert!(METADATA.iter().all(|key| metadata[*key].is_object()), "{metadata}");
    let valid = |value: Value| breach(&page, &page, &value, "schema");
    let shipped = std::fs::read_to_string(repository().join("schemas/users/1.json")).unwrap();
    assert_eq!(valid(serde_json::from_str(&shipped).unwrap()), None);
    for kind in schema::types_for_tests() {
        let field = match kind {
            "struct" => json!({ "name": "a", "type": kind, "fields": [{ "name": "b", "type": "utf8" }] }),
            "list" => json!({ "name": "a", "type": kind, "items": { "type": "utf8" } }),
            _ => json!({ "name": "a", "type": kind }),
        };
        let file = json!({ "fields": [field] });
        assert_eq!(valid(file.clone()), None, "{kind}");
        let read = crate::schema::SourceSchema::parse(1, Path::new("1.json"), &file.to_string());
        assert!(read.is_ok(), "{kind}: {read:?}");
    }
    for wrong in [
        json!({ "fields": [{ "name": "a", "type": "string" }] }),
        json!({ "fields": [{ "type": "utf8" }] }),
        json!({ "fields": [{ "name": "a", "type": "utf8", "nulable": false }] }),
        json!({ "field": [] }),
        json!({ "fields": [{ "name": "a", "type": "utf8", "metadata": { "aliases": "b" } }] }),
    ] {
        assert!(crate::schema::SourceSchema::parse(1, Path::new("1.json"), &wrong.to_string()).is_err(), "{wrong}");
        assert!(valid(wrong.clone()).is_some(), "{wrong}");
    }
}
