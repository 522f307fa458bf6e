//! How `latest` picks one row per key: numbered per key, newest first, the first one taken.
//!
//! The engine compares `latest` with its own fold and halts where they differ. What must differ sooner or later is refused here.

use std::collections::BTreeSet;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::expr::WindowFunction;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Expr, LogicalPlan, Operator};
use datafusion::scalar::ScalarValue;

use crate::diagnostic::Diagnostic;
use crate::sql::models::{ACCEPTED, LATEST, Model, Models};
use crate::sql::plan::Step;
use crate::sql::{ModelSpec, VersionBy, locate};

/// What the models behind `accepted` do.
#[derive(Default)]
struct Seen<'m> {
    /// Row numbers, each with its model and the name under which the plan knows it.
    numbers: Vec<(&'m Model, WindowFunction, String)>,
    /// Some other way to choose rows.
    otherwise: bool,
    /// Conditions, taken apart.
    conditions: Vec<Expr>,
    /// New names of columns: (old, new), and whether the value is the same.
    renamed: Vec<(String, String, bool)>,
}

pub(super) fn latest(spec: &ModelSpec, models: &Models, steps: &[Step], faults: &mut Vec<Diagnostic>) {
    let before = models.ancestry(ACCEPTED);
    let zone: BTreeSet<String> = models.ancestry(LATEST).into_iter().filter(|name| !before.contains(name)).collect();
    // Only where all of it could be planned: what isn't known may hold the very condition.
    let planned = |name: &String| steps.iter().any(|step| step.name == *name);
    let Some(model) = models.get(LATEST).filter(|_| zone.iter().all(planned)) else { return };
    let mut seen = Seen::default();
    for step in steps.iter().filter(|step| zone.contains(&step.name)) {
        if let Some(model) = models.get(&step.name) {
            look(model, &step.logical, &mut seen);
        }
    }
    match seen.numbers.as_slice() {
        [] if !seen.otherwise => {
            let message = "latest keeps every accepted row: a batch may hold several events of a key";
            let help =
                "keep the newest: ROW_NUMBER() OVER (PARTITION BY the key ORDER BY the version, newest first) = 1";
            faults.push(Diagnostic::error("AI0132", message).file(&model.file).help(help));
        }
        [(model, number, name)] if !seen.otherwise => {
            faults.extend(first_only(model, name, &seen));
            faults.extend(per_key(model, number, &spec.key));
            faults.extend(newest_first(model, number, spec.version));
        }
        _ => {}
    }
}

fn is_subquery(expr: &Expr) -> bool {
    matches!(expr, Expr::Exists(_) | Expr::InSubquery(_) | Expr::ScalarSubquery(_))
}

fn look<'m>(model: &'m Model, plan: &LogicalPlan, seen: &mut Seen<'m>) {
    let walked = plan.apply_with_subqueries(|node| {
        match node {
            LogicalPlan::Window(window) => {
                for expr in &window.window_expr {
                    if let Expr::WindowFunction(function) = expr.clone().unalias() {
                        match function.fun.name() {
                            "row_number" | "rank" | "dense_rank" => {
                                seen.numbers.push((model, *function, expr.schema_name().to_string()));
                            }
                            _ => seen.otherwise = true,
                        }
                    }
                }
            }
            LogicalPlan::Aggregate(_) | LogicalPlan::Distinct(_) | LogicalPlan::Join(_) | LogicalPlan::Limit(_) => {
                seen.otherwise = true;
            }
            LogicalPlan::Filter(filter) => {
                // Rows may be compared with each other there: whether they are, the engine sees.
                seen.otherwise |= filter.predicate.exists(|expr| Ok(is_subquery(expr)))?;
                seen.conditions.extend(split_conjunction(&filter.predicate).into_iter().cloned());
            }
            LogicalPlan::Projection(projection) => {
                for expr in &projection.expr {
                    let Expr::Alias(alias) = expr else { continue };
                    let same = matches!(alias.expr.as_ref(), Expr::Column(_));
                    for column in alias.expr.column_refs() {
                        seen.renamed.push((column.name.clone(), alias.name.clone(), same));
                    }
                }
            }
            _ => {}
        }
        Ok(TreeNodeRecursion::Continue)
    });
    debug_assert!(walked.is_ok());
}

/// A condition must let the first row of each key through, and no other.
fn first_only(model: &Model, name: &str, seen: &Seen<'_>) -> Option<Diagnostic> {
    let names = names_of(name, &seen.renamed, false);
    // What was computed from the number may well stand for it.
    let computed = names_of(name, &seen.renamed, true);
    let mentions = |condition: &Expr, names: &BTreeSet<String>| {
        condition.column_refs().iter().any(|column| names.contains(&column.name))
    };
    let place = |what: &str| locate::word_any_case(&model.sql, what);
    let help = "add the condition that the number equals 1";
    let about: Vec<&Expr> = seen.conditions.iter().filter(|condition| mentions(condition, &names)).collect();
    let Some(condition) = about.first() else {
        if seen.conditions.iter().any(|condition| mentions(condition, &computed)) {
            return None;
        }
        let message = "rows are numbered, but no condition takes the first: all rows of a key get through";
        return Some(Diagnostic::error("AI0132", message).file(&model.file).span(place("ROW_NUMBER")).help(help));
    };
    // One that can't be read may be the right one.
    if about.iter().any(|condition| takes_first(condition).unwrap_or(true)) {
        return None;
    }
    let message = format!("the condition {} doesn't take exactly the first row of a key", condition.human_display());
    let column = condition.column_refs().into_iter().next().map(|column| column.name.clone()).unwrap_or_default();
    let span = locate::last_word(&model.sql, &column).or_else(|| place("ROW_NUMBER"));
    Some(Diagnostic::error("AI0132", message).file(&model.file).span(span).help(help))
}

