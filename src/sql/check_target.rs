//! `latest` against the target table: the same columns, in types that the table's columns hold exactly.

use std::path::Path;

use arrow::datatypes::{DataType, Field, Schema, TimeUnit};

use super::ModelSpec;
use super::fit;
use super::locate;
use super::models::{LATEST, Models};
use super::nested::is_nested;
use super::plan::Step;
use crate::diagnostic::{Diagnostic, did_you_mean};
use crate::schema::is_json;
use crate::target::{Column, Holds, Target, VERSION_COLUMNS};

/// Columns of `latest` that don't stand in the target under the same name.
const MARKS: [&str; 4] = ["_deleted", "ts", "_partition", "_offset"];

/// The target to write to: `given`, or the one that follows from `latest`. `None` where `latest` couldn't be planned.
pub(super) fn target(
    spec: &ModelSpec,
    models: &Models,
    steps: &[Step],
    given: Option<&Target>,
    faults: &mut Vec<Diagnostic>,
) -> Option<Target> {
    let step = steps.iter().find(|step| step.name == LATEST)?;
    let sql = models.get(LATEST).map(|model| model.sql.as_str()).unwrap_or_default();
    if let Some(given) = given {
        against(&step.file, sql, step.schema(), &spec.key, given, faults);
        return Some(given.clone());
    }
    let mut found = Vec::new();
    let columns = derive(step.schema(), &spec.key, &mut found);
    let placed = found.into_iter().map(|(column, fault)| fault.file(&step.file).span(locate::word(sql, &column)));
    faults.extend(placed);
    Some(Target { table: String::new(), columns, key_len: spec.key.len() })
}

/// The columns of a table made for `latest`: the key, then the others as they come. Faults come with their column.
pub(super) fn derive(schema: &Schema, key: &[String], faults: &mut Vec<(String, Diagnostic)>) -> Vec<Column> {
    let mut columns = Vec::new();
    let data = schema.fields().iter().map(|field| field.name()).filter(|name| !key.contains(name));
    for name in key.iter().chain(data) {
        let Ok(field) = schema.field_with_name(name) else { continue };
        if MARKS.contains(&name.as_str()) {
            continue;
        }
        if !can_be_a_column(name) || columns.iter().any(|column: &Column| column.name.eq_ignore_ascii_case(name)) {
            let fault =
                Diagnostic::error("AI0122", format!("{LATEST} yields {name}, which can't be a column of the target"))
                    .help("leave it out of the SELECT, or give it another name");
            faults.push((name.clone(), fault));
            continue;
        }
        match mysql_type(field, key.contains(name)) {
            Ok((ddl_type, holds)) => {
                let nullable = !key.contains(name);
                columns.push(Column { name: name.clone(), ddl_type, holds, nullable });
            }
            Err(help) => {
                let fault = Diagnostic::error(
                    "AI0120",
                    format!("MySQL has no type for {name}, which is {}", field.data_type()),
                );
                faults.push((name.clone(), fault.help(help)));
            }
        }
    }
    columns
}

/// Whether a column can have this name: it isn't ours, and MySQL takes it in backticks. It compares names without case.
fn can_be_a_column(name: &str) -> bool {
    let ours = name.starts_with('_') || VERSION_COLUMNS.iter().any(|ours| ours.eq_ignore_ascii_case(name));
    let taken = |c: char| !c.is_control() && u32::from(c) <= 0xffff;
    !ours && name.chars().count() <= 64 && name.chars().all(taken) && !name.ends_with(' ')
}

