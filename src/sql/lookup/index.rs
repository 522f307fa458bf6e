//! Where the row with a key is, by the key's hash: a table of 64-bit slots, eight to a cache line.
//!
//! A slot holds half of the hash beside the row's place, so that rows which can't be meant are told apart without a look at them, and so
//! that the table grows without one. The upper half of a hash chooses a bucket; what a full bucket can't take lies in the next.

/// Slots of a bucket; together they fill one cache line.
const SLOTS: usize = 8;

#[derive(Debug, Clone, Copy, Default)]
#[repr(align(64))]
struct Bucket([u64; SLOTS]);

/// See the module page. The places of rows are the table's.
#[derive(Debug, Clone, Default)]
pub(super) struct Index {
    buckets: Vec<Bucket>,
    len: usize,
}

/// A slot: the upper half of the hash stays, where it is never 0, so that no free slot looks like one.
fn slot(hash: u64, place: u32) -> u64 {
    (hash | 1 << 32) & !u64::from(u32::MAX) | u64::from(place)
}

impl Bucket {
    /// A bit for each slot with the upper half of this one. No slot is left for another by a branch, which would be guessed wrong.
    #[inline]
    fn alike(&self, wanted: u64) -> u32 {
        self.0.iter().enumerate().fold(0, |bits, (nth, slot)| bits | u32::from((slot ^ wanted) >> 32 == 0) << nth)
    }

    /// Slots in use come first.
    #[inline]
    fn is_full(&self) -> bool {
        self.0[SLOTS - 1] != 0
    }
}

impl Index {
    pub(super) fn with_capacity(rows: usize) -> Self {
        // Three quarters full: a key that isn't there is mostly told by one cache line.
        Self { buckets: vec![Bucket::default(); rows.div_ceil(SLOTS * 3 / 4)], len: 0 }
    }

    /// The bucket that a slot belongs to.
    #[inline]
    fn home(&self, slot: u64) -> usize {
        (((slot >> 32) * self.buckets.len() as u64) >> 32) as usize
    }

    fn after(&self, bucket: usize) -> usize {
        if bucket + 1 == self.buckets.len() { 0 } else { bucket + 1 }
    }

    pub(super) fn byte_len(&self) -> usize {
        self.buckets.capacity() * size_of::<Bucket>()
    }

    /// A word of the bucket that a hash belongs to: whoever asks for many of them one after the other has them in the cache afterwards.
    #[inline]
    pub(super) fn touch(&self, hash: u64) -> u64 {
        self.buckets.get(self.home(slot(hash, 0))).map_or(0, |bucket| bucket.0[0])
    }

    /// Where a slot is for which `is_it` holds, asked of the places of slots with the same half of the hash.
    #[inline]
    fn position(&self, hash: u64, mut is_it: impl FnMut(u32) -> bool) -> Option<(usize, usize)> {
        let wanted = slot(hash, 0);
        let mut at = self.home(wanted);
        for _ in 0..self.buckets.len() {
            let bucket = self.buckets.get(at)?;
            let mut alike = bucket.alike(wanted);
            while alike != 0 {
                let nth = alike.trailing_zeros() as usize;
                if is_it(bucket.0[nth % SLOTS] as u32) {
                    return Some((at, nth));
                }
                alike &= alike - 1;
            }
            if !bucket.is_full() {
                return None;
            }
            at = self.after(at);
        }
        None
    }

    /// The place of the first row of this hash for which `is_it` holds.
    #[inline]
    pub(super) fn find(&self, hash: u64, is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        let (bucket, nth) = self.position(hash, is_it)?;
        Some(self.buckets.get(bucket)?.0[nth % SLOTS] as u32)
    }

    /// Adds a row, whose key mustn't be there.
    pub(super) fn insert(&mut self, hash: u64, place: u32) {
        if (self.len + 1) * 4 > self.buckets.len() * SLOTS * 3 {
            self.grow();
        }
        self.put(slot(hash, place));
        self.len += 1;
    }

