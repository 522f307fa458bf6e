//! The operator: for each row the greatest or smallest value among the rows of its key before it, in one pass per key.

use std::fmt;
use std::hash::BuildHasher;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take};
use arrow::datatypes::SchemaRef;
use arrow::row::{RowConverter, Rows, SortField};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalSortExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, ReplaceChildrenOptions};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, Distribution, ExecutionPlan, Partitioning, PhysicalExpr, PlanProperties, common,
};
use foldhash::fast::FixedState;
use futures::stream;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use crate::sql::encoded::{EncodedKeys, Encoder};

/// One column that is computed.
#[derive(Debug, Clone)]
pub(super) struct Running {
    pub(super) value: Arc<dyn PhysicalExpr>,
    /// Whether the greatest value is wanted, otherwise the smallest.
    pub(super) greatest: bool,
    /// Whether the row itself counts.
    pub(super) this_row: bool,
}

/// Yields its input with a column more for each [`Running`]; rows keep the order in which they came.
#[derive(Debug)]
pub(super) struct RunningExec {
    input: Arc<dyn ExecutionPlan>,
    task: Arc<Task>,
    properties: Arc<PlanProperties>,
}

#[derive(Debug)]
struct Task {
    keys: Vec<Arc<dyn PhysicalExpr>>,
    order: Vec<PhysicalSortExpr>,
    running: Vec<Running>,
    schema: SchemaRef,
}

impl RunningExec {
    /// `schema` is that of `input` and the computed columns.
    pub(super) fn try_new(
        input: Arc<dyn ExecutionPlan>,
        keys: Vec<Arc<dyn PhysicalExpr>>,
        order: Vec<PhysicalSortExpr>,
        running: Vec<Running>,
        schema: SchemaRef,
    ) -> Result<Self> {
        let task = Task { keys, order, running, schema };
        // Types that can't be compared are refused while planning.
        task.columns(&RecordBatch::new_empty(input.schema()))?;
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&task.schema)),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Final,
            Boundedness::Bounded,
        );
        Ok(Self { input, task: Arc::new(task), properties: Arc::new(properties) })
    }

    fn over(&self, children: Vec<Arc<dyn ExecutionPlan>>) -> Arc<dyn ExecutionPlan> {
        let input = children.into_iter().next().unwrap_or_else(|| Arc::clone(&self.input));
        Arc::new(Self { input, task: Arc::clone(&self.task), properties: Arc::clone(&self.properties) })
    }
}

impl DisplayAs for RunningExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<String> = self.task.keys.iter().map(ToString::to_string).collect();
        let order: Vec<String> = self.task.order.iter().map(ToString::to_string).collect();
        let values = self.task.running.iter().map(|running| {
            let name = if running.greatest { "max" } else { "min" };
            let rows = if running.this_row { "" } else { " before" };
            format!("{name}({}){rows}", running.value)
        });
        let values: Vec<String> = values.collect();
        write!(
            f,
            "RunningExec: keys=[{}], order=[{}], values=[{}]",
            keys.join(", "),
            order.join(", "),
            values.join(", ")
        )
    }
}

impl ExecutionPlan for RunningExec {
    fn name(&self) -> &'static str {
        "RunningExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn required_input_distribution(&self) -> Vec<Distribution> {
        vec![Distribution::SinglePartition]
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        let mut recursion = TreeNodeRecursion::Continue;
        let order = self.task.order.iter().map(|order| &order.expr);
        let values = self.task.running.iter().map(|running| &running.value);
        for expr in self.task.keys.iter().chain(order).chain(values) {
            recursion = recursion.visit_sibling(|| f(expr))?;
        }
        Ok(recursion)
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self.over(children))
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self.over(children))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let input = self.input.execute(partition, context)?;
        let (task, schema) = (Arc::clone(&self.task), self.input.schema());
        let rows = async move {
            let batches = common::collect(input).await?;
            let batch = concat_batches(&schema, &batches)?;
            let mut columns = batch.columns().to_vec();
            columns.extend(task.columns(&batch)?);
            Ok::<_, DataFusionError>(RecordBatch::try_new(Arc::clone(&task.schema), columns)?)
        };
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), stream::once(rows))))
    }
}

