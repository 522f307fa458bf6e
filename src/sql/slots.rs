//! Replaceable leaf tables: a plan made once reads whatever batch lies in the slot when it runs.

use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::Result;

use super::leaf::Rows;

/// A named place for one batch's rows of a table, shared by the engine, which fills it, and the plans that read it.
#[derive(Debug)]
pub(super) struct Slot {
    name: String,
    schema: SchemaRef,
    /// How many rows the planner assumes.
    assumed_rows: usize,
    batches: Mutex<Arc<[RecordBatch]>>,
}

impl Slot {
    pub(super) fn new(name: &str, schema: SchemaRef, assumed_rows: usize) -> Arc<Self> {
        Arc::new(Self { name: name.to_owned(), schema, assumed_rows, batches: Mutex::new(Arc::from([])) })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    pub(super) fn fill(&self, batches: &[RecordBatch]) {
        *self.batches.lock().unwrap_or_else(PoisonError::into_inner) = Arc::from(batches);
    }

    pub(super) fn is_empty(&self) -> bool {
        let batches = self.batches.lock().unwrap_or_else(PoisonError::into_inner);
        batches.iter().all(|batch| batch.num_rows() == 0)
    }

    /// The rows, where they are one batch.
    pub(super) fn only(&self) -> Option<RecordBatch> {
        match &**self.batches.lock().unwrap_or_else(PoisonError::into_inner) {
            [batch] => Some(batch.clone()),
            _ => None,
        }
    }

    /// Empties the slot; a plan that reads it sees one batch without rows.
    pub(super) fn clear(&self) {
        self.fill(&[RecordBatch::new_empty(Arc::clone(&self.schema))]);
    }
}

impl Rows for Slot {
    const SCAN: &'static str = "SlotExec";

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
        Ok(self.batches.lock().unwrap_or_else(PoisonError::into_inner).to_vec())
    }
}
