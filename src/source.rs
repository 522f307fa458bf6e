//! The source: one Kafka topic, read as a member of a consumer group, from positions that MySQL holds.
//!
//! In: a topic. Out: [`Polled`], that is raw batches and reports of what happened to the partitions. The client is polled by a
//! thread of its own that never waits for MySQL, and for the loop no longer than moments, so that a sick database costs no
//! membership in the group; see [`pressure`] for what happens where the loop takes less than Kafka gives. Kafka's own committed offsets are written for lag tools and never read.
//!
//! What it promises (P3, P6):
//!
//! 1. A partition that the group assigns is not given to the client until the loop says from which offset
//!    ([`Source::position`]). There is no default position, hence no record from anywhere else.
//! 2. Each assignment has a generation. What was read of an earlier one is dropped, what the loop says about one is ignored.
//! 3. Offsets of a partition rise strictly, and the chunks of one generation join without a gap: a chunk's `from` is the
//!    previous one's `to`.
//! 4. Revoked partitions lose their buffers at once. A batch already taken is fenced in MySQL, not here.
//! 5. Where Kafka doesn't hold the wanted offset, or the topic became another one, the partition stands still and is reported
//!    ([`Polled::PositionLost`]); the others go on.

mod broker;
mod buffer;
mod consumer;
mod demand;
mod feed;
mod follow;
mod headers;
mod position_check;
mod pressure;
pub mod properties;
mod statistics;
pub mod topic_config;
mod topic_id;
pub mod window;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

pub use self::broker::{Broker, TopicDescription, Watermarks};
pub use self::demand::{Ask, BatchLimits, Share};
pub use self::follow::{FollowOptions, Follower, Progress};
pub use self::position_check::{Found, Stored, Verdict, position_check};

use crate::error::{Error, Result};
use crate::position::{OffsetRange, Partition};
use crate::record::RawBatch;

use self::buffer::{Answer, Shared};

/// How to reach the topic, and how much may be buffered.
#[derive(Debug, Clone)]
pub struct SourceOptions {
    /// `host:port`, separated by commas.
    pub brokers: String,
    pub group: String,
    pub topic: String,
    /// librdkafka properties beyond those that [`properties::refused`] names.
    pub properties: BTreeMap<String, String>,
    /// Shown in the brokers' logs.
    pub client_id: String,
    /// With so many buffered bytes, bookkeeping included, reading waits until some are taken.
    pub buffer_bytes: usize,
}

/// One assignment of a partition to this instance; the generation differs each time it is assigned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Assignment {
    pub partition: Partition,
    pub generation: u64,
}

/// What [`Source::next`] has to tell.
#[derive(Debug)]
pub enum Polled {
    /// Records of started partitions of one share that was asked for, at least one; or none, where positions have to move across
    /// marks of transactions alone.
    Batch(RawBatch),
    /// The group gave us these partitions. Nothing is read of them until [`Source::position`].
    Assigned(Vec<Assignment>),
    /// The group took these partitions; their buffers are gone.
    Revoked(Vec<Partition>),
    /// The partition stands still: Kafka doesn't hold the next offset, or the topic is a different one. `what` tells which,
    /// as far as the client knows; compare the stored position with what [`Broker`] tells before positioning it again, with
    /// this assignment: the earlier one is over.
    PositionLost {
        assignment: Assignment,
        what: String,
    },
    /// Everything up to the partition's present end (under `read_committed`: its last stable offset) has been handed over.
    AtEnd(Vec<Assignment>),
    /// Nothing can be read at present, and why. The client goes on trying; [`Polled::Recovered`] follows.
    Trouble(Error),
    Recovered,
}

