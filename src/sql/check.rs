//! The contract of the models, checked before the first batch: what each role yields and reads, and that nothing on the way to the
//! target depends on the clock, on chance or on where a batch was cut.

use std::collections::BTreeSet;

use arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::logical_expr::{Distinct, Expr, LogicalPlan, Volatility};
use datafusion::prelude::SessionContext;

use super::ModelSpec;
use super::locate;
use super::lookup::Lookup;
use super::models::{ACCEPTED, CHANGES, ENRICHED, EVENTS, HELD, KNOWN, LATEST, METRICS, Model, Models, OUT_OF_ORDER};
use super::plan::Step;
use crate::diagnostic::{Diagnostic, did_you_mean};

mod joins;
mod latest;
mod lookups;
mod values;

/// Names of the fields inside the structs of `schema`.
pub(super) fn struct_fields(schema: &SchemaRef) -> Vec<String> {
    let mut names = BTreeSet::new();
    for field in schema.fields() {
        if let DataType::Struct(fields) = field.data_type() {
            names.extend(fields.iter().map(|field| field.name().clone()));
        }
    }
    names.into_iter().collect()
}

/// Adds every breach of the contract to `faults`.
pub(super) fn contract(
    spec: &ModelSpec,
    models: &Models,
    steps: &[Step],
    session: &SessionContext,
    (names, loaded): (&[&str], &[Lookup]),
    faults: &mut Vec<Diagnostic>,
) {
    let mut wrong: Vec<(&str, String)> = Vec::new();
    for step in steps {
        let Some(model) = models.get(&step.name) else { continue };
        let wanted = wanted(&step.name);
        let mut found = Vec::new();
        if !wanted.is_empty() {
            keys(model, step.schema(), &spec.key, &mut found);
        }
        for column in wanted {
            require(model, step.schema(), column, &mut found);
        }
        // A column that is wrong where it is made is wrong wherever it is passed on: said once is enough.
        let ancestry = models.ancestry(&step.name);
        found.retain(|(column, _)| !wrong.iter().any(|(model, other)| ancestry.contains(*model) && other == column));
        for (column, fault) in found {
            wrong.push((&step.name, column));
            faults.push(fault);
        }
    }
    key_types(models, steps, &spec.key, faults);
    routes(spec, models, faults);
    let way = models.ancestry(LATEST);
    for model in models.models.iter().filter(|model| way.contains(&model.name)) {
        volatile(model, session, faults);
    }
    let cut = models.ancestry(ACCEPTED);
    for step in steps {
        let Some(model) = models.get(&step.name) else { continue };
        // A column of the wrong type makes odd comparisons wherever it is passed on to.
        if !faults.iter().any(|fault| fault.code == "AI0116") {
            values::values(model, &step.logical, faults);
        }
        if way.contains(&step.name) {
            let accepted = cut.contains(&step.name);
            batch_dependent(models, model, step, accepted, faults);
            if let Ok(optimized) = session.state().optimize(&step.logical) {
                joins::joins(spec, models, model, &optimized, accepted, faults);
            }
        }
    }
    latest::latest(spec, models, steps, faults);
    lookups::lookups(names, loaded, models, faults);
    unread(models, faults);
}

/// A column that a role must have.
struct Wanted {
    name: &'static str,
    is: fn(&DataType) -> bool,
    kind: &'static str,
}

const DELETED: Wanted = Wanted { name: "_deleted", is: |kind| *kind == DataType::Boolean, kind: "Boolean" };
const TS: Wanted = Wanted { name: "ts", is: |kind| matches!(kind, DataType::Timestamp(..)), kind: "Timestamp" };
const PARTITION: Wanted = Wanted { name: "_partition", is: |kind| *kind == DataType::Int32, kind: "Int32" };
const OFFSET: Wanted = Wanted { name: "_offset", is: |kind| *kind == DataType::Int64, kind: "Int64" };
const ERROR: Wanted = Wanted { name: "_error", is: |kind| *kind == DataType::Utf8, kind: "Utf8" };
const KNOWN_TS: Wanted =
    Wanted { name: "_known_ts", is: |kind| matches!(kind, DataType::Timestamp(..)), kind: "Timestamp" };
