//! Events to measure with: what is on the topic, in which order, and what must stand in the table afterwards.
//!
//! A [`Load`] is a plan; [`Load::records`] makes the same records each time it is called, so that nothing has to be kept. Keys are
//! scattered, `before` images are there, an update of a user is about 290 bytes. The first `prelude` events are to be applied before
//! anything is measured.

use std::collections::HashMap;

use afterimage::demo::outcome;
use afterimage::generate::partition_of;
use afterimage::oracle::{Expected, Fold};
use afterimage::record::OwnedRecord;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use crate::shape::{Shape, digest};

const START_MS: i64 = 1_700_000_000_000;
const DAY_MS: i64 = 24 * 3600 * 1000;

/// What the events are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Events {
    /// Each creates a user of its own.
    Creates,
    /// Changes of `users` users: creates where there is none, and of the others these shares of deletes and of late updates.
    Changes { users: u64, delete: f64, late: f64 },
    /// 90 % of the changes are of ten users.
    HotUsers { users: u64 },
    /// The prelude creates as many users, then each is deleted.
    Deletes,
    /// The prelude creates as many users, then each gets an update that is older than its create.
    Late,
}

/// A plan; see the module page.
#[derive(Debug, Clone)]
pub struct Load {
    pub name: &'static str,
    pub shape: Shape,
    pub what: Events,
    pub prelude: u64,
    pub events: u64,
    pub partitions: i32,
}

/// What the table must hold once everything is applied.
pub enum Wanted {
    Users(Box<Expected>),
    /// Rows, and the sum of their checksums.
    Rows(u64, u64),
}

impl Load {
    pub fn users(name: &'static str, what: Events, events: u64) -> Self {
        let prelude = if matches!(what, Events::Deletes | Events::Late) { events } else { 0 };
        Self { name, shape: Shape::Users, what, prelude, events, partitions: 4 }
    }

    /// All records, the prelude's first; offsets rise from 0 in each partition.
    pub fn records(&self) -> Records<'_> {
        let users = match self.what {
            Events::Changes { users, .. } | Events::HotUsers { users } => users,
            _ => 0,
        };
        Records {
            load: self,
            next: 0,
            next_offset: vec![0; self.partitions as usize],
            random: Xoshiro256PlusPlus::seed_from_u64(7),
            users: vec![User::default(); users as usize],
        }
    }

    /// The independent fold of all records.
    pub fn wanted(&self) -> Wanted {
        if self.shape == Shape::Users {
            let mut fold = Fold::new(outcome::settings());
            for record in self.records() {
                fold.apply(&record.as_raw());
            }
            return Wanted::Users(Box::new(fold.into_expected()));
        }
        // These loads are orderly: a key's last event is its newest.
        let newest: HashMap<Option<Vec<u8>>, OwnedRecord> =
            self.records().map(|record| (record.key.clone(), record)).collect();
        let rows = newest.into_values().filter_map(|record| self.shape.change(&record).row);
        let (rows, sum) = digest(rows);
        Wanted::Rows(rows, sum)
    }
}

/// One imagined user: how often it was changed (0: never), whether it is there, when last.
#[derive(Debug, Clone, Copy, Default)]
struct User {
    changes: u32,
    there: bool,
    newest_ms: i64,
}

/// See [`Load::records`].
pub struct Records<'a> {
    load: &'a Load,
    next: u64,
    next_offset: Vec<i64>,
    random: Xoshiro256PlusPlus,
    users: Vec<User>,
}

/// The id of a user by number: different for different numbers, scattered as real keys are.
fn id(number: u64) -> String {
    format!("{:016x}", (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

impl Iterator for Records<'_> {
    type Item = OwnedRecord;

    fn next(&mut self) -> Option<OwnedRecord> {
        let load = self.load;
        let number = self.next;
        if number >= load.prelude + load.events {
            return None;
        }
        self.next += 1;
        let now_ms = START_MS + number as i64;
        let (user, op, before, after, ts_ms) = match load.what {
            Events::Creates => (number, 'c', None, Some(number), now_ms),
            Events::Deletes | Events::Late if number < load.prelude => {
                (number, 'c', None, Some(number), now_ms + DAY_MS)
            }
            Events::Deletes => (number - load.prelude, 'd', Some(number - load.prelude), None, now_ms + 2 * DAY_MS),
            Events::Late => (number - load.prelude, 'u', Some(number - load.prelude), Some(number), now_ms),
            Events::Changes { users, delete, late } => self.change(users, delete, late, now_ms),
            Events::HotUsers { users } => self.change(users, 0.0, 0.0, now_ms),
        };
        let id = id(user);
        let value = load.shape.event(op, &id, before, after, ts_ms);
        let partition = partition_of(&id, load.partitions);
        let slot = &mut self.next_offset[partition as usize];
        let offset = *slot;
        *slot += 1;
        // Nothing is ahead of its Kafka timestamp.
        let timestamp_ms = Some(now_ms + 3 * DAY_MS);
        Some(OwnedRecord { partition, offset, timestamp_ms, key: Some(id.into_bytes()), value: Some(value) })
    }
}

impl Records<'_> {
    /// User, op, numbers of the images before and after, event time.
    fn change(
        &mut self,
        users: u64,
        delete: f64,
        late: f64,
        now_ms: i64,
    ) -> (u64, char, Option<u64>, Option<u64>, i64) {
        let hot = matches!(self.load.what, Events::HotUsers { .. }) && self.random.random_bool(0.9);
        let number = self.random.random_range(0..if hot { 10 } else { users });
        let dice: f64 = self.random.random();
        let back_ms = self.random.random_range(1..60_000);
        let user = &mut self.users[number as usize];
        let image = |changes: u32| Some(number * 1000 + u64::from(changes % 1000));
        let before = image(user.changes);
        if user.there && dice < delete {
            (user.there, user.newest_ms) = (false, now_ms);
            return (number, 'd', before, None, now_ms);
        }
        if user.changes > 0 && (delete..delete + late).contains(&dice) {
            return (number, 'u', before, image(user.changes + 500), user.newest_ms - back_ms);
        }
        let (op, before) = if user.there { ('u', before) } else { ('c', None) };
        user.changes += 1;
        (user.there, user.newest_ms) = (true, now_ms);
        (number, op, before, image(user.changes), now_ms)
    }
}
