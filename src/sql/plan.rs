//! Planning: each model once, into a physical plan over slots, to be run once per batch.
//!
//! In: models in running order, and the leaf tables. Out: a [`Step`] per model that could be planned; a model whose inputs failed is
//! skipped without further noise. A template is never executed itself: operators keep state (a hash join its build side), so
//! [`Step::run`] executes a fresh copy each time. Running a used plan again yields rows of an older batch without an error.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::DataFusionError;
use datafusion::common::TableReference;
use datafusion::execution::context::SQLOptions;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::{SessionStateBuilder, TaskContext};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::physical_plan::execution_plan::reset_plan_states;
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::prelude::{SessionConfig, SessionContext};

use super::empty_join::EmptyJoinRule;
use super::index_join::{IndexJoinRule, Verdict, Verdicts};
use super::latest_rule::LatestRule;
use super::leaf::Leaf;
use super::locate;
use super::lookup::slot::LookupSlot;
use super::models::{ACCEPTED, ENRICHED, HELD, KNOWN, Model, Models};
use super::running_rule::RunningRule;
use super::slots::Slot;
use crate::diagnostic::Diagnostic;
use crate::schema::{as_json, is_json};

/// Rows per batch inside the SQL engine: best for caches, and how soon a query can be cancelled.
const BATCH_ROWS: usize = 8192;
/// How many rows the planner assumes for tables whose size changes from batch to batch.
pub(super) const ASSUMED_ROWS: usize = 65_536;
/// As above, for `held` and `known`, which name a few users.
const ASSUMED_FEW: usize = 64;

/// A model that is ready to run.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) name: String,
    pub(super) file: PathBuf,
    /// Tables and models that it reads, by name, each once.
    pub(super) reads: Vec<String>,
    pub(super) logical: LogicalPlan,
    /// Never executed itself.
    pub(super) template: Arc<dyn ExecutionPlan>,
    /// What rules made of its joins with lookups.
    pub(super) verdicts: Vec<Verdict>,
    /// Where the rows of the current batch lie for others to read.
    pub(super) slot: Arc<Slot>,
    /// Rows of the current batch; `None` until it ran.
    pub(super) rows: Option<RecordBatch>,
    pub(super) took: Duration,
}

impl Step {
    pub(super) fn schema(&self) -> &SchemaRef {
        self.slot.schema()
    }

    /// The plan that runs.
    pub(super) fn physical(&self) -> &Arc<dyn ExecutionPlan> {
        &self.template
    }

    /// Forgets the last batch.
    pub(super) fn forget(&mut self) {
        self.release();
        self.took = Duration::ZERO;
    }

    /// Lets go of the rows of the last batch.
    pub(super) fn release(&mut self) {
        self.rows = None;
        self.slot.clear();
    }

    /// Runs the model over what its inputs hold now and keeps the rows in its slot.
    pub(super) async fn run(&mut self, task: &Arc<TaskContext>) -> Result<(), DataFusionError> {
        let started = Instant::now();
        let rows = execute(&self.template, task, self.slot.schema()).await?;
        self.keep(rows);
        self.took = started.elapsed();
        Ok(())
    }

    /// Replaces the rows of the current batch.
    pub(super) fn keep(&mut self, rows: RecordBatch) {
        self.slot.fill(std::slice::from_ref(&rows));
        self.rows = Some(rows);
    }
}

pub(super) async fn execute(
    template: &Arc<dyn ExecutionPlan>,
    task: &Arc<TaskContext>,
    schema: &SchemaRef,
) -> Result<RecordBatch, DataFusionError> {
    let plan = reset_plan_states(Arc::clone(template))?;
    let batches = collect(plan, Arc::clone(task)).await?;
    let shaped: Result<Vec<_>, _> = batches.into_iter().map(|batch| shape(&batch, schema)).collect();
    Ok(concat_batches(schema, &shaped?)?)
}

/// The batch's columns in the types of `schema`, which differ only in how the same values are kept.
fn shape(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, DataFusionError> {
    let columns: Result<Vec<_>, _> =
        batch.columns().iter().zip(schema.fields()).map(|(column, field)| cast(column, field.data_type())).collect();
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns?, &options)?)
}

/// All steps in running order, and the engine's own tables that follow from them.
pub(super) struct Planned {
    pub(super) steps: Vec<Step>,
    /// Made once `enriched` is planned.
    pub(super) held: Option<Arc<Slot>>,
    /// Made once `accepted` is planned.
    pub(super) known: Option<Arc<Slot>>,
}