impl Task {
    /// The computed columns.
    fn columns(&self, batch: &RecordBatch) -> Result<Vec<ArrayRef>> {
        let values = |expr: &Arc<dyn PhysicalExpr>| expr.evaluate(batch)?.into_array(batch.num_rows());
        let keys = self.keys.iter().map(values).collect::<Result<Vec<_>>>()?;
        let encoder = Encoder::new(keys.iter().map(|key| key.data_type().clone()).collect())?;
        let order = self.order.iter().map(|order| values(&order.expr)).collect::<Result<Vec<_>>>()?;
        let fields = order.iter().zip(&self.order);
        let fields = fields.map(|(values, by)| SortField::new_with_options(values.data_type().clone(), by.options));
        let order = RowConverter::new(fields.collect())?.convert_columns(&order)?;
        let keyed = by_key(&encoder.encode(&keys)?, &order);
        self.running.iter().map(|running| running.column(&values(&running.value)?, &keyed)).collect()
    }
}

/// Row numbers by key, and within a key in order; and where each key's begin, and the last one's end.
fn by_key(keys: &EncodedKeys, order: &Rows) -> (Vec<u32>, Vec<u32>) {
    let hasher = FixedState::default();
    let mut numbers: HashTable<(u32, u32)> = HashTable::new();
    // Rows of each key, then where they begin.
    let mut begins: Vec<u32> = Vec::new();
    let mut key_of: Vec<u32> = Vec::with_capacity(keys.len());
    for row in 0..keys.len() as u32 {
        let key = keys.get(row as usize);
        let of = |entry: &(u32, u32)| keys.get(entry.0 as usize);
        let number = match numbers.entry(hasher.hash_one(key), |it| of(it) == key, |it| hasher.hash_one(of(it))) {
            Entry::Occupied(entry) => entry.get().1,
            Entry::Vacant(entry) => {
                let number = begins.len() as u32;
                entry.insert((row, number));
                begins.push(0);
                number
            }
        };
        begins[number as usize] += 1;
        key_of.push(number);
    }
    let mut end = 0;
    for begin in &mut begins {
        end += std::mem::replace(begin, end);
    }
    begins.push(end);
    let mut next = begins.clone();
    let mut rows = vec![0; keys.len()];
    for (row, number) in key_of.into_iter().enumerate() {
        let place = &mut next[number as usize];
        rows[*place as usize] = row as u32;
        *place += 1;
    }
    // Mostly they came in order.
    let place = |row: &u32| order.row(*row as usize);
    for bounds in begins.windows(2) {
        let rows = &mut rows[bounds[0] as usize..bounds[1] as usize];
        if !rows.is_sorted_by_key(place) {
            rows.sort_by(|left, right| place(left).cmp(&place(right)));
        }
    }
    (rows, begins)
}

impl Running {
    fn column(&self, values: &ArrayRef, (rows, begins): &(Vec<u32>, Vec<u32>)) -> Result<ArrayRef> {
        let encoded = RowConverter::new(vec![SortField::new(values.data_type().clone())])?;
        let encoded = encoded.convert_columns(std::slice::from_ref(values))?;
        let beats = |row: u32, best: u32| {
            let (row, best) = (encoded.row(row as usize), encoded.row(best as usize));
            if self.greatest { row > best } else { row < best }
        };
        let mut found: Vec<Option<u32>> = vec![None; rows.len()];
        for bounds in begins.windows(2) {
            let mut best: Option<u32> = None;
            for row in &rows[bounds[0] as usize..bounds[1] as usize] {
                let before = best;
                if values.is_valid(*row as usize) && best.is_none_or(|best| beats(*row, best)) {
                    best = Some(*row);
                }
                found[*row as usize] = if self.this_row { best } else { before };
            }
        }
        Ok(take(values, &UInt32Array::from(found), None)?)
    }
}