const KNOWN_PARTITION: Wanted = Wanted { name: "_known_partition", is: |kind| *kind == DataType::Int32, kind: "Int32" };
const KNOWN_OFFSET: Wanted = Wanted { name: "_known_offset", is: |kind| *kind == DataType::Int64, kind: "Int64" };

fn wanted(role: &str) -> &'static [Wanted] {
    match role {
        CHANGES | ACCEPTED | LATEST => &[DELETED, TS, PARTITION, OFFSET],
        ENRICHED => &[DELETED, TS, PARTITION, OFFSET, ERROR],
        OUT_OF_ORDER => &[TS, PARTITION, OFFSET, KNOWN_TS, KNOWN_PARTITION, KNOWN_OFFSET],
        _ => &[],
    }
}

/// A fault and the column that it is about.
type Found = Vec<(String, Diagnostic)>;

fn require(model: &Model, schema: &Schema, column: &Wanted, found: &mut Found) {
    let name = column.name;
    match schema.field_with_name(name) {
        Err(_) => {
            let fault = Diagnostic::error("AI0115", format!("{} doesn't yield the column {name}", model.name));
            let help = format!("add {name} ({}) to the SELECT", column.kind);
            found.push((name.to_owned(), fault.file(&model.file).help(help)));
        }
        Ok(field) if !(column.is)(field.data_type()) => {
            let message = format!("{name} is {}, it must be {}", field.data_type(), column.kind);
            let fault = Diagnostic::error("AI0116", message).file(&model.file).span(output_span(model, name));
            found.push((name.to_owned(), fault));
        }
        Ok(_) => {}
    }
}

fn keys(model: &Model, schema: &Schema, key: &[String], found: &mut Found) {
    for name in key {
        match schema.field_with_name(name) {
            Err(_) => {
                let fault = Diagnostic::error("AI0115", format!("{} doesn't yield the key column {name}", model.name))
                    .file(&model.file);
                let names = schema.fields().iter().map(|field| field.name().as_str());
                let fault = match did_you_mean(name, names.filter(|other| !other.starts_with('_'))) {
                    Some(alike) => fault.help(format!("is {alike:?} meant to be it? name it {name:?} with AS")),
                    None => fault.help(format!("add {name} to the SELECT")),
                };
                found.push((name.clone(), fault));
            }
            Ok(field) if !can_be_key(field.data_type()) => {
                let message = format!("the key column {name} is {}, which can't tell rows apart", field.data_type());
                let fault = Diagnostic::error("AI0116", message)
                    .file(&model.file)
                    .span(output_span(model, name))
                    .help("use a text, a whole number, a decimal, a date or a time");
                found.push((name.clone(), fault));
            }
            Ok(_) => {}
        }
    }
}

fn can_be_key(kind: &DataType) -> bool {
    kind.is_integer()
        || matches!(
            kind,
            DataType::Utf8
                | DataType::Binary
                | DataType::Boolean
                | DataType::Date32
                | DataType::Timestamp(..)
                | DataType::Decimal128(..)
                | DataType::Decimal256(..)
        )
}

/// A key must have one type in all roles: it is compared across them.
fn key_types(models: &Models, steps: &[Step], key: &[String], faults: &mut Vec<Diagnostic>) {
    let step = |name: &str| steps.iter().find(|step| step.name == name);
    let Some(changes) = step(CHANGES) else { return };
    for role in [ENRICHED, ACCEPTED, LATEST] {
        let (Some(step), Some(model)) = (step(role), models.get(role)) else { continue };
        for name in key {
            let first = changes.schema().field_with_name(name);
            let (Ok(first), Ok(here)) = (first, step.schema().field_with_name(name)) else { continue };
            if first.data_type() != here.data_type() {
                let message =
                    format!("the key column {name} is {}, but {} in {CHANGES}", here.data_type(), first.data_type());
                faults.push(Diagnostic::error("AI0116", message).file(&model.file).span(output_span(model, name)));
            }
        }
    }
}

