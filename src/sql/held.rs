//! Who is accepted, refused or has to wait, between `enriched` and the models after it.
//!
//! In: the rows of `enriched`, the events that failed so far, the records in quarantine. Out: a verdict per event that isn't simply
//! accepted, and the table `held`, by which the SQL of `accepted` comes to the same result. The rules are [`hold::judge`]'s;
//! here they are given only the events that touch a user in question, because most batches have none.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int32Array, Int64Array, RecordBatch, StringArray, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::SchemaRef;

use super::fit;
use super::keys::KeyTexts;
use super::models::ENRICHED;
use super::nested::Unwritable;
use super::rows::{Places, Rows, column};
use crate::error::{Error, Kind, Result};
use crate::hold::{self, Candidate, HoldSet, Key, Verdict};
use crate::position::{Partition, Position};
use crate::target::Target;
use crate::work::{Refusal, Stage};

/// Events that failed, with why; their keys are found when they are judged.
pub(super) type Faults = BTreeMap<Position, Refusal>;

/// A fault of the event at `position`.
pub(super) fn fault(
    position: Position,
    stage: Stage,
    model: Option<&str>,
    column: Option<&str>,
    reason: String,
) -> Refusal {
    Refusal {
        position,
        keys: Vec::new(),
        stage,
        model: model.map(str::to_owned),
        column: column.map(str::to_owned),
        reason,
    }
}

/// Adds the faults that the rows of `enriched` show: `_error`, NULL where none may be, values that the target can't hold.
/// The first fault of an event stands.
pub(super) fn find(rows: &Rows, key: &[String], target: &Target, faults: &mut Faults) -> Result<()> {
    let errors = column(ENRICHED, &rows.batch, "_error")?;
    if let Some(errors) = errors.as_string_opt::<i32>()
        && errors.null_count() < errors.len()
    {
        for row in (0..rows.len()).filter(|row| errors.is_valid(*row)) {
            let position = rows.position(row);
            let refusal = fault(position, Stage::Model, Some(ENRICHED), None, errors.value(row).to_owned());
            faults.entry(position).or_insert(refusal);
        }
    }
    find_nulls(ENRICHED, rows, key, faults)?;
    find_misfits(rows, target, faults);
    Ok(())
}

/// Adds a fault for each row without a key, a deletion mark or an event time.
pub(super) fn find_nulls(model: &str, rows: &Rows, key: &[String], faults: &mut Faults) -> Result<()> {
    let mut judge = |name: &str, values: &dyn Array| {
        if values.null_count() > 0 {
            for row in (0..rows.len()).filter(|row| values.is_null(*row)) {
                let position = rows.position(row);
                let refusal = fault(position, Stage::Model, Some(model), Some(name), format!("{name} is NULL"));
                faults.entry(position).or_insert(refusal);
            }
        }
    };
    for (name, values) in key.iter().zip(rows.columns(model, key)?) {
        judge(name, values.as_ref());
    }
    judge("_deleted", &rows.deleted);
    judge("ts", &rows.ts);
    Ok(())
}

/// Adds a fault for each value, in a column that has a target column's name, which that column can't hold.
pub(super) fn find_misfits(rows: &Rows, target: &Target, faults: &mut Faults) {
    for (place, wanted) in target.columns.iter().enumerate() {
        let Some(values) = rows.batch.column_by_name(&wanted.name) else { continue };
        for (row, reason) in fit::misfits(wanted, place < target.key_len, values, &rows.deleted) {
            let position = rows.position(row);
            let refusal = fault(position, Stage::Target, None, Some(&wanted.name), reason);
            faults.entry(position).or_insert(refusal);
        }
    }
}

/// Adds a fault for each struct or list of a row that stays which can't be written as JSON.
pub(super) fn find_unwritable(rows: &Rows, unwritable: &[Unwritable], faults: &mut Faults) {
    for (row, column, why) in unwritable.iter().filter(|(row, ..)| !rows.deleted.value(*row)) {
        let position = rows.position(*row);
        let reason = format!("{column} {why}");
        faults.entry(position).or_insert(fault(position, Stage::Target, None, Some(column), reason));
    }
}

/// The rows of `enriched` with the event's fault as `_error` in all of its rows: a key change is one event.
pub(super) fn mark(rows: &Rows, faults: &Faults) -> Result<RecordBatch> {
    let place =
        rows.batch.schema().index_of("_error").map_err(|error| Error::new(Kind::Bug, "enriched").source(error))?;
    let mut columns = rows.batch.columns().to_vec();
    let errors = columns[place].as_string_opt::<i32>();
    let marked: StringArray = (0..rows.len())
        .map(|row| match errors {
            Some(errors) if errors.is_valid(row) => Some(errors.value(row)),
            _ => faults.get(&rows.position(row)).map(|refusal| refusal.reason.as_str()),
        })
        .collect();
    columns[place] = Arc::new(marked);
    RecordBatch::try_new(rows.batch.schema(), columns).map_err(|error| Error::new(Kind::Bug, "enriched").source(error))
}

