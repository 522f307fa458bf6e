//! A preview for programs: one JSON object per line, or files.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, BooleanArray, Int32Array, Int64Array, ListBuilder, RecordBatch, StringArray, StringBuilder,
    StructArray, UInt64Array,
};
use arrow::buffer::NullBuffer;
use arrow::compute::{concat_batches, take};
use arrow::datatypes::{Field, Fields};
use serde_json::{Value, json};

use super::super::show::arrow_rows::json_lines;
use super::super::show::files::{self, FileFormat};
use super::super::show::{Stopped, counted};
use super::{Preview, PreviewArgs, is_wanted};
use crate::error::{Error, Kind, Result};
use crate::hold::Key;
use crate::position::Position;
use crate::workbench::Turn;
use crate::workbench::effects::{Effect, before};

/// Every line is an object whose `kind` says what it is.
pub(super) fn ndjson(preview: &Preview<'_>, args: &PreviewArgs, out: &mut impl Write) -> Result<(), Stopped> {
    let limit = args.limit.unwrap_or(usize::MAX);
    let mut left: BTreeMap<&str, usize> = BTreeMap::new();
    for (number, turn) in preview.turns.iter().enumerate() {
        let batch = number + 1;
        for model in turn.models.iter().filter(|model| is_wanted(args, &model.name)) {
            let left = left.entry(&model.name).or_insert(limit);
            let rows = model.rows.slice(0, model.rows.num_rows().min(*left));
            *left -= rows.num_rows();
            for row in json_lines(&rows)? {
                line(out, json!({ "kind": "row", "model": model.name, "batch": batch }), &[("row", &row)])?;
            }
        }
        outcomes(turn, batch, out)?;
        let effects = preview.effects.get(number).map(Vec::as_slice).unwrap_or_default();
        writes(preview, turn, effects, batch, out)?;
    }
    for (partition, sums) in &preview.bench.tables().sums {
        line(out, json!({ "kind": "sums", "partition": partition, "sums": sums }), &[])?;
    }
    for (field, events) in &preview.bench.tables().unmapped {
        line(out, json!({ "kind": "unmapped", "field": field, "events": events }), &[])?;
    }
    Ok(())
}

/// Writes one object: `fields`, and further ones that are JSON already.
fn line(out: &mut impl Write, fields: Value, raw: &[(&str, &str)]) -> Result<(), Stopped> {
    let mut text = fields.to_string();
    text.pop();
    for (name, value) in raw {
        text.push_str(&format!(",\"{name}\":{value}"));
    }
    writeln!(out, "{text}}}")?;
    Ok(())
}

fn outcomes(turn: &Turn, batch: usize, out: &mut impl Write) -> Result<(), Stopped> {
    let at = |kind: &str, position: Position, keys: &[Key]| json!({ "kind": kind, "batch": batch, "partition": position.partition, "offset": position.offset, "keys": key_values(keys) });
    for refusal in &turn.evaluation.refused {
        let mut fields = at("refused", refusal.position, &refusal.keys);
        let more = json!({ "stage": refusal.stage.name(), "model": refusal.model, "column": refusal.column, "reason": refusal.reason });
        merge(&mut fields, more);
        line(out, fields, &[])?;
    }
    for held in &turn.evaluation.held {
        line(out, at("held", held.position, &held.keys), &[])?;
    }
    for late in &turn.out_of_order {
        let mut fields = at("out_of_order", late.position, std::slice::from_ref(&late.key));
        let known =
            json!({ "ts_ns": late.known.ts_ns, "partition": late.known.partition, "offset": late.known.offset });
        merge(&mut fields, json!({ "ts_ns": late.ts_ns, "known": known }));
        line(out, fields, &[])?;
    }
    Ok(())
}

fn merge(fields: &mut Value, more: Value) {
    if let (Value::Object(fields), Value::Object(more)) = (fields, more) {
        fields.extend(more);
    }
}

fn key_values(keys: &[Key]) -> Vec<Value> {
    keys.iter().map(|key| serde_json::from_str(&key.0).unwrap_or(Value::Null)).collect()
}

