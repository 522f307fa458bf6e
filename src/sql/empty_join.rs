//! An outer join with a table of the engine that is empty: nobody is on hold, as nearly always.
//!
//! The textbook's `LEFT JOIN held h ON .. WHERE h._since IS NULL OR ..` costs a hash per row and a copy of all columns, to find nobody.
//! Where the side that may be missing is a slot without rows, each row of the other side comes out as it is, with NULLs beside it.
//!
//! In: a physical plan as it is to run, after all other rules. Out: the same plan; outer hash joins whose optional side is a slot are
//! wrapped in an [`EmptyJoinExec`], which looks into the slot when it runs and leaves everything else to the join.

use std::fmt;
use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions, new_null_array};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{DataFusionError, JoinType, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::execution_plan::ReplaceChildrenOptions;
use datafusion::physical_plan::joins::HashJoinExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures::StreamExt;

use super::leaf::LeafExec;
use super::slots::Slot;

/// See the module page. Must come last among the rules: it looks at joins as they run.
#[derive(Debug)]
pub(super) struct EmptyJoinRule;

impl PhysicalOptimizerRule for EmptyJoinRule {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        let wrap = |node: Arc<dyn ExecutionPlan>| match node.downcast_ref::<HashJoinExec>().and_then(optional) {
            Some((slot, _)) => {
                Ok(Transformed::yes(Arc::new(EmptyJoinExec { join: node, slot }) as Arc<dyn ExecutionPlan>))
            }
            None => Ok(Transformed::no(node)),
        };
        plan.transform_up(wrap).data()
    }

    fn name(&self) -> &'static str {
        "EmptyJoinRule"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// Which side of a join all rows come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kept {
    Left,
    Right,
}

/// The slot on the side of an outer join that may be missing, and the other side.
fn optional(join: &HashJoinExec) -> Option<(Arc<Slot>, Kept)> {
    let (side, kept) = match join.join_type() {
        JoinType::Left => (join.right(), Kept::Left),
        JoinType::Right => (join.left(), Kept::Right),
        _ => return None,
    };
    let leaf = side.downcast_ref::<LeafExec<Slot>>()?;
    Some((Arc::clone(leaf.rows()), kept))
}

/// See the module page.
#[derive(Debug)]
struct EmptyJoinExec {
    join: Arc<dyn ExecutionPlan>,
    slot: Arc<Slot>,
}

impl EmptyJoinExec {
    /// The rows of the side that is kept, and NULLs in place of the other.
    fn padded(&self, join: &HashJoinExec, kept: Kept, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let (side, from) = match kept {
            Kept::Left => (join.left(), 0),
            Kept::Right => (join.right(), join.left().schema().fields().len()),
        };
        let width = side.schema().fields().len();
        let all = join.left().schema().fields().len() + join.right().schema().fields().len();
        // Where each column of the output comes from; `None` is the missing side.
        let place = |column: usize| column.checked_sub(from).filter(|column| *column < width);
        let output: Vec<Option<usize>> = match &join.projection {
            Some(projection) => projection.iter().map(|column| place(*column)).collect(),
            None => (0..all).map(place).collect(),
        };
        let schema = self.schema();
        let padded = Arc::clone(&schema);
        let rows = side.execute(0, context)?.map(move |batch| {
            let batch = batch?;
            let columns = output.iter().zip(padded.fields()).map(|(from, field)| match from {
                Some(column) => Arc::clone(batch.column(*column)),
                None => new_null_array(field.data_type(), batch.num_rows()),
            });
            let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
            Ok(RecordBatch::try_new_with_options(Arc::clone(&padded), columns.collect(), &options)?)
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
    }
}

impl DisplayAs for EmptyJoinExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EmptyJoinExec: {} is nearly always empty", self.slot.name())
    }
}

impl ExecutionPlan for EmptyJoinExec {
    fn name(&self) -> &'static str {
        "EmptyJoinExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.join.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.join]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        match children.pop() {
            Some(join) if children.is_empty() => Ok(Arc::new(Self { join, slot: Arc::clone(&self.slot) })),
            _ => Err(DataFusionError::Internal("an empty join wraps one join".to_owned())),
        }
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        let mode = datafusion::physical_plan::execution_plan::ChildrenPropertiesMode::Recompute;
        self.replace_children(children, ReplaceChildrenOptions::new(mode))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        match self.join.downcast_ref::<HashJoinExec>() {
            Some(join) if partition == 0 && self.slot.is_empty() => match optional(join) {
                Some((_, kept)) => self.padded(join, kept, context),
                None => self.join.execute(partition, context),
            },
            _ => self.join.execute(partition, context),
        }
    }
}
