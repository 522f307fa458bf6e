//! Lookup files, read in chunks that stay as they are. CSV: a header, every column text, an empty field NULL (leading zeros survive;
//! convert in SQL where a number is meant). NDJSON: one object per line; whole numbers, numbers, booleans, texts, or what is nested.
//! Parquet: types as written.

use std::fs::File;
use std::io::{BufRead, BufReader, Seek};
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, StringBuilder};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::table::CHUNK_ROWS;
use super::{Lines, Read};
use crate::diagnostic::{Diagnostic, Span};
use crate::json;

/// So many faults of a file are listed.
const LISTED: usize = 20;
/// A chunk of text is closed beyond so many bytes: its offsets have 32 bits.
const CHUNK_BYTES: usize = 64 << 20;
/// Longest line that is taken.
const MAX_LINE: usize = 1 << 30;

/// Reads the file of the lookup `name`, told by its extension.
pub(super) fn read(name: &str, path: &Path) -> Result<Read, Vec<Diagnostic>> {
    let file = File::open(path).map_err(|error| {
        let message = format!("the file of lookup {name:?} can't be read: {error}");
        vec![Diagnostic::error("AI0301", message).file(path)]
    })?;
    let extension = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    match extension.as_str() {
        "csv" => csv(path, file),
        "ndjson" | "jsonl" | "json" => ndjson(path, file),
        "parquet" => parquet(file).map_err(|error| {
            let message = format!("the file of lookup {name:?} can't be read: {error}");
            vec![Diagnostic::error("AI0302", message).file(path)]
        }),
        other => Err(vec![
            Diagnostic::error("AI0302", format!("the file of lookup {name:?} is of an unknown kind {other:?}"))
                .file(path)
                .help("use .csv, .ndjson or .parquet"),
        ]),
    }
}

fn csv(path: &Path, file: File) -> Result<Read, Vec<Diagnostic>> {
    let mut reader = csv::ReaderBuilder::new().has_headers(true).from_reader(BufReader::with_capacity(1 << 16, file));
    let fault = |error: csv::Error| vec![csv_fault(path, &error)];
    let header = reader.headers().map_err(fault)?.clone();
    let names: Vec<String> = header.iter().map(|name| name.trim_start_matches('\u{feff}').trim().to_owned()).collect();
    let mut sorted = names.clone();
    sorted.sort();
    if let Some(double) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        let message = format!("the header names the column {:?} twice", double[0]);
        return Err(vec![Diagnostic::error("AI0302", message).file(path).span(line_span(1))]);
    }
    let mut texts = Texts::new(&names);
    let mut lines = Lines::default();
    let mut faults = Vec::new();
    let mut record = csv::StringRecord::new();
    loop {
        match reader.read_record(&mut record) {
            Ok(false) => break,
            Ok(true) if record.as_slice().len() > MAX_LINE => {
                let line = record.position().map_or(0, |position| position.line() as usize);
                faults.push(Diagnostic::error("AI0302", "this line is too long").file(path).span(line_span(line)));
            }
            Ok(true) => {
                lines.push(record.position().map_or(0, |position| position.line() as usize));
                texts.push(&record).map_err(|error| vec![Diagnostic::error("AI0302", error.to_string()).file(path)])?;
            }
            Err(error) => {
                faults.push(csv_fault(path, &error));
                // Only a row of the wrong length or one that isn't UTF-8 leaves the reader in its place.
                let goes_on =
                    matches!(error.kind(), csv::ErrorKind::UnequalLengths { .. } | csv::ErrorKind::Utf8 { .. });
                if !goes_on || faults.len() == LISTED {
                    break;
                }
            }
        }
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    let chunks = texts.finish().map_err(|error| vec![Diagnostic::error("AI0302", error.to_string()).file(path)])?;
    Ok(Read { chunks, lines: Some(lines) })
}

/// Columns of text, in chunks.
struct Texts {
    schema: SchemaRef,
    columns: Vec<StringBuilder>,
    rows: usize,
    bytes: usize,
    chunks: Vec<RecordBatch>,
}

