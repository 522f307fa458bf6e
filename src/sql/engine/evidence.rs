//! Around the model `out_of_order`: keeps what it reads of a batch until it is known what was stored before, fills the table `known`,
//! reads the model's rows as [`OutOfOrder`].

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Int32Array, Int64Array, RecordBatch, TimestampNanosecondArray, UInt64Array,
};
use arrow::compute::{TakeOptions, cast, take};
use arrow::datatypes::{DataType, Int32Type, Int64Type, SchemaRef, TimestampNanosecondType};

use super::Engine;
use crate::error::{Error, Kind, Result};
use crate::position::{Position, Version};
use crate::sql::keys::{KeyTexts, key_columns};
use crate::sql::models::{EVENTS, HELD, OUT_OF_ORDER};
use crate::sql::rows::{column, event_time_type};
use crate::sql::slots::Slot;
use crate::work::{OutOfOrder, Suspicion};

impl Engine {
    /// What `out_of_order` reads of the batch that was run just now, whose `latest` is given.
    pub(super) fn suspicion(&self, latest: &RecordBatch) -> Suspicion {
        if self.routes.out_of_order.is_empty() {
            return Suspicion::default();
        }
        let tables = self.routes.waiting_reads.iter();
        let tables = tables.filter_map(|name| Some((name.clone(), self.slot(name)?.only()?))).collect();
        Suspicion { tables, keys: latest.columns().get(..self.spec.key.len()).unwrap_or_default().to_vec() }
    }

    /// Late events of a batch that this engine evaluated, later ones may have followed: the rows of `out_of_order`. `known` names, for each
    /// suspect, its row in the batch's [`Evaluation::latest`](crate::work::Evaluation::latest) and the newest version that was stored
    /// of its key before that batch, if any. Lookups are read as they are by now.
    pub async fn evidence(
        &mut self,
        suspicion: &Suspicion,
        known: &[(usize, Option<Version>)],
    ) -> Result<Vec<OutOfOrder>> {
        if suspicion.is_empty() || known.is_empty() {
            return Ok(Vec::new());
        }
        for (name, rows) in &suspicion.tables {
            let bug = || Error::new(Kind::Bug, format!("there is no table {name}"));
            self.slot(name).ok_or_else(bug)?.fill(std::slice::from_ref(rows));
        }
        self.known.fill(&[known_rows(self.known.schema(), &suspicion.keys, known)?]);
        for index in &self.routes.waiting {
            if let Some(step) = self.steps.get_mut(*index) {
                step.forget();
            }
        }
        let found = match self.run(|routes| &routes.waiting).await {
            Ok(()) => read(&self.rows_of(OUT_OF_ORDER)?, &self.spec.key),
            Err(crash) => Err(crash.error()),
        };
        self.release();
        found
    }

    /// Where the rows of a table lie while a batch is run.
    fn slot(&self, name: &str) -> Option<&Slot> {
        match name {
            EVENTS => Some(&self.events),
            HELD => Some(&self.held),
            _ => self.steps.iter().find(|step| step.name == name).map(|step| &*step.slot),
        }
    }
}

/// The table `known`: for each suspect its key (a row of `keys`) and the newest version that was stored of it.
fn known_rows(schema: &SchemaRef, keys: &[ArrayRef], known: &[(usize, Option<Version>)]) -> Result<RecordBatch> {
    let bug = |error| Error::new(Kind::Bug, "the table known can't be made").source(error);
    let rows: UInt64Array = known.iter().map(|(row, _)| Some(*row as u64)).collect();
    let checked = Some(TakeOptions { check_bounds: true });
    let mut columns: Vec<ArrayRef> =
        keys.iter().map(|values| take(values, &rows, checked.clone())).collect::<Result<_, _>>().map_err(bug)?;
    let times = known.iter().map(|(_, version)| version.map(|version| version.ts_ns));
    columns.push(Arc::new(TimestampNanosecondArray::from_iter(times).with_timezone("UTC")));
    let partitions = known.iter().map(|(_, version)| version.map(|version| version.partition));
    columns.push(Arc::new(Int32Array::from_iter(partitions)));
    let offsets = known.iter().map(|(_, version)| version.map(|version| version.offset));
    columns.push(Arc::new(Int64Array::from_iter(offsets)));
    RecordBatch::try_new(Arc::clone(schema), columns).map_err(bug)
}

/// All rows of the model, by position.
fn read(rows: &RecordBatch, key: &[String]) -> Result<Vec<OutOfOrder>> {
    let keys = key_columns(OUT_OF_ORDER, rows, key)?;
    let texts = KeyTexts::new(&keys)?;
    let (ts, known_ts) = (times(rows, "ts")?, times(rows, "_known_ts")?);
    let partition = whole(rows, "_partition", DataType::Int32)?;
    let offset = whole(rows, "_offset", DataType::Int64)?;
    let known_partition = whole(rows, "_known_partition", DataType::Int32)?;
    let known_offset = whole(rows, "_known_offset", DataType::Int64)?;
    let mut found = Vec::with_capacity(rows.num_rows());
    for row in 0..rows.num_rows() {
        let key = texts.key(row).ok_or_else(|| null("the key"))?;
        found.push(OutOfOrder {
            position: Position {
                partition: partition.as_primitive::<Int32Type>().value(row),
                offset: offset.as_primitive::<Int64Type>().value(row),
            },
            key,
            ts_ns: ts.value(row),
            known: Version {
                ts_ns: known_ts.value(row),
                partition: known_partition.as_primitive::<Int32Type>().value(row),
                offset: known_offset.as_primitive::<Int64Type>().value(row),
            },
        });
    }
    found.sort_by(|left, right| (left.position, &left.key).cmp(&(right.position, &right.key)));
    Ok(found)
}

fn times(rows: &RecordBatch, name: &str) -> Result<TimestampNanosecondArray> {
    let values = whole(rows, name, event_time_type())?;
    Ok(values.as_primitive::<TimestampNanosecondType>().clone())
}

fn whole(rows: &RecordBatch, name: &str, kind: DataType) -> Result<ArrayRef> {
    let values = column(OUT_OF_ORDER, rows, name)?;
    let values = cast(&values, &kind)
        .map_err(|error| Error::new(Kind::Bug, format!("{OUT_OF_ORDER}: column {name}")).source(error))?;
    if values.null_count() > 0 {
        return Err(null(name));
    }
    Ok(values)
}

fn null(name: &str) -> Error {
    Error::new(Kind::Model, format!("{OUT_OF_ORDER}.sql yields a row in which {name} is NULL"))
        .remedy("every row must name the late event and the newest event accepted before it")
}
