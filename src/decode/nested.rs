//! Columns whose values have parts: structs and lists, read as strictly as the row itself.
//!
//! The raw text of a value is taken apart level by level; schema files bound the levels, so recursion is bounded too. Members that the
//! schema doesn't know are named and left alone.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, ListArray, NullBufferBuilder};
use arrow::buffer::{OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{Field, FieldRef, Fields};
use arrow::error::ArrowError;

use super::columns::{Column, take};
use super::image::{Image, Seen, Shape};
use crate::json;
use crate::schema::values::Wrong;
use crate::schema::{Reading, nullable, type_of};

const NULL: Wrong = "is null, but may not be";
const MISSING: Wrong = "is missing";
const TWICE: Wrong = "stands there twice, under one name or under an alias";

/// Names of unknown members that are kept of one value; more are no fields but values in the wrong place.
const MAX_UNKNOWN: usize = 256;

/// What was met inside a value.
#[derive(Debug, Default)]
pub(super) struct Trail {
    /// The path of where we are, from the column's name on: `lines[].sku`.
    path: String,
    /// Where the fault is, as the rest of a path (`.zip`, `[2].sku`, lists counted from 1 as SQL does), and what is expected there.
    pub(super) blame: Option<(String, Option<String>)>,
    /// Paths of members that no schema knows.
    pub(super) unknown: BTreeSet<String>,
}

impl Trail {
    /// For the value of the column `name`.
    pub(super) fn of(name: &str) -> Self {
        Self { path: name.to_owned(), ..Self::default() }
    }

    /// Puts the blame one level further out. `expected` is what the part itself should be, where the fault is there.
    fn blame(&mut self, part: &str, expected: Option<&str>) {
        self.blame = Some(match self.blame.take() {
            Some((rest, expected)) => (format!("{part}{rest}"), expected),
            None => (part.to_owned(), expected.map(str::to_owned)),
        });
    }

    /// Goes one level deeper for `read`.
    fn within<T>(&mut self, part: [&str; 2], read: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.path.len();
        self.path.extend(part);
        let outcome = read(self);
        self.path.truncate(length);
        outcome
    }

    fn note_unknown(&mut self, name: &str) {
        if self.unknown.len() < MAX_UNKNOWN {
            self.unknown.insert(format!("{}.{name}", self.path));
        }
    }
}

/// Structs: like row images, one inside another.
pub(super) struct Structs {
    shape: Shape,
    /// As Arrow has them: see [`crate::schema::image_fields`].
    fields: Fields,
    image: Image,
    seen: Seen,
}

impl Structs {
    pub(super) fn new(fields: &Fields, readings: &[Reading]) -> Self {
        Self {
            shape: Shape::new(fields, readings),
            fields: fields.iter().map(|field| nullable(field)).collect(),
            image: Image::new(fields, readings),
            seen: Seen::default(),
        }
    }

    pub(super) fn push(&mut self, raw: &str, trail: &mut Trail) -> Result<(), Wrong> {
        let members = json::members(raw).map_err(|_| json::kind(raw))?;
        let rows = self.image.len();
        let filled = self.fill(members, trail);
        match filled {
            Ok(()) => self.image.end_row(),
            Err(_) => self.image.truncate(rows),
        }
        filled
    }

    fn fill(&mut self, members: Vec<(String, &str)>, trail: &mut Trail) -> Result<(), Wrong> {
        self.seen.clear(self.shape.fields.len());
        for (place, (name, raw)) in members.into_iter().enumerate() {
            let Some(index) = self.shape.find(&name, place) else {
                trail.note_unknown(&name);
                continue;
            };
            let Some((field, column)) = self.shape.fields.get(index).zip(self.image.column(index)) else { continue };
            let pushed = match raw {
                _ if !self.seen.insert(index) => Err((TWICE, None)),
                "null" if field.required => Err((NULL, None)),
                "null" => {
                    column.push_null();
                    Ok(())
                }
                _ => trail
                    .within([".", &*field.name], |trail| column.push(raw, trail))
                    .map_err(|wrong| (wrong, Some(field.type_name.as_str()))),
            };
            if let Err((wrong, expected)) = pushed {
                trail.blame(&format!(".{}", field.name), expected);
                return Err(wrong);
            }
        }
        for (index, field) in self.shape.fields.iter().enumerate() {
            if self.seen.contains(index) {
                continue;
            }
            if !self.image.push_missing(index, &self.shape) && field.required {
                trail.blame(&format!(".{}", field.name), None);
                return Err(MISSING);
            }
        }
        Ok(())
    }

    pub(super) fn push_null(&mut self) {
        self.image.push_null();
    }

    pub(super) fn truncate(&mut self, rows: usize) {
        self.image.truncate(rows);
    }

    pub(super) fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        self.image.finish(&self.fields)
    }
}

/// Lists: one run of items and where each value ends. Items are fewer than a batch has bytes, which are fewer than 2 GiB.
pub(super) struct Lists {
    items: Column,
    /// As Arrow has it.
    field: FieldRef,
    type_name: String,
    required: bool,
    len: i32,
    /// Where values begin and end; one more than there are values.
    offsets: Vec<i32>,
    valid: NullBufferBuilder,
}

impl Lists {
    pub(super) fn new(items: &Field, reading: Option<&Reading>) -> Self {
        let reading = reading.cloned().unwrap_or_default();
        Self {
            items: Column::new(items, &reading),
            field: Arc::new(nullable(items)),
            type_name: type_of(items),
            required: !items.is_nullable(),
            len: 0,
            offsets: vec![0],
            valid: NullBufferBuilder::new(0),
        }
    }

    pub(super) fn push(&mut self, raw: &str, trail: &mut Trail) -> Result<(), Wrong> {
        let elements = json::elements(raw).map_err(|_| json::kind(raw))?;
        let before = self.len;
        for (place, raw) in elements.into_iter().enumerate() {
            let pushed = match raw {
                "null" if self.required => Err((NULL, None)),
                "null" => {
                    self.items.push_null();
                    Ok(())
                }
                _ => trail
                    .within(["[]", ""], |trail| self.items.push(raw, trail))
                    .map_err(|wrong| (wrong, Some(self.type_name.as_str()))),
            };
            if let Err((wrong, expected)) = pushed {
                trail.blame(&format!("[{}]", place + 1), expected);
                self.items.truncate(before as usize);
                self.len = before;
                return Err(wrong);
            }
            self.len += 1;
        }
        self.offsets.push(self.len);
        self.valid.append_non_null();
        Ok(())
    }

    pub(super) fn push_null(&mut self) {
        self.offsets.push(self.len);
        self.valid.append_null();
    }

    pub(super) fn truncate(&mut self, rows: usize) {
        self.offsets.truncate(rows + 1);
        self.len = self.offsets.last().copied().unwrap_or_default();
        self.items.truncate(self.len as usize);
        self.valid.truncate(rows);
    }

    pub(super) fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        let offsets = OffsetBuffer::new(ScalarBuffer::from(take(&mut self.offsets)));
        self.offsets.push(0);
        self.len = 0;
        Ok(Arc::new(ListArray::try_new(self.field.clone(), offsets, self.items.finish()?, self.valid.finish())?))
    }
}
