//! A workload of `users` change events: believable, full of trouble, and the same for the same seed.
//!
//! In: a [`Workload`] (how many, how mixed, which seed, which start time). Out: [`OwnedRecord`]s with partition, offset, key, value and
//! timestamp, as they would lie on a fresh topic. Promises: no wall clock and no global randomness, so that equal workloads yield equal
//! bytes; `before` images are true; a user stays in one partition for life, a change of key included.
//!
//! Events that fail *and* name a user come from the small share of [`Mix::troubled_users`] only: a failed event keeps its user
//! waiting, and spread over everybody, failures would soon hold all users.

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use crate::position::Partition;
pub use crate::record::OwnedRecord;
use event::{Envelope, Image};
use people::Profile;

mod event;
mod file;
mod mix;
mod people;
mod produce;

#[cfg(test)]
mod tests;

pub use event::Malformation;
pub use file::{own_timestamp_ms, read_events_file, read_placed_events, write_ndjson};
pub use mix::Mix;
pub use produce::produce;

/// What to generate.
#[derive(Debug, Clone, PartialEq)]
pub struct Workload {
    pub events: u64,
    /// Users that exist side by side; low ones get more events than high ones.
    pub users: u32,
    pub partitions: Partition,
    pub seed: u64,
    /// Event time of the first event, milliseconds since 1970 UTC.
    pub start_ms: i64,
    /// Mean distance of one event from the next in event time, milliseconds.
    pub step_ms: i64,
    pub mix: Mix,
}

impl Default for Workload {
    fn default() -> Self {
        Self {
            events: 100_000,
            users: 10_000,
            partitions: 4,
            seed: 1,
            start_ms: 1_700_000_000_000,
            step_ms: 10,
            mix: Mix::default(),
        }
    }
}

impl Workload {
    /// The records, partitions mixed, offsets rising from 0 in each partition.
    pub fn records(&self) -> Records {
        Records::new(self.clone())
    }
}

/// The partition a user's events go to.
pub fn partition_of(user_id: &str, partitions: Partition) -> Partition {
    let hash = user_id
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    // The low bits of this hash depend on the low bits of the text alone.
    ((hash >> 32) % partitions.max(1) as u64) as Partition
}

/// What the next event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    Delete,
    KeyChange,
    Late,
    EqualTs,
    Duplicate,
    NullValue,
    UnknownField,
    UnknownCountry,
    TooLong,
    Future,
    Malformed,
}

/// One user of the imagined source database.
#[derive(Debug, Clone)]
struct User {
    id: String,
    partition: Partition,
    row: Option<Profile>,
    /// Whether this user ever had an event: the first one may be a snapshot read.
    known: bool,
    newest_ms: i64,
}

/// A sent event that may be repeated.
#[derive(Debug, Clone)]
struct Sent {
    partition: Partition,
    key: String,
    value: Vec<u8>,
}

/// Records of a [`Workload`], made one by one; memory grows with the users, not with the events.
#[derive(Debug, Clone)]
pub struct Records {
    workload: Workload,
    rng: Xoshiro256PlusPlus,
    clock_ms: i64,
    left: u64,
    users: Vec<User>,
    next_offset: Vec<i64>,
    /// Ids given up by a change of key, per partition: they come back as new users and as targets of other changes.
    freed: Vec<Vec<String>>,
    next_id: u64,
    recent: Vec<Sent>,
}

/// How many sent events may still be repeated.
const RECENT: usize = 1024;
/// How far a late event lags behind its user's newest, at most.
const LATENESS_MS: i64 = 60_000;
const TWO_DAYS_MS: i64 = 2 * 24 * 3600 * 1000;

impl Records {
    fn new(mut workload: Workload) -> Self {
        workload.partitions = workload.partitions.max(1);
        workload.users = workload.users.max(1);
        let partitions = workload.partitions as usize;
        let users = (0..workload.users)
            .map(|index| {
                let id = people::first_id(index);
                let partition = partition_of(&id, workload.partitions);
                User { id, partition, row: None, known: false, newest_ms: workload.start_ms }
            })
            .collect();
        Self {
            rng: Xoshiro256PlusPlus::seed_from_u64(workload.seed),
            clock_ms: workload.start_ms,
            left: workload.events,
            users,
            next_offset: vec![0; partitions],
            freed: vec![Vec::new(); partitions],
            next_id: u64::from(workload.users) + 1,
            recent: Vec::new(),
            workload,
        }
    }

    /// Goes on with the same users and another mix.
    #[must_use]
    pub fn mixed(mut self, mix: Mix) -> Self {
        self.workload.mix = mix;
        self
    }

