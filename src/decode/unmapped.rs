//! Fields that no schema knows: counted by name, once per good event.

use std::collections::BTreeMap;

use foldhash::fast::RandomState;
use hashbrown::HashMap;

/// More different names than this in one batch are no fields but values in the wrong place; the rest counts as one.
const MAX_NAMES: usize = 256;
/// Name that the rest goes by.
pub const OTHER_FIELDS: &str = "(other fields)";
/// Longer names are cut: they become labels of metrics.
const MAX_NAME_CHARS: usize = 128;

/// Names seen in a batch. Those of the event being read are pending until it turns out to be good.
#[derive(Default)]
pub(super) struct Unmapped {
    ids: HashMap<Box<str>, usize, RandomState>,
    /// Events that had the name, by id.
    counts: Vec<u64>,
    /// Ids of names in the event being read; few, so a linear search keeps repeats out.
    pending: Vec<usize>,
}

impl Unmapped {
    /// Notes that the event being read has a field `name`.
    pub(super) fn note(&mut self, name: &str) {
        let id = match self.ids.get(name) {
            Some(id) => *id,
            None => self.new_id(name),
        };
        if !self.pending.contains(&id) {
            self.pending.push(id);
        }
    }

    fn new_id(&mut self, name: &str) -> usize {
        let kept: String = match self.counts.len() {
            count if count < MAX_NAMES => name.chars().take(MAX_NAME_CHARS).collect(),
            _ => OTHER_FIELDS.to_owned(),
        };
        let counts = &mut self.counts;
        *self.ids.entry(kept.into_boxed_str()).or_insert_with(|| {
            counts.push(0);
            counts.len() - 1
        })
    }

    /// Forgets the names of an event that turned out bad, or begins a new one.
    pub(super) fn forget_pending(&mut self) {
        self.pending.clear();
    }

    pub(super) fn count_pending(&mut self) {
        for id in self.pending.drain(..) {
            if let Some(count) = self.counts.get_mut(id) {
                *count += 1;
            }
        }
    }

    /// Names and counts since the last call.
    pub(super) fn take(&mut self) -> BTreeMap<String, u64> {
        let counts = std::mem::take(&mut self.counts);
        self.pending.clear();
        let named = self.ids.drain().filter_map(|(name, id)| {
            let count = counts.get(id).copied().filter(|count| *count > 0)?;
            Some((name.into_string(), count))
        });
        named.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_counts_once_per_good_event() {
        let mut unmapped = Unmapped::default();
        for name in ["phone", "plan", "phone"] {
            unmapped.note(name);
        }
        unmapped.count_pending();
        unmapped.note("plan");
        unmapped.note("never");
        unmapped.forget_pending();
        unmapped.note("phone");
        unmapped.count_pending();
        assert_eq!(unmapped.take(), BTreeMap::from([("phone".to_owned(), 2), ("plan".to_owned(), 1)]));
        assert_eq!(unmapped.take(), BTreeMap::new());
    }

    // Proves: P6, R62
    #[test]
    fn names_stay_few_and_short() {
        let mut unmapped = Unmapped::default();
        unmapped.note(&"x".repeat(100_000));
        for name in 0..10_000 {
            unmapped.note(&name.to_string());
        }
        unmapped.count_pending();
        let names = unmapped.take();
        assert_eq!(names.len(), MAX_NAMES + 1);
        assert_eq!(names.get(OTHER_FIELDS), Some(&1));
        assert!(names.keys().all(|name| name.chars().count() <= MAX_NAME_CHARS));
    }
}
