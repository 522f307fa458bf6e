//! Joins on the way to the target: each event must meet its own rows, and no other event.
//!
//! Looks at the optimized plan, in which conditions stand where they work: `FROM a, b WHERE a.x = b.x` is a join on x there, and
//! `EXISTS` and `IN` over a query are joins too.

use std::collections::BTreeSet;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, JoinType};
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Expr, ExprSchemable, Join, LogicalPlan, Operator};

use crate::diagnostic::Diagnostic;
use crate::sql::models::{EVENTS, HELD, KNOWN, Model, Models};
use crate::sql::{LookupSpec, ModelSpec, locate};

/// Adds what is wrong with the joins of `model`; `accepted` says that it runs up to the model `accepted`, where rows may not be
/// picked yet.
pub(super) fn joins(
    spec: &ModelSpec,
    models: &Models,
    model: &Model,
    plan: &LogicalPlan,
    accepted: bool,
    faults: &mut Vec<Diagnostic>,
) {
    // A subquery's aggregate is a join here: saying so twice says no more.
    let told = |fault: &Diagnostic| fault.code == "AI0119" && fault.file.as_deref() == Some(&model.file);
    let told = faults.iter().any(told);
    let walked = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::Join(join) = node {
            let found = one(spec, models, model, join, accepted);
            faults.extend(found.filter(|fault| !told || fault.code != "AI0119"));
        }
        // Subqueries that are no joins yield one value; of the batch, that is one of any event.
        node.apply_expressions(|expr| {
            expr.apply(|expr| {
                if let Expr::ScalarSubquery(query) = expr
                    && !told
                    && batch(models, &query.subquery)
                {
                    let table = scans(&query.subquery).into_iter().next().unwrap_or_default();
                    faults.push(dependent(model, "a subquery over the batch", &table));
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    });
    debug_assert!(walked.is_ok());
}

fn one(spec: &ModelSpec, models: &Models, model: &Model, join: &Join, accepted: bool) -> Option<Diagnostic> {
    let (left, right) = (batch(models, &join.left), batch(models, &join.right));
    if !left && !right {
        return None;
    }
    let multiplies = matches!(join.join_type, JoinType::Inner | JoinType::Left | JoinType::Right | JoinType::Full);
    if unconditional(join) {
        let harmless = [&join.left, &join.right].into_iter().any(|side| few(spec, side));
        return (multiplies && !harmless).then(|| cross_join(model, join, left));
    }
    if left && right {
        let picked = !accepted && (picks(&join.left) || picks(&join.right));
        return (!per_event(join) && !picked).then(|| other_events(model, join));
    }
    let (side, on): (&LogicalPlan, Vec<&Expr>) = match left {
        true => (&join.right, join.on.iter().map(|(_, right)| right).collect()),
        false => (&join.left, join.on.iter().map(|(left, _)| left).collect()),
    };
    let lookup = lookup_of(spec, side).filter(|_| multiplies)?;
    not_by_its_key(model, lookup, side, &on)
}

/// Names of the tables that `plan` reads.
fn scans(plan: &LogicalPlan) -> Vec<String> {
    let mut found = Vec::new();
    let walked = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            found.push(scan.table_name.table().to_owned());
        }
        Ok(TreeNodeRecursion::Continue)
    });
    debug_assert!(walked.is_ok());
    found
}

/// Whether rows of the batch come from `plan`. What the engine itself knows of them, `held` and `known`, isn't meant.
fn batch(models: &Models, plan: &LogicalPlan) -> bool {
    let from_events = |table: &String| {
        table == EVENTS || (![HELD, KNOWN].contains(&table.as_str()) && models.ancestry(table).contains(EVENTS))
    };
    scans(plan).iter().any(from_events)
}

/// Whether no condition connects the two sides.
fn unconditional(join: &Join) -> bool {
    let within = |side: &LogicalPlan, column: &Column| side.schema().has_column(column);
    let connects = join.filter.as_ref().is_some_and(|filter| {
        let columns = filter.column_refs();
        columns.iter().any(|column| within(&join.left, column))
            && columns.iter().any(|column| within(&join.right, column))
    });
    join.on.is_empty() && !connects
}

/// Whether `side` yields at most one row, or rows that the model itself writes down.
fn few(spec: &ModelSpec, side: &LogicalPlan) -> bool {
    let one_row = side.max_rows().is_some_and(|rows| rows <= 1);
    let by_constant =
        lookup_of(spec, side).is_some_and(|lookup| lookup.key.iter().all(|key| constants(side).contains(key)));
    one_row || by_constant || scans(side).is_empty()
}

fn cross_join(model: &Model, join: &Join, left_is_batch: bool) -> Diagnostic {
    let other = if left_is_batch { &join.right } else { &join.left };
    let table = scans(other).into_iter().next().unwrap_or_default();
    Diagnostic::error("AI0130", format!("no condition connects {table}: each event meets all of its rows"))
        .file(&model.file)
        .span(locate::joined(&model.sql, &table))
        .help(format!("say which row belongs to an event: JOIN {table} ON .. = .."))
}

fn other_events(model: &Model, join: &Join) -> Diagnostic {
    let what = match join.join_type {
        JoinType::Inner | JoinType::Left | JoinType::Right | JoinType::Full => "a join of the batch with itself",
        _ => "EXISTS, IN, EXCEPT or INTERSECT over the batch",
    };
    let table = scans(&join.right).into_iter().next().unwrap_or_default();
    dependent(model, what, &table)
}

