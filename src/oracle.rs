//! An independent fold of `users` events: what table, quarantine, evidence and sums must be after any prefix of the topic.
//!
//! In: records in offset order within each partition, one by one, and the countries lookup. Out: [`Expected`], to be compared with what
//! stands in the database ([`differences`]). Promises: shares no code with the stations, not even their parser; no Arrow, no SQL, no
//! batches: one event at a time over ordered maps, so simple that it can be read in one sitting. Speed is no aim.

use std::collections::{BTreeMap, BTreeSet};

use crate::position::Partition;
use crate::record::RawRecord;
use event::{Change, Image, Verdict};

mod compare;
mod event;
mod json;

#[cfg(test)]
mod tests;

pub use compare::{Columns, differences};

/// Partition and offset of a record.
pub type Place = (Partition, i64);

/// Event time in nanoseconds (0 where arrival decides), partition, offset: compared in this order.
pub type Version = (i64, Partition, i64);

/// The pipeline's settings and lookup, as far as they decide about outcomes.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Code to (name, region).
    pub countries: BTreeMap<String, (String, String)>,
    /// How many units of an event's `timestamp` make a second: 1, 1_000, 1_000_000 or 1_000_000_000.
    pub ticks_per_second: i64,
    /// How far an event may be ahead of its Kafka timestamp, nanoseconds.
    pub max_future_skew_ns: i64,
    /// `on_error = "hold_key"`; false is `"skip_event"`.
    pub hold: bool,
    /// `version = "arrival"`: event times don't decide, and nothing is out of order.
    pub arrival: bool,
    /// What a text column of the target holds, in characters.
    pub max_chars: usize,
    /// The clock that records without a Kafka timestamp are judged by, milliseconds since 1970 UTC.
    pub clock_ms: i64,
    /// Quarantined records that an operator discarded: they stay where they are and keep nobody waiting.
    pub discarded: BTreeSet<Place>,
}

impl Settings {
    /// The shipped pipeline's: milliseconds, one hour of skew, holding, event time, `VARCHAR(255)`; nothing is ahead of the clock.
    pub fn users(countries: BTreeMap<String, (String, String)>) -> Self {
        Self {
            countries,
            ticks_per_second: 1000,
            max_future_skew_ns: 3_600_000_000_000,
            hold: true,
            arrival: false,
            max_chars: 255,
            clock_ms: i64::MAX,
            discarded: BTreeSet::new(),
        }
    }
}

/// A row of `enriched_user`, without its key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Row {
    pub name: Option<String>,
    pub email: Option<String>,
    pub country: Option<String>,
    pub country_name: Option<String>,
    pub region: Option<String>,
    pub cdc_ts: i64,
    pub cdc_partition: Partition,
    pub cdc_offset: i64,
}

impl Row {
    pub fn version(&self) -> Version {
        (self.cdc_ts, self.cdc_partition, self.cdc_offset)
    }
}

/// A record in quarantine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    /// `refused` or `held`.
    pub state: String,
    /// Of a refused record `decode`, `model` or `target`; of a held one none.
    pub stage: Option<String>,
    /// Users it names, as far as they can be read.
    pub users: BTreeSet<String>,
}

/// An accepted event older than one accepted before it for the same user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Late {
    /// Its event time, nanoseconds.
    pub ts_ns: i64,
    /// The highest event time accepted before it for that user in its partition, nanoseconds.
    pub known_ns: i64,
}

/// Sums of one partition (P4). How `changes` splits into upserted, deleted and superseded depends on where batches were cut;
/// only its total does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sums {
    pub read: u64,
    pub ignored: u64,
    pub refused: u64,
    pub held: u64,
    pub accepted: u64,
    pub changes: u64,
}

/// All that the database must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Expected {
    pub rows: BTreeMap<String, Row>,
    /// The greatest version that deleted a key, for every key ever deleted, even if it came back since.
    pub tombstones: BTreeMap<String, Version>,
    pub quarantine: BTreeMap<Place, Quarantined>,
    /// By partition, offset and user.
    pub out_of_order: BTreeMap<(Partition, i64, String), Late>,
    pub sums: BTreeMap<Partition, Sums>,
    /// Offset after the last record applied, per partition.
    pub next_offset: BTreeMap<Partition, i64>,
}

impl Expected {
    /// Tombstones of keys that have no row: the ones that a late update would meet.
    pub fn standing_tombstones(&self) -> BTreeMap<String, Version> {
        let gone = self.tombstones.iter().filter(|(user, _)| !self.rows.contains_key(*user));
        gone.map(|(user, version)| (user.clone(), *version)).collect()
    }
}

/// The fold itself.
#[derive(Debug, Clone)]
pub struct Fold {
    settings: Settings,
    expected: Expected,
    /// Users on hold in a partition.
    waiting: BTreeSet<(Partition, String)>,
    /// Highest event time of a user's accepted changes in a partition, nanoseconds.
    highest_ns: BTreeMap<(Partition, String), i64>,
}

impl Fold {
    pub fn new(settings: Settings) -> Self {
        Self { settings, expected: Expected::default(), waiting: BTreeSet::new(), highest_ns: BTreeMap::new() }
    }

    pub fn expected(&self) -> &Expected {
        &self.expected
    }

    pub fn into_expected(self) -> Expected {
        self.expected
    }