/// The type that keeps values of `field` exactly, or what to do where there is none. JSON is no key.
fn mysql_type(field: &Field, is_key: bool) -> Result<(String, Holds), &'static str> {
    let int = |name: &str, min: i128, max: i128| Ok((name.to_owned(), Holds::Int { min, max }));
    match field.data_type() {
        kind if (is_json(field) || is_nested(kind)) && !is_key => Ok(("json".to_owned(), Holds::Json)),
        DataType::Utf8 => Ok(("varchar(255)".to_owned(), Holds::Text { max_chars: 255, max_bytes: 1020 })),
        DataType::Binary | DataType::FixedSizeBinary(_) => {
            Ok(("varbinary(255)".to_owned(), Holds::Bytes { max_bytes: 255 }))
        }
        DataType::Boolean => Ok(("tinyint(1)".to_owned(), Holds::Bool)),
        DataType::Int8 => int("tinyint", i8::MIN.into(), i8::MAX.into()),
        DataType::Int16 => int("smallint", i16::MIN.into(), i16::MAX.into()),
        DataType::Int32 => int("int", i32::MIN.into(), i32::MAX.into()),
        DataType::Int64 => int("bigint", i64::MIN.into(), i64::MAX.into()),
        DataType::UInt8 => int("tinyint unsigned", 0, u8::MAX.into()),
        DataType::UInt16 => int("smallint unsigned", 0, u16::MAX.into()),
        DataType::UInt32 => int("int unsigned", 0, u32::MAX.into()),
        DataType::UInt64 => int("bigint unsigned", 0, u64::MAX.into()),
        DataType::Float32 => Ok(("float".to_owned(), Holds::Float)),
        DataType::Float64 => Ok(("double".to_owned(), Holds::Double)),
        DataType::Decimal128(precision, scale) | DataType::Decimal256(precision, scale) => match u8::try_from(*scale) {
            Ok(scale) if *precision <= 65 && scale <= 30 => {
                let precision = *precision;
                Ok((format!("decimal({precision},{scale})"), Holds::Decimal { precision, scale }))
            }
            _ => Err("MySQL keeps at most 65 digits, 30 of them after the point: CAST it to such a DECIMAL"),
        },
        DataType::Date32 => Ok(("date".to_owned(), Holds::Date)),
        DataType::Timestamp(TimeUnit::Second, _) => Ok(("datetime".to_owned(), Holds::DateTime { digits: 0 })),
        DataType::Timestamp(TimeUnit::Millisecond, _) => Ok(("datetime(3)".to_owned(), Holds::DateTime { digits: 3 })),
        DataType::Timestamp(_, _) => Ok(("datetime(6)".to_owned(), Holds::DateTime { digits: 6 })),
        DataType::Time32(_) | DataType::Time64(_) => Ok(("time(6)".to_owned(), Holds::Time { digits: 6 })),
        DataType::Null => Err("a NULL without a type: CAST(NULL AS VARCHAR)"),
        DataType::Struct(_) | DataType::List(_) | DataType::Map(..) => Err("take the fields that are needed out of it"),
        _ => Err("CAST it to a text, a number, a date or a time"),
    }
}

/// Adds a fault for each column that `latest` (with its text `sql`, empty where unknown) and `target` don't share, or that the
/// target's type doesn't hold.
pub(super) fn against(
    file: &Path,
    sql: &str,
    schema: &Schema,
    key: &[String],
    target: &Target,
    faults: &mut Vec<Diagnostic>,
) {
    let keys: Vec<&str> = target.keys().iter().map(|column| column.name.as_str()).collect();
    if !keys.iter().eq(key.iter()) {
        let message = format!(
            "the key of the table {} is ({}), the pipeline's is ({})",
            target.table,
            keys.join(", "),
            key.join(", ")
        );
        faults.push(Diagnostic::error("AI0126", message).help("make them the same, in the same order"));
    }
    let yielded: Vec<&str> =
        schema.fields().iter().map(|field| field.name().as_str()).filter(|name| !MARKS.contains(name)).collect();
    let spare: Vec<&str> = yielded.iter().copied().filter(|name| target.column(name).is_none()).collect();
    for column in &target.columns {
        let Ok(field) = schema.field_with_name(&column.name) else {
            let fault =
                Diagnostic::error("AI0121", format!("{LATEST} doesn't yield the target's column {}", column.name))
                    .file(file);
            faults.push(match did_you_mean(&column.name, spare.iter().copied()) {
                Some(alike) => fault.help(format!("is {alike:?} meant to be it? name it {:?} with AS", column.name)),
                None => fault.help("add it to the SELECT, or drop it from the table"),
            });
            continue;
        };
        if !fit::accepts(&column.holds, field.data_type()) {
            let message = format!(
                "{} is {}, which the target's column ({}) doesn't hold as it is",
                column.name,
                field.data_type(),
                column.ddl_type
            );
            faults.push(
                Diagnostic::error("AI0123", message)
                    .file(file)
                    .span(locate::word(sql, &column.name))
                    .help("CAST it to the column's type, or change the column"),
            );
        }
    }
    for name in spare {
        let fault = Diagnostic::error("AI0122", format!("the table {} has no column {name}", target.table))
            .file(file)
            .span(locate::word(sql, name));
        let names = target.columns.iter().map(|column| column.name.as_str());
        faults.push(match did_you_mean(name, names.filter(|other| !yielded.contains(other))) {
            Some(meant) => fault.help(format!("did you mean {meant:?}?")),
            None => fault.help("leave it out of the SELECT, or add the column to the table"),
        });
    }
}
