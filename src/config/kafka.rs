//! Properties of librdkafka that users may not set, and those that need a warning.

use std::collections::BTreeMap;
use std::fmt;

/// Properties that users may not set, each with the reason.
pub const REFUSED: &[(&str, &str)] = &[
    ("bootstrap.servers", "the brokers are set by kafka.brokers"),
    ("metadata.broker.list", "the brokers are set by kafka.brokers"),
    ("group.id", "the consumer group is set by kafka.group, or by the pipeline's group"),
    ("client.id", "it names the pipeline in the brokers' logs"),
    ("enable.auto.commit", "positions are kept in MySQL; the broker's copy follows them (P3)"),
    ("auto.commit.enable", "positions are kept in MySQL; the broker's copy follows them (P3)"),
    ("auto.commit.interval.ms", "positions are kept in MySQL; the broker's copy follows them (P3)"),
    ("enable.auto.offset.store", "positions are kept in MySQL; the broker's copy follows them (P3)"),
    ("offset.store.method", "positions are kept in MySQL (P3)"),
    ("offset.store.path", "positions are kept in MySQL (P3)"),
    ("offset.store.sync.interval.ms", "positions are kept in MySQL (P3)"),
    ("auto.offset.reset", "records that Kafka no longer holds must be named, not skipped (P6)"),
    ("isolation.level", "records of aborted transactions must never be applied (P1)"),
    ("check.crcs", "damaged records must be noticed (P6)"),
    ("enable.partition.eof", "it tells when a partition is caught up"),
    ("partition.assignment.strategy", "partitions are handed over one by one (cooperative-sticky)"),
    ("group.remote.assignor", "partitions are handed over one by one (cooperative-sticky)"),
    ("allow.auto.create.topics", "a misspelt topic must be named, not created (P6)"),
    ("topic.blacklist", "the topic is set by the pipeline"),
    ("statistics.interval.ms", "lag and recovery are read from the statistics"),
    ("debug", "its lines can hold credentials"),
    ("log_level", "the level is set by [log]"),
    ("log.queue", "log lines are taken from the client's queue"),
    ("log.thread.name", "log lines are taken from the client's queue"),
    ("enabled_events", "events are chosen by the client"),
    ("plugin.library.paths", "it loads foreign code into the process"),
    ("test.mock.num.brokers", "it replaces the real brokers"),
    ("test.mock.broker.rtt", "it replaces the real brokers"),
];

/// The only value of `group.protocol` that is accepted for now.
const GROUP_PROTOCOL: &str = "classic";

/// Why `name` may not be set to `value`, if it may not.
pub fn refused(name: &str, value: &str) -> Option<&'static str> {
    let lower = name.to_ascii_lowercase();
    if lower == "group.protocol" && value != GROUP_PROTOCOL {
        return Some("only \"classic\" is supported for now");
    }
    REFUSED.iter().find(|(refused, _)| *refused == lower).map(|(_, reason)| *reason)
}

/// What is unsafe about `name` being `value`, if anything: it takes `allow_insecure`.
pub(super) fn unsafe_setting(name: &str, value: &str) -> Option<&'static str> {
    match (name, value.to_ascii_lowercase().as_str()) {
        ("enable.ssl.certificate.verification", "false" | "0" | "f" | "n" | "no") => {
            Some("the brokers' certificates would not be checked")
        }
        ("ssl.endpoint.identification.algorithm", "none" | "") => {
            Some("the brokers' names would not be compared with their certificates")
        }
        ("enable.sasl.oauthbearer.unsecure.jwt", "true" | "1" | "t" | "y" | "yes") => {
            Some("tokens would not be signed")
        }
        _ => None,
    }
}

/// Properties passed through to librdkafka. `Debug` shows their names only: among the values are passwords.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Properties(BTreeMap<String, String>);

impl Properties {
    pub fn new(properties: BTreeMap<String, String>) -> Self {
        Self(properties)
    }

    /// Names and values: for the client, never for a message.
    pub fn expose(&self) -> &BTreeMap<String, String> {
        &self.0
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

impl fmt::Debug for Properties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}
