//! The fold of one batch, done natively: which accepted row of each key has the greatest version.
//!
//! The SQL of `latest` says the same in words that analysts know; this is the measure by which each of its results is checked
//! before it goes to the target (P1).

use std::hash::BuildHasher;

use arrow::array::{Array, ArrayRef};
use arrow::datatypes::DataType;
use arrow::row::{Row, RowConverter, SortField};
use foldhash::fast::FixedState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::models::{ACCEPTED, LATEST};
use super::rows::Rows;
use crate::error::{Error, Kind, Result};

/// The keys of a model's rows as comparable bytes.
pub(super) type EncodedKeys = arrow::row::Rows;

/// Turns key columns into [`EncodedKeys`], ordered as the target's key is.
pub(super) struct Encoder(RowConverter);

impl Encoder {
    pub(super) fn new<'a>(types: impl Iterator<Item = &'a DataType>) -> Result<Self> {
        let fields = types.map(|kind| SortField::new(kind.clone())).collect();
        RowConverter::new(fields).map(Self).map_err(unsortable)
    }

    pub(super) fn encode(&self, keys: &[ArrayRef]) -> Result<EncodedKeys> {
        self.0.convert_columns(keys).map_err(unsortable)
    }
}

fn unsortable(error: arrow::error::ArrowError) -> Error {
    Error::new(Kind::Bug, "the key columns can't be compared").source(error)
}

/// Per key of the accepted rows: the row that wins.
pub(super) struct Fold {
    pub(super) keys: EncodedKeys,
    /// Row numbers, one per key.
    winners: HashTable<u32>,
    hasher: FixedState,
    /// Rows of an event that has another row with the same key.
    pub(super) doubles: Vec<u32>,
}

impl Fold {
    /// Folds `rows` with the given encoded `keys`; event times count only where `timed`.
    pub(super) fn new(rows: &Rows, keys: EncodedKeys, timed: bool) -> Self {
        let hasher = FixedState::default();
        let mut winners: HashTable<u32> = HashTable::with_capacity(rows.len());
        let mut doubles = Vec::new();
        let hash = |row: u32| hasher.hash_one(keys.row(row as usize).as_ref());
        for row in 0..rows.len() as u32 {
            let same = |other: &u32| keys.row(*other as usize) == keys.row(row as usize);
            match winners.entry(hash(row), same, |other| hash(*other)) {
                Entry::Vacant(slot) => {
                    slot.insert(row);
                }
                Entry::Occupied(mut slot) => {
                    let (old, new) = (rows.version(*slot.get() as usize, timed), rows.version(row as usize, timed));
                    match new.cmp(&old) {
                        std::cmp::Ordering::Greater => *slot.get_mut() = row,
                        std::cmp::Ordering::Equal => doubles.push(row),
                        std::cmp::Ordering::Less => {}
                    }
                }
            }
        }
        Self { keys, winners, hasher, doubles }
    }

    pub(super) fn len(&self) -> usize {
        self.winners.len()
    }

    fn winner(&self, key: Row<'_>) -> Option<u32> {
        let same = |row: &u32| self.keys.row(*row as usize) == key;
        self.winners.find(self.hasher.hash_one(key.as_ref()), same).copied()
    }

    /// Checks that `latest` holds each key's winner, once, and nothing else.
    pub(super) fn verify(&self, accepted: &Rows, latest: &Rows, latest_keys: &EncodedKeys) -> Result<()> {
        let mut seen = vec![false; accepted.len()];
        for row in 0..latest.len() {
            let position = latest.position(row);
            let Some(winner) = self.winner(latest_keys.row(row)) else {
                return Err(wrong(format!("it holds a key that {ACCEPTED} doesn't have, at {position}")));
            };
            let winner = winner as usize;
            let right = accepted.position(winner);
            if right != position {
                return Err(wrong(format!(
                    "for one key it holds the change at {position}, but the one with the greatest version is at {right}"
                )));
            }
            if std::mem::replace(&mut seen[winner], true) {
                return Err(wrong(format!("it holds a key twice, at {position}")));
            }
            if latest.deleted.is_null(row) || latest.deleted.value(row) != accepted.deleted.value(winner) {
                return Err(wrong(format!("`_deleted` of the row at {position} isn't what {ACCEPTED} has")));
            }
            if latest.ts.is_null(row) || latest.ts.value(row) != accepted.ts.value(winner) {
                return Err(wrong(format!("`ts` of the row at {position} isn't what {ACCEPTED} has")));
            }
        }
        if latest.len() != self.len() {
            let (rows, keys) = (latest.len(), self.len());
            return Err(wrong(format!("it has {rows} rows for {keys} keys")));
        }
        Ok(())
    }
}

fn wrong(what: String) -> Error {
    Error::new(Kind::Model, format!("{LATEST}.sql doesn't yield the newest row of each key: {what}"))
        .remedy("keep one row per key: ROW_NUMBER() OVER (PARTITION BY <key> ORDER BY ts DESC, _partition DESC, _offset DESC) = 1")
}

/// Row numbers in key order.
pub(super) fn sorted(keys: &EncodedKeys) -> Vec<u32> {
    let mut order: Vec<u32> = (0..keys.num_rows() as u32).collect();
    order.sort_unstable_by(|left, right| keys.row(*left as usize).cmp(&keys.row(*right as usize)));
    order
}
