//! The lookups of a pipeline: where each is from, and what that needs.

use std::collections::BTreeMap;
use std::time::Duration;

use arrow::datatypes::DataType;
use toml::de::DeValue;

use super::reader::{Place, Reader, Table, code};
use super::sections::{columns, named};
use super::{Lookup, LookupFrom, keys, names};
use crate::diagnostic::did_you_mean;
use crate::schema;

const REFRESH: Duration = Duration::from_secs(60);
/// The keys that say where a lookup is from.
const SOURCES: [&str; 3] = ["file", "mysql", "topic"];

pub(super) fn lookups<'d>(reader: &Reader<'d>, pipeline: &Table<'d>) -> Option<BTreeMap<String, Lookup>> {
    let all = reader.free_table(pipeline, "lookups", &keys::LOOKUP);
    let read = reader.tables(&all, &keys::LOOKUP).into_iter().map(|(name, table)| {
        if let Some(what) = names::lookup(&name) {
            reader.fault(code::NAME, table.place.as_ref(), format!("the lookup's name {what}"), "");
        }
        lookup(reader, &table).map(|lookup| (name, lookup))
    });
    read.collect::<Vec<_>>().into_iter().collect()
}

fn lookup<'d>(reader: &Reader<'d>, table: &Table<'d>) -> Option<Lookup> {
    let key = columns(reader, table, "key");
    let refresh = reader.duration(table, "refresh");
    let types = types(reader, table);
    let given: Vec<(&str, Place)> =
        SOURCES.into_iter().filter_map(|source| Some((source, reader.place(table, source)?))).collect();
    let source = match given.as_slice() {
        [(source, _)] => *source,
        [] => {
            let what = format!("[{}] has neither file nor mysql nor topic", table.shown);
            let help = "add file = \"<path>\", mysql = \"SELECT ...\" or topic = \"<topic>\"";
            reader.fault(code::MISSING_KEY, table.place.as_ref(), what, help);
            return None;
        }
        [.., (before, _), (last, place)] => {
            let what = format!("[{}] has both {before} and {last}", table.shown);
            reader.fault(code::CONTRADICTION, Some(place), what, "keep one of the two");
            return None;
        }
    };
    let meaningless = |name: &str, help: &str| {
        if let Some(place) = reader.place(table, name) {
            let what = format!("{}.{name} has no meaning for a {source}", table.shown);
            reader.fault(code::CONTRADICTION, Some(&place), what, help);
        }
    };
    let from = match source {
        "file" => {
            meaningless("refresh", "remove it: a file is read again when it changes");
            meaningless("columns", "remove it: a file has its own columns");
            LookupFrom::File(reader.path(table, "file")?)
        }
        "mysql" => {
            meaningless("columns", "remove it: the query has its own columns; convert with CAST there");
            LookupFrom::MySql { query: reader.text(table, "mysql")?.value, refresh: refresh.unwrap_or(REFRESH) }
        }
        _ => {
            meaningless("refresh", "remove it: a topic is followed as it grows");
            let topic = named(reader, table, "topic", names::topic);
            if reader.place(table, "columns").is_none() {
                let what = format!("\"columns\" is missing in [{}]", table.shown);
                let help = "say what its records hold: columns = { code = \"utf8\", rate = \"decimal128(10,4)\" }";
                reader.fault(code::MISSING_KEY, table.place.as_ref(), what, help);
            }
            let columns = types?;
            keys_are_columns(reader, table, key.as_deref().unwrap_or_default(), &columns);
            LookupFrom::Topic { topic: topic?.value, columns }
        }
    };
    Some(Lookup { from, key: key? })
}

/// `columns` of a topic's lookup, in the order written.
fn types<'d>(reader: &Reader<'d>, lookup: &Table<'d>) -> Option<Vec<(String, DataType)>> {
    let table = reader.free_table(lookup, "columns", &keys::LOOKUP_COLUMNS);
    let mut found: Vec<(usize, String, DataType)> = Vec::new();
    let mut whole = true;
    for (name, place, value) in reader.entries(&table) {
        let DeValue::String(written) = value.get_ref() else {
            reader.wrong_type(&format!("{}.{name}", table.shown), "the name of a type", value.get_ref(), &value.span());
            whole = false;
            continue;
        };
        match scalar(written.trim()) {
            Ok(kind) => found.push((place.start, name.to_owned(), kind)),
            Err(help) => {
                let what = format!("{}.{name}: there is no type \"{written}\"", table.shown);
                reader.fault(code::UNKNOWN_CHOICE, Some(&value.span()), what, help);
                whole = false;
            }
        }
    }
    found.sort_by_key(|(at, _, _)| *at);
    (whole && !found.is_empty()).then(|| found.into_iter().map(|(_, name, kind)| (name, kind)).collect())
}

/// A type whose values a lookup can hold.
fn scalar(name: &str) -> Result<DataType, String> {
    match name {
        "json" | "struct" | "list" => {
            Err("columns of a lookup are plain values: name the members that are needed".to_owned())
        }
        _ => schema::type_named(name),
    }
}

fn keys_are_columns(reader: &Reader<'_>, table: &Table<'_>, key: &[String], columns: &[(String, DataType)]) {
    let place = reader.place(table, "key");
    for name in key {
        match columns.iter().find(|(column, _)| column == name) {
            Some((_, kind)) if kind.is_floating() || kind.is_nested() => {
                let what =
                    format!("{}.key: {name} is {}, which can't tell rows apart", table.shown, schema::type_name(kind));
                reader.fault(
                    code::CONTRADICTION,
                    place.as_ref(),
                    what,
                    "use a text, a whole number, a decimal, a date or a time",
                );
            }
            Some(_) => {}
            None => {
                let what = format!("{}.key: {name} is none of its columns", table.shown);
                let help = match did_you_mean(name, columns.iter().map(|(column, _)| column.as_str())) {
                    Some(meant) => format!("did you mean \"{meant}\"?"),
                    None => format!("add it to columns: {name} = \"utf8\""),
                };
                reader.fault(code::CONTRADICTION, place.as_ref(), what, help);
            }
        }
    }
}
