//! The states that the model of the protocol can be in. Small numbers stand for offsets, epochs and random names.

/// Partitions at most, and records per partition at most.
pub const PARTITIONS: usize = 2;
pub const RECORDS: usize = 3;

/// Per partition; in a model of one partition the second stays unused.
pub type Each<T> = [T; PARTITIONS];

/// An owner's token: the random name of one run of one instance. 0: nobody's, or that of an instance that doesn't run.
pub type Run = u8;

/// The name of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Id {
    /// Of the row's first INSERT, which bears its owner's token.
    Created(Run),
    Work(u8),
}

/// A row of `afterimage_positions`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Row {
    pub next: u8,
    pub epoch: u8,
    pub owner: Run,
    pub id: Id,
    /// The newest definition that was registered when it was made, or since.
    pub generation: u8,
}

/// What became of the record at offset 0, which the models refuse at first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Refused {
    #[default]
    NotRead,
    Pending,
    /// Run again successfully, so many times.
    Settled(u8),
}

/// All that is committed of one partition: its position, and its part of the data, which move together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Part {
    pub row: Option<Row>,
    /// How often each record was applied: a count, which shows what idempotent upserts would hide.
    pub applied: [u8; RECORDS],
    pub refused: Refused,
}

/// What a transaction does to one partition, and what the instance knew of it when it made the transaction up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Moves {
    pub from: u8,
    /// Equal to `from` where the refused record is run again.
    pub to: u8,
    pub known: Owned,
}

/// A batch, or a record that is run again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Work {
    pub id: Id,
    /// Whose models it is from.
    pub generation: u8,
    pub moves: Each<Option<Moves>>,
}

/// A partition as an instance remembers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Owned {
    pub next: u8,
    pub epoch: u8,
    pub id: Id,
    /// Whether the refused record is pending: its user has to wait.
    pub pending: bool,
}