/// A session whose settings suit plans that are made once and run often.
pub(super) fn session() -> Result<SessionContext, DataFusionError> {
    session_with(true)
}

/// As [`session`]; without index joins it plans as the planner does by itself.
pub(super) fn session_with(index_joins: bool) -> Result<SessionContext, DataFusionError> {
    let mut config = SessionConfig::new().with_target_partitions(1).with_batch_size(BATCH_ROWS);
    let options = config.options_mut();
    // Names mean what they say: `after.userId` stays as it is written.
    options.sql_parser.enable_ident_normalization = false;
    options.sql_parser.collect_spans = true;
    options.sql_parser.map_string_types_to_utf8view = false;
    // A filter made from one batch must not outlive it.
    options.optimizer.enable_dynamic_filter_pushdown = false;
    options.optimizer.enable_join_dynamic_filter_pushdown = false;
    options.optimizer.enable_topk_dynamic_filter_pushdown = false;
    options.optimizer.enable_aggregate_dynamic_filter_pushdown = false;
    options.optimizer.skip_failed_rules = false;
    // A runaway query fails instead of filling a disk.
    let disk = DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled);
    let runtime = RuntimeEnvBuilder::new().with_disk_manager_builder(disk).build_arc()?;
    let verdicts = Arc::new(Verdicts::default());
    let mut rules = rules();
    if index_joins {
        rules.insert(0, Arc::new(IndexJoinRule(Arc::clone(&verdicts))));
    }
    let state = SessionStateBuilder::new()
        .with_config(config.with_extension(verdicts))
        .with_runtime_env(runtime)
        .with_default_features()
        .with_physical_optimizer_rules(rules)
        .build();
    Ok(SessionContext::new_with_state(state))
}

/// Ours first: they look for shapes that the stock rules change. The last one looks at joins as they are in the end.
fn rules() -> Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> {
    let mut rules: Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> =
        vec![Arc::new(LatestRule), Arc::new(RunningRule)];
    rules.extend(PhysicalOptimizer::new().rules);
    rules.push(Arc::new(EmptyJoinRule));
    rules
}

/// Makes `slot` readable by its name.
pub(super) fn register(session: &SessionContext, slot: &Arc<Slot>) -> Result<(), DataFusionError> {
    slot.clear();
    session.register_table(TableReference::bare(slot.name()), Arc::new(Leaf(Arc::clone(slot))))?;
    Ok(())
}

/// Makes a lookup readable by its name.
pub(super) fn register_lookup(session: &SessionContext, slot: &Arc<LookupSlot>) -> Result<(), DataFusionError> {
    session.register_table(TableReference::bare(slot.name()), Arc::new(Leaf(Arc::clone(slot))))?;
    Ok(())
}

/// Plans the models of `order`; `fields` are names of struct fields that a model may mean.
pub(super) async fn plan(
    session: &SessionContext,
    models: &Models,
    order: &[usize],
    tables: &[&str],
    key: &[String],
    fields: &[String],
    faults: &mut Vec<Diagnostic>,
) -> Planned {
    let mut planned = Planned { steps: Vec::new(), held: None, known: None };
    let mut ready: BTreeMap<String, ()> = tables.iter().map(|table| ((*table).to_owned(), ())).collect();
    for model in order.iter().filter_map(|index| models.models.get(*index)) {
        if model.parsed.is_none() || !model.reads().all(|read| ready.contains_key(read)) {
            continue;
        }
        let step = match plan_model(session, model, fields).await {
            Ok(step) => step,
            Err(more) => {
                faults.extend(more);
                continue;
            }
        };
        ready.insert(step.name.clone(), ());
        let own = match step.name.as_str() {
            ENRICHED => held_schema(step.schema(), key).map(|schema| (HELD, schema)),
            ACCEPTED => known_schema(step.schema(), key).map(|schema| (KNOWN, schema)),
            _ => None,
        };
        if let Some((name, schema)) = own {
            let slot = Slot::new(name, schema, ASSUMED_FEW);
            match register(session, &slot) {
                Ok(()) => {
                    ready.insert(name.to_owned(), ());
                }
                Err(error) => faults.push(Diagnostic::error("AI0113", locate::plain(&error))),
            }
            let place = if name == HELD { &mut planned.held } else { &mut planned.known };
            *place = Some(slot);
        }
        planned.steps.push(step);
    }
    planned
}

