//! The engine of one pipeline: its planned models, and how one batch goes through them.
//!
//! Per batch: run up to `enriched`; find out who failed and who must wait; write that into `enriched` and `held`; run `accepted` and
//! `latest`; check both against the fold done natively; hand over. Where a model fails at run time the guilty events are looked
//! for ([`super::bisect`]) and the batch is run again without them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::SchemaRef;
use datafusion::execution::TaskContext;

use super::bisect::Crash;
use super::encoded::{Encoder, sorted};
use super::explain::{self, Explanation, TableKind, TableNode};
use super::fold::Fold;
use super::held::{self, Case, Faults, fault};
use super::keys::KeyTexts;
use super::lookup::Lookup;
use super::models::{ACCEPTED, CHANGES, ENRICHED, EVENTS, HELD, KNOWN, LATEST, METRICS};
use super::plan::Step;
use super::rows::{Places, Rows, positions};
use super::slots::Slot;
use super::{Input, ModelSpec, VersionBy, check_target, locate, nested, output};
use crate::diagnostic::{Diagnostic, has_errors};
use crate::error::{Error, Kind, Result};
use crate::hold::{Key, Verdict};
use crate::position::Position;
use crate::target::Target;
use crate::work::{Evaluation, Held, Refusal, Stage, Suspicion};

pub use prepare::Examined;

mod evidence;
mod lookups;
mod prepare;

/// The models of one pipeline, ready to run batch after batch.
#[derive(Debug)]
pub struct Engine {
    spec: ModelSpec,
    task: Arc<TaskContext>,
    /// In running order.
    pub(super) steps: Vec<Step>,
    events: Arc<Slot>,
    held: Arc<Slot>,
    known: Arc<Slot>,
    lookups: Vec<Lookup>,
    target: Target,
    routes: Routes,
    /// Whether [`Engine::tables`] is wanted.
    keeps_rows: bool,
    /// The models' texts.
    texts: Vec<String>,
}

/// Which steps must run, in order, to have the rows of a model.
#[derive(Debug, Default)]
struct Routes {
    changes: Vec<usize>,
    enriched: Vec<usize>,
    /// Those of `enriched` whose rows nothing after it reads.
    spent: Vec<usize>,
    accepted: Vec<usize>,
    latest: Vec<usize>,
    metrics: Vec<usize>,
    out_of_order: Vec<usize>,
    /// Those of `out_of_order` that must wait until it is known what was stored.
    waiting: Vec<usize>,
    /// Tables of the batch that those read.
    waiting_reads: Vec<String>,
}

/// What came of one attempt at a batch.
enum Attempt {
    Done(Box<Evaluation>),
    /// Events that showed their fault only behind `enriched`.
    Refused(Faults),
    Crashed(Crash),
}