fn dependent(model: &Model, what: &str, table: &str) -> Diagnostic {
    let message = format!("{what} looks at the other events of a batch: where batches are cut would change the rows");
    Diagnostic::error("AI0119", message)
        .file(&model.file)
        .span(locate::joined(&model.sql, table))
        .help("compare _partition and _offset too, so that an event meets itself only")
}

/// Whether an event meets itself only.
fn per_event(join: &Join) -> bool {
    let same = |name: &str| {
        join.on
            .iter()
            .any(|pair| matches!(pair, (Expr::Column(l), Expr::Column(r)) if l.name == name && r.name == name))
    };
    same("_partition") && same("_offset")
}

/// Whether rows are chosen or summed up in `plan`; what they are chosen by is looked at elsewhere.
fn picks(plan: &LogicalPlan) -> bool {
    let found = plan.exists(|node| Ok(matches!(node, LogicalPlan::Aggregate(_) | LogicalPlan::Window(_))));
    found.unwrap_or_default()
}

/// The lookup whose rows `plan` passes on, perhaps fewer of them, or other columns.
fn lookup_of<'s>(spec: &'s ModelSpec, plan: &LogicalPlan) -> Option<&'s LookupSpec> {
    match plan {
        LogicalPlan::TableScan(scan) => spec.lookups.iter().find(|lookup| lookup.name == scan.table_name.table()),
        LogicalPlan::SubqueryAlias(alias) => lookup_of(spec, &alias.input),
        LogicalPlan::Projection(projection) => lookup_of(spec, &projection.input),
        LogicalPlan::Filter(filter) => lookup_of(spec, &filter.input),
        _ => None,
    }
}

/// What `column` of `plan`, which comes from a single table, is called in that table.
fn base_column(plan: &LogicalPlan, column: &Column) -> Option<String> {
    match plan {
        LogicalPlan::TableScan(_) => Some(column.name.clone()),
        LogicalPlan::SubqueryAlias(alias) => base_column(&alias.input, &Column::new_unqualified(column.name.clone())),
        LogicalPlan::Filter(filter) => base_column(&filter.input, column),
        LogicalPlan::Projection(projection) => projection.expr.iter().find_map(|expr| match expr {
            Expr::Column(inner) if inner.name == column.name => base_column(&projection.input, inner),
            Expr::Alias(alias) if alias.name == column.name => match alias.expr.as_ref() {
                Expr::Column(inner) => base_column(&projection.input, inner),
                _ => None,
            },
            _ => None,
        }),
        _ => None,
    }
}

/// Columns of the single table beneath `plan` that are filtered to a constant.
fn constants(plan: &LogicalPlan) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut collect = |node: &LogicalPlan, condition: &Expr| {
        for part in split_conjunction(condition) {
            let Expr::BinaryExpr(equal) = part else { continue };
            if equal.op != Operator::Eq {
                continue;
            }
            if let (Expr::Column(column), Expr::Literal(..)) | (Expr::Literal(..), Expr::Column(column)) =
                (equal.left.as_ref(), equal.right.as_ref())
            {
                found.extend(base_column(node, column));
            }
        }
    };
    let walked = plan.apply(|node| {
        match node {
            LogicalPlan::Filter(filter) => collect(&filter.input, &filter.predicate),
            LogicalPlan::TableScan(scan) => scan.filters.iter().for_each(|filter| collect(node, filter)),
            _ => {}
        }
        Ok(TreeNodeRecursion::Continue)
    });
    debug_assert!(walked.is_ok());
    found
}

/// A join with a lookup that isn't by its whole key: it can't use the index, and an event may meet several rows.
fn not_by_its_key(model: &Model, lookup: &LookupSpec, side: &LogicalPlan, on: &[&Expr]) -> Option<Diagnostic> {
    let mut covered = constants(side);
    let mut hidden = None;
    for expr in on {
        if let Expr::Column(column) = expr {
            covered.extend(base_column(side, column));
        } else if let Some(column) = expr.column_refs().into_iter().next() {
            hidden = base_column(side, column).map(|name| (name, *expr, column));
        }
    }
    let open: Vec<&str> = lookup.key.iter().map(String::as_str).filter(|key| !covered.contains(*key)).collect();
    if open.is_empty() {
        return None;
    }
    let name = &lookup.name;
    let span = locate::joined(&model.sql, name);
    let (message, help) = match hidden {
        Some((key, Expr::Cast(cast), column)) if open.contains(&key.as_str()) => {
            let own = Expr::Column(column.clone()).get_type(side.schema().as_ref()).map(|kind| kind.to_string());
            let own = own.unwrap_or_else(|_| "of another type".to_owned());
            let to = cast.field.data_type();
            (
                format!("the key {key} of lookup {name} is {own}, and is compared as {to}: converted row by row, without its index"),
                format!("CAST the event's side to {own} instead"),
            )
        }
        Some((key, expr, _)) if open.contains(&key.as_str()) => (
            format!("the join compares {} instead of the key {key} of lookup {name}: it can't use its index", expr.human_display()),
            format!("compare {key} as it is, and put the function on the event's side; two rows may become one event's otherwise"),
        ),
        _ => (
            format!("the join with lookup {name} doesn't say what its key {} equals", open.join(", ")),
            "an event may meet several rows, which refuses it (two rows of one key), and each batch looks at the whole lookup: \
             compare every key column by ="
                .to_owned(),
        ),
    };
    Some(Diagnostic::warning("AI0131", message).file(&model.file).span(span).help(help))
}