fn writes(
    preview: &Preview<'_>,
    turn: &Turn,
    effects: &[Effect],
    batch: usize,
    out: &mut impl Write,
) -> Result<(), Stopped> {
    let columns = preview.bench.tables().columns();
    let (old, places) = before(preview.bench.tables(), effects)?;
    let new = turn.evaluation.latest.project(&(0..columns.fields().len()).collect::<Vec<_>>()).map_err(unfit)?;
    let (new, old) = (json_lines(&new)?, json_lines(&old)?);
    for (number, effect) in effects.iter().enumerate() {
        let changed: Vec<&str> =
            effect.changed.iter().filter_map(|place| Some(columns.fields().get(*place)?.name().as_str())).collect();
        let version = effect.write.version;
        let fields = json!({
            "kind": "write", "batch": batch, "write": effect.change.name(), "changed": changed,
            "version": { "ts_ns": version.ts_ns, "partition": version.partition, "offset": version.offset },
        });
        let row = new.get(number).filter(|_| !is_deletion(turn, number)).map_or("null", String::as_str);
        let before = places.get(number).copied().flatten().and_then(|place| old.get(place));
        let before = before.map_or("null", String::as_str);
        line(out, fields, &[("key", &effect.write.key.0), ("row", row), ("before", before)])?;
    }
    Ok(())
}

/// `<model>.<format>` for each model that ran, `writes` and `quarantine`; says on standard error what was written.
pub(super) fn files(
    preview: &Preview<'_>,
    args: &PreviewArgs,
    format: FileFormat,
    folder: &Path,
) -> Result<(), Stopped> {
    files::folder(folder)?;
    let mut tables: Vec<(String, RecordBatch)> = Vec::new();
    for (name, rows, _) in preview.models()? {
        if ["writes", "quarantine"].contains(&name.as_str()) {
            let what = format!("the model {name} would have the file that the preview's own {name} have");
            return Err(Error::new(Kind::Config, what)
                .remedy("give the model another name, or use --format ndjson")
                .into());
        }
        if is_wanted(args, &name) {
            tables.push((name, rows));
        }
    }
    tables.push(("writes".to_owned(), writes_table(preview)?));
    tables.push(("quarantine".to_owned(), quarantine_table(preview)?));
    let limit = args.limit.unwrap_or(usize::MAX);
    for (name, rows) in tables {
        let rows = rows.slice(0, rows.num_rows().min(limit));
        let written = files::write(folder, &name, format, &[rows])?;
        let path = folder.join(format!("{name}.{}", format.extension()));
        warn_user!("{}: {}", path.display(), counted(written, "row"));
    }
    Ok(())
}

/// Whether a row of `latest` removes its user.
fn is_deletion(turn: &Turn, row: usize) -> bool {
    let deleted = turn.evaluation.latest.column_by_name("_deleted").and_then(|column| column.as_boolean_opt());
    deleted.is_some_and(|deleted| row < deleted.len() && deleted.value(row))
}

fn writes_table(preview: &Preview<'_>) -> Result<RecordBatch> {
    let tables = preview.bench.tables();
    let width: Vec<usize> = (0..tables.columns().fields().len()).collect();
    let (mut new, mut batches, mut gone) = (Vec::new(), Vec::new(), Vec::new());
    for (number, turn) in preview.turns.iter().enumerate() {
        let latest = turn.evaluation.latest.project(&width).map_err(unfit)?;
        batches.extend(std::iter::repeat_n(number as u64 + 1, latest.num_rows()));
        gone.extend((0..latest.num_rows()).map(|row| is_deletion(turn, row)));
        new.push(latest);
    }
    let effects: Vec<Effect> = preview.effects.iter().flatten().cloned().collect();
    let new = concat_batches(tables.columns(), &new).map_err(unfit)?;
    let (old, places) = before(tables, &effects)?;
    let mut changed = ListBuilder::new(StringBuilder::new());
    for effect in &effects {
        for place in &effect.changed {
            changed.values().append_option(tables.columns().fields().get(*place).map(|field| field.name()));
        }
        changed.append(true);
    }
    let versions = || effects.iter().map(|effect| effect.write.version);
    let there: BooleanArray = gone.iter().map(|gone| Some(!gone)).collect();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("batch", Arc::new(UInt64Array::from(batches))),
        ("write", Arc::new(effects.iter().map(|effect| Some(effect.change.name())).collect::<StringArray>())),
        ("key", Arc::new(effects.iter().map(|effect| Some(&*effect.write.key.0)).collect::<StringArray>())),
        ("changed", Arc::new(changed.finish())),
        ("cdc_ts", Arc::new(Int64Array::from_iter_values(versions().map(|version| version.ts_ns)))),
        ("cdc_partition", Arc::new(Int32Array::from_iter_values(versions().map(|version| version.partition)))),
        ("cdc_offset", Arc::new(Int64Array::from_iter_values(versions().map(|version| version.offset)))),
        ("row", Arc::new(structs(&new, new.columns(), NullBuffer::new(there.values().clone()))?)),
        ("before", Arc::new(picked(&old, &places)?)),
    ];
    table(columns)
}