impl Engine {
    /// Why a record is refused, fit for logs and for strangers: a model's own words may quote the event, unless they stand in its
    /// SQL as they are.
    pub fn reason_without_values<'r>(&self, refusal: &'r Refusal) -> &'r str {
        let literal = || format!("'{}'", refusal.reason.replace('\'', "''"));
        match refusal.stage {
            Stage::Model if !self.texts.iter().any(|text| text.contains(&literal())) => {
                "its words may quote the event: see `afterimage preview`"
            }
            _ => &refusal.reason,
        }
    }

    /// Key columns of the target, in order.
    pub fn key(&self) -> &[String] {
        &self.spec.key
    }

    /// The target that `latest` asks for: texts as `VARCHAR(255)`, numbers, dates and times exactly. Key columns of text still
    /// need a collation that tells all texts apart, which whoever writes the DDL adds.
    pub fn derive_target(&self, table: &str) -> Target {
        let latest = self.steps.iter().find(|step| step.name == LATEST);
        let derive = |step: &Step| check_target::derive(step.schema(), &self.spec.key, &mut Vec::new());
        let columns = latest.map(derive).unwrap_or_default();
        Target { table: table.to_owned(), columns, key_len: self.spec.key.len() }
    }

    /// Goes on with `target`, unless `latest` doesn't yield its columns in types that it can hold.
    pub fn set_target(&mut self, target: Target) -> Result<(), Vec<Diagnostic>> {
        let Some(latest) = self.steps.iter().find(|step| step.name == LATEST) else { return Ok(()) };
        let mut faults = Vec::new();
        check_target::against(&latest.file, "", latest.schema(), &self.spec.key, &target, &mut faults);
        if has_errors(&faults) {
            return Err(faults);
        }
        self.target = target;
        Ok(())
    }

    /// [`Evaluation::latest`] without rows.
    pub fn no_rows(&self) -> Result<RecordBatch> {
        let step = self.steps.iter().find(|step| step.name == LATEST);
        let step = step.ok_or_else(|| Error::new(Kind::Bug, "latest isn't planned"))?;
        Ok(RecordBatch::new_empty(output::latest_schema(step.schema(), &self.target)))
    }

    /// The models and the columns that they yield.
    pub fn models(&self) -> impl Iterator<Item = (&str, &SchemaRef)> {
        self.steps.iter().map(|step| (step.name.as_str(), step.schema()))
    }

    /// What the planner made of the models.
    pub fn explain(&self) -> Explanation {
        let lookups: BTreeMap<String, usize> =
            self.lookups.iter().map(|lookup| (lookup.name.clone(), lookup.slot.table().num_rows())).collect();
        let node = |index: usize, step: &Step| explain::model(step, self.routes.latest.contains(&index), &lookups);
        let models: Vec<_> = self.steps.iter().enumerate().map(|(index, step)| node(index, step)).collect();
        let read = |name: &str| models.iter().any(|model| model.reads.iter().any(|read| read == name));
        let own = [
            (EVENTS, TableKind::Events, None),
            (HELD, TableKind::Engine, Some(ENRICHED)),
            (KNOWN, TableKind::Engine, Some(ACCEPTED)),
        ];
        let own = own.into_iter().filter(|(name, _, _)| read(name)).map(|(name, kind, made_from)| TableNode {
            name: name.to_owned(),
            kind,
            rows: None,
            made_from,
        });
        let lookups = lookups.iter().map(|(name, rows)| TableNode {
            name: name.clone(),
            kind: TableKind::Lookup,
            rows: Some(*rows),
            made_from: None,
        });
        Explanation { tables: own.chain(lookups).collect(), models }
    }

    /// Keeps the models' rows after each batch, until the next one begins; otherwise they go as soon as nothing needs them any more.
    pub fn keep_rows(&mut self) {
        self.keeps_rows = true;
    }

    /// Each model that ran for the last batch: its rows and how long it took. None where the engine wasn't told to keep them.
    pub fn tables(&self) -> impl Iterator<Item = (&str, &RecordBatch, Duration)> {
        self.steps.iter().filter_map(|step| step.rows.as_ref().map(|rows| (step.name.as_str(), rows, step.took)))
    }

    /// How long each model took for the last batch; zero where it didn't run.
    pub fn times(&self) -> impl Iterator<Item = (&str, Duration)> {
        self.steps.iter().map(|step| (step.name.as_str(), step.took))
    }

    /// Lets go of the last batch's rows, unless they are to be kept.
    fn release(&mut self) {
        if !self.keeps_rows {
            self.steps.iter_mut().for_each(Step::release);
            self.clear_slots();
        }
    }

    fn clear_slots(&self) {
        for slot in [&self.events, &self.held, &self.known] {
            slot.clear();
        }
    }

    /// Runs the models over one batch.
    ///
    /// Fails with [`Kind::Model`] where a model yields what its contract forbids, or fails for a reason that no single event explains.
    pub async fn evaluate(&mut self, input: Input<'_>) -> Result<Evaluation> {
        let evaluation = self.evaluated(input).await;
        self.release();
        evaluation
    }

    async fn evaluated(&mut self, input: Input<'_>) -> Result<Evaluation> {
        let mut why: Faults = Faults::new();
        for refusal in input.decode_refused.iter().chain(input.forced) {
            why.entry(refusal.position).or_insert_with(|| Refusal { keys: Vec::new(), ..refusal.clone() });
        }
        let mut users = self.users_of(&input.salvage).await?;
        let refused = input.decode_refused.iter().map(|refusal| refusal.position);
        let mut outside: BTreeMap<Position, Vec<Key>> =
            refused.map(|position| (position, users.remove(&position).unwrap_or_default())).collect();
        let mut events = input.events.clone();
        loop {
            let known = why.len();
            match self.attempt(&input, &events, &why, &outside).await? {
                Attempt::Done(evaluation) => return Ok(*evaluation),
                Attempt::Refused(more) => why.extend(more),
                Attempt::Crashed(crash) => {
                    let guilty = self.guilty(&events, crash).await?;
                    let (bad, good) = split(&events, &guilty)?;
                    let users = self.users_of(&bad).await?;
                    for position in guilty.keys() {
                        outside.insert(*position, users.get(position).cloned().unwrap_or_default());
                    }
                    // An event that MySQL refused before stays refused for that reason.
                    for (position, refusal) in guilty {
                        why.entry(position).or_insert(refusal);
                    }
                    events = good;
                    continue;
                }
            }
            if why.len() == known {
                return Err(Error::new(Kind::Bug, "a batch makes no progress"));
            }
        }
    }

    /// One run of the batch: `why` are the events known to fail, `outside` those of them that aren't in `events`.
    async fn attempt(
        &mut self,
        input: &Input<'_>,
        events: &RecordBatch,
        why: &Faults,
        outside: &BTreeMap<Position, Vec<Key>>,
    ) -> Result<Attempt> {
        let timed = self.spec.version == VersionBy::EventTime;
        let places = Places::new(events)?;
        self.start(events);
        if let Err(crash) = self.run(|routes| &routes.enriched).await {
            return Ok(Attempt::Crashed(crash));
        }
        self.release_spent();
        let enriched = Rows::new(ENRICHED, self.rows_of(ENRICHED)?)?;
        self.only_events(ENRICHED, &enriched, &places)?;
        let mut faults = why.clone();
        held::find(&enriched, &self.spec.key, &self.target, &mut faults)?;
        let judged = held::judge(
            &Case {
                keys: &enriched.columns(ENRICHED, &self.spec.key)?,
                rows: &enriched,
                faults: &faults,
                outside,
                holds: input.holds,
                rerun: input.rerun,
                hold_keys: self.spec.hold_keys,
                held_schema: self.held.schema(),
            },
            &places,
        )?;
        if !faults.is_empty() {
            let marked = held::mark(&enriched, &faults)?;
            self.keep(ENRICHED, marked);
        }
        self.held.fill(&[judged.held]);

        if let Err(crash) = self.run(|routes| &routes.accepted).await {
            return Ok(Attempt::Crashed(crash));
        }
        let accepted = Rows::new(ACCEPTED, self.rows_of(ACCEPTED)?)?;
        self.only_events(ACCEPTED, &accepted, &places)?;
        output::verify_accepted(&accepted, &judged.verdicts)?;
        let key_fields = self.held.schema().fields().iter().take(self.spec.key.len());
        let encoder = Encoder::new(key_fields.map(|field| field.data_type().clone()).collect()).map_err(unsortable)?;
        let accepted_keys = encoder.encode(&accepted.columns(ACCEPTED, &self.spec.key)?).map_err(unsortable)?;
        let fold = Fold::new(&accepted, accepted_keys, timed);
        let mut more = doubles(&fold, &accepted);
        held::find_nulls(ACCEPTED, &accepted, &self.spec.key, &mut more)?;
        if !more.is_empty() {
            return Ok(Attempt::Refused(more));
        }

        if let Err(crash) = self.run(|routes| &routes.latest).await {
            return Ok(Attempt::Crashed(crash));
        }
        let (latest, unwritable) = nested::written(self.rows_of(LATEST)?)?;
        let latest = Rows::new(LATEST, latest)?;
        let latest_keys = encoder.encode(&latest.columns(LATEST, &self.spec.key)?).map_err(unsortable)?;
        let places = fold.verify(&accepted, &latest, &latest_keys)?;
        held::find_unwritable(&latest, &unwritable, &mut more);
        held::find_misfits(&latest, &self.target, &mut more);
        if !more.is_empty() {
            return Ok(Attempt::Refused(more));
        }

        let all = positions(&input.events)?;
        let order = sorted(&latest_keys);
        let in_order = accepted.in_order();
        let suspects = match timed {
            true => output::suspects(&accepted, &in_order, &fold, (&places, &order), input.high_water_ns),
            false => Vec::new(),
        };
        let sums = output::sums(input, &all, &judged.verdicts, (&accepted, &in_order), &latest, timed);
        let (refused, held) = outcomes(judged.verdicts, &faults);
        let latest = output::latest(&latest, &order, &self.target, timed)?;
        let suspicion = if suspects.is_empty() { Suspicion::default() } else { self.suspicion(&latest) };
        let metrics = self.figures().await;
        Ok(Attempt::Done(Box::new(Evaluation { latest, refused, held, sums, suspects, suspicion, metrics })))
    }

    /// Makes `events` the current batch; nothing has run on it yet.
    pub(super) fn start(&mut self, events: &RecordBatch) {
        self.steps.iter_mut().for_each(Step::forget);
        self.clear_slots();
        self.events.fill(std::slice::from_ref(events));
    }

    /// Lets go of rows that nothing behind `enriched` reads.
    fn release_spent(&mut self) {
        if self.keeps_rows {
            return;
        }
        for index in &self.routes.spent {
            if let Some(step) = self.steps.get_mut(*index) {
                step.slot.clear();
                step.rows = Some(RecordBatch::new_empty(Arc::clone(step.schema())));
            }
        }
    }

    /// Runs everything up to `latest` over `events`, with nobody on hold.
    pub(super) async fn crash_on(&mut self, events: &RecordBatch) -> Option<Crash> {
        self.start(events);
        self.run(|routes| &routes.latest).await.err()
    }

    /// Runs the steps of a route that haven't run for this batch.
    async fn run(&mut self, route: impl Fn(&Routes) -> &Vec<usize>) -> Result<(), Crash> {
        for index in route(&self.routes) {
            let Some(step) = self.steps.get_mut(*index).filter(|step| step.rows.is_none()) else { continue };
            if let Err(error) = step.run(&self.task).await {
                return Err(Crash { model: step.name.clone(), reason: locate::without_values(&error) });
            }
        }
        Ok(())
    }

    /// Users that the rows of `events` name, by the model `changes`; rows on which it fails name none.
    async fn users_of(&mut self, events: &RecordBatch) -> Result<BTreeMap<Position, Vec<Key>>> {
        let mut users = BTreeMap::new();
        if events.num_rows() == 0 {
            return Ok(users);
        }
        self.start(events);
        if self.run(|routes| &routes.changes).await.is_ok() {
            self.collect_users(&mut users)?;
            return Ok(users);
        }
        for row in 0..events.num_rows() {
            self.start(&events.slice(row, 1));
            if self.run(|routes| &routes.changes).await.is_ok() {
                self.collect_users(&mut users)?;
            }
        }
        Ok(users)
    }

    fn collect_users(&self, users: &mut BTreeMap<Position, Vec<Key>>) -> Result<()> {
        let rows = Rows::new(CHANGES, self.rows_of(CHANGES)?)?;
        let keys = rows.columns(CHANGES, &self.spec.key)?;
        let texts = KeyTexts::new(&keys)?;
        for row in 0..rows.len() {
            let Some(key) = texts.key(row) else { continue };
            let named: &mut Vec<Key> = users.entry(rows.position(row)).or_default();
            if !named.contains(&key) {
                named.push(key);
            }
        }
        Ok(())
    }

    async fn figures(&mut self) -> serde_json::Map<String, serde_json::Value> {
        if self.routes.metrics.is_empty() {
            return serde_json::Map::new();
        }
        // Figures are for the analyst's eyes: their failure must not stop the data.
        if let Err(crash) = self.run(|routes| &routes.metrics).await {
            tracing::warn!(pipeline = self.spec.name, model = crash.model, error = crash.reason, "metrics failed");
            return serde_json::Map::new();
        }
        self.rows_of(METRICS).map(|rows| output::figures(&rows)).unwrap_or_default()
    }

    fn rows_of(&self, model: &str) -> Result<RecordBatch> {
        let step = self.steps.iter().find(|step| step.name == model);
        step.and_then(|step| step.rows.clone()).ok_or_else(|| Error::new(Kind::Bug, format!("{model} hasn't run")))
    }

    fn keep(&mut self, model: &str, rows: RecordBatch) {
        if let Some(step) = self.steps.iter_mut().find(|step| step.name == model) {
            step.keep(rows);
        }
    }

    /// Fails where a row's position is no event's: models must carry `_partition` and `_offset` unchanged.
    fn only_events(&self, model: &str, rows: &Rows, places: &Places) -> Result<()> {
        let mut near = 0;
        for row in 0..rows.len() {
            let position = rows.position(row);
            if places.find(position, &mut near).is_none() {
                let what = format!("{model}.sql yields a row for {position}, which is no event of this batch");
                return Err(Error::new(Kind::Model, what)
                    .remedy("every row must carry `_partition` and `_offset` of its event unchanged"));
            }
        }
        Ok(())
    }
}

