//! May a partition be read from its stored position? The answer to each way in which Kafka and MySQL can disagree (P3, P6).
//!
//! Pure: the loop asks the brokers and MySQL at every assignment and after each lost position, and does what this says.

use crate::error::{Error, Kind};
use crate::position::Partition;

/// What MySQL remembers about the partition and its topic; `None` where it remembers nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stored {
    /// Offset to be read next.
    pub next_offset: Option<i64>,
    pub topic_id: Option<String>,
    pub cluster_id: Option<String>,
    /// How many partitions of this topic have a position.
    pub partitions: usize,
}

/// What the brokers say now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Found {
    pub low: i64,
    pub high: i64,
    pub topic_id: Option<String>,
    pub cluster_id: Option<String>,
    pub partitions: usize,
}

/// What to do with the partition.
#[derive(Debug)]
pub enum Verdict {
    /// Read from here. The warnings are news that an operator should see.
    Start { from: i64, warnings: Vec<String> },
    /// Leave it: [`Kind::PositionLost`], with the numbers and the remedy.
    Halt(Error),
}

/// Compares what is stored with what is found. Ids that either side doesn't know decide nothing.
pub fn position_check(topic: &str, partition: Partition, stored: &Stored, found: &Found) -> Verdict {
    let halt = |what: String, remedy: &str| {
        let place = format!("topic `{topic}` partition {partition}");
        Verdict::Halt(Error::new(Kind::PositionLost, what).at(place).remedy(remedy))
    };
    let differ = |stored: &Option<String>, found: &Option<String>| match (stored, found) {
        (Some(stored), Some(found)) if stored != found => Some((stored.clone(), found.clone())),
        _ => None,
    };
    if let Some((old, new)) = differ(&stored.cluster_id, &found.cluster_id) {
        return halt(
            format!("this is Kafka cluster {new}, but the stored positions are those of cluster {old}"),
            "point `brokers` at the cluster that was read before, or give the pipeline another name to start anew",
        );
    }
    if let Some((old, new)) = differ(&stored.topic_id, &found.topic_id) {
        return halt(
            format!("the topic was deleted and created anew: its id is {new}, that of the stored position is {old}"),
            "if the new topic holds the whole story, clear the target and the pipeline's stored positions to read it from the start",
        );
    }
    if found.partitions < stored.partitions {
        return halt(
            format!(
                "the topic has {} partitions, but positions of {} are stored, so it was deleted and created anew",
                found.partitions, stored.partitions
            ),
            "if the new topic holds the whole story, clear the target and the pipeline's stored positions to read it from the start",
        );
    }
    let Found { low, high, .. } = *found;
    let Some(next) = stored.next_offset else {
        return Verdict::Start { from: low, warnings: first_start(topic, partition, stored, found) };
    };
    if next < low {
        return halt(
            format!(
                "offsets {next} to {} ({} offsets) were deleted before they were read; Kafka now begins at {low}",
                low - 1,
                low - next
            ),
            "raise the topic's retention; to go on without them, set the stored position to where Kafka begins, or rebuild the target \
             from a new snapshot",
        );
    }
    if next > high {
        return halt(
            format!(
                "offset {next} is to be read next, but the partition ends at {high}: it was truncated or created anew"
            ),
            "check that this is the right cluster and that it was not restored from a backup; then rebuild the target from a new snapshot",
        );
    }
    Verdict::Start { from: next, warnings: Vec::new() }
}

/// What is worth a warning where a partition is read for the first time.
fn first_start(topic: &str, partition: Partition, stored: &Stored, found: &Found) -> Vec<String> {
    let mut warnings = Vec::new();
    if found.low > 0 {
        warnings.push(format!(
            "topic `{topic}` partition {partition}: its first {} offsets are gone, reading begins at {}; rows that only they mention \
             will be missing",
            found.low, found.low
        ));
    }
    if stored.partitions > 0 {
        warnings.push(format!(
            "topic `{topic}` partition {partition} is new: {} partitions were read before, now there are {}; keys that moved are kept \
             right by their events' versions",
            stored.partitions, found.partitions
        ));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(next: i64) -> Stored {
        Stored { next_offset: Some(next), topic_id: Some("t1".into()), cluster_id: Some("c1".into()), partitions: 4 }
    }

    fn found(low: i64, high: i64) -> Found {
        Found { low, high, topic_id: Some("t1".into()), cluster_id: Some("c1".into()), partitions: 4 }
    }

    fn start(stored: &Stored, found: &Found) -> (i64, String) {
        match position_check("user_cdc", 2, stored, found) {
            Verdict::Start { from, warnings } => (from, warnings.join("\n")),
            Verdict::Halt(error) => panic!("halted: {error}"),
        }
    }

    fn halt(stored: &Stored, found: &Found) -> String {
        match position_check("user_cdc", 2, stored, found) {
            Verdict::Halt(error) => {
                assert_eq!(error.kind, Kind::PositionLost);
                assert!(!error.remedy.is_empty());
                error.to_string()
            }
            Verdict::Start { from, .. } => panic!("started at {from}"),
        }
    }

    #[test]
    fn a_position_that_kafka_holds_is_where_reading_goes_on() {
        for next in [10, 15, 20] {
            assert_eq!(start(&stored(next), &found(10, 20)), (next, String::new()));
        }
    }

    #[test]
    fn a_partition_never_read_begins_at_its_first_record_and_missing_ones_are_named() {
        let fresh = Stored::default();
        assert_eq!(start(&fresh, &found(0, 20)), (0, String::new()));
        let (from, warning) = start(&fresh, &found(7, 20));
        assert!(
            from == 7 && warning.contains("`user_cdc` partition 2") && warning.contains("first 7 offsets"),
            "{warning}"
        );
        let (from, warning) = start(&Stored { next_offset: None, partitions: 2, ..stored(0) }, &found(0, 20));
        assert!(from == 0 && warning.contains("2 partitions were read before, now there are 4"), "{warning}");
    }

    #[test]
    fn deleted_records_halt_with_the_exact_range() {
        let text = halt(&stored(5), &found(10, 20));
        assert!(text.contains("`user_cdc` partition 2") && text.contains("offsets 5 to 9 (5 offsets)"), "{text}");
    }

    #[test]
    fn a_position_beyond_the_end_halts() {
        let text = halt(&stored(21), &found(10, 20));
        assert!(text.contains("offset 21") && text.contains("ends at 20"), "{text}");
    }

    #[test]
    fn another_topic_or_cluster_halts_even_if_the_offset_would_fit() {
        let text = halt(&stored(15), &Found { topic_id: Some("t2".into()), ..found(10, 20) });
        assert!(text.contains("id is t2") && text.contains("t1"), "{text}");
        let text = halt(&stored(15), &Found { cluster_id: Some("c2".into()), ..found(10, 20) });
        assert!(text.contains("cluster c2") && text.contains("c1"), "{text}");
        let text = halt(&stored(15), &Found { partitions: 3, ..found(10, 20) });
        assert!(text.contains("has 3 partitions") && text.contains("of 4"), "{text}");
    }

    #[test]
    fn ids_that_one_side_does_not_know_decide_nothing() {
        let unknown = Found { topic_id: None, cluster_id: None, ..found(10, 20) };
        assert_eq!(start(&stored(15), &unknown).0, 15);
        assert_eq!(start(&Stored { topic_id: None, cluster_id: None, ..stored(15) }, &found(10, 20)).0, 15);
    }
}
