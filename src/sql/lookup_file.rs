//! Lookup files. CSV: a header, every column text, an empty field NULL (leading zeros survive; convert in SQL where a number is
//! meant). NDJSON: types as found. Parquet: types as written.

use std::fs::File;
use std::io::{BufReader, Seek};
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, StringBuilder};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Schema};
use arrow::error::ArrowError;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::lookup::Table;
use crate::diagnostic::{Diagnostic, Span};

/// Reads the file of the lookup `name`, told by its extension.
pub(super) fn read(name: &str, path: &Path) -> Result<Table, Vec<Diagnostic>> {
    let file = File::open(path).map_err(|error| {
        let message = format!("the file of lookup {name:?} can't be read: {error}");
        vec![Diagnostic::error("AI0301", message).file(path)]
    })?;
    let extension = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    let arrow = |error: ArrowError| {
        let message = format!("the file of lookup {name:?} can't be read: {error}");
        vec![Diagnostic::error("AI0302", message).file(path)]
    };
    match extension.as_str() {
        "csv" => csv(path, file),
        "ndjson" | "jsonl" | "json" => ndjson(file).map_err(arrow),
        "parquet" => parquet(file).map_err(arrow),
        other => Err(vec![
            Diagnostic::error("AI0302", format!("the file of lookup {name:?} is of an unknown kind {other:?}"))
                .file(path)
                .help("use .csv, .ndjson or .parquet"),
        ]),
    }
}

fn csv(path: &Path, file: File) -> Result<Table, Vec<Diagnostic>> {
    let mut reader = csv::ReaderBuilder::new().has_headers(true).from_reader(BufReader::new(file));
    let fault = |error: csv::Error| vec![csv_fault(path, &error)];
    let header = reader.headers().map_err(fault)?.clone();
    let names: Vec<String> = header.iter().map(|name| name.trim_start_matches('\u{feff}').trim().to_owned()).collect();
    let mut sorted = names.clone();
    sorted.sort();
    if let Some(double) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        let message = format!("the header names the column {:?} twice", double[0]);
        return Err(vec![Diagnostic::error("AI0302", message).file(path).span(line_span(1))]);
    }
    let mut columns: Vec<StringBuilder> = names.iter().map(|_| StringBuilder::new()).collect();
    let mut lines = Vec::new();
    let mut faults = Vec::new();
    let mut record = csv::StringRecord::new();
    loop {
        match reader.read_record(&mut record) {
            Ok(false) => break,
            Ok(true) => {
                lines.push(record.position().map_or(0, |position| position.line() as usize));
                for (column, value) in columns.iter_mut().zip(record.iter()) {
                    column.append_option(Some(value).filter(|value| !value.is_empty()));
                }
            }
            Err(error) => {
                faults.push(csv_fault(path, &error));
                // Only a row of the wrong length or one that isn't UTF-8 leaves the reader in its place.
                let goes_on =
                    matches!(error.kind(), csv::ErrorKind::UnequalLengths { .. } | csv::ErrorKind::Utf8 { .. });
                if !goes_on || faults.len() == 20 {
                    break;
                }
            }
        }
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    let fields: Vec<Field> = names.iter().map(|name| Field::new(name, DataType::Utf8, true)).collect();
    let columns: Vec<ArrayRef> = columns.iter_mut().map(|column| Arc::new(column.finish()) as ArrayRef).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(lines.len()));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)
        .map(|rows| Table { rows, lines })
        .map_err(|error| vec![Diagnostic::error("AI0302", error.to_string()).file(path)])
}

fn csv_fault(path: &Path, error: &csv::Error) -> Diagnostic {
    let line = error.position().map(|position| position.line() as usize);
    let message = match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("this line has {len} fields, the header has {expected_len}")
        }
        csv::ErrorKind::Utf8 { .. } => "this line isn't UTF-8".to_owned(),
        _ => format!("the CSV can't be read: {error}"),
    };
    Diagnostic::error("AI0302", message).file(path).span(line.and_then(line_span))
}

fn line_span(line: usize) -> Option<Span> {
    Some(Span { line, column: 1, end_line: line, end_column: 2 })
}

fn ndjson(mut file: File) -> Result<Table, ArrowError> {
    let mut reader = BufReader::new(&mut file);
    let (schema, _) = arrow::json::reader::infer_json_schema(&mut reader, None)?;
    file.rewind()?;
    let schema = Arc::new(schema);
    let reader = arrow::json::ReaderBuilder::new(Arc::clone(&schema)).build(BufReader::new(file))?;
    let batches = reader.collect::<Result<Vec<_>, _>>()?;
    Ok(Table { rows: concat_batches(&schema, &batches)?, lines: Vec::new() })
}

fn parquet(file: File) -> Result<Table, ArrowError> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(file)?;
    let schema = Arc::clone(builder.schema());
    let batches = builder.build()?.collect::<Result<Vec<_>, _>>()?;
    Ok(Table { rows: concat_batches(&schema, &batches)?, lines: Vec::new() })
}
