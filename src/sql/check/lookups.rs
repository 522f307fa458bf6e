//! Lookups as the models see them: those that nobody reads, and columns that look like the engine's own.

use std::collections::BTreeSet;

use crate::diagnostic::Diagnostic;
use crate::sql::lookup::Lookup;
use crate::sql::models::{Model, Models};

/// Columns that every model passes on, beside those that begin with `_`.
const PASSED_ON: [&str; 1] = ["ts"];
/// Columns of `events` whose fields are written like columns of a table of that name.
const STRUCTS: [&str; 2] = ["before", "after"];

/// Adds warnings about lookups; `names` are all that the config has, `loaded` those whose columns are known.
pub(super) fn lookups(names: &[&str], loaded: &[Lookup], models: &Models, faults: &mut Vec<Diagnostic>) {
    // What models read that can't be parsed, are missing or misspell a table isn't known.
    let unknown = faults.iter().any(|fault| ["AI0101", "AI0102", "AI0107"].contains(&fault.code));
    if !unknown && models.models.iter().all(|model| model.parsed.is_some()) {
        let read: BTreeSet<&str> = models.models.iter().flat_map(Model::reads).collect();
        for name in names.iter().filter(|name| !read.contains(**name)) {
            let message = format!("no model reads the lookup {name}: it is loaded and kept for nothing");
            faults.push(Diagnostic::warning("AI0136", message).help("join it, or take it out of the config"));
        }
    }
    for name in names.iter().filter(|name| STRUCTS.contains(name)) {
        let message = format!("the lookup {name} hides the event's {name}: {name}.x would be its column x");
        faults.push(Diagnostic::warning("AI0137", message).help("give the lookup another name"));
    }
    for lookup in loaded {
        let schema = lookup.slot.schema();
        let hiding = schema.fields().iter().map(|field| field.name().as_str());
        let hiding: Vec<&str> = hiding.filter(|column| column.starts_with('_') || PASSED_ON.contains(column)).collect();
        if !hiding.is_empty() {
            let shown = hiding.join(", ");
            let message = format!("the lookup {} has columns named like the engine's own: {shown}", lookup.name);
            let help = "a model that selects * from the join takes them for the event's: give them other names";
            faults.push(Diagnostic::warning("AI0137", message).help(help));
        }
    }
}