/// What an instance is in the middle of. A paused one merely takes no step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Doing {
    Idle,
    /// Acquiring: its UPDATE is done, next are SELECT and COMMIT.
    Bumped(Each<bool>),
    /// Acquiring: COMMIT is sent. With the rows that were read.
    Acquired {
        parts: Each<bool>,
        rows: Each<Option<Owned>>,
        answered: bool,
    },
    /// Acquired: next are first rows where there were none.
    Adopting {
        parts: Each<bool>,
        rows: Each<Option<Owned>>,
    },
    /// The same work is to be tried again.
    Retrying(Work),
    /// The swap is done, next are the rows.
    Swapped(Work),
    /// The rows are written, next is COMMIT.
    Written(Work),
    /// COMMIT is sent.
    Committing {
        work: Work,
        answered: bool,
    },
    /// The swap was refused, next is to find out why.
    SwapRefused(Work),
    /// COMMIT has no answer, next is to read back.
    InDoubt(Work),
    /// All positions are given this generation, next is COMMIT.
    Fencing(u8),
    /// COMMIT of that is sent.
    Registering {
        generation: u8,
        answered: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Instance {
    pub run: Run,
    /// The definition that it runs, by the number under which it was registered.
    pub generation: u8,
    pub owned: Each<Option<Owned>>,
    pub doing: Doing,
}

pub const DOWN: Instance = Instance { run: 0, generation: 0, owned: [None; PARTITIONS], doing: Doing::Idle };

/// A transaction that is open on the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Open {
    pub run: Run,
    /// Its client is still there.
    pub connected: bool,
    /// COMMIT has been sent: the server will carry it out, or not.
    pub committing: bool,
    /// Rows of the positions that it has locked.
    pub locks: Each<bool>,
    pub content: Content,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Content {
    Acquire,
    Register(u8),
    Apply { work: Work, written: bool },
}

/// What must not be, as seen at a transition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Wrong {
    /// A transaction of an older owner committed after a newer one had acquired.
    pub unfenced: bool,
    /// A transaction of an older definition committed after a newer one was registered.
    pub outdated: bool,
    /// A transaction committed that rests on a memory which isn't what the database held.
    pub blind: bool,
    /// The engine's decision was to halt.
    pub halted: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct State {
    pub database: Each<Part>,
    /// The newest definition that is registered.
    pub newest: u8,
    /// What the database is set back to by a restore, or by the promotion of a replica that lags.
    pub backup: Each<Part>,
    pub open: Vec<Open>,
    pub instances: Vec<Instance>,
    /// Faults, backups and restores that may still come.
    pub faults: u8,
    pub backups: u8,
    pub restores: u8,
    /// Definitions that may still be registered.
    pub definitions: u8,
    /// The database was set back: memories may differ from it until they are corrected.
    pub restored: bool,
    pub wrong: Wrong,
}

impl Row {
    /// The row as an instance remembers it.
    pub fn seen(self, pending: bool) -> Owned {
        Owned { next: self.next, epoch: self.epoch, id: self.id, pending }
    }
}

impl Moves {
    pub fn is_rerun(&self) -> bool {
        self.from == self.to
    }
}

impl Work {
    pub fn parts(&self) -> Each<bool> {
        self.moves.map(|moves| moves.is_some())
    }
}

impl Part {
    pub fn pending(&self) -> bool {
        self.refused == Refused::Pending
    }
}

impl Doing {
    /// The work that an instance is busy with, if it is.
    pub fn work(&mut self) -> Option<&mut Work> {
        match self {
            Self::Idle | Self::Bumped(_) | Self::Acquired { .. } | Self::Adopting { .. } => None,
            Self::Fencing(_) | Self::Registering { .. } => None,
            Self::Retrying(work) | Self::Swapped(work) | Self::Written(work) => Some(work),
            Self::Committing { work, .. } | Self::SwapRefused(work) | Self::InDoubt(work) => Some(work),
        }
    }

    fn rows(&mut self) -> Option<&mut Each<Option<Owned>>> {
        match self {
            Self::Acquired { rows, .. } | Self::Adopting { rows, .. } => Some(rows),
            _ => None,
        }
    }
}

impl State {
    /// The transaction that an instance has open, as long as the server has it.
    pub fn transaction_of(&self, instance: usize) -> Option<usize> {
        let run = self.instances[instance].run;
        self.open.iter().position(|open| open.connected && open.run == run)
    }

    /// Whether any transaction holds a lock on one of `parts`.
    pub fn locked(&self, parts: Each<bool>) -> bool {
        self.open.iter().any(|open| (0..PARTITIONS).any(|part| open.locks[part] && parts[part]))
    }

    /// Whether a definition is being registered: whoever else needs the generations waits.
    pub fn registering(&self) -> bool {
        self.open.iter().any(|open| matches!(open.content, Content::Register(_)))
    }

    /// Names are random, so only which of them are equal counts, and instances are all alike: of all states that differ in nothing
    /// else this is the least one.
    pub fn canonical(mut self) -> Self {
        if self.restores == 0 {
            self.backup = Each::default();
            self.backups = 0;
        }
        orders(self.instances.len()).iter().map(|order| self.renamed(order)).min().unwrap_or(self)
    }

    fn renamed(&self, order: &[usize]) -> Self {
        let mut state = self.clone();
        state.instances = order.iter().map(|&index| self.instances[index]).collect();
        let mut names = Names::default();
        for part in state.database.iter_mut().chain(&mut state.backup) {
            names.row(part.row.as_mut());
        }
        for instance in &mut state.instances {
            names.run(&mut instance.run);
            instance.owned.iter_mut().flatten().for_each(|owned| names.id(&mut owned.id));
            instance.doing.rows().into_iter().flatten().flatten().for_each(|row| names.id(&mut row.id));
            if let Some(work) = instance.doing.work() {
                names.work(work);
            }
        }
        for open in &mut state.open {
            names.run(&mut open.run);
            if let Content::Apply { work, .. } = &mut open.content {
                names.work(work);
            }
        }
        state.open.sort_unstable();
        state
    }
}

/// Gives names new numbers, in the order in which they are met.
#[derive(Default)]
struct Names {
    runs: Vec<Run>,
    works: Vec<u8>,
}

impl Names {
    fn run(&mut self, run: &mut Run) {
        if *run > 0 {
            *run = number(&mut self.runs, *run);
        }
    }

    fn id(&mut self, id: &mut Id) {
        match id {
            Id::Created(run) => self.run(run),
            Id::Work(work) => *work = number(&mut self.works, *work),
        }
    }

    fn row(&mut self, row: Option<&mut Row>) {
        if let Some(row) = row {
            self.run(&mut row.owner);
            self.id(&mut row.id);
        }
    }

    fn work(&mut self, work: &mut Work) {
        self.id(&mut work.id);
        work.moves.iter_mut().flatten().for_each(|moves| self.id(&mut moves.known.id));
    }
}

/// The number of `name` from 1 in the order of first sight.
fn number(seen: &mut Vec<u8>, name: u8) -> u8 {
    let index = seen.iter().position(|known| *known == name).unwrap_or_else(|| {
        seen.push(name);
        seen.len() - 1
    });
    u8::try_from(index + 1).unwrap()
}

/// All orders of so many instances.
fn orders(count: usize) -> &'static [&'static [usize]] {
    match count {
        1 => &[&[0]],
        2 => &[&[0, 1], &[1, 0]],
        3 => &[&[0, 1, 2], &[0, 2, 1], &[1, 0, 2], &[1, 2, 0], &[2, 0, 1], &[2, 1, 0]],
        _ => panic!("{count} instances are too many for a model"),
    }
}
