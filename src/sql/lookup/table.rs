//! A lookup's rows in memory, indexed by their key.
//!
//! Rows lie in chunks that never change; the index holds a number per row and compares keys where they lie, so that a table takes little
//! more than its Arrow bytes. Changes add rows and mark the ones that they replace; what is marked is cleared out chunk by chunk,
//! which bounds both the waste and how long one change can take. A clone shares the chunks.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, new_null_array};
use arrow::compute::{concat_batches, filter_record_batch, interleave};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use foldhash::fast::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::key::{self, KeyColumn};

/// Most rows of a chunk; a row's number has its place within the chunk in the lower 16 bits.
pub(crate) const CHUNK_ROWS: usize = 1 << 16;
/// A chunk below half of a full one is small; when there are more of them than this they are put together.
const SMALL_CHUNKS: usize = 8;
/// Chunks that can be numbered.
const MAX_CHUNKS: usize = 1 << 16;

/// All rows of a lookup at one time.
#[derive(Debug, Clone)]
pub struct LookupTable {
    schema: SchemaRef,
    /// Places of the key columns.
    key: Vec<usize>,
    chunks: Vec<Chunk>,
    /// Numbers of rows, by the hash of their key.
    index: HashTable<u32>,
    seed: RandomState,
}

#[derive(Debug, Clone)]
struct Chunk {
    rows: RecordBatch,
    key: Vec<KeyColumn>,
    /// A bit per row that is replaced or deleted; empty while there is none.
    dead: Vec<u64>,
    dead_rows: usize,
}

/// What is wrong with a row's key.
pub(super) enum KeyFault {
    Null,
    /// The row, counted over all chunks, that has the same key.
    Double(usize),
}

impl Chunk {
    /// `None` where a key column has a type that can't be a key.
    fn new(rows: RecordBatch, key: &[usize]) -> Option<Self> {
        let columns: Vec<ArrayRef> = key.iter().filter_map(|place| rows.columns().get(*place).cloned()).collect();
        Some(Self { key: KeyColumn::all(&columns)?, rows, dead: Vec::new(), dead_rows: 0 })
    }

    fn is_dead(&self, row: usize) -> bool {
        self.dead.get(row / 64).is_some_and(|bits| bits >> (row % 64) & 1 == 1)
    }

    fn bury(&mut self, row: usize) {
        if self.dead.is_empty() {
            self.dead = vec![0; self.rows.num_rows().div_ceil(64)];
        }
        if let Some(bits) = self.dead.get_mut(row / 64) {
            let before = *bits;
            *bits |= 1 << (row % 64);
            self.dead_rows += usize::from(*bits != before);
        }
    }

    fn live_rows(&self) -> usize {
        self.rows.num_rows() - self.dead_rows
    }

    fn live(&self) -> Result<RecordBatch, ArrowError> {
        if self.dead_rows == 0 {
            return Ok(self.rows.clone());
        }
        let alive: BooleanArray = (0..self.rows.num_rows()).map(|row| Some(!self.is_dead(row))).collect();
        filter_record_batch(&self.rows, &alive)
    }
}

fn number(chunk: usize, row: usize) -> u32 {
    (chunk << 16 | row) as u32
}

fn place(number: u32) -> (usize, usize) {
    ((number >> 16) as usize, (number & 0xffff) as usize)
}

impl LookupTable {
    /// A table without rows. `None` where a key column isn't there or has a type that can't be a key.
    pub(super) fn empty(schema: &SchemaRef, key: &[String]) -> Option<Self> {
        let key: Option<Vec<usize>> = key.iter().map(|name| schema.index_of(name).ok()).collect();
        let key = key?;
        Chunk::new(RecordBatch::new_empty(Arc::clone(schema)), &key)?;
        Some(Self {
            schema: Arc::clone(schema),
            key,
            chunks: Vec::new(),
            index: HashTable::new(),
            seed: RandomState::default(),
        })
    }

