//! Finds the rows that the server refuses in the merge: halves the batch until single rows are left.
//!
//! Everything is rolled back. An error that isn't about a row ends the search: a sick server proves nothing about rows (P5).

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;

use super::session::{Session, StatementError};
use super::stage::{Filled, Marks, RowFault};
use super::{Prepared, server_error::Class};
use crate::error::{Error, Kind, Result};
use crate::failpoint::failpoint;

/// All rows of `latest` that the server refuses, by row number.
pub(super) async fn search(session: &mut Session, prepared: &Prepared, latest: &RecordBatch) -> Result<Vec<RowFault>> {
    let mut faults = Vec::new();
    // Oldest part on top: found rows come out in order.
    let mut parts: Vec<std::ops::Range<usize>> = Vec::new();
    parts.push(0..latest.num_rows());
    while let Some(part) = parts.pop() {
        if part.is_empty() {
            continue;
        }
        failpoint!("in_search");
        match attempt(session, prepared, latest, part.clone()).await? {
            None => {}
            Some(fault) if part.len() == 1 => faults.push(RowFault { row: part.start, ..fault }),
            Some(_) => {
                let middle = part.start + part.len() / 2;
                parts.push(middle..part.end);
                parts.push(part.start..middle);
            }
        }
    }
    Ok(faults)
}

/// Stages and merges one part, rolls back, and says what the server has against it.
async fn attempt(
    session: &mut Session,
    prepared: &Prepared,
    latest: &RecordBatch,
    part: std::ops::Range<usize>,
) -> Result<Option<RowFault>> {
    let indices: UInt32Array = part.map(|row| u32::try_from(row).unwrap_or(u32::MAX)).collect();
    let rows = take_record_batch(latest, &indices)
        .map_err(|error| Error::new(Kind::Bug, "cutting a batch failed").source(error))?;
    // By way of the stage, whatever the size: what is wrong with a value shows there, with its column.
    let numbers: Vec<usize> = (0..rows.num_rows()).collect();
    let filled = prepared.stage.put(session, &prepared.target, &rows, Marks::default(), &numbers).await;
    let staged = match filled.map_err(StatementError::into_error_about_rows)? {
        Filled::Staged(staged) => staged,
        Filled::Refused(faults) => {
            let unnamed = || RowFault { row: 0, column: None, reason: "MySQL refuses the value".to_owned() };
            return Ok(Some(faults.into_iter().next().unwrap_or_else(unnamed)));
        }
    };
    session.run("START TRANSACTION").await.map_err(StatementError::into_error)?;
    let merged = prepared.merge.run(session, &staged, &[]).await;
    session.rollback().await;
    match merged {
        Ok(_) => Ok(None),
        Err(error) if error.class == Class::Row => {
            let reason = match error.code {
                3819 | 4025 => "a CHECK constraint of the target refuses the row".to_owned(),
                1452 => "a foreign key of the target finds no parent row".to_owned(),
                1526 => "the target has no partition for the row".to_owned(),
                1451 => "a foreign key of another table still points at the row".to_owned(),
                code => format!("MySQL refuses the row with error {code}"),
            };
            Ok(Some(RowFault { row: 0, column: None, reason }))
        }
        Err(error) => Err(error.into_error_about_rows()),
    }
}
