//! Sink: shaped rows in, one MySQL transaction out.
//!
//! What comes in is a [`Work`]: the rows of a batch, one per key, with the positions they move, the records they refuse and hold, and
//! the sums. What goes out is all of it together or nothing of it (P2), at most once (P3): the transaction begins with a
//! compare-and-swap of the positions, and a COMMIT whose answer is lost is settled by reading them back ([`Sink::find`]).
//!
//! After `Ok(Outcome::Committed)` everything is durable. After any other outcome and after any `Err` nothing of it is, except that
//! [`Kind::CommitUnknown`] means "ask [`Sink::find`] before anything else". The sink never retries by itself and is safe to drop
//! in the middle: the session goes with it. Rows are staged before the transaction begins, so that locks are held only while the
//! server itself works.

mod direct;
mod encode;
mod evidence;
pub mod evolve;
mod experience;
mod fresh;
pub mod generations;
mod insert;
pub mod inspect;
pub mod lookup;
mod merge;
pub mod migrate;
pub mod positions;
pub mod privileges;
pub mod quarantine;
mod quoting;
mod refused_rows;
pub mod server_error;
pub mod session;
mod stage;
pub mod status;
pub mod stored;
pub mod summary;
pub mod tables;
mod tombstones;
mod updates;

use std::sync::Arc;

use arrow::array::RecordBatch;

use self::direct::Direct;
pub use self::encode::Lines;
use self::evidence::Evidence;
use self::experience::{Experience, Guess};
use self::fresh::{Fresh, NewRows};
use self::inspect::Inspected;
use self::merge::Merge;
pub use self::merge::{Known, Superseded};
use self::positions::{Advance, Found, Owner, Token};
use self::quarantine::{Quarantined, Settled};
use self::session::{Connector, Session, StatementError};
use self::stage::{Counts, Filled, Stage};
pub use self::stage::{Marks, RowFault, Staged};
use self::updates::{Picked, Updates};
use crate::diagnostic::Diagnostic;
use crate::error::{Error, Kind, Result};
use crate::failpoint::failpoint;
use crate::generation::Generation;
use crate::position::Partition;
use crate::target::Target;
use crate::work::OutOfOrder;

/// Everything that one transaction contains.
#[derive(Debug)]
pub struct Work<'a> {
    /// Random; stands in the positions rows afterwards, so that a lost answer can be settled.
    pub id: Token,
    /// Ascending by partition, balanced (P4).
    pub advances: Vec<Advance>,
    /// See [`crate::work::Evaluation::latest`].
    pub latest: &'a RecordBatch,
    /// Per row of `latest`: whether it may be older than what is stored of its key.
    pub late: Vec<bool>,
    /// Whether what is stored of the keys of late rows is wanted, for the evidence.
    pub wants_evidence: bool,
    pub quarantine: Vec<Quarantined<'a>>,
    pub settled: Vec<Settled>,
}

/// What became of a transaction that was not broken off by an error.
#[derive(Debug)]
pub enum Outcome {
    Committed {
        superseded: Vec<Superseded>,
        out_of_order: usize,
    },
    /// Nothing was applied: the server would change or refuse these rows. Empty where it can't say which.
    Rows(Vec<RowFault>),
    /// Nothing was applied: a position is not as this work knows it. The rows as they were found afterwards.
    Lost(Vec<Found>),
}

/// A batch that waits for its transaction.
#[derive(Debug)]
pub enum Waiting {
    /// With the numbers of the rows that aren't staged: on this side still, because they are expected to find a row of their key.
    Staged(Staged, Vec<usize>),
    /// Expected to be all new: on this side still.
    New(NewRows),
}

/// What became of bringing rows to the server.
#[derive(Debug)]
pub enum Staging {
    Ready(Waiting),
    /// As [`Outcome::Rows`].
    Refused(Vec<RowFault>),
}