    /// Takes over all rows at once; those whose key is NULL or there already are reported and left out of the index.
    pub(super) fn fill(
        &mut self,
        batches: Vec<RecordBatch>,
        mut fault: impl FnMut(usize, KeyFault),
    ) -> Result<(), ArrowError> {
        let total = batches.iter().map(RecordBatch::num_rows).sum();
        self.index = HashTable::with_capacity(total);
        let mut first_of_chunk = Vec::with_capacity(batches.len());
        let mut counted = 0;
        let parts = batches.into_iter().flat_map(|rows| {
            let starts = (0..rows.num_rows()).step_by(CHUNK_ROWS);
            let part = move |from| {
                if rows.num_rows() <= CHUNK_ROWS {
                    rows.clone()
                } else {
                    rows.slice(from, CHUNK_ROWS.min(rows.num_rows() - from))
                }
            };
            starts.map(part).collect::<Vec<_>>()
        });
        for rows in parts {
            let Some(chunk) = Chunk::new(rows, &self.key) else { continue };
            if self.chunks.len() == MAX_CHUNKS {
                return Err(too_large());
            }
            first_of_chunk.push(counted);
            let at = self.chunks.len();
            self.chunks.push(chunk);
            for row in 0..self.chunks[at].rows.num_rows() {
                match self.enter(at, row) {
                    Ok(None) => {}
                    Ok(Some(earlier)) => {
                        let (chunk, place) = place(earlier);
                        let first = first_of_chunk.get(chunk).copied().unwrap_or_default();
                        fault(counted + row, KeyFault::Double(first + place));
                    }
                    Err(()) => fault(counted + row, KeyFault::Null),
                }
            }
            counted += self.chunks[at].rows.num_rows();
        }
        Ok(())
    }

    /// Puts a row into the index unless its key is there; the number of that row, then. An error for a NULL in the key.
    fn enter(&mut self, at: usize, row: usize) -> Result<Option<u32>, ()> {
        let Self { chunks, index, seed, .. } = self;
        let Some(chunk) = chunks.get(at) else { return Err(()) };
        let hash = key::hash(&chunk.key, row, seed).ok_or(())?;
        let equal = |other: &u32| {
            let (other, there) = place(*other);
            chunks.get(other).is_some_and(|other| key::same(&chunk.key, row, &other.key, there))
        };
        match index.entry(hash, equal, |other| rehash(chunks, seed, *other)) {
            Entry::Occupied(there) => Ok(Some(*there.get())),
            Entry::Vacant(free) => {
                free.insert(number(at, row));
                Ok(None)
            }
        }
    }

    /// Places of the key columns, in the key's order.
    pub(in crate::sql) fn key(&self) -> &[usize] {
        &self.key
    }

    pub(crate) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    pub fn num_rows(&self) -> usize {
        self.chunks.iter().map(Chunk::live_rows).sum()
    }

    /// Bytes of the rows alone.
    pub fn arrow_len(&self) -> usize {
        let columns = self.chunks.iter().flat_map(|chunk| chunk.rows.columns());
        columns.map(|column| column.to_data().get_slice_memory_size().unwrap_or_default()).sum()
    }

    /// Bytes of rows and index.
    pub fn byte_len(&self) -> usize {
        let rows: usize =
            self.chunks.iter().map(|chunk| chunk.rows.get_array_memory_size() + chunk.dead.len() * 8).sum();
        rows + self.index.allocation_size()
    }

    /// All rows.
    pub(crate) fn batches(&self) -> Result<Vec<RecordBatch>, ArrowError> {
        self.chunks.iter().filter(|chunk| chunk.live_rows() > 0).map(Chunk::live).collect()
    }

    /// The number of the row with the key that stands in `row` of `columns`, which have the types of this table's key.
    pub(in crate::sql) fn find(&self, columns: &[KeyColumn], row: usize) -> Option<u32> {
        let hash = key::hash(columns, row, &self.seed)?;
        let equal = |other: &u32| {
            let (chunk, there) = place(*other);
            self.chunks.get(chunk).is_some_and(|chunk| key::same(columns, row, &chunk.key, there))
        };
        self.index.find(hash, equal).copied()
    }

    /// The values of one column in the numbered rows, NULL where there is no number.
    pub(in crate::sql) fn take(&self, column: usize, rows: &[Option<u32>]) -> Result<ArrayRef, ArrowError> {
        let nothing = new_null_array(self.schema.field(column).data_type(), 1);
        let mut arrays: Vec<&dyn Array> = self.chunks.iter().map(|chunk| chunk.rows.column(column).as_ref()).collect();
        let none = (arrays.len(), 0);
        arrays.push(nothing.as_ref());
        let places: Vec<(usize, usize)> = rows.iter().map(|row| row.map_or(none, place)).collect();
        interleave(&arrays, &places)
    }

