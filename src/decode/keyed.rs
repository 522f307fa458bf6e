//! Records of a compacted topic: each says what the row of its key is from now on or, by a null value, that there is none any more.
//!
//! In: raw records. Out: [`Changes`], Arrow rows in the records' order; a record that can't be used is refused with the reason and
//! leaves no trace, so that the last good row of its key stays. Values are read as strictly as those of events.
//!
//! The value is a JSON object with a member per column; one that is absent or null is NULL, others are passed over. The key columns
//! are those of the record's key: a JSON object with a member for each, or, where there is one key column, its value as JSON or as
//! plain text. Only where the record's key is neither they are taken from the value. Said twice, they must agree.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::columns::Column;
use super::nested::Trail;
use crate::error::{Error, Kind, Result};
use crate::json;
use crate::record::RawRecord;
use crate::schema::{Reading, values};

/// Changes to a table, in their order.
#[derive(Debug, Clone)]
pub struct Changes {
    /// A deleted row has its key columns alone.
    pub rows: RecordBatch,
    pub deleted: Vec<bool>,
}

/// Collects records into [`Changes`].
pub struct Keyed {
    schema: SchemaRef,
    /// Places of the key columns.
    key: Vec<usize>,
    columns: Vec<Column>,
    deleted: Vec<bool>,
}

/// The JSON text of a row's columns, `None` for NULL.
type Cells = Vec<Option<String>>;

impl Keyed {
    /// `key` are names of `columns`.
    pub fn new(columns: &[(String, DataType)], key: &[String]) -> Self {
        let fields: Vec<Field> = columns.iter().map(|(name, kind)| Field::new(name, kind.clone(), true)).collect();
        let schema = Arc::new(Schema::new(fields));
        Self {
            key: key.iter().filter_map(|name| schema.index_of(name).ok()).collect(),
            columns: schema.fields().iter().map(|field| column_of(field)).collect(),
            schema,
            deleted: Vec::new(),
        }
    }

    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Records collected since the last [`take`](Self::take).
    pub fn len(&self) -> usize {
        self.deleted.len()
    }

    pub fn is_empty(&self) -> bool {
        self.deleted.is_empty()
    }

    /// Collects a record, or says why it can't be used, without its values.
    pub fn push(&mut self, record: &RawRecord<'_>) -> Result<(), String> {
        let key = self.of_key(record.key);
        let cells = match record.value {
            None => self.deletion(key)?,
            Some(value) => self.of_value(value, key)?,
        };
        for (place, cell) in cells.iter().enumerate() {
            let Some(column) = self.columns.get_mut(place) else { break };
            let pushed = match cell {
                Some(raw) => column.push(raw, &mut Trail::default()),
                None => {
                    column.push_null();
                    Ok(())
                }
            };
            if let Err(wrong) = pushed {
                let rows = self.deleted.len();
                self.columns.iter_mut().for_each(|column| column.truncate(rows));
                return Err(format!("{:?} {wrong}", self.schema.field(place).name()));
            }
        }
        self.deleted.push(record.value.is_none());
        Ok(())
    }

    /// Hands over what was collected.
    pub fn take(&mut self) -> Result<Changes> {
        let columns = self.columns.iter_mut().map(Column::finish).collect::<Result<Vec<_>, _>>();
        let rows = columns.and_then(|columns| RecordBatch::try_new(Arc::clone(&self.schema), columns));
        let rows =
            rows.map_err(|error| Error::new(Kind::Bug, "a lookup's rows can't be put together").source(error))?;
        Ok(Changes { rows, deleted: std::mem::take(&mut self.deleted) })
    }

