//! The lookups of a planned engine: replaced, changed and handed on between two batches.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;

use super::Engine;
use crate::diagnostic::Diagnostic;
use crate::sql::lookup::{Lookup, LookupTable};

impl Engine {
    /// Replaces a lookup's rows from the next batch on; the columns must be the ones that the models were planned with. Yields
    /// whether any row differs. On a fault the old rows stay.
    pub fn set_lookup(&mut self, name: &str, rows: RecordBatch) -> Result<bool, Vec<Diagnostic>> {
        let lookup = self.lookup(name)?;
        lookup.replace(Arc::new(LookupTable::from_batches(name, lookup.key(), vec![rows])?))
    }

    /// As [`set_lookup`](Self::set_lookup), from a file.
    pub fn reload_lookup(&mut self, name: &str, file: &Path) -> Result<bool, Vec<Diagnostic>> {
        let lookup = self.lookup(name)?;
        lookup.replace(Arc::new(LookupTable::from_file(name, lookup.key(), file)?))
    }

    /// As [`set_lookup`](Self::set_lookup), with a table that was put together elsewhere and is known to differ.
    pub fn put_lookup(&self, name: &str, table: Arc<LookupTable>) -> Result<(), Vec<Diagnostic>> {
        self.lookup(name)?.put(table)
    }

    /// Applies changes to a lookup, seen from the next batch on; see [`LookupTable::apply`].
    pub fn change_lookup(&mut self, name: &str, rows: RecordBatch, deleted: &[bool]) -> Result<usize, Vec<Diagnostic>> {
        self.lookup(name)?.change(rows, deleted)
    }

    /// Takes the rows that the lookups of `other` hold now; where the columns are others, its own stay.
    pub fn share_lookups(&mut self, other: &Self) {
        for lookup in &self.lookups {
            if let Some(theirs) = other.lookups.iter().find(|theirs| theirs.name == lookup.name) {
                lookup.share(theirs);
            }
        }
    }

    /// What the planner's rules made of each model's joins with lookups: the model, and the verdict.
    pub fn verdicts(&self) -> impl Iterator<Item = (&str, &crate::sql::Verdict)> {
        self.steps.iter().flat_map(|step| step.verdicts.iter().map(|verdict| (step.name.as_str(), verdict)))
    }

    /// The lookups as they are now, by name: for another engine that is to go on with them.
    pub fn lookup_tables(&self) -> BTreeMap<String, Arc<LookupTable>> {
        self.lookups.iter().map(|lookup| (lookup.name.clone(), lookup.slot.table())).collect()
    }

    fn lookup(&self, name: &str) -> Result<&Lookup, Vec<Diagnostic>> {
        let lookup = self.lookups.iter().find(|lookup| lookup.name == name);
        lookup.ok_or_else(|| vec![Diagnostic::error("AI0301", format!("there is no lookup {name:?}"))])
    }
}
