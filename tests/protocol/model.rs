//! The model: how large a world is, how it begins, and what may happen in a state; `steps.rs` has the state after it.
//!
//! What follows each outcome of a transaction is the engine's own decision (`pipeline::protocol::next`), and what the swap and an
//! acquisition do to a row is `Found::swapped` and `Found::acquired`, which `swap.rs` compares with the statements on real servers.
//! Statements are steps: they are done and answered, or their connection breaks. Waiting for a lock is a step that can't be
//! taken yet. A pause is taking no step for a while, which any instance may do at any time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::broken::Broken;
use super::state::{DOWN, Doing, Each, Id, Instance, PARTITIONS, Part, Row, State};

/// How large a world is checked.
#[derive(Debug, Clone)]
pub struct Protocol {
    pub instances: usize,
    pub partitions: usize,
    /// Records per partition.
    pub records: u8,
    /// A batch may hold more than one record.
    pub large_batches: bool,
    /// The first record of each partition is refused, and may be run again later.
    pub refusals: bool,
    /// Rows exist at the beginning; otherwise the first owner makes them.
    pub rows_exist: bool,
    /// Faults of any kind, in one life of the world.
    pub faults: u8,
    pub backups: u8,
    pub restores: u8,
    /// New definitions that come into use, in one life of the world.
    pub definitions: u8,
    /// A restore leaves what it replaces as the backup, as a failover does from which one may come back.
    pub there_and_back: bool,
    /// Acquisitions per partition, at most (and one less where rows exist).
    pub epochs: u8,
    /// Check that every state can still be drained; costs a lot.
    pub check_healing: bool,
    pub broken: Option<Broken>,
    pub seen: Seen,
}

