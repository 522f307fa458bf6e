//! A lookup that is a compacted topic: a thread reads it, makes rows of its records, and hands over first a whole table, then changes.
//!
//! The road never waits for it: where the loop doesn't take changes, the thread stops reading. A record that can't be used leaves its
//! key's last good row; the first ones are named in the log, all are counted. Where brokers are away the thread goes on trying.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use arrow::datatypes::DataType;
use tokio::sync::mpsc;

use super::Lookup;
use crate::decode::{Changes, Keyed};
use crate::error::{Error, Kind, Result};
use crate::record::RawRecord;
use crate::source::{FollowOptions, Follower};
use crate::sql::LookupTable;

/// Most records in one hand-over.
const AT_ONCE: usize = 1 << 16;
/// How long the first record of a hand-over waits for others.
const WAIT: Duration = Duration::from_millis(100);
const AGAIN: Duration = Duration::from_secs(1);
/// Brokers that haven't told where the topic ends for so long are away.
const SILENT: Duration = Duration::from_secs(8);
/// So many bad records are named before they are only counted, until the next start.
const NAMED: u64 = 20;
/// Hand-overs that may wait for the loop.
const WAITING: usize = 4;

/// What the thread hands over.
pub(super) enum News {
    Loaded(Arc<LookupTable>),
    Changes(Changes),
}

/// What the thread tells of itself.
#[derive(Debug, Clone, Default)]
pub(super) struct Told {
    /// While it loads: how far.
    pub(super) loading: Option<String>,
    pub(super) lag: Option<i64>,
    pub(super) bad_records: u64,
    pub(super) looked: Option<Instant>,
    /// Why it can't be followed at present.
    pub(super) trouble: Option<String>,
}

/// The loop's end of the thread. Dropping it ends the thread.
pub(super) struct Topic {
    news: mpsc::Receiver<News>,
    told: Arc<Mutex<Told>>,
    ended: Arc<Mutex<Option<Error>>>,
}

/// Reads the topic to its present end, in this thread; brokers that are away are an error.
pub(super) fn read(lookup: &Lookup, options: &FollowOptions, columns: &[(String, DataType)]) -> Result<LookupTable> {
    let (news, _kept) = mpsc::channel(WAITING);
    let (lookup, options, keyed) = (lookup.clone(), options.clone(), Keyed::new(columns, &lookup.key));
    let mut reading = Reading { lookup, options, keyed, news, told: Arc::default() };
    let (follower, _) = Follower::open(&reading.options)?;
    match reading.load_from(follower)? {
        Some((_, table)) => Ok(table),
        None => Err(Error::new(Kind::Bug, "nobody waits for the lookup that is read")),
    }
}

struct Reading {
    lookup: Lookup,
    options: FollowOptions,
    keyed: Keyed,
    news: mpsc::Sender<News>,
    told: Arc<Mutex<Told>>,
}

impl Topic {
    pub(super) fn start(lookup: &Lookup, options: &FollowOptions, columns: &[(String, DataType)]) -> Result<Self> {
        let (sender, news) = mpsc::channel(WAITING);
        let told = Arc::new(Mutex::new(Told { loading: Some("0 %".to_owned()), ..Told::default() }));
        let ended = Arc::new(Mutex::new(None));
        let mut reading = Reading {
            lookup: lookup.clone(),
            options: options.clone(),
            keyed: Keyed::new(columns, &lookup.key),
            news: sender,
            told: Arc::clone(&told),
        };
        let end = Arc::clone(&ended);
        thread::Builder::new()
            .name(format!("lookup {}", lookup.name))
            .spawn(move || {
                let Err(error) = reading.run() else { return };
                reading.tell(|told| told.trouble = Some(error.to_string()));
                *end.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            })
            .map_err(|error| Error::new(Kind::Bug, "can't start the thread that follows a lookup").source(error))?;
        Ok(Self { news, told, ended })
    }

    /// What is ready, if anything is.
    pub(super) fn next(&mut self) -> Option<News> {
        self.news.try_recv().ok()
    }

    pub(super) fn told(&self) -> Told {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if self.news.is_closed() {
            told.trouble.get_or_insert_with(|| {
                "the thread that follows its topic has ended: restart, and report it".to_owned()
            });
        }
        told
    }