/// The rows of `rows` at `places`, NULL where there is none.
fn picked(rows: &RecordBatch, places: &[Option<usize>]) -> Result<StructArray> {
    let indices: UInt64Array = places.iter().map(|place| place.map(|place| place as u64)).collect();
    let columns = rows.columns().iter().map(|values| take(values, &indices, None));
    let columns = columns.collect::<std::result::Result<Vec<_>, _>>().map_err(unfit)?;
    structs(rows, &columns, NullBuffer::from_iter(places.iter().map(Option::is_some)))
}

fn structs(like: &RecordBatch, columns: &[ArrayRef], there: NullBuffer) -> Result<StructArray> {
    let fields: Fields =
        like.schema().fields().iter().map(|field| Field::new(field.name(), field.data_type().clone(), true)).collect();
    if fields.is_empty() {
        return Ok(StructArray::new_empty_fields(there.len(), Some(there)));
    }
    StructArray::try_new(fields, columns.to_vec(), Some(there)).map_err(unfit)
}

fn quarantine_table(preview: &Preview<'_>) -> Result<RecordBatch> {
    // Those that waited there before are not of these events.
    let records: Vec<_> =
        preview.bench.tables().quarantine.iter().filter(|(_, record)| record.record.is_some()).collect();
    let text = |of: &dyn Fn(usize) -> Option<String>| -> ArrayRef {
        Arc::new((0..records.len()).map(of).collect::<StringArray>())
    };
    let why = |row: usize| records.get(row).and_then(|(_, record)| record.why.as_ref());
    let record = |row: usize| records.get(row).and_then(|(_, record)| record.record.as_ref());
    let shown = |bytes: &Option<Vec<u8>>| bytes.as_ref().map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    let keys = |row: usize| {
        let keys = records.get(row).map(|(_, record)| key_values(&record.keys))?;
        Some(Value::from(keys).to_string())
    };
    table(vec![
        ("partition", Arc::new(Int32Array::from_iter_values(records.iter().map(|(position, _)| position.partition)))),
        ("offset", Arc::new(Int64Array::from_iter_values(records.iter().map(|(position, _)| position.offset)))),
        ("state", text(&|row| records.get(row).map(|(_, record)| record.state().to_owned()))),
        ("stage", text(&|row| why(row).map(|why| why.stage.name().to_owned()))),
        ("model", text(&|row| why(row)?.model.clone())),
        ("column", text(&|row| why(row)?.column.clone())),
        ("reason", text(&|row| why(row).map(|why| why.reason.clone()))),
        ("keys", text(&keys)),
        ("record_key", text(&|row| shown(&record(row)?.key))),
        ("record_value", text(&|row| shown(&record(row)?.value))),
    ])
}

fn table(columns: Vec<(&str, ArrayRef)>) -> Result<RecordBatch> {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, values)| (name, values, true)))
        .map_err(unfit)
}

fn unfit(error: arrow::error::ArrowError) -> Error {
    Error::new(Kind::Bug, "a table for programs can't be made").source(error)
}