/// Figures for the log, the metrics and `status`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SourceStats {
    pub buffered_bytes: usize,
    pub buffered_events: usize,
    /// Reading is paused or waits because the buffer is full.
    pub paused: bool,
    /// Offset commits for lag tools that failed; harmless.
    pub commit_errors: u64,
    /// Records that came in since the start, as far as they were accepted.
    pub received: u64,
    /// How many partitions the topic has, as the client last heard; 0 while unknown.
    pub topic_partitions: Partition,
    pub partitions: Vec<PartitionStats>,
}

/// Figures of one assigned partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionStats {
    pub assignment: Assignment,
    /// Offset after the last record received; `None` while it stands still.
    pub next: Option<i64>,
    pub buffered_events: usize,
    /// All there was has been received (not: taken).
    pub at_end: bool,
    /// End of the partition as of a few seconds ago, where known.
    pub end: Option<End>,
}

/// Where a partition ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// The last stable offset: reading gets that far. Below `high` while a producer has a transaction open there.
    pub stable: i64,
    /// Offset of the next record to be written.
    pub high: i64,
}

/// A consumer on a thread of its own. Dropping it asks the thread to end without waiting for it.
pub struct Source {
    shared: Arc<Shared>,
    thread: Option<thread::JoinHandle<()>>,
    closed: tokio::sync::oneshot::Receiver<()>,
}

impl Source {
    /// Joins the group and starts to poll.
    ///
    /// # Errors
    /// [`crate::error::Kind::Config`] for a property that librdkafka doesn't accept. Brokers that can't be reached are no
    /// error here, they are reported as [`Polled::Trouble`].
    pub fn start(options: SourceOptions) -> Result<Self> {
        let shared = Arc::new(Shared::new(&options));
        let (done, closed) = tokio::sync::oneshot::channel();
        let thread = consumer::spawn(options, Arc::clone(&shared), done)?;
        Ok(Self { shared, thread: Some(thread), closed })
    }

    /// Waits for a report or for a batch that one of `asks` is about, reports first. Where several could be had, it is that of the
    /// share that has waited longest for its turn. With no asks there are only reports.
    ///
    /// Cancel-safe: nothing is taken before the call returns.
    pub async fn next(&mut self, asks: &[Ask]) -> Polled {
        loop {
            let woken = self.shared.wake.notified();
            match self.shared.poll(asks, Instant::now()) {
                Answer::Now(polled) => return polled,
                // A wake-up and the end of the wait both lead back to the question above.
                Answer::Later(Some(due)) => drop(tokio::time::timeout_at(due.into(), woken).await),
                Answer::Later(None) => woken.await,
            }
        }
    }

    /// Begins to read the assigned partition at `from`, also if it is being read already: its buffer is dropped and it is read
    /// again from there. Ignored if the partition has been revoked or assigned anew meanwhile.
    pub fn position(&self, assignment: Assignment, from: i64) {
        self.shared.position(assignment, from);
    }

    /// Stops reading `partition` and drops its buffer until [`Source::position`] is called again.
    pub fn halt(&self, partition: Partition) {
        self.shared.halt(partition);
    }

    /// Tells the group's lag tools what has been applied. Asynchronous; failures are only counted.
    pub fn acknowledge(&self, ranges: &[OffsetRange]) {
        self.shared.acknowledge(ranges);
    }

    /// Leaves the group and joins it again, so that its leader gives out all partitions anew.
    pub fn rejoin(&self) {
        self.shared.rejoin();
    }

    pub fn stats(&self) -> SourceStats {
        self.shared.stats()
    }

    /// Leaves the group. Returns whether that was done within `deadline`; if not, the thread is left to itself.
    pub async fn close(mut self, deadline: Duration) -> bool {
        self.shared.close();
        // The sender is dropped, too, when the thread dies: either way it is over.
        let ended = tokio::time::timeout(deadline, &mut self.closed).await.is_ok();
        if let (true, Some(thread)) = (ended, self.thread.take()) {
            // The thread says so as its last act, so this doesn't block.
            let _ = thread.join();
        }
        ended
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.shared.close();
    }
}
