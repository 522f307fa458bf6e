//! Where a lookup's rows lie: one after the other in blocks of a megabyte.
//!
//! A row's place is a number that says block and unit. Rows are added at the end and marked when they are replaced; a block of which more
//! than a quarter is dead is given back once its living rows were copied to the end, which bounds both the waste and how long one
//! change can take. A clone shares the blocks, and a block that somebody shares is copied before it is changed.

use std::sync::{Arc, OnceLock};

use arrow::array::RecordBatch;
use arrow::error::ArrowError;

use super::cells::Cells;
use super::row::{self, Layout, UNIT};

/// No row begins behind so many bytes of its block.
const BLOCK: usize = 1 << 20;
/// Units that rows of a block can begin at, as a power of two.
const UNITS: u32 = (BLOCK / UNIT).ilog2();
/// Blocks that can be numbered.
const MAX_BLOCKS: usize = 1 << (u32::BITS - UNITS);

/// Up to so many blocks, one grows with its rows instead of being allocated as a whole.
const SMALL: usize = 2;

#[derive(Debug, Clone, Default)]
pub(super) struct Arena {
    blocks: Vec<Arc<Block>>,
    /// Where rows are added.
    open: usize,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Block {
    bytes: Vec<u8>,
    /// The living rows.
    rows: usize,
    dead_bytes: usize,
    /// The living rows in columns, once somebody wanted all of them.
    columns: OnceLock<RecordBatch>,
}

fn place(block: usize, at: usize) -> u32 {
    ((block << UNITS) | (at / UNIT)) as u32
}

/// The number of a place's block.
pub(super) fn block_of(place: u32) -> usize {
    (place >> UNITS) as usize
}

impl Arena {
    /// The row at a place, and what lies behind it in its block.
    #[inline]
    pub(super) fn at(&self, place: u32) -> &[u8] {
        let at = (place as usize & ((1 << UNITS) - 1)) * UNIT;
        self.blocks.get(block_of(place)).and_then(|block| block.bytes.get(at..)).unwrap_or_default()
    }

    pub(super) fn blocks(&self) -> &[Arc<Block>] {
        &self.blocks
    }

    /// Adds a row at the end.
    pub(super) fn push(&mut self, layout: &Layout, cells: &[Cells], row: usize) -> Result<u32, ArrowError> {
        let needed = layout.needed(cells, row)?;
        let (number, block) = self.room(needed)?;
        let at = block.bytes.len();
        layout.write(cells, row, &mut block.bytes);
        block.rows += 1;
        Ok(place(number, at))
    }

    /// The open block, with room for so many bytes; a new one where it has none.
    fn room(&mut self, needed: usize) -> Result<(usize, &mut Block), ArrowError> {
        let is_full = self.blocks.get(self.open).is_none_or(|block| block.bytes.len() + needed > BLOCK);
        if is_full && self.blocks.get(self.open).is_none_or(|block| !block.bytes.is_empty()) {
            self.open = match self.blocks.iter().position(|block| block.bytes.is_empty()) {
                Some(free) => free,
                None if self.blocks.len() == MAX_BLOCKS => {
                    let message = format!("a lookup holds at most {MAX_BLOCKS} blocks of {BLOCK} bytes");
                    return Err(ArrowError::InvalidArgumentError(message));
                }
                None => {
                    self.blocks.push(Arc::default());
                    self.blocks.len() - 1
                }
            };
        }
        let is_small = self.blocks.len() <= SMALL;
        let Some(block) = self.blocks.get_mut(self.open).map(Arc::make_mut) else {
            return Err(ArrowError::ComputeError("a block of a lookup is gone".to_owned()));
        };
        let length = block.bytes.len();
        if block.bytes.capacity() < length + needed {
            let whole = (length + needed).max(if is_small { (length * 2).min(BLOCK) } else { BLOCK });
            block.bytes.reserve_exact(whole - length);
        }
        block.columns.take();
        Ok((self.open, block))
    }

    /// Gives back what the open block has kept for more.
    pub(super) fn shrink(&mut self) {
        if let Some(block) = self.blocks.get_mut(self.open) {
            Arc::make_mut(block).bytes.shrink_to_fit();
        }
    }