/// One writer session and the statements for one target. See the module page.
pub struct Sink {
    connector: Connector,
    owner: Owner,
    key: Vec<String>,
    session: Option<Session>,
    prepared: Option<Arc<Prepared>>,
    experience: Arc<Experience>,
    /// Of the rows that are on their way and not committed yet, see [`experience::keys`].
    keys: Vec<u64>,
    /// Per row of the batch that is staged next, whether its key is likely to have one; `None` until [`Sink::expect`].
    stored: Option<Vec<bool>>,
    /// What of the staged rows is going to lose, by what was stored when [`Sink::known`] was asked.
    foreseen: Vec<Superseded>,
    tombstones: tombstones::Sweep,
    most_text_rows: usize,
}

struct Prepared {
    target: Target,
    direct: Direct,
    fresh: Fresh,
    updates: Updates,
    stage: Stage,
    merge: Merge,
    evidence: Evidence,
}

impl Sink {
    pub fn new(connector: Connector, owner: Owner, key: Vec<String>) -> Self {
        Self {
            connector,
            owner,
            key,
            session: None,
            prepared: None,
            experience: Arc::default(),
            keys: Vec::new(),
            stored: None,
            foreseen: Vec::new(),
            tombstones: tombstones::Sweep::default(),
            most_text_rows: direct::MOST_ROWS,
        }
    }

    /// Batches of more than `rows` rows don't travel as text.
    pub fn limit_text(&mut self, rows: usize) {
        self.most_text_rows = rows;
    }

    pub fn owner(&self) -> &Owner {
        &self.owner
    }

    /// Writes as `generation` from now on.
    pub fn use_generation(&mut self, generation: Generation) {
        self.owner.generation = generation;
    }

    /// The target as the server describes it, or its faults, for models that yield the columns of `wanted`. Doesn't go on with it.
    pub async fn look(&mut self, wanted: &Target) -> Result<std::result::Result<Inspected, Vec<Diagnostic>>> {
        let key = self.key.clone();
        inspect::target(self.session().await?, &wanted.table, &key, Some(wanted)).await
    }

    /// Writes to `target` from now on.
    pub fn use_target(&mut self, target: Target) {
        let pipeline = &self.owner.pipeline;
        let (direct, fresh) = (Direct::new(&target, pipeline), Fresh::new(&target, pipeline));
        let (updates, stage, merge) = (Updates::new(&target), Stage::new(&target), Merge::new(&target, pipeline));
        let evidence = Evidence::new(&self.owner);
        self.prepared = Some(Arc::new(Prepared { target, direct, fresh, updates, stage, merge, evidence }));
    }

    /// One more for the same owner, with a session of its own; both learn from each other.
    #[must_use]
    pub fn another(&self) -> Self {
        let Self { connector, owner, key, prepared, experience, most_text_rows, .. } = self;
        let (prepared, experience, most_text_rows) = (prepared.clone(), Arc::clone(experience), *most_text_rows);
        Self { prepared, experience, most_text_rows, ..Self::new(connector.clone(), owner.clone(), key.clone()) }
    }

    /// Writes as the same owner and to the same target as `other` from now on.
    pub fn follow(&mut self, other: &Self) {
        self.owner.clone_from(&other.owner);
        self.prepared.clone_from(&other.prepared);
    }

    pub fn target(&self) -> Option<&Target> {
        self.prepared.as_ref().map(|prepared| &prepared.target)
    }

    /// Whether the next batch is tried as one of new rows only, by the last ones; see [`fresh`].
    pub fn expects_new_rows(&self) -> bool {
        self.experience.expects_new_rows()
    }

    /// Tries the next batch as one of new rows only, whatever the last ones were.
    pub fn expect_new_rows(&mut self) {
        self.experience.guess(|guess| *guess = Guess::CERTAIN);
    }

    /// Takes keys of the next batch that were written lately to have rows, whatever came of it in the last ones; see [`updates`].
    pub fn rely_on_stored_rows(&mut self) {
        self.experience.rely_on_stored();
    }

    /// The session, opened anew where the last one was given up.
    pub async fn session(&mut self) -> Result<&mut Session> {
        let alive = match &mut self.session {
            Some(session) => session.alive().await,
            None => false,
        };
        if !alive {
            self.session = Some(self.connector.connect().await?);
        }
        self.session.as_mut().ok_or_else(|| Error::new(Kind::Bug, "no session after connecting"))
    }

