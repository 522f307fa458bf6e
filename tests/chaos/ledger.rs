//! What was written to the topic, and what the database must hold at any stored position.
//!
//! In: records with the offsets that the broker gave them. Out: the fold at a given set of next offsets. Folding goes on from where it
//! stood; only a database that was set back makes it start over. A user's events lie in one partition, so that the order in which
//! partitions are folded makes no difference.

use std::collections::BTreeMap;

use afterimage::generate::OwnedRecord;
use afterimage::oracle::{Expected, Fold, Settings};
use afterimage::position::Partition;

/// Next offset per partition.
pub type Cut = BTreeMap<Partition, i64>;

pub struct Ledger {
    settings: Settings,
    written: BTreeMap<Partition, Vec<OwnedRecord>>,
    fold: Fold,
    /// How many records of each partition are folded.
    folded: BTreeMap<Partition, usize>,
}

impl Ledger {
    pub fn new(settings: Settings) -> Self {
        let fold = Fold::new(settings.clone());
        Self { settings, written: BTreeMap::new(), fold, folded: BTreeMap::new() }
    }

    pub fn add(&mut self, record: OwnedRecord) {
        self.written.entry(record.partition).or_default().push(record);
    }

    pub fn events(&self) -> usize {
        self.written.values().map(Vec::len).sum()
    }

    /// Behind the last record of each partition.
    pub fn end(&self) -> Cut {
        self.written.iter().filter_map(|(partition, records)| Some((*partition, records.last()?.offset + 1))).collect()
    }

    /// What must stand in the database when its positions are `cut`.
    pub fn expected_at(&mut self, cut: &Cut) -> &Expected {
        let behind = |ledger: &Self, partition: Partition, next: i64| {
            ledger.written.get(&partition).map_or(0, |records| records.partition_point(|record| record.offset < next))
        };
        let set_back = self
            .folded
            .iter()
            .any(|(partition, folded)| *folded > behind(self, *partition, cut.get(partition).copied().unwrap_or(0)));
        if set_back {
            self.fold = Fold::new(self.settings.clone());
            self.folded.clear();
        }
        for (partition, next) in cut {
            let until = behind(self, *partition, *next);
            let from = self.folded.insert(*partition, until).unwrap_or(0);
            for record in self.written.get(partition).into_iter().flatten().take(until).skip(from) {
                self.fold.apply(&record.as_raw());
            }
        }
        self.fold.expected()
    }
}

#[test]
fn a_ledger_folds_forward_and_back_like_the_plain_fold() {
    use afterimage::generate::{Mix, Workload};
    use afterimage::oracle::fold_until;

    use crate::support::outcome::settings;

    let workload =
        Workload { events: 900, users: 30, partitions: 2, seed: 5, mix: Mix::harsh(), ..Workload::default() };
    let records: Vec<OwnedRecord> = workload.records().collect();
    let mut ledger = Ledger::new(settings());
    records.iter().for_each(|record| ledger.add(record.clone()));
    for cut in [[0, 0], [100, 40], [300, 300], [20, 310], [9_000, 9_000]] {
        let cut: Cut = cut.into_iter().enumerate().map(|(partition, next)| (partition as Partition, next)).collect();
        let plain = fold_until(settings(), records.iter().map(OwnedRecord::as_raw), &cut);
        let found = ledger.expected_at(&cut);
        assert_eq!((&found.rows, &found.quarantine, &found.sums), (&plain.rows, &plain.quarantine, &plain.sums));
    }
}