    /// Whether `other` has the same rows, in whatever order.
    pub fn same_rows(&self, other: &Self) -> bool {
        if self.num_rows() != other.num_rows() || self.schema != other.schema {
            return false;
        }
        let alike = self.chunks.len() == other.chunks.len()
            && self
                .chunks
                .iter()
                .zip(&other.chunks)
                .all(|(here, there)| here.dead_rows == 0 && there.dead_rows == 0 && here.rows == there.rows);
        alike
            || other.chunks.iter().all(|chunk| {
                let rows = (0..chunk.rows.num_rows()).filter(|row| !chunk.is_dead(*row));
                rows.into_iter()
                    .all(|row| self.find(&chunk.key, row).is_some_and(|found| self.same_row(found, &chunk.rows, row)))
            })
    }

    /// Whether the numbered row has the values of a row elsewhere.
    fn same_row(&self, found: u32, rows: &RecordBatch, row: usize) -> bool {
        let (chunk, there) = place(found);
        let Some(chunk) = self.chunks.get(chunk) else { return false };
        let pairs = chunk.rows.columns().iter().zip(rows.columns());
        pairs.into_iter().all(|(here, other)| here.slice(there, 1).as_ref() == other.slice(row, 1).as_ref())
    }

    /// Applies changes in their order: a row replaces the one with its key, or deletes it where `deleted` says so. Yields how many
    /// keys came to another row, or to none. Columns are as they are here, keys without NULLs; rows with one are passed over.
    pub fn apply(&mut self, rows: RecordBatch, deleted: &[bool]) -> Result<usize, ArrowError> {
        let (_, columns, _) = super::shrunk(rows)?.into_parts();
        let rows = RecordBatch::try_new(Arc::clone(&self.schema), columns)?;
        let mut changed = 0;
        let mut from = 0;
        while from < rows.num_rows() {
            let length = CHUNK_ROWS.min(rows.num_rows() - from);
            // A slice would keep all of the rows in memory for as long as one of them lives.
            let part = if length == rows.num_rows() {
                rows.clone()
            } else {
                concat_batches(&self.schema, [&rows.slice(from, length)])?
            };
            changed += self.apply_chunk(part, deleted.get(from..from + length).unwrap_or_default())?;
            from += length;
        }
        Ok(changed)
    }

    fn apply_chunk(&mut self, rows: RecordBatch, deleted: &[bool]) -> Result<usize, ArrowError> {
        let Some(chunk) = Chunk::new(rows, &self.key) else {
            return Err(ArrowError::SchemaError("the key of a lookup has a type that can't be a key".to_owned()));
        };
        let at = self.free_chunk(chunk)?;
        let mut touched = vec![at];
        let mut changed = 0;
        for row in 0..self.chunks[at].rows.num_rows() {
            let is_delete = deleted.get(row).copied().unwrap_or_default();
            let earlier = self.find(&self.chunks[at].key, row);
            match earlier {
                Some(found) if !is_delete && self.same_row(found, &self.chunks[at].rows, row) => {
                    self.chunks[at].bury(row);
                }
                Some(found) => {
                    self.replace(found, (!is_delete).then(|| number(at, row)));
                    if is_delete {
                        self.chunks[at].bury(row);
                    }
                    touched.push(place(found).0);
                    changed += 1;
                }
                None if is_delete => self.chunks[at].bury(row),
                None => match self.enter(at, row) {
                    Ok(_) => changed += 1,
                    Err(()) => self.chunks[at].bury(row),
                },
            }
        }
        touched.sort_unstable();
        touched.dedup();
        self.tidy(&touched)?;
        Ok(changed)
    }