    fn draw_kind(&mut self) -> Kind {
        let mix = &self.workload.mix;
        let shares = [
            (mix.delete, Kind::Delete),
            (mix.key_change, Kind::KeyChange),
            (mix.late, Kind::Late),
            (mix.equal_ts, Kind::EqualTs),
            (mix.duplicate, Kind::Duplicate),
            (mix.null_value, Kind::NullValue),
            (mix.unknown_field, Kind::UnknownField),
            (mix.unknown_country, Kind::UnknownCountry),
            (mix.too_long, Kind::TooLong),
            (mix.future, Kind::Future),
            (mix.malformed, Kind::Malformed),
        ];
        let mut draw: f64 = self.rng.random();
        for (share, kind) in shares {
            if draw < share {
                return kind;
            }
            draw -= share;
        }
        Kind::Plain
    }

    /// A user for whom nothing is wrong: low numbers are busier than high ones.
    fn draw_user(&mut self) -> usize {
        let draw: f64 = self.rng.random();
        (((self.users.len() as f64) * draw * draw) as usize).min(self.users.len() - 1)
    }

    /// One of the users from whom failing events come, if there are any.
    fn draw_troubled(&mut self) -> Option<usize> {
        let share = self.workload.mix.troubled_users;
        if share <= 0.0 {
            return None;
        }
        let stride = ((1.0 / share) as usize).clamp(1, self.users.len());
        let index = self.rng.random_range(0..self.users.len().div_ceil(stride)) * stride + stride / 2;
        Some(index.min(self.users.len() - 1))
    }

    fn make(&mut self) -> OwnedRecord {
        self.clock_ms += self.rng.random_range(0..=2 * self.workload.step_ms.max(0));
        match self.draw_kind() {
            Kind::Duplicate if !self.recent.is_empty() => {
                let sent = self.recent[self.rng.random_range(0..self.recent.len())].clone();
                self.record(sent.partition, sent.key, Some(sent.value))
            }
            Kind::NullValue => {
                let user = self.draw_user();
                let User { id, partition, .. } = self.users[user].clone();
                self.record(partition, id, None)
            }
            Kind::Malformed => self.malformed(),
            kind @ (Kind::UnknownCountry | Kind::TooLong | Kind::Future) => match self.draw_troubled() {
                Some(user) => self.change(user, kind),
                None => self.change_of_anyone(Kind::Plain),
            },
            kind => self.change_of_anyone(kind),
        }
    }

    fn change_of_anyone(&mut self, kind: Kind) -> OwnedRecord {
        let user = self.draw_user();
        self.change(user, kind)
    }

    /// A change of `user` as `kind` says, or a create where there is no row to change.
    fn change(&mut self, user: usize, kind: Kind) -> OwnedRecord {
        match (kind, self.users[user].row.is_some()) {
            (Kind::Late, _) if self.users[user].known => self.late(user),
            (Kind::Delete, true) => self.delete(user),
            (Kind::KeyChange, true) => self.change_key(user),
            (kind, _) => self.upsert(user, kind),
        }
    }

    fn upsert(&mut self, user: usize, kind: Kind) -> OwnedRecord {
        if self.users[user].row.is_none() {
            self.adopt_freed_id(user);
        }
        let before = self.users[user].clone();
        let mut after = match &before.row {
            Some(row) => row.changed(&mut self.rng),
            None => Profile::random(&mut self.rng),
        };
        let mut timestamp = if kind == Kind::EqualTs && before.known { before.newest_ms } else { self.clock_ms };
        match kind {
            Kind::UnknownCountry => after.country = Some(people::unknown_country(&mut self.rng)),
            Kind::TooLong => after.name = Some(people::long_name(&mut self.rng)),
            Kind::Future => timestamp = self.clock_ms + TWO_DAYS_MS,
            _ => {}
        }
        let op = match (&before.row, before.known) {
            (Some(_), _) => "u",
            (None, false) if self.rng.random_bool(0.3) => "r",
            (None, _) => "c",
        };
        let mut image = Image::of(&before.id, &after);
        if kind == Kind::UnknownField {
            image.loyalty_points = Some(self.rng.random_range(0..1000));
        }
        let earlier = before.row.as_ref().map(|row| Image::of(&before.id, row));
        let value = Envelope { op, before: earlier, after: Some(image), timestamp }.to_bytes();

        let slot = &mut self.users[user];
        slot.known = true;
        slot.row = Some(after);
        if kind == Kind::Future {
            return self.record(before.partition, before.id, Some(value));
        }
        slot.newest_ms = slot.newest_ms.max(timestamp);
        self.sent(before.partition, before.id, value)
    }

