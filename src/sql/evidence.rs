//! Reads the rows of `out_of_order` as [`OutOfOrder`].

use arrow::array::{Array, AsArray, RecordBatch, TimestampNanosecondArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int32Type, Int64Type, TimestampNanosecondType};

use super::keys::{KeyTexts, key_columns};
use super::models::OUT_OF_ORDER;
use super::rows::{column, event_time_type};
use crate::error::{Error, Kind, Result};
use crate::position::{Position, Version};
use crate::work::OutOfOrder;

/// All rows of the model, by position.
pub(super) fn read(rows: &RecordBatch, key: &[String]) -> Result<Vec<OutOfOrder>> {
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

fn whole(rows: &RecordBatch, name: &str, kind: DataType) -> Result<arrow::array::ArrayRef> {
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
