//! What the last batches were like, shared by all writers of a pipeline. What is saved by a guess made from it is saved only where the
//! server's own counts say that it came true: a wrong one costs time and nothing else.
//!
//! In: keys of batches that are on their way, in their order, and what became of guesses. Out: whether the next batch is likely to be all
//! new ([`Guess`]), and which keys are likely to have a row: what is changed once is likely to be changed again, and how far that can be
//! relied on.

use std::sync::{Mutex, MutexGuard, PoisonError};

use arrow::array::{AsArray, RecordBatch};
use datafusion::common::hash_utils::{RandomState, create_hashes};

use super::stage::{Marks, Op};
use crate::target::Target;

/// Keys remembered at most; 4 MiB.
const SLOTS: usize = 1 << 20;

/// After a guess that failed, so many times as many batches have to be new before the next one, until as many guesses have come true.
const DISTRUST: u32 = 8;
const MOST_DISTRUST: u32 = 4096;

/// See the module page.
#[derive(Default)]
pub struct Experience(Mutex<Lately>);

struct Lately {
    guess: Guess,
    recent: RecentKeys,
    /// Whether keys that are taken to have a row do.
    updates: Guess,
}

impl Default for Lately {
    fn default() -> Self {
        Self { guess: Guess::default(), recent: RecentKeys::default(), updates: Guess::CERTAIN }
    }
}

impl Experience {
    fn lately(&self) -> MutexGuard<'_, Lately> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn expects_new_rows(&self) -> bool {
        self.lately().guess.is_likely()
    }

    /// Learns, or is told, how good a guess new rows are.
    pub fn guess(&self, learn: impl FnOnce(&mut Guess)) {
        learn(&mut self.lately().guess);
    }

    /// Whether rows of keys that are likely to have one are written as updates, see [`super::updates`].
    pub fn relies_on_stored(&self) -> bool {
        self.lately().updates.is_likely()
    }

    /// Begins anew to do so.
    pub fn rely_on_stored(&self) {
        self.lately().updates = Guess::CERTAIN;
    }

    /// Learns from a batch: whether all rows that were written as updates were some. Of a batch without any there is nothing to be wrong.
    pub fn relied_on_stored(&self, right: bool) {
        let mut lately = self.lately();
        if right { lately.updates.note(true) } else { lately.updates.failed() }
    }

    /// Per row of a batch, whether its key is likely to have one when the batch's turn comes. Learns at once what will be there after it:
    /// the next batch is asked about while this one is still under way. Of a `late` key it isn't known which of its events wins.
    pub fn stored(&self, keys: &[u64], rows: &RecordBatch, late: &[bool]) -> Vec<bool> {
        let deleted = rows.column_by_name("_deleted").and_then(|column| column.as_boolean_opt());
        let mut lately = self.lately();
        let recent = &mut lately.recent;
        let mut stored = Vec::with_capacity(keys.len());
        for (row, key) in keys.iter().enumerate() {
            stored.push(recent.contains(*key));
            match Marks::default().op(deleted, row) {
                Op::Delete => recent.remove(*key),
                Op::Insert | Op::Update if late.get(row).copied().unwrap_or(false) => {}
                Op::Insert | Op::Update => recent.add(*key),
            }
        }
        stored
    }

    /// Forgets keys: what was learned from a batch that came to nothing.
    pub fn forget(&self, keys: &[u64]) {
        let mut lately = self.lately();
        keys.iter().for_each(|key| lately.recent.remove(*key));
    }
}

/// Whether something is likely of the next batch that was so of the last ones: that all of it is new, as the first load of a table is,
/// or that keys have rows.
#[derive(Debug)]
pub struct Guess {
    /// Successive batches of which it was so.
    streak: u32,
    /// How many it takes.
    wanted: u32,
}

impl Default for Guess {
    fn default() -> Self {
        Self { streak: 0, wanted: 1 }
    }
}

impl Guess {
    pub const CERTAIN: Self = Self { streak: 0, wanted: 0 };

    pub fn is_likely(&self) -> bool {
        self.streak >= self.wanted
    }

    /// Learns from a batch that was merged.
    pub fn note(&mut self, was_so: bool) {
        self.streak = if was_so { self.streak.saturating_add(1) } else { 0 };
        if self.wanted > 1 && self.streak >= self.wanted.saturating_mul(2) {
            self.wanted = 1;
        }
    }

    /// Learns from a guess that failed.
    pub fn failed(&mut self) {
        *self = Self { streak: 0, wanted: (self.wanted.max(1) * DISTRUST).min(MOST_DISTRUST) };
    }
}

