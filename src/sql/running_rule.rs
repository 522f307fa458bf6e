//! Running extremes, done by hash: `MAX(x) OVER (PARTITION BY k ORDER BY o ROWS BETWEEN UNBOUNDED PRECEDING AND ..)`.
//!
//! The stock plan sorts all rows and opens a window per key, which costs microseconds for each of many small keys. The model
//! `out_of_order` is made of such windows, and runs for every user with a late event.
//!
//! In: a physical plan before sorts are put into it. Out: the same plan with a [`RunningExec`] in the window's place, or the plan
//! untouched where a window is of another shape: `MAX` or `MIN` of whole numbers, times or texts, of the rows up to this one or up to
//! the one before. The values are the same; where rows tie in the whole order it is the order in which they came that counts, which the
//! stock plan leaves open.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::{WindowFrameBound, WindowFrameUnits};
use datafusion::physical_expr::window::{PlainAggregateWindowExpr, WindowExpr};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::windows::BoundedWindowAggExec;

use exec::{Running, RunningExec};

mod exec;

/// See the module page. Must come before the rules that put sorts into the plan.
#[derive(Debug)]
pub(super) struct RunningRule;

impl PhysicalOptimizerRule for RunningRule {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|node| {
            Ok(match node.downcast_ref::<BoundedWindowAggExec>().map(rewritten).transpose()?.flatten() {
                Some(running) => Transformed::yes(running),
                None => Transformed::no(node),
            })
        })
        .data()
    }

    fn name(&self) -> &'static str {
        "RunningRule"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

fn rewritten(window: &BoundedWindowAggExec) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let exprs = window.window_expr();
    let Some(first) = exprs.first() else { return Ok(None) };
    let (keys, order) = (first.partition_by(), first.order_by());
    let alike = |expr: &Arc<dyn WindowExpr>| expr.partition_by() == keys && expr.order_by() == order;
    if keys.is_empty() || order.is_empty() || !exprs.iter().all(alike) {
        return Ok(None);
    }
    let input = window.input().schema();
    let Some(running) = exprs.iter().map(|expr| running(expr.as_ref())).collect::<Option<Vec<Running>>>() else {
        return Ok(None);
    };
    for running in &running {
        if !is_ordered(&running.value.data_type(&input)?) {
            return Ok(None);
        }
    }
    let (input, schema) = (Arc::clone(window.input()), window.schema());
    Ok(Some(Arc::new(RunningExec::try_new(input, keys.to_vec(), order.to_vec(), running, schema)?)))
}

/// Types whose order nobody doubts: of numbers with a point `NaN` and -0 are left to the stock plan.
fn is_ordered(kind: &DataType) -> bool {
    let time = matches!(kind, DataType::Date32 | DataType::Date64 | DataType::Timestamp(..) | DataType::Time64(_));
    kind.is_integer() || time || *kind == DataType::Utf8
}

/// What a window computes, if it is of the kind.
fn running(expr: &dyn WindowExpr) -> Option<Running> {
    let window = expr.as_any().downcast_ref::<PlainAggregateWindowExpr>()?;
    let aggregate = window.get_aggregate_expr();
    let greatest = match aggregate.fun().name() {
        "max" => true,
        "min" => false,
        _ => return None,
    };
    // A condition on the rows (FILTER) can't be asked for; it is the last thing that the expression shows.
    let unconditional = format!("{window:?}").ends_with("filter: None }");
    let frame = expr.get_window_frame();
    let this_row = match &frame.end_bound {
        WindowFrameBound::CurrentRow => true,
        WindowFrameBound::Preceding(ScalarValue::UInt64(Some(1))) => false,
        _ => return None,
    };
    let from_first = matches!(&frame.start_bound, WindowFrameBound::Preceding(rows) if rows.is_null());
    let plain =
        unconditional && !aggregate.is_distinct() && !aggregate.is_reversed() && aggregate.order_bys().is_empty();
    if !plain || !from_first || frame.units != WindowFrameUnits::Rows {
        return None;
    }
    match aggregate.expressions().as_slice() {
        [value] => Some(Running { value: Arc::clone(value), greatest, this_row }),
        _ => None,
    }
}
