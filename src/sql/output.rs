//! What leaves the station: the rows of `latest` in the target's shape, the sums, the suspects, the analyst's figures.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int32Array, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::{cast, take};
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type, Schema, SchemaRef, UInt64Type};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use serde_json::{Map, Value};

use super::Input;
use super::fold::Fold;
use super::models::{ACCEPTED, LATEST};
use super::nested;
use super::rows::Rows;
use crate::error::{Error, Kind, Result};
use crate::hold::{Key, Verdict};
use crate::position::{Partition, Position};
use crate::target::{Target, VERSION_COLUMNS};
use crate::work::{Changes, Classes, PartitionSums};

/// The rows of `latest` as [`crate::work::Evaluation::latest`] wants them; `order` are its row numbers by key.
pub(super) fn latest(rows: &Rows, order: &[u32], target: &Target, timed: bool) -> Result<RecordBatch> {
    let names: Vec<String> = target.columns.iter().map(|column| column.name.clone()).collect();
    let mut columns = rows.columns(LATEST, &names)?;
    let schema = latest_schema(&rows.batch.schema(), target);
    let versions: Vec<_> = (0..rows.len()).map(|row| rows.version(row, timed)).collect();
    columns.push(Arc::new(rows.deleted.clone()));
    columns.push(Arc::new(Int64Array::from_iter_values(versions.iter().map(|version| version.ts_ns))));
    columns.push(Arc::new(Int32Array::from_iter_values(versions.iter().map(|version| version.partition))));
    columns.push(Arc::new(Int64Array::from_iter_values(versions.iter().map(|version| version.offset))));
    let order = UInt32Array::from(order.to_vec());
    let bug = |error| Error::new(Kind::Bug, "rows can't be put in order").source(error);
    let picked = columns.iter().map(|values| take(values, &order, None)).collect::<Result<_, _>>().map_err(bug)?;
    RecordBatch::try_new(schema, picked).map_err(bug)
}

/// The columns of [`latest`], given those that the model yields.
pub(super) fn latest_schema(model: &Schema, target: &Target) -> SchemaRef {
    let mut fields: Vec<Field> = Vec::with_capacity(target.columns.len() + 4);
    for (place, column) in target.columns.iter().enumerate() {
        let kind = |field: &Field| nested::written_field(field).data_type().clone();
        let kind = model.field_with_name(&column.name).map_or(DataType::Null, kind);
        fields.push(Field::new(&column.name, kind, place >= target.key_len));
    }
    let [ts, partition, offset] = VERSION_COLUMNS;
    fields.push(Field::new("_deleted", DataType::Boolean, false));
    fields.push(Field::new(ts, DataType::Int64, false));
    fields.push(Field::new(partition, DataType::Int32, false));
    fields.push(Field::new(offset, DataType::Int64, false));
    Arc::new(Schema::new(fields))
}

/// Places in `order` (the rows of `latest` by key) of keys with an accepted row whose time lies below the highest one seen before
/// it in its partition. `in_order` are the accepted rows by position, `places` the row of `latest` of each key of `fold`.
pub(super) fn suspects(
    accepted: &Rows,
    in_order: &[u32],
    fold: &Fold,
    (places, order): (&[u32], &[u32]),
    high_water_ns: &BTreeMap<Partition, i64>,
) -> Vec<usize> {
    let mut suspected = vec![false; places.len()];
    for stretch in in_order.chunk_by(|left, right| accepted.partition(*left) == accepted.partition(*right)) {
        let Some(first) = stretch.first() else { continue };
        let mut top = high_water_ns.get(&accepted.partition(*first)).copied().unwrap_or(i64::MIN);
        for row in stretch {
            let ts = accepted.ts.value(*row as usize);
            if ts < top {
                suspected[places[fold.key_of(*row as usize)] as usize] = true;
            }
            top = top.max(ts);
        }
    }
    order.iter().enumerate().filter(|(_, row)| suspected[**row as usize]).map(|(place, _)| place).collect()
}

/// Sums by partition. What is counted mostly comes partition by partition, so the last one is at hand.
struct Sums {
    sums: Vec<PartitionSums>,
    places: BTreeMap<Partition, usize>,
    last: usize,
}

impl Sums {
    fn of(&mut self, partition: Partition) -> &mut PartitionSums {
        if self.sums.get(self.last).is_none_or(|sums| sums.partition != partition) {
            self.last = *self.places.entry(partition).or_insert(self.sums.len());
            if self.last == self.sums.len() {
                self.sums.push(PartitionSums {
                    partition,
                    classes: Classes::default(),
                    changes: Changes::default(),
                    high_water_ns: None,
                });
            }
        }
        &mut self.sums[self.last]
    }
}

