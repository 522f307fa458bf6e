//! The operator: for each batch of its input, the row of the lookup that has the key, or none.
//!
//! It keeps no state between two runs and holds one version of the lookup per run. Rows come out in the order of the input.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::kernels::nullif::nullif;
use arrow::compute::{filter, filter_record_batch, take};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr, PhysicalSortExpr};
use datafusion::physical_plan::execution_plan::{EmissionType, ReplaceChildrenOptions};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet, RecordOutput};
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, Partitioning, PlanProperties,
};
use futures::StreamExt;

use crate::sql::lookup::LookupTable;
use crate::sql::lookup::cells::Cells;
use crate::sql::lookup::slot::LookupSlot;

/// Where a column comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum From {
    Input(usize),
    Lookup(usize),
}

impl From {
    fn lookup(self) -> Option<usize> {
        match self {
            Self::Lookup(column) => Some(column),
            Self::Input(_) => None,
        }
    }
}

/// What must hold of a pair besides the equal key.
#[derive(Debug, Clone)]
pub(super) struct Condition {
    pub(super) expression: Arc<dyn PhysicalExpr>,
    /// The columns that the expression sees, and where they are from.
    pub(super) schema: SchemaRef,
    pub(super) from: Vec<From>,
}

/// Which rows of the input come out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keeps {
    All,
    Matched,
    Unmatched,
}

/// See the module page.
#[derive(Debug)]
pub(super) struct IndexJoinExec {
    input: Arc<dyn ExecutionPlan>,
    join: Arc<Join>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

/// What is done to each batch.
#[derive(Debug, Clone)]
struct Join {
    slot: Arc<LookupSlot>,
    /// Expressions over the input, in the order of the lookup's key.
    keys: Vec<Arc<dyn PhysicalExpr>>,
    conditions: Vec<Condition>,
    keeps: Keeps,
    output: Vec<From>,
    schema: SchemaRef,
}

impl IndexJoinExec {
    pub(super) fn new(
        input: Arc<dyn ExecutionPlan>,
        slot: Arc<LookupSlot>,
        keys: Vec<Arc<dyn PhysicalExpr>>,
        conditions: Vec<Condition>,
        keeps: Keeps,
        output: Vec<From>,
        schema: SchemaRef,
    ) -> Self {
        Self::over(input, Arc::new(Join { slot, keys, conditions, keeps, output, schema }))
    }

    fn over(input: Arc<dyn ExecutionPlan>, join: Arc<Join>) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new_with_orderings(Arc::clone(&join.schema), orderings(&input, &join)),
            Partitioning::UnknownPartitioning(input.output_partitioning().partition_count()),
            EmissionType::Incremental,
            input.boundedness(),
        );
        Self { input, join, properties: Arc::new(properties), metrics: ExecutionPlanMetricsSet::new() }
    }
}

/// The orders of the input that rows still have: up to the first column that doesn't come out.
fn orderings(input: &Arc<dyn ExecutionPlan>, join: &Join) -> Vec<Vec<PhysicalSortExpr>> {
    let passed_on = |sort: &PhysicalSortExpr| {
        let column = (sort.expr.as_ref() as &dyn Any).downcast_ref::<Column>()?;
        let index = join.output.iter().position(|from| *from == From::Input(column.index()))?;
        let expr = Arc::new(Column::new(join.schema.fields().get(index)?.name(), index));
        Some(PhysicalSortExpr { expr, options: sort.options })
    };
    let known = input.equivalence_properties().oeq_class().iter();
    let kept = known.map(|ordering| ordering.iter().map_while(passed_on).collect::<Vec<_>>());
    kept.filter(|ordering| !ordering.is_empty()).collect()
}

impl DisplayAs for IndexJoinExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Join { slot, keys, conditions, keeps, .. } = &*self.join;
        let pairs: Vec<String> =
            slot.key().iter().zip(keys).map(|(column, expression)| format!("{column} = {expression}")).collect();
        write!(f, "IndexJoinExec: lookup={}, keeps={keeps:?}, on=[{}]", slot.name(), pairs.join(", "))?;
        for condition in conditions {
            write!(f, ", condition={}", condition.expression)?;
        }
        Ok(())
    }
}

impl ExecutionPlan for IndexJoinExec {
    fn name(&self) -> &'static str {
        "IndexJoinExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        let conditions = self.join.conditions.iter().map(|condition| &condition.expression);
        for expression in self.join.keys.iter().chain(conditions) {
            if f(expression)? == TreeNodeRecursion::Stop {
                return Ok(TreeNodeRecursion::Stop);
            }
        }
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        match children.pop() {
            Some(input) if children.is_empty() => Ok(Arc::new(Self::over(input, Arc::clone(&self.join)))),
            _ => Err(DataFusionError::Internal("an index join has one input".to_owned())),
        }
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        let mode = datafusion::physical_plan::execution_plan::ChildrenPropertiesMode::Recompute;
        self.replace_children(children, ReplaceChildrenOptions::new(mode))
    }

    /// Columns that nobody wants above aren't fetched.
    fn try_swapping_with_projection(&self, projection: &ProjectionExec) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let wanted = projection.expr().iter().map(|wanted| {
            let column = wanted.expr.downcast_ref::<Column>()?;
            self.join.output.get(column.index()).copied()
        });
        let Some(output) = wanted.collect::<Option<Vec<From>>>() else { return Ok(None) };
        let join = Join { output, schema: projection.schema(), ..(*self.join).clone() };
        Ok(Some(Arc::new(Self::over(Arc::clone(&self.input), Arc::new(join)))))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let (join, table) = (Arc::clone(&self.join), self.join.slot.table());
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let input = self.input.execute(partition, context)?;
        let joined = input.map(move |batch| {
            let batch = batch?;
            let _timer = metrics.elapsed_compute().timer();
            let rows = join.batch(&table, &batch)?;
            Ok(rows.record_output(&metrics))
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), joined)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