    /// Why the thread has ended, once.
    pub(super) fn ended(&mut self) -> Option<Error> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Reading {
    /// Until the loop is gone (`Ok`), or until the topic isn't what it was.
    fn run(&mut self) -> Result<()> {
        let Some((mut follower, table)) = self.load()? else { return Ok(()) };
        self.tell(|told| (told.loading, told.trouble, told.lag) = (None, None, Some(0)));
        if self.news.blocking_send(News::Loaded(Arc::new(table))).is_err() {
            return Ok(());
        }
        while !self.news.is_closed() {
            self.step(&mut follower, WAIT)?;
            if !self.keyed.is_empty() {
                let changes = self.keyed.take()?;
                if self.news.blocking_send(News::Changes(changes)).is_err() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// The table as the topic has it; `None` if the loop is gone.
    fn load(&mut self) -> Result<Option<(Follower, LookupTable)>> {
        while !self.news.is_closed() {
            let (follower, warnings) = match Follower::open(&self.options) {
                Ok(opened) => opened,
                Err(error) if error.kind == Kind::BrokerUnavailable => {
                    self.tell(|told| told.trouble = Some(error.to_string()));
                    thread::sleep(AGAIN);
                    continue;
                }
                Err(error) => return Err(error),
            };
            for warning in warnings {
                tracing::warn!(lookup = self.lookup.name, "{warning}");
            }
            match self.load_from(follower) {
                // Nothing of it is in use yet: begun anew, by name.
                Err(error) if error.kind == Kind::PositionLost => {
                    tracing::warn!(lookup = self.lookup.name, reason = %error, "a lookup's topic is read from its beginning again");
                    self.keyed.take()?;
                    thread::sleep(AGAIN);
                }
                done => return done,
            }
        }
        Ok(None)
    }

    fn load_from(&mut self, mut follower: Follower) -> Result<Option<(Follower, LookupTable)>> {
        let table = LookupTable::of(&self.lookup.name, &self.lookup.key, self.keyed.schema());
        let mut table = table.map_err(super::unusable)?;
        while !self.news.is_closed() {
            self.step(&mut follower, WAIT)?;
            let loaded = follower.is_loaded();
            if self.keyed.len() >= AT_ONCE || (loaded && !self.keyed.is_empty()) {
                let Changes { rows, deleted } = self.keyed.take()?;
                let what = "a lookup's rows can't be kept";
                table.apply(rows, &deleted).map_err(|error| Error::new(Kind::Config, what).source(error))?;
            }
            if loaded {
                return Ok(Some((follower, table)));
            }
        }
        Ok(None)
    }

    /// Reads what there is, for a moment. Brokers that are away are told of and are no error.
    fn step(&mut self, follower: &mut Follower, wait: Duration) -> Result<()> {
        let until = Instant::now() + wait;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let most = AT_ONCE - self.keyed.len().min(AT_ONCE);
            let (keyed, mut bad) = (&mut self.keyed, Vec::new());
            let read = follower.read(left, most, |record: &RawRecord<'_>| {
                if let Err(reason) = keyed.push(record) {
                    bad.push((record.partition, record.offset, reason));
                }
            });
            self.name_bad(bad);
            read?;
            let progress = follower.progress();
            let loading = !follower.is_loaded();
            let looked = follower.looked;
            // One answer that is missing is nothing to tell of: connections come and go.
            let trouble = follower.trouble.clone().filter(|_| looked.elapsed() > SILENT);
            self.tell(|told| {
                (told.lag, told.looked, told.trouble) = (Some(progress.lag), Some(looked), trouble);
                if loading {
                    let share = progress.read * 100 / progress.goal.max(1);
                    told.loading = Some(format!("{share} % ({} of {} offsets)", progress.read, progress.goal));
                }
            });
            if self.keyed.len() >= AT_ONCE || Instant::now() >= until {
                return Ok(());
            }
        }
    }

    fn name_bad(&self, bad: Vec<(i32, i64, String)>) {
        for (partition, offset, reason) in bad {
            let mut count = 0;
            self.tell(|told| {
                told.bad_records += 1;
                count = told.bad_records;
            });
            let (lookup, topic) = (self.lookup.name.as_str(), self.options.topic.as_str());
            if count <= NAMED {
                tracing::warn!(
                    lookup,
                    topic,
                    partition,
                    offset,
                    reason,
                    "a lookup's record can't be used: the last good row stays"
                );
            }
            if count == NAMED {
                tracing::warn!(lookup, topic, "more of them are only counted");
            }
        }
    }

    fn tell(&self, change: impl FnOnce(&mut Told)) {
        change(&mut self.told.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
