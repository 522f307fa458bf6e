//! The commit protocol's decisions: what was observed of a transaction in, what follows out. Pure.
//!
//! [`next`] is the only place that decides whether memory follows, the same transaction is repeated, or partitions are let go. The
//! engine ([`super::commit`]) asks it, and so does the model of the protocol that `tests/protocol.rs` checks exhaustively.

use super::policy::{self, Pace};
use crate::error::Kind;
use crate::position::Partition;
use crate::sink::positions::{Advance, Found, Token};

/// The transaction in question: what it is called, whose it is, and which positions it moves.
#[derive(Debug, Clone, Copy)]
pub struct Claim<'a> {
    pub id: &'a Token,
    pub owner: &'a Token,
    pub advances: &'a [Advance],
}

/// What an instance has seen of the transaction that it tries to apply.
#[derive(Debug, Clone, Copy)]
pub enum Observed<'a> {
    /// COMMIT was answered with OK.
    Committed,
    /// The compare-and-swap found fewer rows than the transaction moves. It was rolled back; then the rows were read with locks.
    SwapRefused(&'a [Found]),
    /// The server would change or refuse rows of ours. It was rolled back.
    RowsRefused,
    /// An error, before COMMIT was sent unless its kind says otherwise.
    Failed(Kind),
    /// COMMIT was not answered with OK; then the rows were read with locks.
    ReadBack(&'a [Found]),
    /// COMMIT was not answered with OK, and the rows could not be read either.
    ReadBackFailed,
}

/// What follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// It is there: memory follows.
    Advance,
    /// It is not there and never will be: the same again.
    Repeat(Pace),
    /// Nobody knows: read the positions with locks, before anything else.
    ReadBack(Pace),
    /// It is not there: another instance owns these partitions. Forget them, and try to acquire them again after a while.
    Fenced(Vec<Partition>),
    /// It is not there: the database stands elsewhere. Forget these partitions and acquire them again at once.
    Moved(Vec<Partition>),
    /// It is not there: find the rows that the server refuses, quarantine their events, go on without them.
    FindRows,
    /// It is not there: another generation than the one that it was made under is registered. Find out which is ours now, before anything
    /// else.
    Outdated,
    /// It is not there, and this pipeline stops.
    Halt,
}

/// What follows from what was observed.
pub fn next(claim: &Claim<'_>, observed: Observed<'_>) -> Next {
    match observed {
        Observed::Committed => Next::Advance,
        Observed::SwapRefused(found) => match judge(claim, found) {
            Fate::Committed => Next::Advance,
            Fate::Outdated => Next::Outdated,
            Fate::Fenced(partitions) => Next::Fenced(partitions),
            Fate::Moved(partitions) => Next::Moved(partitions),
            // The swap found no row to change although all of them look right now: let them be read again.
            Fate::NotCommitted => Next::Moved(claim.advances.iter().map(|advance| advance.partition).collect()),
        },
        Observed::RowsRefused => Next::FindRows,
        Observed::Failed(Kind::CommitUnknown | Kind::Fenced) => Next::ReadBack(Pace::AtOnce),
        Observed::Failed(Kind::RowRefused) => Next::FindRows,
        Observed::Failed(kind) => policy::pace(kind).map_or(Next::Halt, Next::Repeat),
        Observed::ReadBack(found) => match judge(claim, found) {
            Fate::Committed => Next::Advance,
            Fate::NotCommitted => Next::Repeat(Pace::AtOnce),
            Fate::Outdated => Next::Outdated,
            Fate::Fenced(partitions) => Next::Fenced(partitions),
            Fate::Moved(partitions) => Next::Moved(partitions),
        },
        // However often: nothing else settles it.
        Observed::ReadBackFailed => Next::ReadBack(Pace::Patient),
    }
}

/// What the positions say about a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fate {
    /// It is there: don't apply it again.
    Committed,
    /// It is not there and never will be: apply it again.
    NotCommitted,
    /// Another generation is registered now.
    Outdated,
    /// Another instance owns these partitions now.
    Fenced(Vec<Partition>),
    /// The database stands at an earlier (or edited) position: read from there.
    Moved(Vec<Partition>),
}

/// Decides from the rows what became of a transaction.
fn judge(claim: &Claim<'_>, found: &[Found]) -> Fate {
    let Lost { outdated, fenced, moved } = lost(claim.owner, claim.advances, found);
    // One transaction moves all its rows or none: a single row that carries its id proves it committed, whatever came later.
    if found.iter().any(|row| row.transaction == *claim.id) {
        Fate::Committed
    } else if outdated {
        Fate::Outdated
    } else if !fenced.is_empty() {
        Fate::Fenced(fenced)
    } else if !moved.is_empty() {
        Fate::Moved(moved)
    } else {
        Fate::NotCommitted
    }
}

/// What isn't ours any more, or isn't as we know it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Lost {
    /// Some row is of another generation. That is about the whole pipeline, and has to be settled before the rest.
    pub outdated: bool,
    /// Partitions that belong to another instance.
    pub fenced: Vec<Partition>,
    /// Partitions that don't stand as we expect it.
    pub moved: Vec<Partition>,
}

/// Compares rows with what `advances` expect of them.
pub fn lost(owner: &Token, advances: &[Advance], found: &[Found]) -> Lost {
    let mut lost = Lost::default();
    let Lost { outdated, fenced, moved } = &mut lost;
    for advance in advances {
        let row = found.iter().find(|row| row.partition == advance.partition);
        *outdated |= row.is_some_and(|row| row.generation != advance.generation);
        match row {
            Some(row) if row.owner != *owner => fenced.push(advance.partition),
            Some(row) if row.fits(advance, owner) => {}
            // Ours but not as we know it, or no row at all: the database was set back to an earlier state, or somebody edited it.
            Some(_) | None => moved.push(advance.partition),
        }
    }
    lost
}

#[cfg(test)]
mod tests;
