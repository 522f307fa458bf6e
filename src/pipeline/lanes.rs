//! Lanes: transactions under way beside the loop, one line of them per lane.
//!
//! In: [`Parcel`]s, each an evaluated batch of one lane's partitions, in the order of their offsets. Out: a [`Landing`] of each, in the
//! same order within a lane. While one parcel of a lane is being applied the next one is staged, on a session of its own; it is applied
//! when, and only when, the one before it was committed. After anything else it stands back, and nothing of it was applied: what a
//! lane tells the database is what a loop without lanes would, and in the same order.
//!
//! Lanes share nothing but the server: a partition belongs to one lane.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::commit::token;
use super::pace::{Pace, Pass};
use crate::error::{Error, Kind, Result};
use crate::position::Partition;
use crate::record::RawBatch;
use crate::sink::positions::{Advance, Token};
use crate::sink::quarantine::Quarantined;
use crate::sink::{Known, Outcome, Sink, Staging, Work};
use crate::source::{Ask, BatchLimits, Share};
use crate::work::{Evaluation, OutOfOrder};

/// One in its transaction, one staged.
const PARCELS_PER_LANE: usize = 2;

/// An evaluated batch, and the transaction that applies it.
#[derive(Debug, Clone)]
pub(super) struct Parcel {
    pub raw: RawBatch,
    pub evaluation: Evaluation,
    pub id: Token,
    pub advances: Vec<Advance>,
    /// As [`Work::late`].
    pub late: Vec<bool>,
    pub decode: Duration,
    pub sql: Duration,
}

impl Parcel {
    pub fn new(raw: RawBatch, evaluation: Evaluation, advances: Vec<Advance>, decode: Duration, sql: Duration) -> Self {
        let mut late = vec![false; evaluation.latest.num_rows()];
        for row in &evaluation.suspects {
            if let Some(late) = late.get_mut(*row) {
                *late = true;
            }
        }
        Self { raw, evaluation, id: token(), advances, late, decode, sql }
    }

    pub fn work(&self) -> Work<'_> {
        Work {
            id: self.id,
            advances: self.advances.clone(),
            latest: &self.evaluation.latest,
            late: self.late.clone(),
            wants_evidence: !self.evaluation.suspicion.is_empty(),
            quarantine: self.quarantined(),
            settled: Vec::new(),
        }
    }

    /// Records that go into quarantine, with their bytes, in order.
    fn quarantined(&self) -> Vec<Quarantined<'_>> {
        let Evaluation { refused, held, .. } = &self.evaluation;
        let refused = refused.iter().map(|refusal| (refusal.position, refusal.keys.as_slice(), Some(refusal)));
        let held = held.iter().map(|held| (held.position, held.keys.as_slice(), None));
        let mut records: Vec<Quarantined<'_>> = refused
            .chain(held)
            .filter_map(|(position, keys, refusal)| Some(Quarantined { record: self.raw.at(position)?, keys, refusal }))
            .collect();
        records.sort_by_key(|record| (record.record.partition, record.record.offset));
        records
    }

    pub fn read(&self) -> u64 {
        self.evaluation.sums.iter().map(|sums| sums.classes.read).sum()
    }
}

/// What became of a parcel.
pub(super) enum Landed {
    Outcome(Result<Outcome>),
    /// Nothing was applied, because the one before it was not.
    StoodBack,
}

/// A parcel that is under way no more.
pub(super) struct Landing {
    pub parcel: Parcel,
    pub landed: Landed,
    /// Staging and transaction, without the wait between them.
    pub took: Duration,
}

/// What is stored of late rows' keys, so that the loop can run the model that makes evidence of it.
pub(super) struct Question {
    pub parcel: Arc<Parcel>,
    pub known: Known,
    pub answer: oneshot::Sender<Result<Vec<OutOfOrder>>>,
}

/// What the loop has to do for its lanes.
pub(super) enum Event {
    Landed(Box<Landing>),
    Asked(Question),
}

/// All lanes of a pipeline. See the module page.
pub(super) struct Lanes {
    lanes: Vec<Lane>,
    asking: mpsc::UnboundedSender<Question>,
    asked: mpsc::UnboundedReceiver<Question>,
    stop: watch::Receiver<bool>,
}

struct Lane {
    pace: Pace,
    /// Sinks with nothing to do.
    idle: Vec<Sink>,
    flights: VecDeque<Flight>,
    /// Comes when the last flight's parcel was committed.
    committed: Option<oneshot::Receiver<()>>,
}

/// A parcel under way; dropping it breaks it off.
struct Flight {
    parcel: Arc<Parcel>,
    /// What the batch was taken with.
    limits: BatchLimits,
    /// As [`Pass::age`].
    age: Duration,
    task: JoinHandle<Flown>,
}