/// Events with two accepted rows of one key: neither is newer than the other.
fn doubles(fold: &Fold, accepted: &Rows) -> Faults {
    let reason = "the models yield more than one row for a key of this event";
    fold.doubles
        .iter()
        .map(|row| accepted.position(*row as usize))
        .map(|position| (position, fault(position, Stage::Model, Some(ACCEPTED), None, reason.to_owned())))
        .collect()
}

/// Refused and held records from the verdicts.
fn outcomes(verdicts: BTreeMap<Position, (Verdict, Vec<Key>)>, why: &Faults) -> (Vec<Refusal>, Vec<Held>) {
    let (mut refused, mut held) = (Vec::new(), Vec::new());
    for (position, (verdict, keys)) in verdicts {
        match (verdict, why.get(&position)) {
            (Verdict::Held, _) => held.push(Held { position, keys }),
            (Verdict::Refused, Some(refusal)) => refused.push(Refusal { keys, ..refusal.clone() }),
            (Verdict::Refused, None) | (Verdict::Accepted, _) => {}
        }
    }
    (refused, held)
}

/// The events that are in `guilty`, and the others.
fn split(events: &RecordBatch, guilty: &Faults) -> Result<(RecordBatch, RecordBatch)> {
    let positions = positions(events)?;
    let bad: BooleanArray = positions.iter().map(|position| Some(guilty.contains_key(position))).collect();
    let good: BooleanArray = positions.iter().map(|position| Some(!guilty.contains_key(position))).collect();
    Ok((filter_record_batch(events, &bad).map_err(bug)?, filter_record_batch(events, &good).map_err(bug)?))
}

fn unsortable(error: arrow::error::ArrowError) -> Error {
    Error::new(Kind::Bug, "the key columns can't be compared").source(error)
}

fn bug(error: arrow::error::ArrowError) -> Error {
    Error::new(Kind::Bug, "a table can't be put together").source(error)
}
