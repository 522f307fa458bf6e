//! Places in a topic: offsets, ranges of offsets, versions.
//!
//! Offsets count like Kafka's own commits: a stored offset is the *next* one to read, so a range is half-open and starts
//! where the stored position stood, not at the first record seen. Holes (compaction, control records) are harmless.

use std::fmt;

/// Number of a partition inside its topic.
pub type Partition = i32;

/// The place of one record: unique within a topic, ordered by partition, then offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position {
    pub partition: Partition,
    pub offset: i64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "partition {} offset {}", self.partition, self.offset)
    }
}

/// Records `from..to` of one partition: `from` is where the stored position stands, `to` where it stands afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OffsetRange {
    pub partition: Partition,
    pub from: i64,
    pub to: i64,
}

/// The total order of events that decides which row image a key keeps (P1).
///
/// `ts_ns` is the event time in nanoseconds since 1970 UTC, or 0 for every event of a pipeline with `version = "arrival"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Version {
    pub ts_ns: i64,
    pub partition: Partition,
    pub offset: i64,
}