    fn delete(&mut self, user: usize) -> OwnedRecord {
        let timestamp = self.clock_ms;
        let slot = &mut self.users[user];
        slot.newest_ms = timestamp;
        let row = slot.row.take();
        let User { id, partition, .. } = slot.clone();
        let before = row.as_ref().map(|row| Image::of(&id, row));
        let value = Envelope { op: "d", before, after: None, timestamp }.to_bytes();
        self.sent(partition, id, value)
    }

    fn change_key(&mut self, user: usize) -> OwnedRecord {
        let old = self.users[user].clone();
        let new_id = self.unused_id(old.partition);
        let after = old.row.clone().unwrap_or_else(|| Profile::random(&mut self.rng));
        let timestamp = self.clock_ms;
        let value = Envelope {
            op: "u",
            before: old.row.as_ref().map(|row| Image::of(&old.id, row)),
            after: Some(Image::of(&new_id, &after)),
            timestamp,
        }
        .to_bytes();
        let slot = &mut self.users[user];
        slot.id = new_id;
        slot.newest_ms = timestamp;
        self.free(old.partition, old.id.clone());
        self.sent(old.partition, old.id, value)
    }

    /// An event that arrives after newer ones of its user; the source database is past it, so no row changes here.
    fn late(&mut self, user: usize) -> OwnedRecord {
        let User { id, partition, row, newest_ms, .. } = self.users[user].clone();
        let timestamp = newest_ms - self.rng.random_range(1..=LATENESS_MS);
        let row = row.unwrap_or_else(|| Profile::random(&mut self.rng));
        let earlier = row.changed(&mut self.rng);
        let value = if self.rng.random_bool(0.2) {
            Envelope { op: "d", before: Some(Image::of(&id, &row)), after: None, timestamp }.to_bytes()
        } else {
            let (before, after) = (Some(Image::of(&id, &row)), Some(Image::of(&id, &earlier)));
            Envelope { op: "u", before, after, timestamp }.to_bytes()
        };
        self.sent(partition, id, value)
    }

    fn malformed(&mut self) -> OwnedRecord {
        let fault = Malformation::ALL[self.rng.random_range(0..Malformation::ALL.len())];
        let troubled = self.draw_troubled();
        let user = match troubled {
            Some(user) => user,
            None if fault.names_user() => return self.change_of_anyone(Kind::Plain),
            None => self.draw_user(),
        };
        let User { id, partition, row, .. } = self.users[user].clone();
        let row = row.unwrap_or_else(|| Profile::random(&mut self.rng));
        let value = fault.value(&id, &row, self.clock_ms);
        self.record(partition, id, Some(value))
    }

    /// Lets a user without a row come back, now and then, under an id that another one gave up.
    fn adopt_freed_id(&mut self, user: usize) {
        let partition = self.users[user].partition;
        if self.freed[partition as usize].is_empty() || !self.rng.random_bool(0.3) {
            return;
        }
        let id = self.unused_id(partition);
        let given_up = std::mem::replace(&mut self.users[user].id, id);
        if self.users[user].known {
            self.free(partition, given_up);
        }
        self.users[user].known = true;
    }

    fn free(&mut self, partition: Partition, id: String) {
        let pool = &mut self.freed[partition as usize];
        if pool.len() < 256 {
            pool.push(id);
        }
    }

    /// An id that no user has now: one that was given up, or a new one; always one of `partition`.
    fn unused_id(&mut self, partition: Partition) -> String {
        let pool = &mut self.freed[partition as usize];
        if !pool.is_empty() && self.rng.random_bool(0.5) {
            return pool.swap_remove(self.rng.random_range(0..pool.len()));
        }
        loop {
            let id = self.next_id.to_string();
            self.next_id += 1;
            if partition_of(&id, self.workload.partitions) == partition {
                return id;
            }
        }
    }

    /// A record that may be repeated later.
    fn sent(&mut self, partition: Partition, key: String, value: Vec<u8>) -> OwnedRecord {
        let sent = Sent { partition, key: key.clone(), value: value.clone() };
        if self.recent.len() < RECENT {
            self.recent.push(sent);
        } else {
            let place = self.rng.random_range(0..RECENT);
            self.recent[place] = sent;
        }
        self.record(partition, key, Some(value))
    }

    fn record(&mut self, partition: Partition, key: String, value: Option<Vec<u8>>) -> OwnedRecord {
        let next = &mut self.next_offset[partition as usize];
        let offset = *next;
        *next += 1;
        let timestamp_ms = Some(self.clock_ms + self.rng.random_range(0..20));
        OwnedRecord { partition, offset, timestamp_ms, key: Some(key.into_bytes()), value }
    }
}

impl Iterator for Records {
    type Item = OwnedRecord;

    fn next(&mut self) -> Option<OwnedRecord> {
        self.left = self.left.checked_sub(1)?;
        Some(self.make())
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        (left, Some(left))
    }
}
