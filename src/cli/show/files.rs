//! Rows as files for programs: Parquet or Arrow IPC, one file per table.

use std::fs::File;
use std::path::Path;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::DataType;
use arrow_ipc::writer::FileWriter;
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;

use super::arrow_rows::with_texts;
use crate::error::{Error, Kind, Result};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileFormat {
    Parquet,
    Arrow,
}

impl FileFormat {
    pub fn extension(self) -> &'static str {
        match self {
            Self::Parquet => "parquet",
            Self::Arrow => "arrow",
        }
    }
}

/// Makes the folder for files that are to come.
pub fn folder(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).map_err(|error| unwritable(path, error))
}

/// Writes `batches`, which have one schema, as `<folder>/<name>.<format>`; yields the number of rows. A file that is there already is
/// replaced once the new one is whole.
pub fn write(folder: &Path, name: &str, format: FileFormat, batches: &[RecordBatch]) -> Result<usize> {
    let Some(first) = batches.first() else { return Ok(0) };
    let path = folder.join(format!("{name}.{}", format.extension()));
    let rows = concat_batches(&first.schema(), batches).map_err(|error| unwritable(&path, error))?;
    let rows = match format {
        FileFormat::Parquet => with_texts(&rows, &|kind| !parquet_keeps(kind))?,
        FileFormat::Arrow => rows,
    };
    let unfinished = tempfile::NamedTempFile::new_in(folder).map_err(|error| unwritable(folder, error))?;
    let file = unfinished.as_file().try_clone().map_err(|error| unwritable(&path, error))?;
    match format {
        FileFormat::Parquet => write_parquet(file, &rows).map_err(|error| unwritable(&path, error))?,
        FileFormat::Arrow => write_arrow(file, &rows).map_err(|error| unwritable(&path, error))?,
    }
    unfinished.persist(&path).map_err(|error| unwritable(&path, error.error))?;
    Ok(rows.num_rows())
}

fn write_parquet(file: File, rows: &RecordBatch) -> parquet::errors::Result<()> {
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    let mut writer = ArrowWriter::try_new(file, rows.schema(), Some(properties))?;
    writer.write(rows)?;
    writer.close().map(drop)
}

fn write_arrow(file: File, rows: &RecordBatch) -> Result<(), arrow::error::ArrowError> {
    let mut writer = FileWriter::try_new(file, &rows.schema())?;
    writer.write(rows)?;
    writer.finish()
}

/// Parquet has no form for these; they are written as texts.
fn parquet_keeps(kind: &DataType) -> bool {
    !matches!(kind, DataType::Interval(_) | DataType::Duration(_) | DataType::Union(..) | DataType::Null)
}

fn unwritable(path: &Path, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(Kind::Config, format!("can't write {}", path.display())).source(error)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, AsArray, NullArray, StringArray};
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    use super::*;

    fn rows(names: &[&str]) -> RecordBatch {
        RecordBatch::try_from_iter_with_nullable([
            ("name", Arc::new(StringArray::from(names.to_vec())) as ArrayRef, true),
            ("nothing", Arc::new(NullArray::new(names.len())), true),
        ])
        .unwrap()
    }

    #[test]
    fn what_is_written_is_read_back_by_others() {
        let folder = tempfile::tempdir().unwrap();
        let batches = [rows(&["Ann", "Bob"]), rows(&[]), rows(&["Cy"])];
        for format in [FileFormat::Parquet, FileFormat::Arrow] {
            // Twice: a file of an earlier time is replaced.
            assert_eq!(write(folder.path(), "people", format, &batches[..1]).unwrap(), 2);
            assert_eq!(write(folder.path(), "people", format, &batches).unwrap(), 3);
        }
        let file = File::open(folder.path().join("people.parquet")).unwrap();
        let read: Vec<_> = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap().flatten().collect();
        assert_eq!(read[0].column(0).as_string::<i32>().value(2), "Cy");
        let file = File::open(folder.path().join("people.arrow")).unwrap();
        let read: Vec<_> = arrow_ipc::reader::FileReader::try_new(file, None).unwrap().flatten().collect();
        assert_eq!(read[0].num_rows(), 3);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "nothing unfinished is left");
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = write(&file.path().join("below"), "people", FileFormat::Parquet, &[rows(&["Ann"])]).unwrap_err();
        assert!(error.to_string().contains("below"), "{error}");
        assert!(folder(file.path()).is_err());
    }
}
