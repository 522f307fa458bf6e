//! The textbook's "newest row per key", done by hash: `ROW_NUMBER() OVER (PARTITION BY k ORDER BY o) .. WHERE newest = 1`.
//!
//! The stock plan sorts the batch and opens a window per key, which costs more than everything else in a model together. Where a
//! filter keeps only row number 1, [`LatestExec`] picks those rows in one pass, and the analyst's SQL stays as it is.
//!
//! In: a physical plan before sorts are put into it. Out: the same plan with that operator in the window's place, or the plan
//! untouched where the shape is another one. The rows are the same; among rows that tie in the whole order the first one wins, where
//! the stock plan leaves it open.

use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::expressions::{BinaryExpr, Column, Literal};
use datafusion::physical_expr::split_conjunction;
use datafusion::physical_expr::window::StandardWindowExpr;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::execution_plan::replace_children_if_necessary;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::windows::{BoundedWindowAggExec, WindowUDFExpr};
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};

pub(super) use exec::LatestExec;

mod exec;

/// See the module page. Must come first among the rules: later ones put sorts between what it looks for.
#[derive(Debug)]
pub(super) struct LatestRule;

impl PhysicalOptimizerRule for LatestRule {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_down(|node| {
            Ok(match rewritten(&node)? {
                Some(node) => Transformed::yes(node),
                None => Transformed::no(node),
            })
        })
        .data()
    }

    fn name(&self) -> &'static str {
        "LatestRule"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// `node` with the operator below it, if it is a filter of the kind. The filter stays: it may have more conditions.
fn rewritten(node: &Arc<dyn ExecutionPlan>) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let Some(filter) = node.downcast_ref::<FilterExec>() else { return Ok(None) };
    for column in split_conjunction(filter.predicate()).into_iter().filter_map(first_only) {
        if let Some(input) = without_window(filter.input(), column)? {
            return replace_children_if_necessary(Arc::clone(node), vec![input]).map(Some);
        }
    }
    Ok(None)
}

/// The column that a condition allows no other value than 1 from 1 on.
fn first_only(condition: &Arc<dyn PhysicalExpr>) -> Option<usize> {
    let comparison = condition.downcast_ref::<BinaryExpr>()?;
    let column = |side: &Arc<dyn PhysicalExpr>| side.downcast_ref::<Column>().map(Column::index);
    let number = |side: &Arc<dyn PhysicalExpr>| match side.downcast_ref::<Literal>()?.value() {
        ScalarValue::UInt64(number) => *number,
        _ => None,
    };
    let (left, right) = (comparison.left(), comparison.right());
    let (column, op, number) = match (column(left), number(right)) {
        (Some(column), Some(number)) => (column, *comparison.op(), number),
        _ => (column(right)?, comparison.op().swap()?, number(left)?),
    };
    matches!((op, number), (Operator::Eq | Operator::LtEq, 1) | (Operator::Lt, 2)).then_some(column)
}

/// `plan` with the window that numbers rows in `column` replaced.
fn without_window(plan: &Arc<dyn ExecutionPlan>, column: usize) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    if let Some(projection) = plan.downcast_ref::<ProjectionExec>() {
        // What is computed here is computed for all rows, and may fail on one that isn't picked.
        let columns: Option<Vec<usize>> = projection
            .expr()
            .iter()
            .map(|projected| projected.expr.downcast_ref::<Column>().map(Column::index))
            .collect();
        let Some(below) = columns.and_then(|columns| columns.get(column).copied()) else { return Ok(None) };
        let Some(input) = without_window(projection.input(), below)? else { return Ok(None) };
        return replace_children_if_necessary(Arc::clone(plan), vec![input]).map(Some);
    }
    let Some(window) = plan.downcast_ref::<BoundedWindowAggExec>() else { return Ok(None) };
    let [numbering] = window.window_expr() else { return Ok(None) };
    let is_row_number = numbering.as_any().downcast_ref::<StandardWindowExpr>().is_some_and(|expr| {
        let function = expr.get_standard_func_expr().as_any().downcast_ref::<WindowUDFExpr>();
        function.is_some_and(|function| function.fun().name() == "row_number")
    });
    let (keys, order) = (numbering.partition_by(), numbering.order_by());
    let its_column = column == window.input().schema().fields().len();
    // Without an order any row will do, and the stock plan may as well choose it.
    if !is_row_number || !its_column || keys.is_empty() || order.is_empty() {
        return Ok(None);
    }
    let picked = LatestExec::try_new(Arc::clone(window.input()), keys.to_vec(), order.to_vec(), window.schema())?;
    Ok(Some(Arc::new(picked)))
}
