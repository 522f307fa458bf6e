//! A lookup as a leaf table: what a plan reads is the version that lies in the slot when it runs.

use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::Result;

use super::table::LookupTable;
use crate::sql::leaf::Rows;

/// A named place for the present version of a lookup.
#[derive(Debug)]
pub(in crate::sql) struct LookupSlot {
    name: String,
    schema: SchemaRef,
    /// Columns of the key.
    key: Vec<String>,
    assumed_rows: usize,
    table: Mutex<Arc<LookupTable>>,
}

impl LookupSlot {
    pub(in crate::sql) fn new(name: &str, key: &[String], table: Arc<LookupTable>) -> Arc<Self> {
        let (schema, assumed_rows) = (Arc::clone(table.schema()), table.num_rows());
        Arc::new(Self { name: name.to_owned(), schema, key: key.to_vec(), assumed_rows, table: Mutex::new(table) })
    }

    pub(in crate::sql) fn name(&self) -> &str {
        &self.name
    }

    pub(in crate::sql) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    pub(in crate::sql) fn key(&self) -> &[String] {
        &self.key
    }

    /// The present version: whoever holds it sees no other.
    pub(in crate::sql) fn table(&self) -> Arc<LookupTable> {
        Arc::clone(&self.table.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(in crate::sql) fn put(&self, table: Arc<LookupTable>) {
        *self.table.lock().unwrap_or_else(PoisonError::into_inner) = table;
    }

    /// Changes the table in place where nobody holds this version, otherwise a copy of it.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut LookupTable) -> T) -> T {
        change(Arc::make_mut(&mut self.table.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl Rows for LookupSlot {
    const SCAN: &'static str = "LookupExec";

    fn name(&self) -> &str {
        self.name()
    }

    fn schema(&self) -> &SchemaRef {
        self.schema()
    }

    fn assumed_rows(&self) -> usize {
        self.assumed_rows
    }

    fn batches(&self) -> Result<Vec<RecordBatch>> {
        Ok(self.table().kept_batches()?)
    }
}