impl Join {
    /// A function of its own wherever it is called: its instructions are counted by its name (`benches/instructions.rs`).
    #[inline(never)]
    fn batch(&self, table: &LookupTable, input: &RecordBatch) -> Result<RecordBatch> {
        let (keys, mut found) = self.find(table, input)?;
        for condition in &self.conditions {
            condition.judge(table, input, &mut found)?;
        }
        let kept = match self.keeps {
            Keeps::All => None,
            Keeps::Matched => Some(found.iter().map(|row| Some(row.is_some())).collect::<BooleanArray>()),
            Keeps::Unmatched => Some(found.iter().map(|row| Some(row.is_none())).collect::<BooleanArray>()),
        };
        match kept {
            Some(kept) if kept.true_count() < kept.len() => {
                let input = filter_record_batch(input, &kept)?;
                let keys = keys.iter().map(|key| filter(key, &kept)).collect::<Result<Vec<_>, _>>()?;
                let found: Vec<Option<u32>> =
                    found.into_iter().zip(kept.values()).filter_map(|(row, kept)| kept.then_some(row)).collect();
                self.columns(table, &input, &keys, &found)
            }
            _ => self.columns(table, input, &keys, &found),
        }
    }

    /// What is looked up for each row of the input, and the number of the row that was found.
    fn find(&self, table: &LookupTable, input: &RecordBatch) -> Result<(Vec<ArrayRef>, Vec<Option<u32>>)> {
        let rows = input.num_rows();
        let values = self.keys.iter().map(|key| key.evaluate(input)?.into_array(rows));
        let values = values.collect::<Result<Vec<ArrayRef>>>()?;
        let Some(keys) = Cells::of_key(&values) else {
            return Err(DataFusionError::Internal("an index join by a type that can't be a key".to_owned()));
        };
        let found = table.find(&keys, rows);
        Ok((values, found))
    }

    fn columns(
        &self,
        table: &LookupTable,
        input: &RecordBatch,
        keys: &[ArrayRef],
        found: &[Option<u32>],
    ) -> Result<RecordBatch> {
        // What was looked up is what stands in a column of the key, and lies much nearer.
        let looked_up = |column: &usize| table.key().iter().position(|key| key == column).and_then(|at| keys.get(at));
        let missed: BooleanArray = found.iter().map(|row| Some(row.is_none())).collect();
        let others: Vec<usize> =
            self.output.iter().filter_map(|from| from.lookup()).filter(|it| looked_up(it).is_none()).collect();
        let mut taken = table.take(&others, found)?.into_iter();
        let columns = self.output.iter().map(|from| match from {
            From::Input(column) => Ok(Arc::clone(input.column(*column))),
            From::Lookup(column) => match looked_up(column) {
                Some(key) => nullif(key, &missed),
                None => taken.next().ok_or_else(|| ArrowError::ComputeError("a column wasn't looked up".to_owned())),
            },
        });
        let options = RecordBatchOptions::new().with_row_count(Some(input.num_rows()));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns.collect::<Result<_, _>>()?, &options)?)
    }
}

impl Condition {
    /// Lets go of pairs of which the condition doesn't hold; it is evaluated for pairs only.
    fn judge(&self, table: &LookupTable, input: &RecordBatch, found: &mut [Option<u32>]) -> Result<()> {
        let pairs: Vec<u32> = (0..).zip(found.iter()).filter_map(|(row, found)| found.map(|_| row)).collect();
        if pairs.is_empty() {
            return Ok(());
        }
        let rows: Vec<Option<u32>> = found.iter().filter(|row| row.is_some()).copied().collect();
        let places = UInt32Array::from(pairs);
        let of_lookup: Vec<usize> = self.from.iter().filter_map(|from| from.lookup()).collect();
        let mut taken = table.take(&of_lookup, &rows)?.into_iter();
        let columns = self.from.iter().map(|from| match from {
            From::Input(column) => take(input.column(*column), &places, None),
            From::Lookup(_) => taken.next().ok_or_else(|| ArrowError::ComputeError("a column is gone".to_owned())),
        });
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?;
        let holds = self.expression.evaluate(&batch)?.into_array(rows.len())?;
        let holds = holds
            .as_boolean_opt()
            .ok_or_else(|| DataFusionError::Internal("a join's condition is no boolean".to_owned()))?;
        for (at, row) in places.values().iter().enumerate() {
            if !(holds.is_valid(at) && holds.value(at))
                && let Some(found) = found.get_mut(*row as usize)
            {
                *found = None;
            }
        }
        Ok(())
    }
}