    /// Marks a row as replaced or deleted.
    pub(super) fn bury(&mut self, layout: &Layout, place: u32) {
        let length = layout.length(self.at(place));
        let at = (place as usize & ((1 << UNITS) - 1)) * UNIT;
        let Some(block) = self.blocks.get_mut(block_of(place)).map(Arc::make_mut) else { return };
        if let Some(row) = block.bytes.get_mut(at..) {
            row::bury(row);
        }
        block.rows -= 1;
        block.dead_bytes += length;
        block.columns.take();
    }

    /// Whether more than a quarter of a block is dead.
    pub(super) fn is_wasteful(&self, block: usize) -> bool {
        self.blocks.get(block).is_some_and(|block| block.dead_bytes * 4 > block.bytes.len())
    }

    /// Copies the living rows of a block to the end and gives it back; `moved` is told each row, its old place and its new one.
    pub(super) fn vacate(
        &mut self,
        layout: &Layout,
        number: usize,
        mut moved: impl FnMut(&[u8], u32, u32),
    ) -> Result<(), ArrowError> {
        // One more block is enough: what lives is less than a block, if it isn't a single row, which would be dead.
        if self.blocks.len() == MAX_BLOCKS && self.blocks.iter().all(|block| !block.bytes.is_empty()) {
            return Ok(());
        }
        let Some(old) = self.blocks.get(number).map(Arc::clone) else { return Ok(()) };
        if number == self.open {
            // Not to be written to any more, and not free before its rows are elsewhere.
            self.open = self.blocks.len();
        }
        for (at, row) in old.rows(layout) {
            let (block, into) = self.room(row.len())?;
            let to = place(block, into.bytes.len());
            into.bytes.extend_from_slice(row);
            into.rows += 1;
            moved(row, place(number, at), to);
        }
        if let Some(block) = self.blocks.get_mut(number) {
            *block = Arc::default();
        }
        Ok(())
    }

    /// How many rows were added before the one at a place, in an arena of which no block was ever given back.
    pub(super) fn ordinal(&self, layout: &Layout, place: u32) -> usize {
        let at = (place as usize & ((1 << UNITS) - 1)) * UNIT;
        let before = self.blocks.iter().take(block_of(place)).map(|block| block.all(layout).count()).sum::<usize>();
        let within = self.blocks.get(block_of(place));
        before + within.map_or(0, |block| block.all(layout).take_while(|(other, _)| *other < at).count())
    }

    pub(super) fn byte_len(&self) -> usize {
        self.blocks.iter().map(|block| block.byte_len()).sum()
    }

    /// Whether the bytes are the same; rows may be so even if they aren't.
    pub(super) fn same_bytes(&self, other: &Self) -> bool {
        self.blocks.len() == other.blocks.len()
            && self.blocks.iter().zip(&other.blocks).all(|(here, there)| here.bytes == there.bytes)
    }
}

impl Block {
    /// All rows with where they begin, the dead among them.
    fn all<'a>(&'a self, layout: &'a Layout) -> impl Iterator<Item = (usize, &'a [u8])> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let rest = self.bytes.get(at..).filter(|rest| !rest.is_empty())?;
            let row = rest.get(..layout.length(rest))?;
            at += row.len();
            Some((at - row.len(), row))
        })
    }

    /// The living rows with where they begin.
    pub(super) fn rows<'a>(&'a self, layout: &'a Layout) -> impl Iterator<Item = (usize, &'a [u8])> {
        self.all(layout).filter(|(_, row)| !row::is_dead(row))
    }

    pub(super) fn len(&self) -> usize {
        self.rows
    }

    /// The living rows in columns, kept for the next who wants them.
    pub(super) fn kept_columns(
        &self,
        make: impl FnOnce() -> Result<RecordBatch, ArrowError>,
    ) -> Result<RecordBatch, ArrowError> {
        if let Some(columns) = self.columns.get() {
            return Ok(columns.clone());
        }
        let columns = make()?;
        Ok(self.columns.get_or_init(|| columns).clone())
    }

    fn byte_len(&self) -> usize {
        self.bytes.capacity() + self.columns.get().map_or(0, RecordBatch::get_array_memory_size)
    }
}
