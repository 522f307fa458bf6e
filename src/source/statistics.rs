//! The few figures we need of librdkafka's statistics: is any broker up, and where does each partition end?

use std::collections::BTreeMap;

use serde::Deserialize;

use super::End;
use crate::position::Partition;

#[derive(Debug, Deserialize)]
pub(super) struct Statistics {
    #[serde(default)]
    brokers: BTreeMap<String, BrokerState>,
    #[serde(default)]
    topics: BTreeMap<String, TopicState>,
}

#[derive(Debug, Deserialize)]
struct BrokerState {
    /// -1 for bootstrap addresses and the coordinator's second connection.
    nodeid: i32,
    state: String,
}

#[derive(Debug, Deserialize)]
struct TopicState {
    #[serde(default)]
    partitions: BTreeMap<String, PartitionState>,
}

#[derive(Debug, Deserialize)]
struct PartitionState {
    partition: Partition,
    /// Last stable offset, negative while unknown.
    #[serde(default)]
    ls_offset: i64,
    /// Where the next record goes, negative while unknown.
    #[serde(default)]
    hi_offset: i64,
}

impl Statistics {
    pub(super) fn parse(json: &[u8]) -> Option<Self> {
        serde_json::from_slice(json).ok()
    }

    pub(super) fn any_broker_up(&self) -> bool {
        self.brokers.values().any(|broker| broker.nodeid >= 0 && broker.state == "UP")
    }

    /// The known ends of the topic's partitions.
    pub(super) fn ends(&self, topic: &str) -> impl Iterator<Item = (Partition, End)> {
        let partitions = self.topics.get(topic).into_iter().flat_map(|topic| topic.partitions.values());
        partitions.filter(|state| state.partition >= 0 && state.ls_offset >= 0).map(|state| {
            let end = End { stable: state.ls_offset, high: state.hi_offset.max(state.ls_offset) };
            (state.partition, end)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brokers_and_ends_are_found_among_everything_else() {
        let json = br#"{"name":"x","brokers":{
            "boot":{"nodeid":-1,"state":"UP","toppars":{}},"127.0.0.1:1/1":{"nodeid":1,"state":"DOWN"}},
            "topics":{"t":{"topic":"t","partitions":{
                "0":{"partition":0,"hi_offset":9,"ls_offset":7},"1":{"partition":1,"ls_offset":-1001},
                "-1":{"partition":-1,"ls_offset":0}}}}}"#;
        let statistics = Statistics::parse(json).unwrap();
        assert!(!statistics.any_broker_up());
        assert_eq!(statistics.ends("t").collect::<Vec<_>>(), [(0, End { stable: 7, high: 9 })]);
        assert_eq!(statistics.ends("other").count(), 0);
        assert!(Statistics::parse(b"{").is_none());
    }
}