impl Default for Protocol {
    fn default() -> Self {
        Self {
            instances: 2,
            partitions: 1,
            records: 2,
            large_batches: false,
            refusals: false,
            rows_exist: true,
            faults: 2,
            backups: 0,
            restores: 0,
            definitions: 0,
            there_and_back: false,
            epochs: 3,
            check_healing: false,
            broken: None,
            seen: Seen::default(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Takes the ownership of partitions. Whoever is assigned a partition does so, and nothing says that only one is.
    Acquire(usize, Each<bool>),
    /// Makes up a batch that ends at these offsets (0: without that partition), begins a transaction, swaps.
    Begin(usize, Each<u8>),
    /// The same for the refused record of one partition.
    Rerun(usize, usize),
    /// Registers the definition that its files have now: a new one, or the newest that is known already.
    Register(usize, bool),
    /// Looks whether the positions are as it knows them, and at what stands in quarantine.
    Look(usize),
    /// The next statement of what an instance is in the middle of, done and answered.
    Step(usize),
    Start(usize),
    /// The server refuses a row.
    RefuseRow(usize),
    /// The connection breaks. What the server has is then an orphan.
    Cut(usize),
    /// Killed, or stopped, at any point.
    Crash(usize),
    /// The server carries out a COMMIT that was sent, whether or not somebody still waits for it.
    Commit(usize),
    /// The server ends a session, or notices that its client is gone: roll back.
    RollBack(usize),
    Backup,
    /// The database is set back to the backup, with all that is in it. All sessions end.
    Restore,
}

/// Situations that a check must have met, or it proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Sight {
    Drained,
    FencedAtSwap,
    MovedAtSwap,
    FencedInDoubt,
    MovedInDoubt,
    DoubtCommitted,
    DoubtNotCommitted,
    /// Committed although one of its partitions had a new owner by then.
    CommittedThoughFenced,
    /// A swap was refused, and then all rows looked right.
    RefusedForNothing,
    DoubtWaitedForLock,
    DoubtReadBackFailed,
    AcquireWaitedForLock,
    /// COMMIT was carried out after its client had gone.
    CommittedAlone,
    /// The same epoch was given to two runs, and one of them was refused by the token alone.
    EpochGivenTwice,
    /// A swap was refused only because another transaction had moved the row to the same position.
    OnlyTransactionDiffers,
    FirstRowLost,
    RowOfAnotherRead,
    CrashedAcquiring,
    CrashedInTransaction,
    CrashedCommitting,
    CrashedInDoubt,
    RanAgain,
    LargeBatch,
    OutdatedAtSwap,
    OutdatedInDoubt,
    OutdatedAcquiring,
    OutdatedFirstRow,
    /// A definition was registered, and nobody knows.
    RegisteredAlone,
    RegisteringWaitedForLock,
    CaughtUp,
}

/// Which [`Sight`]s were met; shared by all threads of a check.
#[derive(Debug, Clone, Default)]
pub struct Seen(Arc<AtomicU64>);

impl Seen {
    pub fn note(&self, sight: Sight) {
        self.0.fetch_or(1 << sight as u8, Ordering::Relaxed);
    }

    pub fn has(&self, sight: Sight) -> bool {
        self.0.load(Ordering::Relaxed) & (1 << sight as u8) != 0
    }
}

/// A random name: never one that stands in a canonical state.
pub const FRESH: u8 = u8::MAX;

impl Protocol {
    pub fn initial(&self) -> State {
        let mut part = Part::default();
        if self.rows_exist {
            part.row = Some(Row { next: 0, epoch: 1, owner: 1, id: Id::Created(1), generation: 0 });
        }
        let mut database = Each::default();
        database[..self.partitions].fill(part);
        let instances = (0..self.instances).map(|index| Instance { run: FRESH - index as u8, ..DOWN }).collect();
        State {
            database,
            newest: 0,
            backup: database,
            open: Vec::new(),
            instances,
            faults: self.faults,
            backups: self.backups,
            restores: self.restores,
            definitions: self.definitions,
            restored: false,
            wrong: Default::default(),
        }
    }

    /// Everything that may happen now. What turns out to have to wait is sorted out by [`Protocol::after`].
    pub fn possible(&self, state: &State, actions: &mut Vec<Action>) {
        for (index, instance) in state.instances.iter().enumerate() {
            if instance.run == 0 {
                actions.push(Action::Start(index));
                continue;
            }
            if state.faults > 0 {
                actions.push(Action::Crash(index));
            }
            if instance.doing == Doing::Idle {
                self.possible_when_idle(state, index, actions);
                continue;
            }
            actions.push(Action::Step(index));
            if state.faults > 0 {
                actions.push(Action::Cut(index));
                if matches!(instance.doing, Doing::Swapped(_)) {
                    actions.push(Action::RefuseRow(index));
                }
            }
        }
        for (index, open) in state.open.iter().enumerate() {
            if open.committing {
                actions.push(Action::Commit(index));
            }
            if !open.connected || state.faults > 0 {
                actions.push(Action::RollBack(index));
            }
        }
        if state.backups > 0 {
            actions.push(Action::Backup);
        }
        if state.restores > 0 {
            actions.push(Action::Restore);
        }
    }

    fn possible_when_idle(&self, state: &State, index: usize, actions: &mut Vec<Action>) {
        let instance = &state.instances[index];
        let room = |part: usize| state.database[part].row.is_none_or(|row| row.epoch < self.epochs);
        let choices: &[Each<bool>] =
            if self.partitions == 1 { &[[true, false]] } else { &[[true, false], [false, true], [true, true]] };
        for parts in choices {
            if (0..PARTITIONS).all(|part| !parts[part] || room(part)) {
                actions.push(Action::Acquire(index, *parts));
            }
        }
        if instance.owned.iter().any(Option::is_some) {
            actions.push(Action::Look(index));
        }
        if state.definitions > 0 {
            actions.push(Action::Register(index, true));
        }
        if instance.generation != state.newest {
            actions.push(Action::Register(index, false));
        }
        let ends = |part: usize| {
            let mut ends = vec![0];
            if let Some(owned) = instance.owned[part].filter(|owned| owned.next < self.records) {
                let last = if self.large_batches { self.records } else { owned.next + 1 };
                ends.extend(owned.next + 1..=last);
            }
            ends
        };
        for first in ends(0) {
            for second in ends(1) {
                if first + second > 0 {
                    actions.push(Action::Begin(index, [first, second]));
                }
            }
        }
        for part in 0..PARTITIONS {
            if instance.owned[part].is_some_and(|owned| owned.pending) {
                actions.push(Action::Rerun(index, part));
            }
        }
    }
}