    /// The key columns' JSON texts from the record's key; why not, otherwise.
    fn of_key(&self, key: Option<&[u8]>) -> Result<Vec<String>, &'static str> {
        let text = std::str::from_utf8(key.ok_or("the record has no key")?).map_err(|_| "its key isn't UTF-8")?;
        if text.trim_start().starts_with('{') {
            let members = json::members(text.trim()).map_err(|_| "its key is no JSON object")?;
            let member = |column: &usize| {
                let name = self.schema.field(*column).name();
                let found = members.iter().find(|(member, _)| member == name).map(|(_, raw)| (*raw).to_owned());
                found.filter(|raw| raw != "null").ok_or("its key lacks a key column")
            };
            return self.key.iter().map(member).collect();
        }
        let [column] = self.key.as_slice() else {
            return Err("its key is no JSON object, and there are several key columns");
        };
        let field = self.schema.field(*column);
        let quoted = serde_json::Value::from(text).to_string();
        let as_json = match field.data_type() {
            DataType::Utf8 => {
                text.starts_with('"') && json::string(text).is_some() && values::check(text, field).is_ok()
            }
            _ => values::check(text, field).is_ok(),
        };
        match as_json {
            true => Ok(vec![text.to_owned()]),
            false if values::check(&quoted, field).is_ok() => Ok(vec![quoted]),
            false => Err("its key has another type than the key column"),
        }
    }

    fn deletion(&self, key: Result<Vec<String>, &'static str>) -> Result<Cells, String> {
        let key = key.map_err(|wrong| format!("it deletes a row, and {wrong}"))?;
        let mut cells: Cells = vec![None; self.columns.len()];
        for (column, raw) in self.key.iter().zip(key) {
            cells[*column] = Some(raw);
        }
        Ok(cells)
    }

    fn of_value(&self, value: &[u8], key: Result<Vec<String>, &'static str>) -> Result<Cells, String> {
        let text = std::str::from_utf8(value).map_err(|_| "its value isn't UTF-8")?.trim();
        let members = json::members(text).map_err(|_| match text.starts_with(['"', '[', 't', 'f', 'n', '-']) {
            true => format!("its value {}, not an object", json::kind(text)),
            false => "its value is no JSON object".to_owned(),
        })?;
        let mut cells: Cells = vec![None; self.columns.len()];
        let mut seen = vec![false; self.columns.len()];
        for (name, raw) in &members {
            let Ok(column) = self.schema.index_of(name) else { continue };
            if std::mem::replace(&mut seen[column], true) {
                return Err(format!("its value has {name:?} twice"));
            }
            cells[column] = (*raw != "null").then(|| (*raw).to_owned());
        }
        match key {
            Ok(key) => {
                for (column, raw) in self.key.iter().zip(key) {
                    let said = cells[*column].replace(raw);
                    if said
                        .is_some_and(|said| !self.same(*column, &said, cells[*column].as_deref().unwrap_or_default()))
                    {
                        let name = self.schema.field(*column).name();
                        return Err(format!("its key and its value differ in {name:?}"));
                    }
                }
            }
            Err(wrong) => {
                if let Some(column) = self.key.iter().find(|column| cells[**column].is_none()) {
                    return Err(format!("{wrong}, and its value has no {:?}", self.schema.field(*column).name()));
                }
            }
        }
        Ok(cells)
    }

    /// Whether two JSON texts are the same value of a column's type.
    fn same(&self, column: usize, one: &str, other: &str) -> bool {
        let read = |raw: &str| {
            let mut cell = column_of(self.schema.field(column));
            cell.push(raw, &mut Trail::default()).ok()?;
            cell.finish().ok()
        };
        one == other || read(one).zip(read(other)).is_some_and(|(one, other)| one == other)
    }
}

fn column_of(field: &Field) -> Column {
    Column::new(field, &Reading::default())
}

#[cfg(test)]
mod tests {
    use arrow::util::pretty::pretty_format_batches;

    use super::*;

    fn keyed(key: &[&str]) -> Keyed {
        let columns = [("code", DataType::Utf8), ("rate", DataType::Decimal128(10, 4)), ("day", DataType::Date32)];
        let key: Vec<String> = key.iter().map(|name| (*name).to_owned()).collect();
        Keyed::new(&columns.map(|(name, kind)| (name.to_owned(), kind)), &key)
    }

