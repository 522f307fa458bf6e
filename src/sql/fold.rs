//! The fold of one batch, done natively: which accepted row of each key has the greatest version.
//!
//! The SQL of `latest` says the same in words that analysts know; this is the measure by which each of its results is checked
//! before it goes to the target (P1).

use std::hash::BuildHasher;

use arrow::array::Array;
use foldhash::fast::FixedState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::encoded::EncodedKeys;
use super::models::{ACCEPTED, LATEST};
use super::rows::Rows;
use crate::error::{Error, Kind, Result};

/// The accepted rows by key. Keys are numbered as they appear.
pub(super) struct Fold {
    keys: EncodedKeys,
    /// The number of each row's key.
    key_of: Vec<u32>,
    /// The row that wins, by the key's number.
    winners: Vec<u32>,
    /// Numbers of keys, found by key.
    numbers: HashTable<u32>,
    hasher: FixedState,
    /// Rows of an event that has another row with the same key.
    pub(super) doubles: Vec<u32>,
}

impl Fold {
    /// Folds `rows` with the given encoded `keys`; event times count only where `timed`.
    pub(super) fn new(rows: &Rows, keys: EncodedKeys, timed: bool) -> Self {
        let hasher = FixedState::default();
        let mut numbers: HashTable<u32> = HashTable::with_capacity(rows.len());
        let (mut key_of, mut winners): (_, Vec<u32>) = (Vec::with_capacity(rows.len()), Vec::new());
        let mut doubles = Vec::new();
        for row in 0..rows.len() as u32 {
            let key = keys.get(row as usize);
            let of = |number: &u32| keys.get(winners[*number as usize] as usize);
            let number =
                match numbers.entry(hasher.hash_one(key), |other| of(other) == key, |other| hasher.hash_one(of(other)))
                {
                    Entry::Vacant(slot) => {
                        let number = winners.len() as u32;
                        slot.insert(number);
                        winners.push(row);
                        number
                    }
                    Entry::Occupied(slot) => {
                        let number = *slot.get();
                        let winner = &mut winners[number as usize];
                        let (old, new) = (rows.version(*winner as usize, timed), rows.version(row as usize, timed));
                        match new.cmp(&old) {
                            std::cmp::Ordering::Greater => *winner = row,
                            std::cmp::Ordering::Equal => doubles.push(row),
                            std::cmp::Ordering::Less => {}
                        }
                        number
                    }
                };
            key_of.push(number);
        }
        Self { keys, key_of, winners, numbers, hasher, doubles }
    }

    /// How many keys there are.
    pub(super) fn len(&self) -> usize {
        self.winners.len()
    }

    /// The number of a row's key.
    pub(super) fn key_of(&self, row: usize) -> usize {
        self.key_of[row] as usize
    }

    fn number(&self, key: Option<&[u8]>) -> Option<u32> {
        let same = |number: &u32| self.keys.get(self.winners[*number as usize] as usize) == key;
        self.numbers.find(self.hasher.hash_one(key), same).copied()
    }

    /// Checks that `latest` holds each key's winner, once, and nothing else. Yields, by the key's number, its row there.
    pub(super) fn verify(&self, accepted: &Rows, latest: &Rows, latest_keys: &EncodedKeys) -> Result<Vec<u32>> {
        const NONE: u32 = u32::MAX;
        let mut places = vec![NONE; self.len()];
        let mut walk = Some(0);
        for row in 0..latest.len() {
            let (position, key) = (latest.position(row), latest_keys.get(row));
            // Mostly the rows come as they were in `accepted`, which is looked through once; otherwise each key is looked up.
            let same = |at: &usize| accepted.position(*at) == position && self.keys.get(*at) == key;
            walk = walk.and_then(|from| (from..accepted.len()).find(same));
            let number = match walk {
                Some(at) => Some(self.key_of[at]),
                None => self.number(key),
            };
            let Some(number) = number else {
                return Err(wrong(format!("it holds a key that {ACCEPTED} doesn't have, at {position}")));
            };
            let winner = self.winners[number as usize] as usize;
            let right = accepted.position(winner);
            if right != position {
                return Err(wrong(format!(
                    "for one key it holds the change at {position}, but the one with the greatest version is at {right}"
                )));
            }
            if std::mem::replace(&mut places[number as usize], row as u32) != NONE {
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
        Ok(places)
    }
}

fn wrong(what: String) -> Error {
    Error::new(Kind::Model, format!("{LATEST}.sql doesn't yield the newest row of each key: {what}"))
        .remedy("keep one row per key: ROW_NUMBER() OVER (PARTITION BY <key> ORDER BY ts DESC, _partition DESC, _offset DESC) = 1")
}
