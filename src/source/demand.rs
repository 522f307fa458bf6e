//! What the loop would take next: of which partitions, and how much at once.

use std::time::Duration;

use crate::position::Partition;

/// How large a batch may become and how long to wait for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchLimits {
    pub max_events: usize,
    /// Bytes of keys, values and headers; exceeded only by a single record that is larger by itself.
    pub max_bytes: usize,
    /// A batch that isn't full waits for more until the previous one of its share is so long ago. The first record after a
    /// quiet while is handed over at once.
    pub max_wait: Duration,
}

/// Some of the topic's partitions: those whose number leaves `index` when divided by `of`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share {
    pub index: Partition,
    /// At least 1.
    pub of: Partition,
}

impl Share {
    pub const ALL: Share = Share { index: 0, of: 1 };

    pub fn holds(self, partition: Partition) -> bool {
        partition.rem_euclid(self.of.max(1)) == self.index
    }
}

/// A batch of `share` would be taken now. Records of partitions that nobody asks for stay in the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    pub share: Share,
    pub limits: BatchLimits,
}

impl Ask {
    /// A batch of whatever partitions.
    pub fn any(limits: BatchLimits) -> Self {
        Self { share: Share::ALL, limits }
    }
}