    /// Takes in the next record; records of one partition come in offset order.
    pub fn apply(&mut self, record: &RawRecord<'_>) {
        let place = (record.partition, record.offset);
        self.expected.next_offset.insert(record.partition, record.offset + 1);
        self.sums(place).read += 1;
        let Some(bytes) = record.value else {
            self.sums(place).ignored += 1;
            return;
        };
        let (users, verdict) = self.judge(bytes, record.timestamp_ms);
        let waits = self.settings.hold && users.iter().any(|user| self.waiting.contains(&(place.0, user.clone())));
        match verdict {
            _ if waits => {
                self.sums(place).held += 1;
                self.quarantine(place, "held", None, users);
            }
            Verdict::Refused(stage) => {
                self.sums(place).refused += 1;
                self.quarantine(place, "refused", Some(stage), users);
            }
            Verdict::Good(event) => {
                self.sums(place).accepted += 1;
                for change in event.changes {
                    self.sums(place).changes += 1;
                    self.note_order(place, change.user(), event.ts_ns);
                    let ts_ns = if self.settings.arrival { 0 } else { event.ts_ns };
                    self.write(change, (ts_ns, place.0, place.1));
                }
            }
        }
    }

    fn sums(&mut self, place: Place) -> &mut Sums {
        self.expected.sums.entry(place.0).or_default()
    }

    /// The users a record names and what it would come to if none of them waited.
    fn judge(&self, bytes: &[u8], kafka_ms: Option<i64>) -> (BTreeSet<String>, Verdict) {
        let (users, verdict) = event::read(bytes, kafka_ms, &self.settings);
        let Verdict::Good(event) = verdict else { return (users, verdict) };
        let unknown_country = event.changes.iter().any(|change| match change {
            Change::Upsert(_, image) => {
                image.country.as_ref().is_some_and(|code| !self.settings.countries.contains_key(code))
            }
            Change::Delete(_) => false,
        });
        let too_long = event.changes.iter().any(|change| match change {
            Change::Upsert(user, image) => {
                let texts = [Some(user), image.name.as_ref(), image.email.as_ref(), image.country.as_ref()];
                texts.into_iter().flatten().any(|text| self.too_long(text))
            }
            Change::Delete(user) => self.too_long(user),
        });
        let verdict = match (unknown_country, too_long) {
            (true, _) => Verdict::Refused("model"),
            (false, true) => Verdict::Refused("target"),
            (false, false) => Verdict::Good(event),
        };
        (users, verdict)
    }

    fn too_long(&self, text: &str) -> bool {
        text.chars().count() > self.settings.max_chars
    }

    fn quarantine(&mut self, place: Place, state: &str, stage: Option<&str>, users: BTreeSet<String>) {
        if !self.settings.discarded.contains(&place) {
            self.waiting.extend(users.iter().map(|user| (place.0, user.clone())));
        }
        let record = Quarantined { state: state.to_owned(), stage: stage.map(str::to_owned), users };
        self.expected.quarantine.insert(place, record);
    }

    /// Lists the change if it is older than one accepted before it for its user.
    fn note_order(&mut self, place: Place, user: &str, ts_ns: i64) {
        if self.settings.arrival {
            return;
        }
        let highest = self.highest_ns.entry((place.0, user.to_owned())).or_insert(ts_ns);
        if ts_ns < *highest {
            let late = Late { ts_ns, known_ns: *highest };
            self.expected.out_of_order.insert((place.0, place.1, user.to_owned()), late);
        }
        *highest = ts_ns.max(*highest);
    }

    /// The greatest version of a user wins, be it a row or a delete.
    fn write(&mut self, change: Change, version: Version) {
        let Expected { rows, tombstones, .. } = &mut self.expected;
        let row_version = rows.get(change.user()).map(Row::version);
        let deleted_version = tombstones.get(change.user()).copied();
        let newest = row_version.max(deleted_version).is_none_or(|known| version > known);
        match change {
            Change::Upsert(user, image) if newest => {
                rows.insert(user, enriched(&self.settings, image, version));
            }
            Change::Upsert(..) => {}
            Change::Delete(user) => {
                if newest {
                    rows.remove(&user);
                }
                let deleted = tombstones.entry(user).or_insert(version);
                *deleted = version.max(*deleted);
            }
        }
    }
}

fn enriched(settings: &Settings, image: Image, version: Version) -> Row {
    let country = image.country.as_ref().and_then(|code| settings.countries.get(code));
    Row {
        country_name: country.map(|(name, _)| name.clone()),
        region: country.map(|(_, region)| region.clone()).filter(|region| !region.is_empty()),
        name: image.name,
        email: image.email,
        country: image.country,
        cdc_ts: version.0,
        cdc_partition: version.1,
        cdc_offset: version.2,
    }
}

/// The fold of all `records`.
pub fn fold<'a>(settings: Settings, records: impl IntoIterator<Item = RawRecord<'a>>) -> Expected {
    let mut fold = Fold::new(settings);
    for record in records {
        fold.apply(&record);
    }
    fold.into_expected()
}

/// The fold of the `records` below `next_offset`, given per partition; partitions not given there have not been read at all.
pub fn fold_until<'a>(
    settings: Settings,
    records: impl IntoIterator<Item = RawRecord<'a>>,
    next_offset: &BTreeMap<Partition, i64>,
) -> Expected {
    let done = |record: &RawRecord<'_>| next_offset.get(&record.partition).is_some_and(|next| record.offset < *next);
    fold(settings, records.into_iter().filter(done))
}

/// Reads the countries lookup: a CSV with the columns code, name and region, plain or quoted.
pub fn read_countries(path: &std::path::Path) -> std::io::Result<BTreeMap<String, (String, String)>> {
    let mut reader = csv::Reader::from_path(path)?;
    let records = reader.deserialize::<(String, String, String)>();
    records.map(|record| record.map(|(code, name, region)| (code, (name, region))).map_err(Into::into)).collect()
}
