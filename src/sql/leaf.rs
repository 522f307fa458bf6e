//! Leaf tables: what a plan reads is what lies behind the leaf when the plan runs.
//!
//! In: something that has [`Rows`] by a name, a batch's [`Slot`](super::slots::Slot) or a lookup. Out: a table of the SQL engine,
//! [`Leaf`], whose scans are [`LeafExec`]s. The statistics are fixed when a plan is made: the planner chooses join sides by them, and a
//! plan must not depend on the first batch that happened to come along.

use std::fmt;
use std::sync::Arc;

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

/// What lies behind a leaf.
pub(super) trait Rows: fmt::Debug + Send + Sync + 'static {
    /// What plans call a scan of it.
    const SCAN: &'static str;

    fn name(&self) -> &str;
    fn schema(&self) -> &SchemaRef;
    /// How many rows the planner assumes.
    fn assumed_rows(&self) -> usize;
    /// All rows as they are now, of one version.
    fn batches(&self) -> Result<Vec<RecordBatch>>;
}

/// [`Rows`] as a table of the SQL engine.
#[derive(Debug)]
pub(super) struct Leaf<R>(pub(super) Arc<R>);

#[async_trait::async_trait]
impl<R: Rows> TableProvider for Leaf<R> {
    fn schema(&self) -> SchemaRef {
        Arc::clone(self.0.schema())
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
        Ok(Arc::new(LeafExec::try_new(Arc::clone(&self.0), projection.cloned())?))
    }
}

/// The leaf of a plan: reads all rows.
#[derive(Debug)]
pub(super) struct LeafExec<R> {
    rows: Arc<R>,
    projection: Option<Vec<usize>>,
    properties: Arc<PlanProperties>,
}

impl<R: Rows> LeafExec<R> {
    fn try_new(rows: Arc<R>, projection: Option<Vec<usize>>) -> Result<Self> {
        let schema: SchemaRef = match &projection {
            Some(columns) => Arc::new(Schema::project(rows.schema(), columns)?),
            None => Arc::clone(rows.schema()),
        };
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        )
        .with_scheduling_type(SchedulingType::Cooperative);
        Ok(Self { rows, projection, properties: Arc::new(properties) })
    }

    pub(super) fn rows(&self) -> &Arc<R> {
        &self.rows
    }

    /// Which of the columns behind it each column of this leaf is.
    pub(super) fn columns(&self) -> Vec<usize> {
        self.projection.clone().unwrap_or_else(|| (0..self.rows.schema().fields().len()).collect())
    }
}

impl<R: Rows> DisplayAs for LeafExec<R> {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", R::SCAN, self.rows.name())
    }
}

impl<R: Rows> ExecutionPlan for LeafExec<R> {
    fn name(&self) -> &'static str {
        R::SCAN
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
        let mut batches = self.rows.batches()?;
        if batches.is_empty() {
            batches.push(RecordBatch::new_empty(Arc::clone(self.rows.schema())));
        }
        let mut slices = Vec::new();
        for batch in batches {
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
        let rows = self.rows.assumed_rows();
        let unknown = Statistics::new_unknown(&self.schema());
        Ok(Arc::new(
            unknown.with_num_rows(Precision::Inexact(rows)).with_total_byte_size(Precision::Inexact(rows * 100)),
        ))
    }
}
