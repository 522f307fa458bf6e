//! A lookup's rows from a MySQL query, as Arrow: whole numbers as Int64 (UInt64 where unsigned), floating point as Float64, all
//! else as text, NULL as NULL. On a connection of its own, so that a slow query never holds up a transaction.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, UInt64Array};
use mysql_async::Row;
use mysql_async::consts::{ColumnFlags, ColumnType};

use super::session::{Connector, StatementError, text_at};
use crate::error::{Error, Kind, Result};

/// Runs `query` and collects its rows.
pub async fn read(connector: &Connector, query: &str) -> Result<RecordBatch> {
    let mut session = connector.connect().await?;
    let rows = session.rows(query).await.map_err(StatementError::into_error)?;
    let Some(first) = rows.first() else {
        return Err(Error::new(Kind::SinkConfig, "the lookup's query yields no rows")
            .remedy("an empty lookup would refuse every event"));
    };
    let mut columns: Vec<(String, ArrayRef)> = Vec::new();
    for (index, column) in first.columns_ref().iter().enumerate() {
        let unsigned = column.flags().contains(ColumnFlags::UNSIGNED_FLAG);
        columns.push((column.name_str().into_owned(), array(&rows, index, column.column_type(), unsigned)));
    }
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true)))
        .map_err(|error| Error::new(Kind::SinkConfig, "the lookup's query yields no table").source(error))
}

fn array(rows: &[Row], index: usize, kind: ColumnType, unsigned: bool) -> ArrayRef {
    let texts = rows.iter().map(|row| match row.as_ref(index) {
        None | Some(mysql_async::Value::NULL) => None,
        Some(_) => Some(text_at(row, index)),
    });
    match kind {
        ColumnType::MYSQL_TYPE_TINY
        | ColumnType::MYSQL_TYPE_SHORT
        | ColumnType::MYSQL_TYPE_INT24
        | ColumnType::MYSQL_TYPE_LONG
        | ColumnType::MYSQL_TYPE_LONGLONG => {
            if unsigned {
                Arc::new(texts.map(|text| text.and_then(|text| text.parse().ok())).collect::<UInt64Array>())
            } else {
                Arc::new(texts.map(|text| text.and_then(|text| text.parse().ok())).collect::<Int64Array>())
            }
        }
        ColumnType::MYSQL_TYPE_FLOAT | ColumnType::MYSQL_TYPE_DOUBLE => {
            Arc::new(texts.map(|text| text.and_then(|text| text.parse().ok())).collect::<Float64Array>())
        }
        _ => Arc::new(texts.collect::<StringArray>()),
    }
}
