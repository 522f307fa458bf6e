//! A lookup's rows from a MySQL query, as Arrow: whole numbers as Int64 (UInt64 where unsigned), floating point as Float64, all
//! else as text, NULL as NULL. On a connection of its own, so that a slow query never holds up a transaction. Rows become columns as
//! they arrive: never are all of them there in the server's form.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Float64Builder, Int64Builder, RecordBatch, StringBuilder, UInt64Builder};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use mysql_async::consts::{ColumnFlags, ColumnType};
use mysql_async::{Row, Value};

use super::session::{Connector, StatementError};
use crate::error::{Error, Kind, Result};

/// How long a query may take until its first row, and from one row to the next.
const PATIENCE: Duration = Duration::from_secs(300);
/// Rows of one chunk, and about how many bytes of text at most: offsets have 32 bits.
const CHUNK_ROWS: usize = 1 << 16;
const CHUNK_BYTES: usize = 64 << 20;

/// Runs `query` and collects its rows.
pub async fn read(connector: &Connector, query: &str) -> Result<RecordBatch> {
    let chunks = read_chunks(connector, query).await?;
    let Some(schema) = chunks.first().map(RecordBatch::schema) else { return Err(no_rows()) };
    concat_batches(&schema, &chunks).map_err(no_table)
}

/// The same in chunks, at least one.
pub async fn read_chunks(connector: &Connector, query: &str) -> Result<Vec<RecordBatch>> {
    let mut session = connector.connect().await?;
    let mut rows: Option<Rows> = None;
    let mut failed = None;
    let read = session.each_row(query, PATIENCE, |row| {
        let rows = rows.get_or_insert_with(|| Rows::new(&row));
        let pushed = rows.push(&row);
        pushed.map_err(|error| failed = Some(error)).is_ok()
    });
    read.await.map_err(StatementError::into_error)?;
    match (rows, failed) {
        (_, Some(error)) => Err(no_table(error)),
        (Some(rows), None) => rows.finish().map_err(no_table),
        (None, None) => Err(no_rows()),
    }
}

fn no_rows() -> Error {
    Error::new(Kind::SinkConfig, "the lookup's query yields no rows").remedy("an empty lookup would refuse every event")
}

fn no_table(error: ArrowError) -> Error {
    Error::new(Kind::SinkConfig, "the lookup's query yields no table").source(error)
}

/// Columns that grow row by row, in chunks.
struct Rows {
    schema: SchemaRef,
    columns: Vec<Column>,
    rows: usize,
    bytes: usize,
    chunks: Vec<RecordBatch>,
}

enum Column {
    Int(Int64Builder),
    UInt(UInt64Builder),
    Float(Float64Builder),
    Text(StringBuilder),
}

impl Rows {
    fn new(row: &Row) -> Self {
        let columns: Vec<(String, Column)> = row
            .columns_ref()
            .iter()
            .map(|column| {
                let unsigned = column.flags().contains(ColumnFlags::UNSIGNED_FLAG);
                (column.name_str().into_owned(), Column::new(column.column_type(), unsigned))
            })
            .collect();
        let field = |(name, column): &(String, Column)| Field::new(name, column.kind(), true);
        let schema = Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()));
        let columns = columns.into_iter().map(|(_, column)| column).collect();
        Self { schema, columns, rows: 0, bytes: 0, chunks: Vec::new() }
    }

    fn push(&mut self, row: &Row) -> Result<(), ArrowError> {
        if self.rows == CHUNK_ROWS || self.bytes > CHUNK_BYTES {
            self.close()?;
        }
        for (place, column) in self.columns.iter_mut().enumerate() {
            self.bytes += column.push(row.as_ref(place));
        }
        self.rows += 1;
        Ok(())
    }

    fn close(&mut self) -> Result<(), ArrowError> {
        let columns = self.columns.iter_mut().map(Column::finish).collect();
        self.chunks.push(RecordBatch::try_new(Arc::clone(&self.schema), columns)?);
        (self.rows, self.bytes) = (0, 0);
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<RecordBatch>, ArrowError> {
        self.close()?;
        Ok(self.chunks)
    }
}

impl Column {
    fn new(kind: ColumnType, unsigned: bool) -> Self {
        match kind {
            ColumnType::MYSQL_TYPE_TINY
            | ColumnType::MYSQL_TYPE_SHORT
            | ColumnType::MYSQL_TYPE_INT24
            | ColumnType::MYSQL_TYPE_LONG
            | ColumnType::MYSQL_TYPE_LONGLONG => match unsigned {
                true => Self::UInt(UInt64Builder::new()),
                false => Self::Int(Int64Builder::new()),
            },
            ColumnType::MYSQL_TYPE_FLOAT | ColumnType::MYSQL_TYPE_DOUBLE => Self::Float(Float64Builder::new()),
            _ => Self::Text(StringBuilder::new()),
        }
    }

    fn kind(&self) -> DataType {
        match self {
            Self::Int(_) => DataType::Int64,
            Self::UInt(_) => DataType::UInt64,
            Self::Float(_) => DataType::Float64,
            Self::Text(_) => DataType::Utf8,
        }
    }

    /// Appends a value; yields the bytes of text that it took.
    fn push(&mut self, value: Option<&Value>) -> usize {
        let text = match value {
            None | Some(Value::NULL) => None,
            Some(Value::Bytes(bytes)) => Some(String::from_utf8_lossy(bytes)),
            Some(other) => Some(other.as_sql(true).trim_matches('\'').to_owned().into()),
        };
        let length = text.as_ref().map_or(0, |text| text.len());
        match self {
            Self::Int(column) => column.append_option(text.and_then(|text| text.parse().ok())),
            Self::UInt(column) => column.append_option(text.and_then(|text| text.parse().ok())),
            Self::Float(column) => column.append_option(text.and_then(|text| text.parse().ok())),
            Self::Text(column) => {
                column.append_option(text);
                return length;
            }
        }
        0
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Self::Int(column) => Arc::new(column.finish()),
            Self::UInt(column) => Arc::new(column.finish()),
            Self::Float(column) => Arc::new(column.finish()),
            Self::Text(column) => Arc::new(column.finish()),
        }
    }
}