/// What the judgement is made from.
pub(super) struct Case<'a> {
    pub(super) rows: &'a Rows,
    /// The key columns of `rows`.
    pub(super) keys: &'a [ArrayRef],
    pub(super) faults: &'a Faults,
    /// Failed records without rows in `enriched` (decode refused them, or a model fails on them) and the users they name.
    pub(super) outside: &'a BTreeMap<Position, Vec<Key>>,
    pub(super) holds: &'a HoldSet,
    pub(super) rerun: &'a HashSet<Position>,
    pub(super) hold_keys: bool,
    pub(super) held_schema: &'a SchemaRef,
}

/// Events that aren't accepted, with their users, and the table `held`.
pub(super) struct Judged {
    pub(super) verdicts: BTreeMap<Position, (Verdict, Vec<Key>)>,
    pub(super) held: RecordBatch,
}

pub(super) fn judge(case: &Case<'_>, places: &Places) -> Result<Judged> {
    let waiting = interests(case, places);
    if case.faults.is_empty() && case.outside.is_empty() && waiting.is_empty() {
        let held = RecordBatch::new_empty(Arc::clone(case.held_schema));
        return Ok(Judged { verdicts: BTreeMap::new(), held });
    }
    let (mut candidates, named) = candidates(case, waiting)?;
    candidates.extend(case.outside.iter().map(|(position, keys)| Candidate {
        position: *position,
        keys: keys.clone(),
        failed: true,
    }));
    candidates.sort_by_key(|candidate| candidate.position);
    let (verdicts, since) = hold::judge(&candidates, case.holds, case.rerun, case.hold_keys);
    let held = held_table(case, &named, &since)?;
    let verdicts = candidates
        .into_iter()
        .zip(verdicts)
        .filter(|(_, verdict)| *verdict != Verdict::Accepted)
        .map(|(candidate, verdict)| (candidate.position, (verdict, candidate.keys)))
        .collect();
    Ok(Judged { verdicts, held })
}

/// Users in question, per partition.
type Interests = HashMap<Partition, HashSet<Box<str>>>;

/// Users that wait already or are named by a record without rows.
fn interests(case: &Case<'_>, places: &Places) -> Interests {
    let mut found = Interests::new();
    if !case.hold_keys {
        return found;
    }
    let mut partitions: Vec<Partition> = places.all().iter().map(|position| position.partition).collect();
    partitions.dedup();
    let here: HashSet<Partition> =
        partitions.into_iter().chain(case.outside.keys().map(|position| position.partition)).collect();
    let pending = case.holds.keys().filter(|(partition, _)| here.contains(partition));
    let outside = case.outside.iter().flat_map(|(position, keys)| keys.iter().map(|key| (position.partition, key)));
    for (partition, key) in pending.chain(outside) {
        found.entry(partition).or_default().insert(key.0.clone());
    }
    found
}

/// Rows with the user that each names.
type RowKeys = Vec<(u32, Key)>;

/// Events that failed or name a user in question, in order, and the rows that name each user. One pass is enough: an event can
/// only make later ones wait.
fn candidates(case: &Case<'_>, mut interests: Interests) -> Result<(Vec<Candidate>, RowKeys)> {
    let texts = KeyTexts::new(case.keys)?;
    let order = case.rows.in_order();
    let mut candidates = Vec::new();
    let mut named = Vec::new();
    let mut text = String::new();
    for event in order.chunk_by(|left, right| case.rows.position(*left as usize) == case.rows.position(*right as usize))
    {
        let Some(first) = event.first() else { continue };
        let position = case.rows.position(*first as usize);
        let failed = case.faults.contains_key(&position);
        let interest = interests.get(&position.partition);
        let touches = |text: &str| interest.is_some_and(|keys| keys.contains(text));
        if !failed && !event.iter().any(|row| texts.write(*row as usize, &mut text) && touches(&text)) {
            continue;
        }
        let mut keys: Vec<Key> = Vec::with_capacity(2);
        for row in event {
            let Some(key) = texts.key(*row as usize) else { continue };
            if !keys.contains(&key) {
                named.push((*row, key.clone()));
                keys.push(key);
            }
        }
        if case.hold_keys {
            let interest = interests.entry(position.partition).or_default();
            interest.extend(keys.iter().map(|key| key.0.clone()));
        }
        candidates.push(Candidate { position, keys, failed });
    }
    Ok((candidates, named))
}

/// The table `held`: the users of `named` that wait, each once per partition, and from which offset on.
fn held_table(case: &Case<'_>, named: &[(u32, Key)], since: &HashMap<(Partition, Key), i64>) -> Result<RecordBatch> {
    let mut seen = HashSet::new();
    let (mut rows, mut partitions, mut offsets) = (Vec::new(), Vec::new(), Vec::new());
    for (row, key) in named {
        let slot = (case.rows.position(*row as usize).partition, key.clone());
        let Some(from) = since.get(&slot) else { continue };
        let partition = slot.0;
        if seen.insert(slot) {
            rows.push(*row);
            partitions.push(partition);
            offsets.push(*from);
        }
    }
    let bug = |error| Error::new(Kind::Bug, "the table held can't be made").source(error);
    let rows = UInt32Array::from(rows);
    let mut columns: Vec<ArrayRef> =
        case.keys.iter().map(|values| take(values, &rows, None)).collect::<Result<_, _>>().map_err(bug)?;
    columns.push(Arc::new(Int32Array::from(partitions)));
    columns.push(Arc::new(Int64Array::from(offsets)));
    RecordBatch::try_new(Arc::clone(case.held_schema), columns).map_err(bug)
}