impl Texts {
    fn new(names: &[String]) -> Self {
        let fields: Vec<Field> = names.iter().map(|name| Field::new(name, DataType::Utf8, true)).collect();
        let columns = names.iter().map(|_| StringBuilder::new()).collect();
        Self { schema: Arc::new(Schema::new(fields)), columns, rows: 0, bytes: 0, chunks: Vec::new() }
    }

    fn push(&mut self, record: &csv::StringRecord) -> Result<(), ArrowError> {
        let length = record.as_slice().len();
        if self.rows == CHUNK_ROWS || (self.rows > 0 && self.bytes + length > CHUNK_BYTES) {
            self.close()?;
        }
        for (column, value) in self.columns.iter_mut().zip(record.iter()) {
            column.append_option(Some(value).filter(|value| !value.is_empty()));
        }
        self.rows += 1;
        self.bytes += length;
        Ok(())
    }

    fn close(&mut self) -> Result<(), ArrowError> {
        let columns = self.columns.iter_mut().map(|column| Arc::new(column.finish()) as ArrayRef).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(self.rows));
        let chunk = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?;
        self.chunks.push(super::shrunk(chunk)?);
        (self.rows, self.bytes) = (0, 0);
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<RecordBatch>, ArrowError> {
        if self.rows > 0 || self.chunks.is_empty() {
            self.close()?;
        }
        Ok(self.chunks)
    }
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

/// What a column of NDJSON holds, as far as its values have told.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Holds {
    Nulls,
    Booleans,
    Whole,
    Numbers,
    Texts,
    Nested,
}

impl Holds {
    fn of(raw: &str) -> Self {
        match raw.as_bytes().first() {
            Some(b'n') => Self::Nulls,
            Some(b't' | b'f') => Self::Booleans,
            Some(b'"') => Self::Texts,
            Some(b'{' | b'[') => Self::Nested,
            _ if raw.contains(['.', 'e', 'E']) => Self::Numbers,
            _ => Self::Whole,
        }
    }

    /// What holds both; `None` if nothing does.
    fn and(self, other: Self) -> Option<Self> {
        match (self, other) {
            (Self::Nulls, it) | (it, Self::Nulls) => Some(it),
            (Self::Whole, Self::Numbers) | (Self::Numbers, Self::Whole) => Some(Self::Numbers),
            (it, same) if it == same => Some(it),
            _ => None,
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Nulls => "null",
            Self::Booleans => "a boolean",
            Self::Whole | Self::Numbers => "a number",
            Self::Texts => "a string",
            Self::Nested => "an object or an array",
        }
    }
}

/// A column, in the order of first appearance.
struct Column {
    name: String,
    holds: Holds,
    /// The line that first had a value in it.
    line: usize,
}

/// Two passes: the first judges every line and finds the types, the second makes columns of lines that are known to be good.
fn ndjson(path: &Path, mut file: File) -> Result<Read, Vec<Diagnostic>> {
    let (columns, lines, faults) = judge_lines(path, &file);
    if !faults.is_empty() {
        return Err(faults);
    }
    let chunks = ndjson_chunks(&columns, &mut file);
    let broken =
        |error: ArrowError| vec![Diagnostic::error("AI0302", format!("the NDJSON can't be read: {error}")).file(path)];
    Ok(Read { chunks: chunks.map_err(broken)?, lines: Some(lines) })
}

fn judge_lines(path: &Path, file: &File) -> (Vec<Column>, Lines, Vec<Diagnostic>) {
    let mut reader = BufReader::with_capacity(1 << 16, file);
    let (mut columns, mut lines, mut faults) = (Vec::new(), Lines::default(), Vec::new());
    let mut bytes = Vec::new();
    let mut number = 0;
    while faults.len() < LISTED {
        number += 1;
        bytes.clear();
        let fault = |column: usize, message: String| {
            let span = Span { line: number, column, end_line: number, end_column: column + 1 };
            Diagnostic::error("AI0302", message).file(path).span(Some(span))
        };
        match reader.read_until(b'\n', &mut bytes) {
            Ok(0) => break,
            Ok(length) if length > MAX_LINE => faults.push(fault(1, "this line is too long".to_owned())),
            Ok(_) => match std::str::from_utf8(&bytes) {
                Ok(line) if line.trim().is_empty() => {}
                Ok(line) => match judge_line(line, number, &mut columns) {
                    Ok(()) => lines.push(number),
                    Err((column, message)) => faults.push(fault(column, message)),
                },
                Err(_) => faults.push(fault(1, "this line isn't UTF-8".to_owned())),
            },
            Err(error) => {
                faults.push(fault(1, format!("the file can't be read: {error}")));
                break;
            }
        }
    }
    (columns, lines, faults)
}