struct Flown {
    sink: Sink,
    landed: Landed,
    staging: Duration,
    transaction: Duration,
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Lanes {
    /// `limits` are the most that a batch may hold.
    pub fn new(count: usize, limits: BatchLimits, stop: watch::Receiver<bool>) -> Self {
        let (asking, asked) = mpsc::unbounded_channel();
        Self { lanes: (0..count.max(1)).map(|_| Lane::new(limits)).collect(), asking, asked, stop }
    }

    fn index(&self, partition: Partition) -> usize {
        usize::try_from(partition).unwrap_or(0) % self.lanes.len()
    }

    /// Whether nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.lanes.iter().all(|lane| lane.flights.is_empty())
    }

    /// Batches that lanes would take now, one per lane that has room.
    pub fn asks(&self) -> Vec<Ask> {
        let of = Partition::try_from(self.lanes.len()).unwrap_or(Partition::MAX);
        let ask = |(lane, index): (&Lane, Partition)| {
            let has_room = lane.flights.len() < PARCELS_PER_LANE;
            has_room.then(|| Ask { share: Share { index, of }, limits: lane.pace.limits() })
        };
        self.lanes.iter().zip(0..).filter_map(ask).collect()
    }

    /// Parcels under way.
    pub fn parcels(&self) -> impl Iterator<Item = &Parcel> {
        self.lanes.iter().flat_map(|lane| &lane.flights).map(|flight| &*flight.parcel)
    }

    /// Sends `parcel` on its way, with a sink like `model`; all its partitions are of one lane.
    pub fn launch(&mut self, parcel: Parcel, model: &Sink) {
        let index = parcel.advances.first().map_or(0, |advance| self.index(advance.partition));
        let Some(lane) = self.lanes.get_mut(index) else { return };
        let mut sink = lane.idle.pop().unwrap_or_else(|| model.another());
        sink.follow(model);
        sink.expect(&parcel.evaluation.latest, &parcel.late);
        let before = lane.committed.take().filter(|_| !lane.flights.is_empty());
        let (after, committed) = oneshot::channel();
        let parcel = Arc::new(parcel);
        let flight =
            fly(sink, Arc::clone(&parcel), Turn { before, after, stop: self.stop.clone() }, self.asking.clone());
        let (limits, age) = (lane.pace.limits(), parcel.raw.age(SystemTime::now()));
        lane.flights.push_back(Flight { parcel, limits, age, task: tokio::spawn(flight) });
        lane.committed = Some(committed);
    }

    /// Gives up the sessions of lanes with nothing to do.
    pub fn disconnect(&mut self) {
        self.lanes.iter_mut().flat_map(|lane| &mut lane.idle).for_each(Sink::disconnect);
    }

    /// The next thing to do; pending for ever while nothing is under way. Cancel-safe.
    pub async fn next(&mut self) -> Event {
        poll_fn(|context| {
            if let Poll::Ready(Some(question)) = self.asked.poll_recv(context) {
                return Poll::Ready(Event::Asked(question));
            }
            let landed = self.lanes.iter_mut().find_map(|lane| lane.poll(context));
            landed.map_or(Poll::Pending, |landing| Poll::Ready(Event::Landed(Box::new(landing))))
        })
        .await
    }
}

impl Lane {
    fn new(limits: BatchLimits) -> Self {
        Self { pace: Pace::new(limits), idle: Vec::new(), flights: VecDeque::new(), committed: None }
    }

    /// The first parcel, if it is under way no more.
    fn poll(&mut self, context: &mut Context<'_>) -> Option<Landing> {
        let flight = self.flights.front_mut()?;
        let Poll::Ready(joined) = Pin::new(&mut flight.task).poll(context) else { return None };
        let flight = self.flights.pop_front()?;
        let (parcel, limits, age) = (Arc::clone(&flight.parcel), flight.limits, flight.age);
        drop(flight);
        let (landed, took) = match joined {
            Ok(Flown { sink, landed, staging, transaction }) => {
                self.idle.push(sink);
                if let Landed::Outcome(Ok(Outcome::Committed { .. })) = landed {
                    let (events, bytes, more) = (parcel.raw.len(), parcel.raw.byte_len(), parcel.raw.more);
                    let preparing = parcel.decode + parcel.sql + staging;
                    let rows = parcel.evaluation.latest.num_rows();
                    self.pace.note(&Pass { events, bytes, rows, more, age, limits, preparing, transaction });
                }
                (landed, staging + transaction)
            }
            Err(_) => {
                let error = Error::new(Kind::Bug, "a panic while a batch was applied; the log has its place");
                (Landed::Outcome(Err(error)), Duration::ZERO)
            }
        };
        // Nobody else holds it by now, except perhaps a question that nobody waits for any more.
        Some(Landing { parcel: Arc::unwrap_or_clone(parcel), landed, took })
    }
}

/// When it is a parcel's turn, and whom to tell that it is over.
struct Turn {
    /// `None`: at once.
    before: Option<oneshot::Receiver<()>>,
    after: oneshot::Sender<()>,
    stop: watch::Receiver<bool>,
}

