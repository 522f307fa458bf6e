//! A lookup as a leaf table: what a plan reads is the table that lies in the slot when it runs.
//!
//! Statistics are fixed when the slot is made, as those of any [`Slot`](crate::sql::slots::Slot).

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, Statistics};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::coop::cooperative;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, ReplaceChildrenOptions, SchedulingType};
use datafusion::physical_plan::memory::MemoryStream;
use datafusion::physical_plan::statistics::StatisticsArgs;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties};

use super::table::LookupTable;

/// A named place for the present version of a lookup.
#[derive(Debug)]
pub(in crate::sql) struct LookupSlot {
    name: String,
    schema: SchemaRef,
    /// Columns of the key.
    key: Vec<String>,
    assumed_rows: usize,
    table: Mutex<Arc<LookupTable>>,
}

impl LookupSlot {
    pub(super) fn new(name: &str, key: &[String], table: Arc<LookupTable>) -> Arc<Self> {
        let (schema, assumed_rows) = (Arc::clone(table.schema()), table.num_rows());
        Arc::new(Self { name: name.to_owned(), schema, key: key.to_vec(), assumed_rows, table: Mutex::new(table) })
    }

    pub(in crate::sql) fn name(&self) -> &str {
        &self.name
    }

    pub(in crate::sql) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    pub(in crate::sql) fn key(&self) -> &[String] {
        &self.key
    }

    /// The present version: whoever holds it sees no other.
    pub(in crate::sql) fn table(&self) -> Arc<LookupTable> {
        Arc::clone(&self.table.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn put(&self, table: Arc<LookupTable>) {
        *self.table.lock().unwrap_or_else(PoisonError::into_inner) = table;
    }

    /// Changes the table in place where nobody holds this version, otherwise a copy of it.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut LookupTable) -> T) -> T {
        change(Arc::make_mut(&mut self.table.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// A [`LookupSlot`] as a table of the SQL engine.
#[derive(Debug)]
pub(in crate::sql) struct LookupProvider(pub(in crate::sql) Arc<LookupSlot>);

#[async_trait::async_trait]
impl TableProvider for LookupProvider {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.0.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(LookupExec::try_new(Arc::clone(&self.0), projection.cloned())?))
    }
}

/// The leaf of a plan that reads all rows of a lookup.
#[derive(Debug)]
pub(in crate::sql) struct LookupExec {
    slot: Arc<LookupSlot>,
    projection: Option<Vec<usize>>,
    properties: Arc<PlanProperties>,
}

impl LookupExec {
    fn try_new(slot: Arc<LookupSlot>, projection: Option<Vec<usize>>) -> Result<Self> {
        let schema: SchemaRef = match &projection {
            Some(columns) => Arc::new(Schema::project(&slot.schema, columns)?),
            None => Arc::clone(&slot.schema),
        };
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        )
        .with_scheduling_type(SchedulingType::Cooperative);
        Ok(Self { slot, projection, properties: Arc::new(properties) })
    }

    pub(in crate::sql) fn slot(&self) -> &Arc<LookupSlot> {
        &self.slot
    }

    /// Which column of the lookup each column of this leaf is.
    pub(in crate::sql) fn columns(&self) -> Vec<usize> {
        self.projection.clone().unwrap_or_else(|| (0..self.slot.schema.fields().len()).collect())
    }
}

impl DisplayAs for LookupExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LookupExec: {}, all rows", self.slot.name)
    }
}

impl ExecutionPlan for LookupExec {
    fn name(&self) -> &'static str {
        "LookupExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, _: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let rows = context.session_config().batch_size().max(1);
        let mut slices = Vec::new();
        let mut all = self.slot.table().batches()?;
        if all.is_empty() {
            all.push(RecordBatch::new_empty(Arc::clone(&self.slot.schema)));
        }
        for batch in all {
            let batch = match &self.projection {
                Some(columns) => batch.project(columns)?,
                None => batch,
            };
            // Operators yield between batches only, and small ones stay in the cache.
            for from in (0..batch.num_rows().max(1)).step_by(rows) {
                slices.push(batch.slice(from, rows.min(batch.num_rows() - from)));
            }
        }
        let stream = MemoryStream::try_new(slices, self.schema(), None)?;
        Ok(Box::pin(cooperative(stream)))
    }

    fn statistics_from_inputs(&self, _: &[Arc<Statistics>], _: &StatisticsArgs) -> Result<Arc<Statistics>> {
        let rows = self.slot.assumed_rows;
        let unknown = Statistics::new_unknown(&self.schema());
        Ok(Arc::new(
            unknown.with_num_rows(Precision::Inexact(rows)).with_total_byte_size(Precision::Inexact(rows * 100)),
        ))
    }
}