/// Which role must, and which may not, read what.
fn routes(spec: &ModelSpec, models: &Models, faults: &mut Vec<Diagnostic>) {
    let mut must =
        vec![(ENRICHED, EVENTS, "rows must come from the batch"), (ACCEPTED, ENRICHED, "it judges its rows")];
    must.push((LATEST, ACCEPTED, "only accepted rows may reach the target"));
    if spec.hold_keys {
        must.push((ACCEPTED, HELD, "rows of users on hold must be left out"));
    }
    for (role, table, reason) in must {
        let Some(model) = models.get(role).filter(|model| model.parsed.is_some()) else { continue };
        let ancestry = models.ancestry(role);
        let parsed = ancestry.iter().filter_map(|name| models.get(name)).all(|model| model.parsed.is_some());
        if parsed && !ancestry.contains(table) {
            let fault = Diagnostic::error("AI0124", format!("{role} doesn't read {table}: {reason}"));
            faults.push(fault.file(&model.file));
        }
    }
    for role in [CHANGES, ENRICHED, ACCEPTED, LATEST, METRICS] {
        let Some(model) = models.get(role) else { continue };
        if models.ancestry(role).contains(KNOWN) {
            let span = model.parsed.iter().flat_map(|parsed| &parsed.reads).find(|read| read.name == KNOWN);
            faults.push(
                Diagnostic::error("AI0124", format!("{role} reads {KNOWN}, which is filled for {OUT_OF_ORDER} only"))
                    .file(&model.file)
                    .span(span.and_then(|read| read.span)),
            );
        }
    }
}

/// Functions whose value isn't decided by their arguments: a replay would yield other rows.
fn volatile(model: &Model, session: &SessionContext, faults: &mut Vec<Diagnostic>) {
    let state = session.state();
    for call in model.parsed.iter().flat_map(|parsed| &parsed.calls) {
        let function = state.scalar_functions().get(&call.name.to_lowercase());
        let Some(function) = function.filter(|it| it.signature().volatility != Volatility::Immutable) else { continue };
        let reason = match function.signature().volatility {
            Volatility::Volatile => "differs every time, so that a replay would yield other rows",
            _ => "would be computed once, when the models are planned, and a replay would yield other rows",
        };
        faults.push(
            Diagnostic::error("AI0118", format!("{} {reason}", call.name))
                .file(&model.file)
                .span(call.span)
                .help("take the event's own time: ts, or _kafka_ts"),
        );
    }
}

/// What makes a row depend on the other rows of its batch.
fn batch_dependent(models: &Models, model: &Model, step: &Step, accepted: bool, faults: &mut Vec<Diagnostic>) {
    let mut found: Vec<String> = Vec::new();
    let walked = step.logical.apply_with_subqueries(|node| {
        if !reads_batch(models, node) {
            return Ok(TreeNodeRecursion::Jump);
        }
        match node {
            LogicalPlan::Aggregate(aggregate) if accepted && !per_event(&aggregate.group_expr) => {
                found.extend(names(&aggregate.aggr_expr, "GROUP BY"));
            }
            LogicalPlan::Aggregate(aggregate) if !accepted => {
                found.extend(aggregate.aggr_expr.iter().filter(|expr| !picks(expr)).map(function_name));
            }
            LogicalPlan::Window(window) => {
                for expr in &window.window_expr {
                    if if accepted { !window_per_event(expr) } else { !picks(expr) } {
                        found.push(function_name(expr));
                    }
                }
            }
            LogicalPlan::Limit(_) => found.push("LIMIT".to_owned()),
            LogicalPlan::Distinct(Distinct::On(_)) if accepted => found.push("DISTINCT".to_owned()),
            // Rows that are equal in their place, too, are one event's.
            LogicalPlan::Distinct(Distinct::All(input)) if accepted && !has_place(input) => {
                found.push(written(model, input).to_owned());
            }
            _ => {}
        }
        Ok(TreeNodeRecursion::Continue)
    });
    debug_assert!(walked.is_ok());
    found.dedup();
    for name in found {
        let message =
            format!("{name} looks at the other events of a batch: where batches are cut would change the rows");
        let help = if accepted {
            "decide each event by itself, or group by _partition and _offset"
        } else {
            "pick rows (ROW_NUMBER, MAX of the version), don't sum them up"
        };
        let span = locate::word_any_case(&model.sql, &name);
        faults.push(Diagnostic::error("AI0119", message).file(&model.file).span(span).help(help));
    }
}

