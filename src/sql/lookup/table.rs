//! A lookup's rows in memory, indexed by their key.
//!
//! Rows lie in an [`Arena`], each with its values side by side; the [`Index`] knows where. A table takes little more than its Arrow
//! bytes. Looking up is done for many keys at once, in phases of loads that don't wait for each other: with millions of rows nearly every
//! load is a cache miss, and one after the other they are what a batch would spend its time on.

use std::hint::black_box;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use foldhash::quality::RandomState;

use super::arena::{self, Arena, Block};
use super::cells::Cells;
use super::index::Index;
use super::key;
use super::row::Layout;

/// Most rows of a chunk that a file is read in.
pub(crate) const CHUNK_ROWS: usize = 1 << 16;
/// So many keys are looked up at once: many loads under way, and what they bring is still near when it is used.
const GROUP: usize = 256;
/// So few rows are in the cache anyway.
const NEAR_ROWS: usize = 4096;
/// Rows that are encoded at once.
const PART: usize = 16 * GROUP;
/// Bytes of a cache line.
const LINE: usize = 64;

/// All rows of a lookup at one time.
#[derive(Debug, Clone)]
pub struct LookupTable {
    schema: SchemaRef,
    /// Places of the key columns.
    key: Vec<usize>,
    layout: Arc<Layout>,
    arena: Arena,
    index: Index,
    seed: RandomState,
    rows: usize,
}

/// What is wrong with a row's key.
#[derive(Debug, Clone, Copy)]
pub(super) enum KeyFault {
    Null,
    /// The place of the row with the same key; see [`LookupTable::ordinal`].
    Double(u32),
}

impl LookupTable {
    /// A table without rows. `None` where a key column isn't there or has a type that can't be a key.
    pub(super) fn empty(schema: &SchemaRef, key: &[String]) -> Result<Option<Self>, ArrowError> {
        let places: Option<Vec<usize>> = key.iter().map(|name| schema.index_of(name).ok()).collect();
        let nothing = RecordBatch::new_empty(Arc::clone(schema));
        let of_key = |places: &Vec<usize>| places.iter().map(|place| Arc::clone(nothing.column(*place))).collect();
        let Some(key) = places.filter(|places| Cells::of_key(&of_key(places) as &Vec<ArrayRef>).is_some()) else {
            return Ok(None);
        };
        Ok(Some(Self {
            schema: Arc::clone(schema),
            layout: Arc::new(Layout::new(schema, &key)?),
            key,
            arena: Arena::default(),
            index: Index::default(),
            seed: RandomState::default(),
            rows: 0,
        }))
    }

    /// Takes over all rows at once, into a table that has none; those whose key is NULL or there already are reported, and not found
    /// afterwards.
    pub(super) fn fill(
        &mut self,
        batches: Vec<RecordBatch>,
        mut fault: impl FnMut(usize, KeyFault),
    ) -> Result<(), ArrowError> {
        self.index = Index::with_capacity(batches.iter().map(RecordBatch::num_rows).sum());
        let mut counted = 0;
        for rows in batches {
            for part in parts(&rows) {
                let cells = self.layout.cells(part.columns())?;
                for from in (0..part.num_rows()).step_by(GROUP) {
                    let hashes = self.hashes(&cells, from..part.num_rows().min(from + GROUP));
                    for (row, hash) in (from..).zip(hashes) {
                        if let Err(what) = self.enter(&cells, row, hash)? {
                            fault(counted + row, what);
                        }
                    }
                }
                counted += part.num_rows();
            }
        }
        self.arena.shrink();
        Ok(())
    }

    /// Adds a row whose key isn't there yet. Otherwise it takes its room all the same, so that places tell which row was meant.
    fn enter(&mut self, cells: &[Cells], row: usize, hash: Option<u64>) -> Result<Result<(), KeyFault>, ArrowError> {
        let earlier = hash.map(|hash| self.find_one(cells, row, hash));
        let place = self.arena.push(&self.layout, cells, row)?;
        let fault = match (hash, earlier.flatten()) {
            (Some(hash), None) => {
                self.index.insert(hash, place);
                self.rows += 1;
                return Ok(Ok(()));
            }
            (Some(_), Some(earlier)) => KeyFault::Double(earlier),
            (None, _) => KeyFault::Null,
        };
        self.arena.bury(&self.layout, place);
        Ok(Err(fault))
    }

    /// How many rows came before the one at a place, in a table that was only filled.
    pub(super) fn ordinal(&self, place: u32) -> usize {
        self.arena.ordinal(&self.layout, place)
    }

    /// Places of the key columns, in the key's order.
    pub(in crate::sql) fn key(&self) -> &[usize] {
        &self.key
    }