    /// Gives the session up, whatever it was doing.
    pub fn disconnect(&mut self) {
        self.session = None;
    }

    /// Learns what a batch will find of its keys and what it will leave of them, before it is staged. With several batches on their way
    /// to be called in their order: what they are staged in isn't theirs, one may wait for its session meanwhile.
    pub fn expect(&mut self, latest: &RecordBatch, late: &[bool]) {
        self.keys = self.target().map(|target| experience::keys(target, latest)).unwrap_or_default();
        self.stored = Some(self.experience.stored(&self.keys, latest, late));
    }

    /// Per row of the batch expected last, whether its key is taken to have a row.
    #[cfg(test)]
    pub fn expected(&self) -> &[bool] {
        self.stored.as_deref().unwrap_or_default()
    }

    /// Brings the rows of `work` to the server. Touches nothing that anybody else sees and takes no locks: other transactions may go on
    /// meanwhile, also one that has to come first.
    pub async fn stage(&mut self, work: &Work<'_>) -> Result<Staging> {
        debug_assert!(work.advances.iter().all(|advance| advance.sums.balances()), "P4");
        self.foreseen.clear();
        if self.stored.is_none() {
            self.expect(work.latest, &work.late);
        }
        let staging = self.bring(work).await;
        if !matches!(staging, Ok(Staging::Ready(_))) {
            self.forget();
        }
        staging
    }

    /// As [`Sink::stage`], which takes back what was learned where this fails, be it for want of a session.
    async fn bring(&mut self, work: &Work<'_>) -> Result<Staging> {
        let stored = self.stored.take().unwrap_or_default();
        self.session().await?;
        let (Some(session), Some(prepared)) = (self.session.as_mut(), self.prepared.as_deref()) else {
            return Err(Error::new(Kind::Bug, "staging before the target was inspected"));
        };
        let (all_new, reliable) = (self.experience.expects_new_rows(), self.experience.relies_on_stored());
        let expected = Expected { all_new, stored, reliable };
        let staging = stage_rows(session, prepared, work, &expected, self.most_text_rows).await;
        staging.map_err(StatementError::into_error_about_rows)
    }

    /// What was expected or staged isn't going to be applied, or not as it is.
    pub fn forget(&mut self) {
        self.stored = None;
        self.experience.forget(&std::mem::take(&mut self.keys));
    }

    /// What is stored of the keys of late rows of `work`, which this session has just staged; nothing where it isn't wanted.
    pub async fn known(&mut self, work: &Work<'_>, waiting: &Waiting) -> Result<Known> {
        // Where it is wanted of any, none are taken to be new.
        let Waiting::Staged(staged, _) = waiting else { return Ok(Known::new()) };
        if !work.wants_evidence || !work.late.contains(&true) {
            return Ok(Known::new());
        }
        let (Some(session), Some(prepared)) = (self.session.as_mut(), self.prepared.as_deref()) else {
            return Err(unstaged());
        };
        let known = prepared.merge.known(session, staged).await.map_err(StatementError::into_error)?;
        self.foreseen = merge::foresee(work.latest, &known);
        Ok(known)
    }

    /// Applies `work`, which this session has just staged, in one transaction, together with `evidence` about its late rows.
    pub async fn transact(&mut self, work: &Work<'_>, waiting: &Waiting, evidence: &[OutOfOrder]) -> Result<Outcome> {
        let outcome = self.apply(work, waiting, evidence).await;
        match outcome {
            Ok(Outcome::Committed { .. }) => self.keys.clear(),
            _ => self.forget(),
        }
        outcome
    }