    fn push(keyed: &mut Keyed, key: Option<&str>, value: Option<&str>) -> Result<(), String> {
        keyed.push(&RawRecord {
            partition: 0,
            offset: 0,
            timestamp_ms: None,
            key: key.map(str::as_bytes),
            value: value.map(str::as_bytes),
            headers: b"",
        })
    }

    /// Each row as text, a leading `-` for a delete.
    fn shown(keyed: &mut Keyed) -> Vec<String> {
        let Changes { rows, deleted } = keyed.take().unwrap();
        let table = pretty_format_batches(&[rows]).unwrap().to_string();
        let lines = table.lines().skip(3).take(deleted.len());
        let cells = lines.map(|line| line.split('|').map(str::trim).collect::<Vec<_>>().join(" ").trim().to_owned());
        cells.zip(deleted).map(|(cells, deleted)| if deleted { format!("-{cells}") } else { cells }).collect()
    }

    #[test]
    fn keys_are_json_or_plain_text() {
        let mut keyed = keyed(&["code"]);
        for key in ["DE", "\"FR\"", "{\"code\":\"JP\"}", "007", "12", "true", "\"half"] {
            push(&mut keyed, Some(key), Some("{\"rate\":1.5}")).unwrap();
        }
        let expected = ["DE", "FR", "JP", "007", "12", "true", "\"half"].map(|key| format!("{key} 1.5000"));
        assert_eq!(shown(&mut keyed), expected);
    }

    #[test]
    fn the_value_tells_the_key_where_the_records_key_does_not() {
        let mut keyed = keyed(&["code", "day"]);
        let value = "{\"code\":\"DE\",\"day\":\"2024-02-29\",\"rate\":\"1.25\",\"more\":[1]}";
        push(&mut keyed, None, Some(value)).unwrap();
        push(&mut keyed, Some("DE-1"), Some(value)).unwrap();
        push(&mut keyed, Some("{\"day\":19782,\"code\":\"DE\"}"), Some(value)).unwrap();
        push(&mut keyed, Some("{\"day\":19782,\"code\":\"DE\"}"), None).unwrap();
        assert_eq!(shown(&mut keyed)[2], "DE 1.2500 2024-02-29");
        assert!(push(&mut keyed, Some("DE-1"), None).unwrap_err().contains("it deletes a row, and"));
        assert!(push(&mut keyed, Some("DE-1"), Some("{\"code\":\"DE\"}")).unwrap_err().contains("has no \"day\""));
    }

    #[test]
    fn a_bad_record_is_refused_without_its_values_and_without_a_trace() {
        let mut keyed = keyed(&["code"]);
        push(&mut keyed, Some("DE"), Some("{\"rate\":1}")).unwrap();
        for (key, value, words) in [
            ("FR", Some("{\"day\":\"2024-01-01\",\"rate\":4711.00001}"), "\"rate\" has more digits"),
            ("FR", Some("{\"rate\":\"4711x\"}"), "\"rate\" is no decimal"),
            ("FR", Some("{\"code\":\"4711\"}"), "differ in \"code\""),
            ("FR", Some("{\"rate\":1,\"rate\":1}"), "\"rate\" twice"),
            ("FR", Some("4711"), "no JSON object"),
            ("FR", Some("[4711]"), "is an array"),
            ("FR", Some("{\"rate\":4711"), "no JSON object"),
            ("FR", Some(""), "no JSON object"),
            ("{\"cod\":\"4711\"}", None, "lacks a key column"),
            ("{\"code\":null}", Some("{}"), "lacks a key column"),
        ] {
            let reason = push(&mut keyed, Some(key), value).unwrap_err();
            assert!(reason.contains(words) && !reason.contains("4711"), "{value:?}: {reason}");
        }
        push(&mut keyed, Some("JP"), Some("{}")).unwrap();
        push(&mut keyed, Some("DE"), None).unwrap();
        assert_eq!(shown(&mut keyed), ["DE 1.0000", "JP", "-DE"]);
        assert!(keyed.is_empty());
    }
}