    pub(crate) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    pub fn num_rows(&self) -> usize {
        self.rows
    }

    /// Bytes of rows and index, and of the columns that [`kept_batches`](Self::kept_batches) keeps.
    pub fn byte_len(&self) -> usize {
        self.arena.byte_len() + self.index.byte_len()
    }

    /// All rows.
    pub fn batches(&self) -> Result<Vec<RecordBatch>, ArrowError> {
        let blocks = self.arena.blocks().iter().filter(|block| block.len() > 0);
        blocks.map(|block| self.block_columns(block)).collect()
    }

    /// All rows, kept in columns besides for as long as they don't change: whoever reads all of them does so for every batch.
    pub(in crate::sql) fn kept_batches(&self) -> Result<Vec<RecordBatch>, ArrowError> {
        let blocks = self.arena.blocks().iter().filter(|block| block.len() > 0);
        blocks.map(|block| block.kept_columns(|| self.block_columns(block))).collect()
    }

    fn block_columns(&self, block: &Block) -> Result<RecordBatch, ArrowError> {
        let wanted: Vec<usize> = (0..self.schema.fields().len()).collect();
        let mut rows = block.rows(&self.layout);
        let columns = self.layout.columns(&wanted, block.len(), || rows.next().map(|(_, row)| Some(row)))?;
        let options = RecordBatchOptions::new().with_row_count(Some(block.len()));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)
    }

    /// The hashes of the keys of some rows, `None` for a key with a NULL; where they belong in the index is in the cache then.
    fn hashes(&self, cells: &[Cells], rows: std::ops::Range<usize>) -> Vec<Option<u64>> {
        let parts = |row: usize| self.key.iter().map(move |column| cells.get(*column)?.get(row));
        let hashes: Vec<Option<u64>> = rows.map(|row| key::hash(parts(row), &self.seed)).collect();
        self.touch(&hashes);
        hashes
    }

    fn touch(&self, hashes: &[Option<u64>]) {
        if self.rows <= NEAR_ROWS {
            return;
        }
        black_box(hashes.iter().flatten().fold(0, |sum, hash| sum ^ self.index.touch(*hash)));
    }

    /// The place of the row with the key of a row that isn't written.
    fn find_one(&self, cells: &[Cells], row: usize, hash: u64) -> Option<u32> {
        self.index.find(hash, |place| {
            let there = self.arena.at(place);
            self.key
                .iter()
                .all(|column| self.layout.get(there, *column) == cells.get(*column).and_then(|it| it.get(row)))
        })
    }

    /// For each of the first `count` keys the place of its row. `keys` has the columns of the key, in their order and of their types.
    pub(in crate::sql) fn find(&self, keys: &[Cells], count: usize) -> Vec<Option<u32>> {
        let mut found = Vec::with_capacity(count);
        for from in (0..count).step_by(GROUP) {
            let rows = from..count.min(from + GROUP);
            let hashes: Vec<Option<u64>> =
                rows.clone().map(|row| key::hash(keys.iter().map(|key| key.get(row)), &self.seed)).collect();
            self.touch(&hashes);
            // Nearly always the one: other rows with the same half of the hash are rare.
            let likely: Vec<Option<u32>> = hashes.iter().map(|hash| self.index.find((*hash)?, |_| true)).collect();
            self.touch_rows(&likely);
            for ((row, hash), likely) in rows.zip(hashes).zip(likely) {
                let same = |place: u32| {
                    let there = self.arena.at(place);
                    self.key.iter().zip(keys).all(|(column, key)| self.layout.get(there, *column) == key.get(row))
                };
                found.push(match (hash, likely) {
                    (Some(_), Some(place)) if same(place) => Some(place),
                    (Some(hash), Some(_)) => self.index.find(hash, same),
                    _ => None,
                });
            }
        }
        found
    }

    /// Has the beginnings of some rows in the cache.
    fn touch_rows(&self, places: &[Option<u32>]) {
        if self.rows <= NEAR_ROWS {
            return;
        }
        black_box(places.iter().flatten().fold(0, |sum, place| {
            let row = self.arena.at(*place);
            sum ^ row.first().unwrap_or(&0) ^ row.get(LINE).unwrap_or(&0)
        }));
    }

    /// Some columns of the rows at some places, NULL where there is no place.
    pub(in crate::sql) fn take(&self, columns: &[usize], places: &[Option<u32>]) -> Result<Vec<ArrayRef>, ArrowError> {
        let mut row = 0;
        self.layout.columns(columns, places.len(), || {
            if row % GROUP == 0 {
                self.touch_rows(places.get(row..places.len().min(row + GROUP))?);
            }
            row += 1;
            Some(places.get(row - 1)?.map(|place| self.arena.at(place)))
        })
    }

    /// Whether `other` has the same rows, in whatever order.
    pub fn same_rows(&self, other: &Self) -> bool {
        if self.num_rows() != other.num_rows() || self.schema != other.schema || self.key != other.key {
            return false;
        }
        self.arena.same_bytes(&other.arena)
            || other.arena.blocks().iter().all(|block| {
                let mut rows = block.rows(&self.layout).map(|(_, row)| row);
                std::iter::from_fn(|| {
                    Some(rows.by_ref().take(GROUP).collect()).filter(|group: &Vec<_>| !group.is_empty())
                })
                .all(|group| self.has(&group))
            })
    }

    /// Whether all of some written rows are here.
    fn has(&self, rows: &[&[u8]]) -> bool {
        let hashes: Vec<Option<u64>> = rows.iter().map(|row| self.hash_of(row)).collect();
        self.touch(&hashes);
        let find = |(row, hash): (&&[u8], &Option<u64>)| {
            self.index.find((*hash)?, |place| self.arena.at(place).get(..row.len()) == Some(*row))
        };
        rows.iter().zip(&hashes).all(|pair| find(pair).is_some())
    }

    /// The hash of a written row's key.
    fn hash_of(&self, row: &[u8]) -> Option<u64> {
        key::hash(self.key.iter().map(|column| self.layout.get(row, *column)), &self.seed)
    }

    /// Applies changes in their order: a row replaces the one with its key, or deletes it where `deleted` says so. Yields how many
    /// keys came to another row, or to none. Columns are as they are here, keys without NULLs; rows with one are passed over.
    pub fn apply(&mut self, rows: RecordBatch, deleted: &[bool]) -> Result<usize, ArrowError> {
        let rows = RecordBatch::try_new(Arc::clone(&self.schema), rows.columns().to_vec())?;
        let (mut changed, mut touched, mut counted) = (0, Vec::new(), 0);
        for part in parts(&rows) {
            let cells = self.layout.cells(part.columns())?;
            for from in (0..part.num_rows()).step_by(GROUP) {
                let hashes = self.hashes(&cells, from..part.num_rows().min(from + GROUP));
                for (row, hash) in (from..).zip(hashes) {
                    let Some(hash) = hash else { continue };
                    let earlier = self.find_one(&cells, row, hash);
                    let is_delete = deleted.get(counted + row).copied().unwrap_or_default();
                    if self.change(&cells, row, hash, earlier, is_delete)? {
                        touched.extend(earlier.map(arena::block_of));
                        changed += 1;
                    }
                }
            }
            counted += part.num_rows();
        }
        touched.sort_unstable();
        touched.dedup();
        for block in touched {
            self.tidy(block)?;
        }
        Ok(changed)
    }

    /// One change to the row with a key, which is at the place `earlier`, or nowhere. Yields whether anything is different now.
    fn change(
        &mut self,
        cells: &[Cells],
        row: usize,
        hash: u64,
        earlier: Option<u32>,
        is_delete: bool,
    ) -> Result<bool, ArrowError> {
        match (earlier, is_delete) {
            (None, true) => return Ok(false),
            (Some(found), false) if self.layout.same(self.arena.at(found), cells, row) => return Ok(false),
            (None, false) => {
                let place = self.arena.push(&self.layout, cells, row)?;
                self.index.insert(hash, place);
                self.rows += 1;
            }
            (Some(found), false) => {
                let place = self.arena.push(&self.layout, cells, row)?;
                self.index.replace(hash, found, place);
                self.arena.bury(&self.layout, found);
            }
            (Some(found), true) => {
                self.index.remove(hash, found);
                self.arena.bury(&self.layout, found);
                self.rows -= 1;
            }
        }
        Ok(true)
    }

    /// Clears out a block of which much is dead.
    fn tidy(&mut self, block: usize) -> Result<(), ArrowError> {
        if !self.arena.is_wasteful(block) {
            return Ok(());
        }
        let Self { arena, index, layout, key, seed, .. } = self;
        arena.vacate(layout, block, |row, from, to| {
            if let Some(hash) = key::hash(key.iter().map(|column| layout.get(row, *column)), seed) {
                index.replace(hash, from, to);
            }
        })
    }
}

/// A batch's rows in parts, so that what is made of nested values stays small.
fn parts(rows: &RecordBatch) -> impl Iterator<Item = RecordBatch> {
    let count = rows.num_rows();
    (0..count).step_by(PART).map(move |from| rows.slice(from, PART.min(count - from)))
}