    async fn apply(&mut self, work: &Work<'_>, waiting: &Waiting, evidence: &[OutOfOrder]) -> Result<Outcome> {
        let (Some(session), Some(prepared)) = (self.session.as_mut(), self.prepared.as_deref()) else {
            return Err(unstaged());
        };
        // Text is made before the transaction begins: nobody waits for our locks while we write strings. Rows that go in bulk, or evidence,
        // are made while the server works.
        let packet = session.facts.max_allowed_packet;
        let swap = self.owner.swap(&work.advances, &work.id);
        let mut records = quarantine::inserts(&self.owner, &work.quarantine, packet).inspect_err(|_| {
            // A raised limit holds for new sessions.
            session.abandon();
        })?;
        records.extend(quarantine::settlements(&self.owner, &work.settled));
        let body = Body { work, swap: &swap, records: &records, evidence, prepared, waiting, foreseen: &self.foreseen };
        match transaction(session, &self.owner, &body, &self.experience).await {
            Ok(Written::Merged(superseded)) => match session.run("COMMIT").await {
                Ok(_) => Ok(Outcome::Committed { superseded, out_of_order: evidence.len() }),
                Err(error) => {
                    // Whatever the answer was, the transaction's fate is read from the positions, on a new connection.
                    session.abandon();
                    let mut error = error.into_error();
                    error.kind = Kind::CommitUnknown;
                    Err(error.at("COMMIT"))
                }
            },
            Ok(Written::Refused(faults)) => {
                session.rollback().await;
                Ok(Outcome::Rows(faults))
            }
            Ok(Written::Lost) => {
                session.rollback().await;
                self.find(&work.advances).await.map(Outcome::Lost)
            }
            Err(error) => {
                session.rollback().await;
                Err(error)
            }
        }
    }

    /// The rows that tell what became of a transaction in doubt; reads with locks, on a connection that is known to be the writer's.
    pub async fn find(&mut self, advances: &[Advance]) -> Result<Vec<Found>> {
        let owner = self.owner.clone();
        let partitions: Vec<Partition> = advances.iter().map(|advance| advance.partition).collect();
        owner.find(self.session().await?, &partitions).await
    }

    /// Which rows of `latest` the server refuses in the merge itself (CHECK, foreign key, trigger), found by trying parts of the batch
    /// in transactions that are rolled back. Only sensible while the server is healthy: any other error ends the search.
    pub async fn refused_rows(&mut self, latest: &RecordBatch) -> Result<Vec<RowFault>> {
        self.session().await?;
        let (Some(session), Some(prepared)) = (self.session.as_mut(), self.prepared.as_deref()) else {
            return Err(Error::new(Kind::Bug, "search before the target was inspected"));
        };
        refused_rows::search(session, prepared, latest).await
    }

    /// Deletes some tombstones older than `retention`; each call continues where the last one ended.
    pub async fn sweep_tombstones(&mut self, retention: std::time::Duration) -> Result<u64> {
        self.session().await?;
        match self.session.as_mut() {
            Some(session) => self.tombstones.step(session, &self.owner.pipeline, retention).await,
            None => Ok(0),
        }
    }
}

/// What was staged is gone with the session that it was staged in.
fn unstaged() -> Error {
    Error::new(Kind::SinkUnavailable, "the session ended after the rows were staged")
}

/// Statements of one transaction between START TRANSACTION and COMMIT.
struct Body<'a> {
    work: &'a Work<'a>,
    swap: &'a str,
    records: &'a [String],
    evidence: &'a [OutOfOrder],
    prepared: &'a Prepared,
    waiting: &'a Waiting,
    foreseen: &'a [Superseded],
}

/// What a transaction came to before its COMMIT.
enum Written {
    Merged(Vec<Superseded>),
    /// As [`Outcome::Rows`].
    Refused(Vec<RowFault>),
    /// The compare-and-swap found a position elsewhere.
    Lost,
}

/// Runs all but COMMIT.
async fn transaction(
    session: &mut Session,
    owner: &Owner,
    body: &Body<'_>,
    experience: &Experience,
) -> Result<Written> {
    // Only statements that carry the batch's rows may be refused for a row's sake.
    let operator = |error: StatementError| {
        let mut error = error.into_error_about_rows();
        if error.kind == Kind::RowRefused {
            error.kind = Kind::SinkConfig;
        }
        error
    };
    failpoint!("after_stage");
    failpoint!("before_swap");
    let answers = session.run_several(&["START TRANSACTION", body.swap]).await.map_err(operator)?;
    if answers.last().map(|answer| answer.done.affected) != Some(body.work.advances.len() as u64) {
        return Ok(Written::Lost);
    }
    failpoint!("after_swap");
    let written = write_rows(session, body, experience).await.map_err(StatementError::into_error_about_rows)?;
    let Written::Merged(superseded) = written else { return Ok(written) };
    failpoint!("after_merge");
    for lost in &superseded {
        session.run(&owner.correct(lost.partition, lost.upserts, lost.deletes)).await.map_err(operator)?;
    }
    for statement in body.records {
        session.run(statement).await.map_err(operator)?;
    }
    body.prepared.evidence.put(session, body.evidence).await?;
    failpoint!("before_commit");
    Ok(Written::Merged(superseded))
}