/// Whether rows of the batch flow through `node` (not those of a lookup alone).
fn reads_batch(models: &Models, node: &LogicalPlan) -> bool {
    let mut found = false;
    let walked = node.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            let ancestry = models.ancestry(scan.table_name.table());
            found |= ancestry.contains(EVENTS);
        }
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    debug_assert!(walked.is_ok());
    found
}

/// Whether the grouping keeps every event apart.
fn per_event(groups: &[Expr]) -> bool {
    let names: BTreeSet<&str> = groups
        .iter()
        .filter_map(|expr| match expr {
            Expr::Column(column) => Some(column.name.as_str()),
            _ => None,
        })
        .collect();
    names.contains("_partition") && names.contains("_offset")
}

fn window_per_event(expr: &Expr) -> bool {
    match expr {
        Expr::WindowFunction(window) => per_event(&window.params.partition_by),
        Expr::Alias(alias) => window_per_event(&alias.expr),
        _ => false,
    }
}

fn names(exprs: &[Expr], otherwise: &str) -> Vec<String> {
    match exprs {
        [] => vec![otherwise.to_owned()],
        some => some.iter().map(function_name).collect(),
    }
}

fn function_name(expr: &Expr) -> String {
    match expr {
        Expr::AggregateFunction(function) => function.func.name().to_owned(),
        Expr::WindowFunction(window) => window.fun.name().to_owned(),
        Expr::Alias(alias) => function_name(&alias.expr),
        other => other.schema_name().to_string(),
    }
}

/// The word that makes rows of `input` distinct: EXCEPT and INTERSECT do so, too.
fn written(model: &Model, input: &LogicalPlan) -> &'static str {
    if matches!(input, LogicalPlan::Union(_)) {
        return "UNION";
    }
    let words = ["DISTINCT", "EXCEPT", "INTERSECT"];
    words.into_iter().find(|word| locate::word_any_case(&model.sql, word).is_some()).unwrap_or("DISTINCT")
}

/// Whether the columns of `plan` say where each row's event stands.
fn has_place(plan: &LogicalPlan) -> bool {
    let schema = plan.schema();
    ["_partition", "_offset"].iter().all(|name| schema.fields().iter().any(|field| field.name() == name))
}

/// Columns that decide between two rows of a key.
const VERSION: [&str; 3] = ["ts", "_partition", "_offset"];

/// Whether the expression chooses among rows by their version rather than sums them up, or mixes values of several.
fn picks(expr: &Expr) -> bool {
    let (name, args, ordered) = match expr {
        Expr::Alias(alias) => return picks(&alias.expr),
        Expr::AggregateFunction(call) => (call.func.name(), &call.params.args, !call.params.order_by.is_empty()),
        Expr::WindowFunction(call) => (call.fun.name(), &call.params.args, !call.params.order_by.is_empty()),
        _ => return false,
    };
    let by_version = || {
        let columns = args.iter().flat_map(Expr::column_refs).collect::<Vec<_>>();
        columns.iter().all(|column| VERSION.contains(&column.name.as_str()))
    };
    match name {
        "row_number" | "rank" | "dense_rank" => true,
        "max" | "min" => by_version(),
        "first_value" | "last_value" => ordered,
        _ => false,
    }
}

fn unread(models: &Models, faults: &mut Vec<Diagnostic>) {
    let roles = [CHANGES, ENRICHED, ACCEPTED, LATEST, OUT_OF_ORDER, METRICS];
    let read: BTreeSet<&str> = models.models.iter().flat_map(Model::reads).collect();
    for model in models.models.iter().filter(|model| !roles.contains(&model.name.as_str())) {
        if !read.contains(model.name.as_str()) {
            let fault = Diagnostic::warning("AI0125", format!("no model reads {:?}: it is never run", model.name));
            let fault = fault.file(&model.file);
            faults.push(match did_you_mean(&model.name, [OUT_OF_ORDER, METRICS]) {
                Some(role) => fault.help(format!("is it meant to be {role}.sql?")),
                None => fault.help("read it from another model, or delete the file"),
            });
        }
    }
}

/// Where the outermost SELECT names the column.
pub(super) fn output_span(model: &Model, column: &str) -> Option<crate::diagnostic::Span> {
    let outputs = model.parsed.as_ref()?.outputs.iter();
    outputs.filter(|output| output.name == column).find_map(|output| output.span)
}