    fn put(&mut self, slot: u64) {
        let mut at = self.home(slot);
        for _ in 0..self.buckets.len() {
            if let Some(free) = self.buckets.get_mut(at).and_then(|bucket| bucket.0.iter_mut().find(|slot| **slot == 0))
            {
                *free = slot;
                return;
            }
            at = self.after(at);
        }
    }

    fn grow(&mut self) {
        let larger = Self::with_capacity((self.len * 3 / 2).max(SLOTS * 3 / 4));
        let old = std::mem::replace(self, Self { len: self.len, ..larger });
        for bucket in &old.buckets {
            bucket.0.iter().filter(|slot| **slot != 0).for_each(|slot| self.put(*slot));
        }
    }

    /// Points from one place of a row to another.
    pub(super) fn replace(&mut self, hash: u64, from: u32, to: u32) {
        if let Some((bucket, nth)) = self.position(hash, |place| place == from)
            && let Some(there) = self.buckets.get_mut(bucket).and_then(|bucket| bucket.0.get_mut(nth))
        {
            *there = slot(hash, to);
        }
    }

    /// Lets go of a row. Slots of a bucket stay close together, and one from a later bucket that belongs here comes back: a search ends
    /// at the first free slot.
    pub(super) fn remove(&mut self, hash: u64, place: u32) {
        let Some((mut hole, nth)) = self.position(hash, |other| other == place) else { return };
        self.len -= 1;
        let mut was_full = self.close(hole, nth);
        let mut at = hole;
        while was_full {
            at = self.after(at);
            if at == hole {
                return;
            }
            let Some(bucket) = self.buckets.get(at) else { return };
            let is_full = bucket.is_full();
            // How far a bucket is behind the hole: what belongs further ahead must stay.
            let behind = |bucket: usize| (bucket + self.buckets.len() - hole) % self.buckets.len();
            let returns = bucket.0.iter().position(|slot| {
                *slot != 0 && {
                    let home = behind(self.home(*slot));
                    home == 0 || home > behind(at)
                }
            });
            match returns {
                Some(nth) => {
                    let slot = bucket.0[nth];
                    if let Some(there) = self.buckets.get_mut(hole) {
                        there.0[SLOTS - 1] = slot;
                    }
                    self.close(at, nth);
                    hole = at;
                    was_full = is_full;
                }
                None => was_full = is_full,
            }
        }
    }

    /// Takes a slot out of its bucket; yields whether the bucket was full.
    fn close(&mut self, bucket: usize, nth: usize) -> bool {
        let Some(bucket) = self.buckets.get_mut(bucket) else { return false };
        let was_full = bucket.is_full();
        bucket.0.copy_within(nth + 1.., nth);
        bucket.0[SLOTS - 1] = 0;
        was_full
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::Index;

    proptest! {
        /// Few hashes, close together at the end of their range: buckets overflow, and round the end into the first.
        #[test]
        fn an_index_is_what_a_map_would_be(
            steps in proptest::collection::vec((0_u64..90, proptest::bool::weighted(0.6)), 1..400),
            spread in prop_oneof![Just(1_u64 << 32), Just(1 << 40), Just(1 << 57), Just(3)],
            room in 0_usize..100,
        ) {
            let hash = |key: u64| u64::MAX - (key / 2) * spread;
            let mut index = Index::with_capacity(room);
            let mut map = BTreeMap::new();
            for (nth, (key, add)) in (0..).zip(steps) {
                match (map.get(&key).copied(), add) {
                    (None, true) => {
                        index.insert(hash(key), nth);
                        map.insert(key, nth);
                    }
                    (Some(there), true) => {
                        index.replace(hash(key), there, nth);
                        map.insert(key, nth);
                    }
                    (Some(there), false) => {
                        index.remove(hash(key), there);
                        map.remove(&key);
                    }
                    (None, false) => index.remove(hash(key), nth),
                }
                for key in 0..90 {
                    let place = map.get(&key).copied();
                    prop_assert_eq!(index.find(hash(key), |found| Some(found) == place), place);
                }
                let slots = index.buckets.iter().flat_map(|bucket| bucket.0).filter(|slot| *slot != 0);
                prop_assert_eq!((index.len, slots.count()), (map.len(), map.len()));
            }
        }
    }
}
