//! The operator: the first row of each key by an order, in one pass over a hash table.

use std::fmt;
use std::hash::BuildHasher;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, UInt64Array};
use arrow::compute::filter_record_batch;
use arrow::datatypes::SchemaRef;
use arrow::row::{Row, RowConverter, Rows, SortField};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalSortExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, ReplaceChildrenOptions};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, Distribution, ExecutionPlan, Partitioning, PhysicalExpr, PlanProperties,
};
use foldhash::fast::FixedState;
use futures::{StreamExt, TryStreamExt, stream};
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use crate::sql::encoded::{EncodedKeys, Encoder};

/// Yields, of each key, the row that comes first by the order, with the row number 1 as its last column. Rows keep the order in
/// which they came.
#[derive(Debug)]
pub(in crate::sql) struct LatestExec {
    input: Arc<dyn ExecutionPlan>,
    keys: Vec<Arc<dyn PhysicalExpr>>,
    order: Vec<PhysicalSortExpr>,
    properties: Arc<PlanProperties>,
}

impl LatestExec {
    /// `schema` is that of `input` and a column of row numbers.
    pub(super) fn try_new(
        input: Arc<dyn ExecutionPlan>,
        keys: Vec<Arc<dyn PhysicalExpr>>,
        order: Vec<PhysicalSortExpr>,
        schema: SchemaRef,
    ) -> Result<Self> {
        // Types that can't be compared are refused while planning.
        Picked::new(&keys, &order, &input.schema())?;
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Final,
            Boundedness::Bounded,
        );
        Ok(Self { input, keys, order, properties: Arc::new(properties) })
    }

    fn over(&self, children: Vec<Arc<dyn ExecutionPlan>>) -> Arc<dyn ExecutionPlan> {
        let input = children.into_iter().next().unwrap_or_else(|| Arc::clone(&self.input));
        let (keys, order, properties) = (self.keys.clone(), self.order.clone(), Arc::clone(&self.properties));
        Arc::new(Self { input, keys, order, properties })
    }
}

impl DisplayAs for LatestExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<String> = self.keys.iter().map(ToString::to_string).collect();
        let order: Vec<String> = self.order.iter().map(ToString::to_string).collect();
        write!(f, "LatestExec: keys=[{}], order=[{}]", keys.join(", "), order.join(", "))
    }
}

impl ExecutionPlan for LatestExec {
    fn name(&self) -> &'static str {
        "LatestExec"
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
        for expr in self.keys.iter().chain(self.order.iter().map(|order| &order.expr)) {
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
        let mut input = self.input.execute(partition, context)?;
        let mut picked = Picked::new(&self.keys, &self.order, &self.input.schema())?;
        let (keys, order, schema) = (self.keys.clone(), self.order.clone(), self.schema());
        let finished = Arc::clone(&schema);
        let rows = async move {
            while let Some(batch) = input.next().await.transpose()? {
                let values = |expr: &Arc<dyn PhysicalExpr>| expr.evaluate(&batch)?.into_array(batch.num_rows());
                let keys: Vec<ArrayRef> = keys.iter().map(values).collect::<Result<_>>()?;
                let order: Vec<ArrayRef> = order.iter().map(|order| values(&order.expr)).collect::<Result<_>>()?;
                picked.add(batch, &keys, &order)?;
            }
            let batches = picked.finish(&finished)?;
            Ok::<_, DataFusionError>(stream::iter(batches.into_iter().map(Ok)))
        };
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, stream::once(rows).try_flatten())))
    }
}

/// A row: which batch, and where in it.
type Place = (u32, u32);

/// The rows picked so far.
struct Picked {
    encoder: Encoder,
    order_converter: RowConverter,
    batches: Vec<Seen>,
    winners: HashTable<Place>,
    hasher: FixedState,
}

/// A batch, its rows' keys and places in the order as comparable bytes, and which of them win.
struct Seen {
    batch: RecordBatch,
    keys: EncodedKeys,
    order: Rows,
    wins: Vec<bool>,
}

impl Picked {
    fn new(keys: &[Arc<dyn PhysicalExpr>], order: &[PhysicalSortExpr], input: &SchemaRef) -> Result<Self> {
        let keys = keys.iter().map(|key| key.data_type(input)).collect::<Result<_>>()?;
        let order =
            order.iter().map(|order| Ok(SortField::new_with_options(order.expr.data_type(input)?, order.options)));
        Ok(Self {
            encoder: Encoder::new(keys)?,
            order_converter: RowConverter::new(order.collect::<Result<_>>()?)?,
            batches: Vec::new(),
            winners: HashTable::new(),
            hasher: FixedState::default(),
        })
    }

    fn add(&mut self, batch: RecordBatch, keys: &[ArrayRef], order: &[ArrayRef]) -> Result<()> {
        let (rows, number) = (batch.num_rows(), self.batches.len() as u32);
        self.batches.push(Seen {
            batch,
            keys: self.encoder.encode(keys)?,
            order: self.order_converter.convert_columns(order)?,
            wins: vec![false; rows],
        });
        let Self { batches, winners, hasher, .. } = self;
        winners.reserve(rows, |place| hasher.hash_one(key_of(batches, *place)));
        for row in 0..rows as u32 {
            let place = (number, row);
            let key = key_of(batches, place);
            let same = |other: &Place| key_of(batches, *other) == key;
            let rehash = |other: &Place| hasher.hash_one(key_of(batches, *other));
            let beaten = match winners.entry(hasher.hash_one(key), same, rehash) {
                Entry::Vacant(slot) => {
                    slot.insert(place);
                    None
                }
                Entry::Occupied(mut slot) if order_of(batches, place) < order_of(batches, *slot.get()) => {
                    Some(std::mem::replace(slot.get_mut(), place))
                }
                Entry::Occupied(_) => continue,
            };
            if let Some((batch, row)) = beaten {
                batches[batch as usize].wins[row as usize] = false;
            }
            batches[number as usize].wins[row as usize] = true;
        }
        Ok(())
    }

    fn finish(self, schema: &SchemaRef) -> Result<Vec<RecordBatch>> {
        let picked = self.batches.into_iter().map(|seen| {
            let rows = filter_record_batch(&seen.batch, &BooleanArray::from(seen.wins))?;
            let mut columns = rows.columns().to_vec();
            columns.push(Arc::new(UInt64Array::from(vec![1; rows.num_rows()])));
            Ok(RecordBatch::try_new(Arc::clone(schema), columns)?)
        });
        picked.collect()
    }
}

fn key_of(batches: &[Seen], (batch, row): Place) -> Option<&[u8]> {
    batches[batch as usize].keys.get(row as usize)
}

fn order_of(batches: &[Seen], (batch, row): Place) -> Row<'_> {
    batches[batch as usize].order.row(row as usize)
}