/// Where every record and every change went, per partition (P4). `in_order` are the accepted rows by position.
pub(super) fn sums(
    input: &Input<'_>,
    events: &[Position],
    verdicts: &BTreeMap<Position, (Verdict, Vec<Key>)>,
    (accepted, in_order): (&Rows, &[u32]),
    latest: &Rows,
    timed: bool,
) -> Vec<PartitionSums> {
    let mut sums = Sums { sums: Vec::new(), places: BTreeMap::new(), last: 0 };
    for partition in input.partitions {
        sums.of(*partition);
    }
    let refused_by_decode = input.decode_refused.iter().map(|refusal| refusal.position);
    let records = events.iter().copied().chain(input.ignored.iter().copied()).chain(refused_by_decode);
    for position in records {
        sums.of(position.partition).classes.read += 1;
    }
    for (position, (verdict, _)) in verdicts {
        let classes = &mut sums.of(position.partition).classes;
        match verdict {
            Verdict::Refused => classes.refused += 1,
            Verdict::Held => classes.held += 1,
            Verdict::Accepted => {}
        }
    }
    let mut before = None;
    for row in in_order {
        let row = *row as usize;
        let position = accepted.position(row);
        let sum = sums.of(position.partition);
        if before.replace(position) != Some(position) {
            sum.classes.accepted += 1;
        }
        sum.changes.changes += 1;
        if timed {
            let ts = accepted.ts.value(row);
            sum.high_water_ns = Some(sum.high_water_ns.map_or(ts, |top| top.max(ts)));
        }
    }
    for row in 0..latest.len() {
        let changes = &mut sums.of(latest.position(row).partition).changes;
        if latest.deleted.value(row) { changes.deleted += 1 } else { changes.upserted += 1 }
    }
    let mut sums = sums.sums;
    for sum in &mut sums {
        let Classes { read, refused, held, accepted, .. } = sum.classes;
        sum.classes.ignored = read.saturating_sub(refused + held + accepted);
        let Changes { changes, upserted, deleted, .. } = sum.changes;
        sum.changes.superseded = changes.saturating_sub(upserted + deleted);
    }
    sums.sort_unstable_by_key(|sums| sums.partition);
    sums
}

/// The first row of `metrics`: numbers where they are numbers, text otherwise; NULL is left out.
pub(super) fn figures(rows: &RecordBatch) -> Map<String, Value> {
    let mut figures = Map::new();
    if rows.num_rows() == 0 {
        return figures;
    }
    for (field, values) in rows.schema().fields().iter().zip(rows.columns()) {
        if let Some(value) = figure(values) {
            figures.insert(field.name().clone(), value);
        }
    }
    figures
}

fn figure(values: &ArrayRef) -> Option<Value> {
    if values.is_null(0) {
        return None;
    }
    let kind = values.data_type();
    if *kind == DataType::UInt64 {
        return Some(Value::from(values.as_primitive::<UInt64Type>().value(0)));
    }
    if kind.is_integer() {
        let wide = cast(values, &DataType::Int64).ok()?;
        return Some(Value::from(wide.as_primitive::<Int64Type>().value(0)));
    }
    if kind.is_floating() {
        let wide = cast(values, &DataType::Float64).ok()?;
        return serde_json::Number::from_f64(wide.as_primitive::<Float64Type>().value(0)).map(Value::Number);
    }
    if *kind == DataType::Boolean {
        return Some(Value::from(values.as_boolean().value(0)));
    }
    let format = FormatOptions::default();
    ArrayFormatter::try_new(values.as_ref(), &format).ok()?.value(0).try_to_string().ok().map(Value::from)
}

/// Fails where an accepted row belongs to no event of the batch, or to one that is refused or has to wait.
pub(super) fn verify_accepted(accepted: &Rows, verdicts: &BTreeMap<Position, (Verdict, Vec<Key>)>) -> Result<()> {
    if verdicts.is_empty() {
        return Ok(());
    }
    for row in 0..accepted.len() {
        let position = accepted.position(row);
        let remedy = match verdicts.get(&position) {
            None | Some((Verdict::Accepted, _)) => continue,
            Some((Verdict::Refused, _)) => "leave out rows whose `_error` is not NULL",
            Some((Verdict::Held, _)) => {
                "leave out rows of users in `held`: LEFT JOIN held h ON <key> AND h._partition = e._partition \
                 WHERE h._since IS NULL OR e._offset < h._since"
            }
        };
        let what = format!("{ACCEPTED}.sql lets through an event that is refused or held, at {position}");
        return Err(Error::new(Kind::Model, what).remedy(remedy));
    }
    Ok(())
}
