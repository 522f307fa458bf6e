//! The JSON Schema of schema files, from the keys and types that their reader knows.

use serde_json::{Map, Value, json};

use crate::schema::{FIELD_KEYS, FILE_KEYS, ITEM_KEYS, METADATA, TYPES, Verb};

/// Types with numbers in brackets, which a list of names can't hold.
const PARAMETRIZED: &str = r"^(timestamp\((s|ms|us|ns)\)|decimal128\(\s*[0-9]{1,2}\s*,\s*[0-9]{1,2}\s*\))$";

pub(super) fn json_schema() -> Value {
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A version of the source's row",
        "description": "schemas/<pipeline>/<version>.json: how the row images of the events are typed. The highest version is the one in use.",
        "type": "object",
        "properties": named(&FILE_KEYS),
        "required": ["fields"],
        "additionalProperties": false,
        "$defs": {
            "field": described(&FIELD_KEYS, &["name", "type"]),
            "item": described(&ITEM_KEYS, &["type"]),
        },
    })
}

/// A field or a list's items: structs need `fields`, lists need `items`.
fn described(keys: &[&str], required: &[&str]) -> Value {
    let needs = |kind: &str, key: &str, other: &str| {
        json!({
            "if": { "properties": { "type": { "const": kind } }, "required": ["type"] },
            "then": { "required": [key], "properties": { other: false } },
        })
    };
    json!({
        "type": "object",
        "properties": named(keys),
        "required": required,
        "additionalProperties": false,
        "allOf": [needs("struct", "fields", "items"), needs("list", "items", "fields")],
    })
}

fn named(keys: &[&str]) -> Map<String, Value> {
    keys.iter().map(|key| ((*key).to_owned(), value(key))).collect()
}

/// What stands at a key; the same key means the same everywhere.
fn value(key: &str) -> Value {
    match key {
        "$schema" => json!({ "type": "string", "description": "For editors; it changes nothing." }),
        "doc" => json!({ "type": "string", "description": "What the row is." }),
        "fields" => json!({
            "type": "array", "items": { "$ref": "#/$defs/field" }, "minItems": 1,
            "description": "The fields of the row, or of a struct.",
        }),
        "items" => json!({ "$ref": "#/$defs/item", "description": "What a list holds." }),
        "breaking" => breaking(),
        "name" => json!({ "type": "string", "minLength": 1, "description": "As it stands in events." }),
        "type" => json!({
            "anyOf": [{ "enum": types() }, { "type": "string", "pattern": PARAMETRIZED }],
            "description": "A value enters its type exactly, or refuses the event.",
        }),
        "nullable" => json!({
            "type": "boolean", "default": true,
            "description": "false: events that lack it, or in which it is null, are refused.",
        }),
        "metadata" => metadata(),
        // A key that the reader knows and this page doesn't: a test finds it.
        _ => Value::Bool(true),
    }
}

fn types() -> Vec<&'static str> {
    TYPES.iter().copied().chain(["struct", "list", "timestamp(s)", "timestamp(ns)"]).collect()
}

fn breaking() -> Value {
    let verbs: Vec<&str> = Verb::ALL.into_iter().map(Verb::name).collect();
    json!({
        "type": "array",
        "items": { "type": "string", "pattern": format!("^\\s*({})\\s+[^:]+:\\s*\\S", verbs.join("|")) },
        "description": format!("Changes against the version before that break something on purpose, each with its reason. Verbs: {}.", verbs.join(", ")),
    })
}

fn metadata() -> Value {
    let known = |key: &str| match key {
        "doc" => json!({ "type": "string", "description": "What the field means." }),
        "aliases" => json!({
            "type": "string", "pattern": r"^\s*\[.*\]\s*$", "examples": ["[\"user_id\"]"],
            "description": "Older names of the field: a JSON array, written as a text.",
        }),
        "default" => json!({
            "type": "string",
            "description": "What stands for the field in events that lack it, written as in an event, text without quotes.",
        }),
        _ => Value::Bool(true),
    };
    let properties: Map<String, Value> = METADATA.iter().map(|key| ((*key).to_owned(), known(key))).collect();
    json!({
        "type": "object", "properties": properties, "additionalProperties": { "type": "string" },
        "description": "Texts, as in Arrow. Other names are the writer's own.",
    })
}

#[cfg(test)]
pub(super) fn types_for_tests() -> Vec<&'static str> {
    types()
}