/// The batch's rows into target and tombstones.
async fn write_rows(
    session: &mut Session,
    Body { work, prepared, waiting, foreseen, .. }: &Body<'_>,
    experience: &Experience,
) -> std::result::Result<Written, StatementError> {
    match waiting {
        Waiting::Staged(staged, updates) => {
            if updates.is_empty() || prepared.updates.put(session, &prepared.target, work.latest, updates).await? {
                let merged = prepared.merge.run(session, staged, foreseen).await?;
                if work.latest.num_rows() > 0 {
                    experience.guess(|guess| guess.note(merged.all_new && updates.is_empty()));
                    experience.relied_on_stored(true);
                }
                return Ok(Written::Merged(merged.superseded));
            }
            experience.relied_on_stored(false);
        }
        Waiting::New(new) => {
            if prepared.fresh.put(session, &prepared.target, new).await? {
                experience.guess(|guess| guess.note(true));
                return Ok(Written::Merged(Vec::new()));
            }
            experience.guess(Guess::failed);
        }
    }
    // Not all of its keys are as expected, who knows which.
    let marks = Marks { late: &work.late, stored: &[] };
    let numbers: Vec<usize> = (0..work.latest.num_rows()).collect();
    Ok(match prepared.stage.put(session, &prepared.target, work.latest, marks, &numbers).await? {
        Filled::Staged(staged) => Written::Merged(prepared.merge.run(session, &staged, foreseen).await?.superseded),
        Filled::Refused(faults) => Written::Refused(faults),
    })
}

/// What a batch's keys are expected to be like.
struct Expected {
    /// None of them has a row.
    all_new: bool,
    /// Per row, whether it has one.
    stored: Vec<bool>,
    /// Whether that can be relied on.
    reliable: bool,
}

/// Brings a batch to where its transaction takes it from, by the way that suits it: as text where it is small, into the stage, or, as far
/// as its keys are likely to be all new or to have rows, nowhere yet.
async fn stage_rows(
    session: &mut Session,
    prepared: &Prepared,
    work: &Work<'_>,
    expected: &Expected,
    most_text_rows: usize,
) -> std::result::Result<Staging, StatementError> {
    let Prepared { target, direct, fresh, stage, .. } = prepared;
    let (rows, late) = (work.latest, &work.late);
    let ready = |staged, updates| Staging::Ready(Waiting::Staged(staged, updates));
    if rows.num_rows() == 0 {
        return Ok(ready(Staged::Table(Counts::default()), Vec::new()));
    }
    if rows.num_rows() <= most_text_rows
        && let Some(statements) = direct.statements(&session.facts, target, rows, late)
    {
        return Ok(ready(Staged::Text(Box::new(statements)), Vec::new()));
    }
    if expected.all_new
        && !(work.wants_evidence && late.contains(&true))
        && let Some(new) = fresh.rows(&session.facts, target, rows)
    {
        return Ok(new.map_or_else(|fault| Staging::Refused(vec![fault]), |new| Staging::Ready(Waiting::New(new))));
    }
    let marks = Marks { late, stored: &expected.stored };
    let picked = if expected.reliable { updates::pick(&session.facts, rows, marks) } else { Picked::none(rows) };
    let Picked { updates, rest } = picked;
    if rest.is_empty() {
        return Ok(ready(Staged::Table(Counts::default()), updates));
    }
    Ok(match stage.put(session, target, rows, marks, &rest).await? {
        Filled::Staged(filled) => ready(filled, updates),
        Filled::Refused(faults) => Staging::Refused(faults),
    })
}