    /// Points the index from one row to another, or to none, and buries the first.
    fn replace(&mut self, found: u32, by: Option<u32>) {
        let (chunk, row) = place(found);
        let Some(hash) = self.chunks.get(chunk).and_then(|chunk| key::hash(&chunk.key, row, &self.seed)) else {
            return;
        };
        if let Ok(mut entry) = self.index.find_entry(hash, |other| *other == found) {
            match by {
                Some(by) => *entry.get_mut() = by,
                None => drop(entry.remove()),
            }
        }
        if let Some(chunk) = self.chunks.get_mut(chunk) {
            chunk.bury(row);
        }
    }

    /// Keeps a chunk in a place that is free; yields which.
    fn free_chunk(&mut self, chunk: Chunk) -> Result<usize, ArrowError> {
        match self.chunks.iter().position(|chunk| chunk.rows.num_rows() == 0) {
            Some(free) => {
                self.chunks[free] = chunk;
                Ok(free)
            }
            None if self.chunks.len() == MAX_CHUNKS => Err(too_large()),
            None => {
                self.chunks.push(chunk);
                Ok(self.chunks.len() - 1)
            }
        }
    }

    /// Clears out chunks of which more than a quarter is dead, and puts small chunks together.
    fn tidy(&mut self, touched: &[usize]) -> Result<(), ArrowError> {
        for at in touched {
            if self.chunks.get(*at).is_some_and(|chunk| chunk.dead_rows * 4 > chunk.rows.num_rows()) {
                self.rewrite(&[*at])?;
            }
        }
        let mut small: Vec<usize> = (0..self.chunks.len())
            .filter(|at| (1..CHUNK_ROWS / 2).contains(&self.chunks[*at].rows.num_rows()))
            .collect();
        if small.len() > SMALL_CHUNKS {
            small.sort_by_key(|at| self.chunks[*at].live_rows());
            let mut rows = 0;
            small.retain(|at| {
                rows += self.chunks[*at].live_rows();
                rows <= CHUNK_ROWS
            });
            self.rewrite(&small)?;
        }
        Ok(())
    }

    /// Puts the living rows of some chunks into the first of their places, and leaves the other places free.
    fn rewrite(&mut self, places: &[usize]) -> Result<(), ArrowError> {
        let Some(first) = places.first().copied() else { return Ok(()) };
        let old: Vec<Chunk> = places.iter().filter_map(|at| self.chunks.get(*at).cloned()).collect();
        let live = old.iter().map(Chunk::live).collect::<Result<Vec<_>, _>>()?;
        let rows = if live.len() == 1 { live.into_iter().next() } else { Some(concat_batches(&self.schema, &live)?) };
        let Some(chunk) = rows.and_then(|rows| Chunk::new(rows, &self.key)) else { return Ok(()) };
        // All of them before any: a new number may be the old one of another row.
        let mut moves = Vec::with_capacity(chunk.rows.num_rows());
        for (at, old) in places.iter().zip(&old) {
            for row in (0..old.rows.num_rows()).filter(|row| !old.is_dead(*row)) {
                moves.push(number(*at, row));
            }
        }
        let Self { chunks, index, seed, .. } = self;
        for found in &moves {
            let (at, row) = place(*found);
            let Some(hash) = chunks.get(at).and_then(|chunk| key::hash(&chunk.key, row, seed)) else { continue };
            if let Ok(entry) = index.find_entry(hash, |other| other == found) {
                entry.remove();
            }
        }
        let nothing = RecordBatch::new_empty(Arc::clone(&self.schema));
        for at in places {
            if let (Some(free), Some(place)) = (Chunk::new(nothing.clone(), &self.key), chunks.get_mut(*at)) {
                *place = free;
            }
        }
        if let Some(place) = chunks.get_mut(first) {
            *place = chunk;
        }
        for row in 0..moves.len() {
            // Every key was there once, so each enters.
            let _ = self.enter(first, row);
        }
        Ok(())
    }
}

fn too_large() -> ArrowError {
    ArrowError::InvalidArgumentError(format!("a lookup holds at most {MAX_CHUNKS} chunks of {CHUNK_ROWS} rows"))
}

fn rehash(chunks: &[Chunk], seed: &RandomState, number: u32) -> u64 {
    let (chunk, row) = place(number);
    // A row of the index is there, and its key holds no NULL.
    chunks.get(chunk).and_then(|chunk| key::hash(&chunk.key, row, seed)).unwrap_or_default()
}