async fn plan_model(session: &SessionContext, model: &Model, fields: &[String]) -> Result<Step, Vec<Diagnostic>> {
    let state = session.state();
    let explain = |error: &DataFusionError| locate::planning(&model.file, &model.sql, error, fields);
    let Some(parsed) = &model.parsed else { return Err(Vec::new()) };
    let logical = state.statement_to_plan(parsed.statement.clone()).await.map_err(|error| explain(&error))?;
    SQLOptions::new()
        .with_allow_ddl(false)
        .with_allow_dml(false)
        .with_allow_statements(false)
        .verify_plan(&logical)
        .map_err(|error| vec![Diagnostic::error("AI0106", locate::plain(&error)).file(&model.file)])?;
    let doubles = double_names(&model.file, &model.sql, logical.schema().as_arrow());
    if !doubles.is_empty() {
        return Err(doubles);
    }
    let noted = state.config().get_extension::<Verdicts>();
    if let Some(noted) = &noted {
        noted.take();
    }
    let template = state.create_physical_plan(&logical).await.map_err(|error| explain(&error))?;
    let verdicts = noted.map(|noted| noted.take()).unwrap_or_default();
    let slot = Slot::new(&model.name, slot_schema(&template.schema()), ASSUMED_ROWS);
    // Some constants fail only when they are computed; every input is still empty.
    execute(&template, &session.task_ctx(), slot.schema())
        .await
        .map_err(|error| vec![locate::on_empty_batch(&model.file, &model.sql, &error)])?;
    register(session, &slot).map_err(|error| explain(&error))?;
    Ok(Step {
        name: model.name.clone(),
        file: model.file.clone(),
        reads: model.reads().map(str::to_owned).collect::<BTreeSet<_>>().into_iter().collect(),
        logical,
        template,
        verdicts,
        slot,
        rows: None,
        took: Duration::ZERO,
    })
}

fn double_names(file: &Path, sql: &str, schema: &Schema) -> Vec<Diagnostic> {
    let mut seen = BTreeMap::<&str, usize>::new();
    for field in schema.fields() {
        *seen.entry(field.name().as_str()).or_default() += 1;
    }
    let doubles = seen.into_iter().filter(|(_, times)| *times > 1);
    doubles
        .map(|(name, times)| {
            Diagnostic::error("AI0117", format!("the model yields the column {name:?} {times} times"))
                .file(file)
                .span(locate::word(sql, name))
                .help("name the wanted columns one by one, or leave one out: `SELECT t.* EXCEPT (column)`")
        })
        .collect()
}

/// A model's columns as others read them: nullable, texts and bytes in one representation, JSON still marked as such, `_error` a
/// text even if always NULL.
fn slot_schema(schema: &Schema) -> SchemaRef {
    let fields: Vec<Field> = schema
        .fields()
        .iter()
        .map(|field| {
            let kept = match (field.name().as_str(), field.data_type()) {
                ("_error", DataType::Null) => DataType::Utf8,
                (_, other) => plain_type(other),
            };
            let json = is_json(field);
            let field = Field::new(field.name(), kept, true);
            if json { as_json(field) } else { field }
        })
        .collect();
    Arc::new(Schema::new(fields))
}

/// One representation for each kind of value.
pub(super) fn plain_type(kind: &DataType) -> DataType {
    match kind {
        DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        DataType::BinaryView | DataType::LargeBinary => DataType::Binary,
        DataType::Dictionary(_, values) => plain_type(values),
        other => other.clone(),
    }
}

fn key_fields(schema: &Schema, key: &[String]) -> Option<Vec<Field>> {
    key.iter()
        .map(|name| schema.field_with_name(name).ok().map(|field| Field::new(name, field.data_type().clone(), true)))
        .collect()
}

fn held_schema(enriched: &Schema, key: &[String]) -> Option<SchemaRef> {
    let mut fields = key_fields(enriched, key)?;
    fields.push(Field::new("_partition", DataType::Int32, true));
    fields.push(Field::new("_since", DataType::Int64, true));
    Some(Arc::new(Schema::new(fields)))
}

fn known_schema(accepted: &Schema, key: &[String]) -> Option<SchemaRef> {
    let mut fields = key_fields(accepted, key)?;
    fields.push(Field::new("_known_ts", super::rows::event_time_type(), true));
    fields.push(Field::new("_known_partition", DataType::Int32, true));
    fields.push(Field::new("_known_offset", DataType::Int64, true));
    Some(Arc::new(Schema::new(fields)))
}