/// Takes note of what a line's members are; its fault with the column, if it has one.
fn judge_line(line: &str, number: usize, columns: &mut Vec<Column>) -> Result<(), (usize, String)> {
    let text = line.trim();
    if !text.starts_with('{') {
        return Err((1, format!("this line {}, not an object", json::kind(text))));
    }
    let members =
        json::members(text).map_err(|error| (error.column().max(1), format!("this line is no JSON: {error}")))?;
    for (place, (name, raw)) in members.iter().enumerate() {
        if members.iter().take(place).any(|(other, _)| other == name) {
            return Err((1, format!("{name:?} stands there twice")));
        }
        let holds = Holds::of(raw);
        if holds == Holds::Whole && raw.parse::<i64>().is_err() {
            return Err((1, format!("{name:?} is a whole number that 64 bits don't hold: write it as a string")));
        }
        // Lines mostly have the same members in the same order.
        let known = match columns.get(place) {
            Some(column) if column.name == *name => Some(place),
            _ => columns.iter().position(|column: &Column| column.name == *name),
        };
        let Some(column) = known.and_then(|place| columns.get_mut(place)) else {
            columns.push(Column { name: name.clone(), holds, line: number });
            continue;
        };
        match column.holds.and(holds) {
            Some(both) => {
                if column.holds == Holds::Nulls {
                    column.line = number;
                }
                column.holds = both;
            }
            None => {
                let (here, there, line) = (holds.words(), column.holds.words(), column.line);
                return Err((1, format!("{name:?} is {here} here, and {there} in line {line}")));
            }
        }
    }
    Ok(())
}

fn ndjson_chunks(columns: &[Column], file: &mut File) -> Result<Vec<RecordBatch>, ArrowError> {
    let nested = if columns.iter().any(|column| column.holds == Holds::Nested) {
        file.rewind()?;
        Some(arrow::json::reader::infer_json_schema(BufReader::new(&*file), None)?.0)
    } else {
        None
    };
    let field = |column: &Column| -> Result<Field, ArrowError> {
        let kind = match column.holds {
            Holds::Booleans => DataType::Boolean,
            Holds::Whole => DataType::Int64,
            Holds::Numbers => DataType::Float64,
            Holds::Texts | Holds::Nulls => DataType::Utf8,
            Holds::Nested => match &nested {
                Some(schema) => schema.field_with_name(&column.name)?.data_type().clone(),
                None => DataType::Utf8,
            },
        };
        Ok(Field::new(&column.name, kind, true))
    };
    let fields = columns.iter().map(field).collect::<Result<Vec<_>, _>>()?;
    let schema = Arc::new(Schema::new(fields));
    file.rewind()?;
    let builder = arrow::json::ReaderBuilder::new(Arc::clone(&schema)).with_batch_size(CHUNK_ROWS);
    let mut chunks = Vec::new();
    for chunk in builder.build(BufReader::with_capacity(1 << 16, &*file))? {
        chunks.push(super::shrunk(chunk?)?);
    }
    if chunks.is_empty() {
        chunks.push(RecordBatch::new_empty(schema));
    }
    Ok(chunks)
}

/// The library panics on some damaged files: to whoever wrote the file that is the same as any other fault.
fn parquet(file: File) -> Result<Read, ArrowError> {
    let read = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| parquet_chunks(file)));
    read.unwrap_or_else(|_| Err(ArrowError::ParquetError("the file is damaged".to_owned())))
}

fn parquet_chunks(file: File) -> Result<Read, ArrowError> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(file)?.with_batch_size(CHUNK_ROWS);
    let schema = Arc::clone(builder.schema());
    let mut chunks = Vec::new();
    for chunk in builder.build()? {
        chunks.push(super::shrunk(super::plain(chunk?)?)?);
    }
    if chunks.is_empty() {
        chunks.push(RecordBatch::new_empty(schema));
    }
    Ok(Read { chunks, lines: None })
}
