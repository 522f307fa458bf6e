//! A role model's rows with the columns that every such model has: position, event time, deletion mark.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int32Array, Int64Array, RecordBatch, TimestampNanosecondArray,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int32Type, Int64Type, TimeUnit, TimestampNanosecondType};

use super::locate;
use crate::error::{Error, Kind, Result};
use crate::position::{Partition, Position, Version};

/// Event time as the engine keeps it.
pub(super) fn event_time_type() -> DataType {
    DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into()))
}

/// Rows of one model and typed views of their common columns.
#[derive(Debug, Clone)]
pub(super) struct Rows {
    pub(super) batch: RecordBatch,
    partition: Int32Array,
    offset: Int64Array,
    pub(super) ts: TimestampNanosecondArray,
    pub(super) deleted: BooleanArray,
}

impl Rows {
    /// Fails if a position is NULL or a time can't be kept as nanoseconds: no single event can be blamed for that.
    pub(super) fn new(model: &str, batch: RecordBatch) -> Result<Self> {
        let partition = column(model, &batch, "_partition")?;
        let offset = column(model, &batch, "_offset")?;
        let deleted = column(model, &batch, "_deleted")?;
        let ts = cast(&column(model, &batch, "ts")?, &event_time_type()).map_err(|error| {
            Error::new(Kind::Model, format!("{model}: ts: {}", locate::without_values(&error.into())))
        })?;
        let wrong =
            |name: &str| Error::new(Kind::Bug, format!("{model}: column {name} isn't of the type that was checked"));
        let partition = partition.as_primitive_opt::<Int32Type>().ok_or_else(|| wrong("_partition"))?.clone();
        let offset = offset.as_primitive_opt::<Int64Type>().ok_or_else(|| wrong("_offset"))?.clone();
        let deleted = deleted.as_boolean_opt().ok_or_else(|| wrong("_deleted"))?.clone();
        let ts = ts.as_primitive_opt::<TimestampNanosecondType>().ok_or_else(|| wrong("ts"))?.clone();
        if partition.null_count() + offset.null_count() > 0 {
            return Err(Error::new(Kind::Model, format!("{model}: a row has no `_partition` or no `_offset`"))
                .remedy("every row must carry both as the event has them"));
        }
        Ok(Self { batch, partition, offset, ts, deleted })
    }

    pub(super) fn len(&self) -> usize {
        self.batch.num_rows()
    }

    pub(super) fn position(&self, row: usize) -> Position {
        Position { partition: self.partition.value(row), offset: self.offset.value(row) }
    }

    pub(super) fn partition(&self, row: u32) -> Partition {
        self.partition.value(row as usize)
    }

    /// The row's version; the event time counts as 0 where `timed` is false.
    pub(super) fn version(&self, row: usize, timed: bool) -> Version {
        let Position { partition, offset } = self.position(row);
        Version { ts_ns: if timed { self.ts.value(row) } else { 0 }, partition, offset }
    }

    /// Row numbers by position; rows of one event stay in their order.
    pub(super) fn in_order(&self) -> Vec<u32> {
        let mut order: Vec<u32> = (0..self.len() as u32).collect();
        if !order.is_sorted_by_key(|row| self.position(*row as usize)) {
            order.sort_by_key(|row| self.position(*row as usize));
        }
        order
    }

    /// The named columns, in that order.
    pub(super) fn columns(&self, model: &str, names: &[String]) -> Result<Vec<ArrayRef>> {
        names.iter().map(|name| column(model, &self.batch, name)).collect()
    }
}

pub(super) fn column(model: &str, batch: &RecordBatch, name: &str) -> Result<ArrayRef> {
    batch
        .column_by_name(name)
        .map(Arc::clone)
        .ok_or_else(|| Error::new(Kind::Bug, format!("{model}: column {name} was checked but isn't there")))
}

/// Positions of a batch's events, to find an event by its position.
#[derive(Debug, Clone)]
pub(super) struct Places {
    /// Ascending.
    positions: Vec<Position>,
}

/// How far ahead an event is looked for before it is searched everywhere: rows may be of every tenth event only.
const AHEAD: usize = 16;

impl Places {
    /// Positions of the rows of `events`; one that stands there twice is our own fault.
    pub(super) fn new(events: &RecordBatch) -> Result<Self> {
        let mut positions = positions(events)?;
        if !positions.is_sorted() {
            positions.sort_unstable();
        }
        if positions.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(Error::new(Kind::Bug, "a batch holds an event twice"));
        }
        Ok(Self { positions })
    }

    pub(super) fn all(&self) -> &[Position] {
        &self.positions
    }

    /// The event's rank. `near` is where the last search ended: rows mostly come in the order of their events.
    pub(super) fn find(&self, position: Position, near: &mut usize) -> Option<usize> {
        let ahead = self.positions.get(*near..).unwrap_or_default().iter().take(AHEAD);
        let found = match ahead.enumerate().find(|(_, other)| **other == position) {
            Some((steps, _)) => *near + steps,
            None => self.positions.binary_search(&position).ok()?,
        };
        *near = found;
        Some(found)
    }
}

/// Positions of the rows of a batch in the schema of `events`.
pub(super) fn positions(events: &RecordBatch) -> Result<Vec<Position>> {
    let partition = column("events", events, "_partition")?;
    let offset = column("events", events, "_offset")?;
    let wrong = || Error::new(Kind::Bug, "events: `_partition` must be Int32 and `_offset` Int64");
    let partition = partition.as_primitive_opt::<Int32Type>().ok_or_else(wrong)?;
    let offset = offset.as_primitive_opt::<Int64Type>().ok_or_else(wrong)?;
    Ok(partition
        .values()
        .iter()
        .zip(offset.values())
        .map(|(partition, offset)| Position { partition: *partition, offset: *offset })
        .collect())
}
