//! The changes that both sides merge: kinds of batches, and a model of the table that makes them up and says what must come of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use afterimage::position::Version;
use afterimage::target::{Column, Holds, Target};
use arrow::array::{ArrayRef, BooleanArray, Int32Array, Int64Array, RecordBatch, StringArray};
use rand::RngExt;
use rand::rngs::SmallRng;

/// What a row of the target holds besides its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    /// Five short texts, as the shipped pipeline has them.
    Shipped,
    /// 200 columns.
    Wide,
    /// A text of 20,000 bytes among them.
    Long,
}

/// One kind of batch.
pub struct Kind {
    pub what: &'static str,
    pub width: Width,
    pub batch: usize,
    /// Shares of new keys, deletes, and rows that are older than what is stored.
    pub new: f64,
    pub deleted: f64,
    pub late: f64,
    /// Whether the sink is also timed as on a server without `local_infile`.
    pub without_infile: bool,
}

pub const USUAL: Kind = Kind {
    what: "mixed",
    width: Width::Shipped,
    batch: 20_000,
    new: 0.15,
    deleted: 0.05,
    late: 0.0,
    without_infile: false,
};

pub const KINDS: [Kind; 12] = [
    Kind { batch: 20_000, without_infile: true, ..USUAL },
    Kind { batch: 5_000, without_infile: true, ..USUAL },
    Kind { batch: 500, without_infile: true, ..USUAL },
    Kind { batch: 100, ..USUAL },
    Kind { batch: 10, ..USUAL },
    Kind { batch: 1, ..USUAL },
    Kind { what: "creates only", batch: 5_000, new: 1.0, ..USUAL },
    Kind { what: "late rows, a tenth", batch: 5_000, late: 0.1, ..USUAL },
    Kind { what: "deletes only", batch: 5_000, new: 0.0, deleted: 1.0, ..USUAL },
    Kind { what: "deletes only", batch: 100, new: 0.0, deleted: 1.0, ..USUAL },
    Kind { what: "200 columns", width: Width::Wide, batch: 1_000, ..USUAL },
    Kind { what: "long values", width: Width::Long, batch: 500, ..USUAL },
];

/// One row per user: version and whether it is deleted.
#[derive(Default, Clone)]
pub struct Model {
    pub live: BTreeMap<String, Version>,
    next_user: u64,
    next_offset: i64,
}

pub struct Change {
    pub user: String,
    pub deleted: bool,
    pub late: bool,
    pub version: Version,
}

impl Model {
    /// Changes of distinct users, sorted by key.
    pub fn batch(&mut self, random: &mut SmallRng, size: usize, kind: &Kind) -> Vec<Change> {
        let users: Vec<String> = self.live.keys().cloned().collect();
        let mut seen = BTreeSet::new();
        let mut changes = Vec::with_capacity(size);
        while changes.len() < size {
            let dice: f64 = random.random();
            let fresh = users.is_empty() || dice < kind.new;
            let user = if fresh {
                self.next_user += 1;
                // Scattered, as real keys are.
                format!("{:016x}", self.next_user.wrapping_mul(0x9e37_79b9_7f4a_7c15))
            } else {
                users[random.random_range(0..users.len())].clone()
            };
            if !seen.insert(user.clone()) {
                continue;
            }
            self.next_offset += 1;
            let late = !fresh && random.random_bool(kind.late);
            let ts_ns = if late { 1 } else { self.next_offset * 1_000_000 };
            let version = Version { ts_ns, partition: 0, offset: self.next_offset };
            let deleted = !fresh && dice >= 1.0 - kind.deleted;
            match (late, deleted) {
                (true, _) => {}
                (false, true) => drop(self.live.remove(&user)),
                (false, false) => drop(self.live.insert(user.clone(), version)),
            }
            changes.push(Change { user, deleted, late, version });
        }
        changes.sort_by(|left, right| left.user.cmp(&right.user));
        changes
    }
}

impl Width {
    pub fn columns(self) -> Vec<(String, &'static str)> {
        let names = ["name", "email", "country", "country_name", "region"];
        let mut columns: Vec<(String, &str)> = names.iter().map(|name| ((*name).to_owned(), "VARCHAR(255)")).collect();
        match self {
            Self::Shipped => {}
            Self::Wide => columns.extend((columns.len()..200).map(|number| (format!("c{number}"), "VARCHAR(8)"))),
            Self::Long => columns.push(("body".to_owned(), "MEDIUMTEXT")),
        }
        columns
    }

    pub fn values(self, change: &Change) -> Vec<Option<String>> {
        let columns = self.columns().len();
        if change.deleted {
            return vec![None; columns];
        }
        let number = change.version.offset;
        let mut values = vec![
            Some(format!("User {number} of the Many Names")),
            Some(format!("user.{number}@example.com")),
            Some("DE".to_owned()),
            Some("Germany".to_owned()),
            Some("Europe".to_owned()),
        ];
        values.resize_with(columns, || match self {
            Self::Shipped | Self::Wide => Some(format!("{number}")),
            Self::Long => Some(format!("{number} words ").repeat(20_000 / 14)),
        });
        values
    }

    pub fn target(self) -> Target {
        let column = |(name, kind): (String, &str)| Column {
            name,
            ddl_type: kind.to_owned(),
            holds: if kind.starts_with("VARCHAR(255") {
                Holds::Text { max_chars: 255, max_bytes: 1020 }
            } else {
                Holds::Text { max_chars: 8, max_bytes: 32 }
            },
            nullable: true,
        };
        let mut columns = vec![column(("user_id".to_owned(), "VARCHAR(255)"))];
        columns.extend(self.columns().into_iter().map(column));
        Target { table: "enriched_user".to_owned(), columns, key_len: 1 }
    }

    pub fn record_batch(self, changes: &[Change]) -> RecordBatch {
        let rows: Vec<Vec<Option<String>>> = changes.iter().map(|change| self.values(change)).collect();
        let versions = || changes.iter().map(|change| change.version);
        let users = StringArray::from_iter_values(changes.iter().map(|change| &change.user));
        let mut columns: Vec<(String, ArrayRef)> = vec![("user_id".to_owned(), Arc::new(users))];
        for (index, (name, _)) in self.columns().into_iter().enumerate() {
            columns.push((name, Arc::new(StringArray::from_iter(rows.iter().map(|row| row[index].as_deref())))));
        }
        columns.extend([
            (
                "_deleted".to_owned(),
                Arc::new(BooleanArray::from_iter(changes.iter().map(|change| Some(change.deleted)))) as ArrayRef,
            ),
            ("cdc_ts".to_owned(), Arc::new(Int64Array::from_iter_values(versions().map(|version| version.ts_ns)))),
            (
                "cdc_partition".to_owned(),
                Arc::new(Int32Array::from_iter_values(versions().map(|version| version.partition))),
            ),
            ("cdc_offset".to_owned(), Arc::new(Int64Array::from_iter_values(versions().map(|version| version.offset)))),
        ]);
        RecordBatch::try_from_iter(columns).unwrap()
    }
}
