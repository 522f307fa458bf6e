//! Replaceable leaf tables: a plan made once reads whatever batch lies in the slot when it runs.
//!
//! The statistics of a slot are fixed when it is made: the planner chooses join sides by them, and a plan must not depend on
//! the first batch that happened to come along.

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

/// A named place for one batch's rows of a table, shared by the engine, which fills it, and the plans that read it.
#[derive(Debug)]
pub(super) struct Slot {
    name: String,
    schema: SchemaRef,
    /// How many rows the planner assumes.
    assumed_rows: usize,
    batches: Mutex<Arc<[RecordBatch]>>,
}

impl Slot {
    pub(super) fn new(name: &str, schema: SchemaRef, assumed_rows: usize) -> Arc<Self> {
        Arc::new(Self { name: name.to_owned(), schema, assumed_rows, batches: Mutex::new(Arc::from([])) })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    pub(super) fn fill(&self, batches: &[RecordBatch]) {
        *self.batches.lock().unwrap_or_else(PoisonError::into_inner) = Arc::from(batches);
    }

    /// Empties the slot; a plan that reads it sees one batch without rows.
    pub(super) fn clear(&self) {
        self.fill(&[RecordBatch::new_empty(Arc::clone(&self.schema))]);
    }

    pub(super) fn batches(&self) -> Arc<[RecordBatch]> {
        Arc::clone(&self.batches.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A [`Slot`] as a table of the SQL engine.
#[derive(Debug)]
pub(super) struct SlotTable(pub(super) Arc<Slot>);

#[async_trait::async_trait]
impl TableProvider for SlotTable {
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
        Ok(Arc::new(SlotExec::try_new(Arc::clone(&self.0), projection.cloned())?))
    }
}

/// The leaf of a plan that reads a [`Slot`].
#[derive(Debug)]
pub(super) struct SlotExec {
    slot: Arc<Slot>,
    projection: Option<Vec<usize>>,
    properties: Arc<PlanProperties>,
}

impl SlotExec {
    fn try_new(slot: Arc<Slot>, projection: Option<Vec<usize>>) -> Result<Self> {
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
}

impl DisplayAs for SlotExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SlotExec: {}", self.slot.name)
    }
}

impl ExecutionPlan for SlotExec {
    fn name(&self) -> &'static str {
        "SlotExec"
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
        for batch in self.slot.batches().iter() {
            let batch = match &self.projection {
                Some(columns) => batch.project(columns)?,
                None => batch.clone(),
            };
            // Operators yield between batches only, and small ones stay in the cache.
            let mut from = 0;
            while from + rows < batch.num_rows() {
                slices.push(batch.slice(from, rows));
                from += rows;
            }
            slices.push(batch.slice(from, batch.num_rows() - from));
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