async fn fly(mut sink: Sink, parcel: Arc<Parcel>, turn: Turn, asking: mpsc::UnboundedSender<Question>) -> Flown {
    let work = parcel.work();
    let began = Instant::now();
    let staged = sink.stage(&work).await;
    let staging = began.elapsed();
    if let Some(before) = turn.before
        && (before.await.is_err() || *turn.stop.borrow())
    {
        drop(work);
        sink.forget();
        return Flown { sink, landed: Landed::StoodBack, staging, transaction: Duration::ZERO };
    }
    let began = Instant::now();
    let outcome = apply(&mut sink, &parcel, &work, staged, &asking).await;
    if let Ok(Outcome::Committed { .. }) = outcome {
        // Nobody may be next.
        let _ = turn.after.send(());
    } else {
        sink.forget();
    }
    drop(work);
    Flown { sink, landed: Landed::Outcome(outcome), staging, transaction: began.elapsed() }
}

async fn apply(
    sink: &mut Sink,
    parcel: &Arc<Parcel>,
    work: &Work<'_>,
    staged: Result<Staging>,
    asking: &mpsc::UnboundedSender<Question>,
) -> Result<Outcome> {
    let staged = match staged? {
        Staging::Ready(staged) => staged,
        Staging::Refused(faults) => return Ok(Outcome::Rows(faults)),
    };
    let known = sink.known(work, &staged).await?;
    let evidence = if known.is_empty() { Vec::new() } else { ask(asking, parcel, known).await? };
    sink.transact(work, &staged, &evidence).await
}

/// Has the loop run the model that makes evidence: it has the engine.
async fn ask(asking: &mpsc::UnboundedSender<Question>, parcel: &Arc<Parcel>, known: Known) -> Result<Vec<OutOfOrder>> {
    let (answer, answered) = oneshot::channel();
    let gone = || Error::new(Kind::Bug, "the loop ended while a transaction was under way");
    asking.send(Question { parcel: Arc::clone(parcel), known, answer }).map_err(|_| gone())?;
    answered.await.map_err(|_| gone())?
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, BooleanArray, Int32Array, Int64Array, RecordBatch, StringArray};

    use super::*;
    use crate::generation::Generation;
    use crate::sink::positions::Owner;
    use crate::sink::session::{Address, Connector};
    use crate::target::{Column, Holds, Target};
    use crate::work::Suspicion;

    fn latest(keys: &[&str]) -> RecordBatch {
        let zeros = || Arc::new(Int64Array::from(vec![0; keys.len()])) as ArrayRef;
        let columns: [(&str, ArrayRef); 5] = [
            ("id", Arc::new(StringArray::from(keys.to_vec()))),
            ("_deleted", Arc::new(BooleanArray::from(vec![false; keys.len()]))),
            ("cdc_ts", zeros()),
            ("cdc_partition", Arc::new(Int32Array::from(vec![0; keys.len()]))),
            ("cdc_offset", zeros()),
        ];
        RecordBatch::try_from_iter(columns).unwrap()
    }

    fn parcel(keys: &[&str]) -> Parcel {
        let evaluation = Evaluation {
            latest: latest(keys),
            refused: Vec::new(),
            held: Vec::new(),
            sums: Vec::new(),
            suspects: Vec::new(),
            suspicion: Suspicion::default(),
            metrics: serde_json::Map::new(),
        };
        let raw = RawBatch { topic: "users".into(), chunks: Vec::new(), more: false };
        Parcel::new(raw, evaluation, Vec::new(), Duration::ZERO, Duration::ZERO)
    }

    /// A sink for a server that is never asked.
    fn sink() -> Sink {
        let address = Address {
            host: "127.0.0.1".into(),
            port: 1,
            user: String::new(),
            password: String::new(),
            database: String::new(),
            tls: false,
            ca_file: None,
        };
        let connector = Connector {
            address: Arc::new(move || Ok(address.clone())),
            connect_timeout: Duration::from_secs(1),
            statement_timeout: Duration::from_secs(1),
        };
        let owner = Owner {
            pipeline: "users".into(),
            topic: "users".into(),
            token: Token::default(),
            name: "test".into(),
            generation: Generation::default(),
        };
        let id = Column {
            name: "id".into(),
            ddl_type: "VARCHAR(255)".into(),
            holds: Holds::Text { max_chars: 255, max_bytes: 1020 },
            nullable: false,
        };
        let mut sink = Sink::new(connector, owner, vec!["id".into()]);
        sink.use_target(Target { table: "users".into(), columns: vec![id], key_len: 1 });
        sink
    }

    /// Which of two parcels is staged first depends on their sessions, so that by then it is too late to learn what the first one leaves.
    /// Nothing else runs here between the calls: this thread's tasks wait until the test does.
    #[tokio::test]
    async fn keys_of_a_parcel_are_known_to_the_next_one_before_either_is_staged() {
        let (_stop, stopping) = watch::channel(false);
        let limits = BatchLimits { max_events: 1_000, max_bytes: 1 << 20, max_wait: Duration::ZERO };
        let mut lanes = Lanes::new(1, limits, stopping);
        let model = sink();
        lanes.launch(parcel(&["a", "b"]), &model);
        let mut next = model.another();
        next.expect(&latest(&["b", "c"]), &[]);
        assert_eq!(next.expected(), [true, false]);
    }
}