/// Whether the condition lets the number 1 through and no greater one; `None` for one of another form.
fn takes_first(condition: &Expr) -> Option<bool> {
    let Expr::BinaryExpr(compared) = condition else { return None };
    let (op, value) = match (compared.left.as_ref(), compared.right.as_ref()) {
        (Expr::Column(_), Expr::Literal(value, _)) => (compared.op, value),
        (Expr::Literal(value, _), Expr::Column(_)) => (compared.op.swap()?, value),
        _ => return None,
    };
    let ScalarValue::Int64(Some(number)) = value else { return None };
    Some(matches!((op, number), (Operator::Eq | Operator::LtEq, 1) | (Operator::Lt, 2)))
}

/// All names of the column `name`; with `computed` also those of what is made from it.
fn names_of(name: &str, renamed: &[(String, String, bool)], computed: bool) -> BTreeSet<String> {
    let mut names = BTreeSet::from([name.to_owned()]);
    loop {
        let known = names.len();
        let more: Vec<String> = renamed
            .iter()
            .filter(|(old, _, same)| (*same || computed) && names.contains(old))
            .map(|(_, new, _)| new.clone())
            .collect();
        names.extend(more);
        if names.len() == known {
            return names;
        }
    }
}

/// Rows must be numbered per key: of more columns, and a key has several first rows; of fewer, and keys lose theirs.
fn per_key(model: &Model, number: &WindowFunction, key: &[String]) -> Option<Diagnostic> {
    let part = |expr: &Expr| match expr {
        Expr::Column(column) => column.name.clone(),
        other => other.human_display().to_string(),
    };
    let parts: Vec<String> = number.params.partition_by.iter().map(part).collect();
    let same = parts.iter().collect::<BTreeSet<_>>() == key.iter().collect::<BTreeSet<_>>();
    (!same).then(|| {
        let shown = if parts.is_empty() { "over all rows".to_owned() } else { format!("per ({})", parts.join(", ")) };
        let message = format!("latest numbers rows {shown}, the key of the pipeline is ({})", key.join(", "));
        Diagnostic::error("AI0132", message)
            .file(&model.file)
            .span(locate::word_any_case(&model.sql, if parts.is_empty() { "ROW_NUMBER" } else { "PARTITION" }))
            .help(format!("PARTITION BY {}", key.join(", ")))
    })
}

/// The order must be that of versions, newest first.
fn newest_first(model: &Model, number: &WindowFunction, version: VersionBy) -> Option<Diagnostic> {
    let wanted: &[&str] = match version {
        VersionBy::EventTime => &["ts", "_partition", "_offset"],
        VersionBy::Arrival => &["_partition", "_offset"],
    };
    let order = format!("ORDER BY {}", wanted.iter().map(|name| format!("{name} DESC")).collect::<Vec<_>>().join(", "));
    let columns = number.params.order_by.iter().map(|sort| match &sort.expr {
        Expr::Column(column) => Some((column.name.as_str(), sort.asc)),
        _ => None,
    });
    let columns: Vec<(&str, bool)> = columns.collect::<Option<_>>()?;
    let error = |message: String, column: &str| {
        let span = match column {
            "" => locate::word_any_case(&model.sql, number.fun.name()),
            column => locate::last_word(&model.sql, column),
        };
        Some(Diagnostic::error("AI0133", message).file(&model.file).span(span).help(order.clone()))
    };
    let configured = match version {
        VersionBy::EventTime => "event_time",
        VersionBy::Arrival => "arrival",
    };
    for (place, wanted) in wanted.iter().enumerate() {
        match columns.get(place) {
            Some((name, false)) if name == wanted => {}
            Some((name, true)) if name == wanted => {
                return error(format!("latest takes the oldest row: {name} is ordered upwards"), name);
            }
            Some((name, _)) if place == 0 => {
                return error(
                    format!("latest orders by {name} first, but version = \"{configured}\" decides by {wanted} first"),
                    name,
                );
            }
            None if place == 0 => return error("latest takes any row of a key: its rows have no order".to_owned(), ""),
            _ => {
                let message = format!(
                    "the order of latest leaves open which of two rows with the same {} is the newest",
                    wanted_so_far(&columns, place)
                );
                let span = locate::word_any_case(&model.sql, number.fun.name());
                let help = format!("the pipeline halts when it picks the other one: {order}");
                return Some(Diagnostic::warning("AI0134", message).file(&model.file).span(span).help(help));
            }
        }
    }
    None
}

fn wanted_so_far(columns: &[(&str, bool)], place: usize) -> String {
    columns.iter().take(place).map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}
