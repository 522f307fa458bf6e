//! Who has to wait: users whose earlier event is in quarantine (promise P5, design section 7).
//!
//! In: the keys of each event in offset order, which events failed, which users wait already. Out: a verdict per event.
//! Within one partition an event waits if *any* of its keys (two for a change of key) is on hold, and a refused or waiting
//! event puts *all* of its keys on hold from its own offset on. Pure: no I/O, no clock.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use crate::position::{Partition, Position};

/// One user: the key columns' values as a JSON array, e.g. `["123"]`, the same text in memory and in quarantine.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(pub Box<str>);

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A record that stands in quarantine and keeps its users waiting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    pub keys: Vec<Key>,
    pub state: PendingState,
}

/// Why a record is pending, and what an operator asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PendingState {
    /// Refused; waits for an operator (or for the lookup that made it fail to change).
    Refused,
    /// Refused, and asked to be tried again.
    Retry,
    /// Behind a refused record of one of its users.
    Held,
}

/// All pending records of the partitions that this instance owns.
#[derive(Debug, Clone, Default)]
pub struct HoldSet {
    pending: BTreeMap<Position, Pending>,
    /// How many pending records of a partition name a key.
    waiting: HashMap<(Partition, Key), usize>,
}

impl HoldSet {
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    pub fn len(&self) -> usize {
        self.pending.len()
    }

    pub fn get(&self, position: Position) -> Option<&Pending> {
        self.pending.get(&position)
    }

    /// Whether `key` waits in `partition`.
    pub fn holds(&self, partition: Partition, key: &Key) -> bool {
        !self.waiting.is_empty() && self.waiting.contains_key(&(partition, key.clone()))
    }

    /// Keys that wait in any partition, with the partition.
    pub fn keys(&self) -> impl Iterator<Item = (Partition, &Key)> {
        self.waiting.keys().map(|(partition, key)| (*partition, key))
    }

    pub fn insert(&mut self, position: Position, pending: Pending) {
        self.remove(position);
        for key in &pending.keys {
            *self.waiting.entry((position.partition, key.clone())).or_default() += 1;
        }
        self.pending.insert(position, pending);
    }

    pub fn remove(&mut self, position: Position) {
        let Some(pending) = self.pending.remove(&position) else { return };
        for key in pending.keys {
            let slot = (position.partition, key);
            if let Some(count) = self.waiting.get_mut(&slot) {
                *count -= 1;
                if *count == 0 {
                    self.waiting.remove(&slot);
                }
            }
        }
    }

    /// Forgets a partition that was revoked or is loaded anew.
    pub fn forget(&mut self, partition: Partition) {
        let gone: Vec<Position> =
            self.pending.keys().filter(|position| position.partition == partition).copied().collect();
        for position in gone {
            self.remove(position);
        }
    }

    /// Pending records that may be run again now, in order: those marked for retry and those held, unless a user of theirs
    /// stands behind a refused record that nobody asked to retry. At most `limit`, the oldest first.
    pub fn runnable(&self, limit: usize) -> Vec<Position> {
        let mut runnable = Vec::new();
        let mut blocked: HashSet<(Partition, &Key)> = HashSet::new();
        for (position, pending) in &self.pending {
            let behind = pending.keys.iter().any(|key| blocked.contains(&(position.partition, key)));
            if behind || pending.state == PendingState::Refused || runnable.len() == limit {
                blocked.extend(pending.keys.iter().map(|key| (position.partition, key)));
            } else {
                runnable.push(*position);
            }
        }
        runnable
    }
}

/// One event as the hold pass sees it; events arrive in offset order within their partition.
#[derive(Debug, Clone)]
pub struct Candidate {
    pub position: Position,
    /// Users the event names; empty where none could be read.
    pub keys: Vec<Key>,
    pub failed: bool,
}

/// What becomes of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    Accepted,
    Refused,
    Held,
}

/// Judges `events` one after the other. `rerun` are pending records that are being run again: they don't hold themselves or each
/// other, all other pending records do. With `hold_keys` false (`on_error = "skip_event"`) nobody ever waits.
///
/// Besides the verdicts yields, per (partition, key), the offset from which that key waits (0 where it did before these events).
pub fn judge(
    events: &[Candidate],
    pending: &HoldSet,
    rerun: &HashSet<Position>,
    hold_keys: bool,
) -> (Vec<Verdict>, HashMap<(Partition, Key), i64>) {
    let mut since: HashMap<(Partition, Key), i64> = HashMap::new();
    if hold_keys {
        for (position, record) in &pending.pending {
            if !rerun.contains(position) {
                for key in &record.keys {
                    // A pending record that is being passed over holds only what comes after it; re-runs may come before it.
                    let from = if rerun.is_empty() { 0 } else { position.offset };
                    let slot = since.entry((position.partition, key.clone())).or_insert(from);
                    *slot = (*slot).min(from);
                }
            }
        }
    }
    let mut verdicts = Vec::with_capacity(events.len());
    for event in events {
        let Position { partition, offset } = event.position;
        let waits = !since.is_empty()
            && event.keys.iter().any(|key| since.get(&(partition, key.clone())).is_some_and(|from| *from <= offset));
        let verdict = match (waits, event.failed) {
            // A waiting event isn't judged yet: it may well pass once what it waits for is mended.
            (true, _) => Verdict::Held,
            (false, true) => Verdict::Refused,
            (false, false) => Verdict::Accepted,
        };
        if verdict != Verdict::Accepted && hold_keys {
            for key in &event.keys {
                let slot = since.entry((partition, key.clone())).or_insert(offset);
                *slot = (*slot).min(offset);
            }
        }
        verdicts.push(verdict);
    }
    (verdicts, since)
}