/// Keys written last, by part of their hashes, in a table of fixed size: a newer key takes an older one's place.
#[derive(Default)]
struct RecentKeys {
    /// Never 0 for a key; 0 where there is none. Empty until the first key is added.
    slots: Vec<u32>,
}

impl RecentKeys {
    fn contains(&self, key: u64) -> bool {
        let (slot, tag) = place(key);
        self.slots.get(slot) == Some(&tag)
    }

    fn add(&mut self, key: u64) {
        if self.slots.is_empty() {
            self.slots = vec![0; SLOTS];
        }
        let (slot, tag) = place(key);
        if let Some(there) = self.slots.get_mut(slot) {
            *there = tag;
        }
    }

    fn remove(&mut self, key: u64) {
        let (slot, tag) = place(key);
        if let Some(there) = self.slots.get_mut(slot).filter(|there| **there == tag) {
            *there = 0;
        }
    }
}

/// Lower and upper bits, so that neither says anything about the other.
fn place(key: u64) -> (usize, u32) {
    (key as usize % SLOTS, (key >> 32) as u32 | 1)
}

/// A number for each row's key; none at all where the batch isn't as the target wants it, which staging it will say.
pub fn keys(target: &Target, rows: &RecordBatch) -> Vec<u64> {
    let columns = target.keys().iter().map(|column| rows.column_by_name(&column.name).cloned());
    let Some(columns) = columns.collect::<Option<Vec<_>>>() else { return Vec::new() };
    let mut keys = vec![0; rows.num_rows()];
    match create_hashes(&columns, &RandomState::default(), &mut keys) {
        Ok(_) => keys,
        Err(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, BooleanArray};

    use super::*;

    #[test]
    fn a_guess_that_failed_takes_eight_times_as_many_new_batches_before_the_next() {
        let mut guess = Guess::default();
        assert!(!guess.is_likely(), "nothing is known of the first batch");
        for wanted in [1, 8, 64] {
            for _ in 1..wanted {
                guess.note(true);
                assert!(!guess.is_likely());
            }
            guess.note(true);
            assert!(guess.is_likely());
            guess.note(true);
            assert!(guess.is_likely(), "and as long as it comes true");
            guess.failed();
            assert!(!guess.is_likely());
        }
        guess.note(true);
        guess.note(false);
        guess.note(true);
        assert_eq!(guess.streak, 1);
    }

    #[test]
    fn guesses_that_come_true_as_often_as_they_were_not_made_restore_trust() {
        let mut guess = Guess::default();
        guess.failed();
        guess.failed();
        (0..64 + 63).for_each(|_| guess.note(true));
        assert_eq!(guess.wanted, 64);
        guess.note(true);
        assert_eq!(guess.wanted, 1);
        assert!(guess.is_likely());
    }

    #[test]
    fn of_a_key_it_is_known_what_the_batch_before_leaves_of_it() {
        let experience = Experience::default();
        let batch = |deleted: [bool; 4]| {
            let deleted: ArrayRef = Arc::new(BooleanArray::from(deleted.to_vec()));
            RecordBatch::try_from_iter([("_deleted", deleted)]).unwrap()
        };
        let (none, keys, upserts) = ([false; 4], [1, 2, 3, 4], batch([false; 4]));
        assert_eq!(experience.stored(&keys, &upserts, &none), none, "never seen");
        assert_eq!(
            experience.stored(&keys, &batch([true, true, false, false]), &[false, true, false, true]),
            [true; 4]
        );
        let late = [false, true, true, false];
        assert_eq!(
            experience.stored(&keys, &upserts, &late),
            [false, false, true, true],
            "a deleted key has no row, late or not"
        );
        let after = experience.stored(&keys, &upserts, &none);
        assert_eq!(after, [true, false, true, true], "what is late may have lost against a delete");
        experience.forget(&[1, 3]);
        assert_eq!(experience.stored(&keys, &upserts, &none), [false, true, false, true]);
    }

    #[test]
    fn a_key_is_remembered_until_it_is_removed_or_another_takes_its_place() {
        let mut recent = RecentKeys::default();
        let (key, same_slot, same_tag) = (5 << 32 | 7, 9 << 32 | 7, 5 << 32 | 8);
        assert!(!recent.contains(key));
        recent.remove(key);
        recent.add(key);
        assert!(recent.contains(key) && !recent.contains(same_slot) && !recent.contains(same_tag));
        recent.remove(same_slot);
        assert!(recent.contains(key));
        recent.remove(key);
        assert!(!recent.contains(key));
        recent.add(key);
        recent.add(same_slot);
        assert!(!recent.contains(key) && recent.contains(same_slot));
    }
}
