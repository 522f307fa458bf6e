//! The protocol broken on purpose, one way at a time. The engine stays whole: the model does something else than it says.

use afterimage::error::Kind;
use afterimage::pipeline::policy::Pace;
use afterimage::pipeline::protocol::{Next, Observed};
use afterimage::sink::positions::{Advance, Found, Token};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// The position is moved without a look at the row.
    NoSwap,
    SwapByEpochAlone,
    SwapByOffsetAlone,
    SwapByTransactionAlone,
    SwapByEpochAndToken,
    SwapByOffsetAndToken,
    /// Everything but one is compared.
    SwapWithoutOffset,
    SwapWithoutEpoch,
    SwapWithoutToken,
    SwapWithoutTransaction,
    SwapWithoutGeneration,
    /// A new definition is registered although older ones are still committing.
    RegistrationDoesNotWait,
    /// Partitions are begun without a look at what is registered.
    FirstRowOfAnyGeneration,
    /// A COMMIT without an answer is repeated at once.
    UnknownIsFailed,
    /// A COMMIT without an answer is taken for done.
    UnknownIsCommitted,
    /// If reading back fails, the transaction is repeated: the doubt is forgotten.
    DoubtIsForgotten,
    /// Reading back doesn't wait for a transaction that is being decided.
    ReadBackWithoutLocks,
    /// A refused swap is taken for a committed one.
    RefusalIsCommitted,
    /// Positions move in a transaction of their own, before the rows.
    RowsApart,
    /// A new owner doesn't wait for the old one's open transaction.
    AcquireDoesNotWait,
    /// Who is on hold is read after an acquisition, not under its locks.
    HoldsReadLater,
    /// Operators' marks are read without a look at the positions.
    MarksReadWithoutLocks,
    /// Memory follows when COMMIT is sent, not when it is answered.
    MemoryLeads,
    /// Partitions that are fenced or moved are not acquired anew.
    KeepsWhatIsLost,
    /// An instance without work never looks whether the database still stands where it left it.
    NeverLooks,
}

impl Broken {
    /// The compare of the compare-and-swap.
    pub fn fits(self, row: &Found, advance: &Advance, owner: &Token) -> bool {
        let offset = row.next_offset == advance.from;
        let epoch = row.epoch == advance.epoch;
        let token = row.owner == *owner;
        let transaction = row.transaction == advance.last;
        let generation = row.generation == advance.generation;
        match self {
            Self::NoSwap => true,
            Self::SwapByEpochAlone => epoch,
            Self::SwapByOffsetAlone => offset,
            Self::SwapByTransactionAlone => transaction,
            Self::SwapByEpochAndToken => epoch && token,
            Self::SwapByOffsetAndToken => offset && token,
            Self::SwapWithoutOffset => epoch && token && transaction && generation,
            Self::SwapWithoutEpoch => offset && token && transaction && generation,
            Self::SwapWithoutToken => offset && epoch && transaction && generation,
            Self::SwapWithoutTransaction => offset && epoch && token && generation,
            Self::SwapWithoutGeneration => offset && epoch && token && transaction,
            Self::RegistrationDoesNotWait
            | Self::FirstRowOfAnyGeneration
            | Self::UnknownIsFailed
            | Self::UnknownIsCommitted
            | Self::DoubtIsForgotten
            | Self::ReadBackWithoutLocks
            | Self::RefusalIsCommitted
            | Self::RowsApart
            | Self::AcquireDoesNotWait
            | Self::HoldsReadLater
            | Self::MarksReadWithoutLocks
            | Self::MemoryLeads
            | Self::KeepsWhatIsLost
            | Self::NeverLooks => row.fits(advance, owner),
        }
    }

    /// What follows, in place of what the engine says.
    pub fn next(self, observed: Observed<'_>, next: Next) -> Next {
        match (self, observed) {
            (Self::UnknownIsFailed, Observed::Failed(Kind::CommitUnknown)) => Next::Repeat(Pace::Patient),
            (Self::UnknownIsCommitted, Observed::Failed(Kind::CommitUnknown)) => Next::Advance,
            (Self::DoubtIsForgotten, Observed::ReadBackFailed) => Next::Repeat(Pace::Patient),
            (Self::RefusalIsCommitted, Observed::SwapRefused(_)) => Next::Advance,
            _ => next,
        }
    }
}
