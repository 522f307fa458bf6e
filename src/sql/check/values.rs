//! Constants and comparisons: what can't be converted, and what is compared as something else than it is.

use arrow::datatypes::DataType;
use datafusion::common::DFSchema;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{Cast, Expr, ExprSchemable, LogicalPlan, Operator};

use crate::diagnostic::{Diagnostic, Span};
use crate::sql::locate;
use crate::sql::models::Model;

/// Adds what is wrong with constants and comparisons anywhere in `model`.
pub(super) fn values(model: &Model, plan: &LogicalPlan, faults: &mut Vec<Diagnostic>) {
    let mut found: Vec<Diagnostic> = Vec::new();
    let walked = plan.apply_with_subqueries(|node| {
        let schema = merge_schema(&node.inputs());
        if let LogicalPlan::Join(join) = node {
            found.extend(join.on.iter().filter_map(|(left, right)| kinds(model, left, right, &schema)));
        }
        node.apply_expressions(|expr| {
            expr.apply(|expr| {
                match expr {
                    Expr::Cast(cast) => found.extend(constant(model, cast)),
                    Expr::BinaryExpr(pair) if compares(pair.op) => {
                        found.extend(kinds(model, &pair.left, &pair.right, &schema));
                    }
                    Expr::InList(list) => {
                        found.extend(list.list.iter().find_map(|item| kinds(model, &list.expr, item, &schema)));
                    }
                    _ => {}
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    });
    debug_assert!(walked.is_ok());
    for fault in found {
        if !faults.contains(&fault) {
            faults.push(fault);
        }
    }
}

fn compares(op: Operator) -> bool {
    use Operator::{Eq, Gt, GtEq, IsDistinctFrom, IsNotDistinctFrom, Lt, LtEq, NotEq};
    matches!(op, Eq | NotEq | Lt | LtEq | Gt | GtEq | IsDistinctFrom | IsNotDistinctFrom)
}

/// A constant that its CAST can't convert: it may stand in a branch that no event has taken so far.
fn constant(model: &Model, cast: &Cast) -> Option<Diagnostic> {
    let Expr::Literal(value, _) = cast.expr.as_ref() else { return None };
    let kind = cast.field.data_type();
    if value.is_null() || value.cast_to(kind).is_ok() {
        return None;
    }
    let shown = value.to_string();
    Some(
        Diagnostic::error("AI0114", format!("{shown:?} can't be converted to {kind}"))
            .file(&model.file)
            .span(locate::word(&model.sql, &shown))
            .help("write a constant of that type"),
    )
}

#[derive(Clone, Copy, PartialEq)]
enum Class {
    Text,
    Number,
    Boolean,
}

impl Class {
    fn of(kind: &DataType) -> Option<Self> {
        match kind {
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Some(Self::Text),
            DataType::Boolean => Some(Self::Boolean),
            kind if kind.is_numeric() => Some(Self::Number),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Text => "a text",
            Self::Number => "a number",
            Self::Boolean => "a boolean",
        }
    }
}

/// A comparison of a text with a number and the like: one side is converted, and few people expect which.
fn kinds(model: &Model, left: &Expr, right: &Expr, schema: &DFSchema) -> Option<Diagnostic> {
    let class = |expr: &Expr| Class::of(&expr.get_type(schema).ok()?);
    let (first, second) = (class(left)?, class(right)?);
    let constant = |expr: &Expr| expr.column_refs().is_empty();
    if first == second || (constant(left) && constant(right)) {
        return None;
    }
    // A number in quotes is written like that in many a dialect, and means the number.
    let quoted = |side: &Expr, class: Class| match side {
        Expr::Literal(value, _) if class == Class::Text => value.to_string().parse::<f64>().is_ok(),
        _ => false,
    };
    if quoted(left, first) && second == Class::Number || quoted(right, second) && first == Class::Number {
        return None;
    }
    let side = |expr: &Expr, class: Class| format!("{} is {}", expr.human_display(), class.name());
    let message = format!("{}, {}", side(left, first), side(right, second));
    let help = match (first, second) {
        (Class::Text, Class::Number) | (Class::Number, Class::Text) => {
            "the text is read as a number, and an event whose text is none is refused: write a constant in quotes, or say with \
             TRY_CAST what is meant"
        }
        _ => "compare values of one kind, or say with CAST what is meant",
    };
    let column = [left, right].into_iter().find(|expr| !constant(expr))?;
    Some(Diagnostic::warning("AI0135", message).file(&model.file).span(place(column)).help(help))
}

/// Where the first column of `expr` stands.
fn place(expr: &Expr) -> Option<Span> {
    let columns = expr.column_refs();
    let spans = columns.into_iter().filter_map(|column| column.spans.first());
    let first = spans.min_by_key(|span| (span.start.line, span.start.column))?;
    Some(Span {
        line: first.start.line as usize,
        column: first.start.column as usize,
        end_line: first.end.line as usize,
        end_column: first.end.column as usize,
    })
}
