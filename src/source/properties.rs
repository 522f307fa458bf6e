//! librdkafka's properties: which of them the promises own, what we set, what the user may add.

use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::KafkaError;

use super::SourceOptions;
use crate::config::REFUSED;
use crate::diagnostic::did_you_mean;
use crate::error::{Error, Kind, Result};

/// Why `name` can't be set by the config; `None` if it can. The list is the config's, which checks it first.
pub fn refused(name: &str) -> Option<&'static str> {
    REFUSED.iter().find(|(refused, _)| *refused == name).map(|(_, reason)| *reason)
}

/// What is wrong with a property of the config, as a sentence without its value; `None` if nothing is.
pub fn fault(name: &str, value: &str) -> Option<String> {
    if let Some(reason) = refused(name) {
        return Some(format!("the Kafka property `{name}` can't be set: {reason}"));
    }
    match ClientConfig::new().set(name, value).create_native_config() {
        Ok(_) => None,
        Err(KafkaError::ClientConfig(_, what, _, _)) if what.contains("No such configuration property") => {
            let like = did_you_mean(name, KNOWN);
            let hint = like.map(|like| format!("; did you mean `{like}`?")).unwrap_or_default();
            Some(format!("there is no Kafka property `{name}`{hint}"))
        }
        // librdkafka's text can repeat the value, which may be a password.
        Err(_) => Some(format!("the Kafka property `{name}` has a value that librdkafka doesn't accept")),
    }
}

/// Properties that people set most; only for suggestions.
const KNOWN: [&str; 27] = [
    "security.protocol",
    "sasl.mechanism",
    "sasl.mechanisms",
    "sasl.username",
    "sasl.password",
    "ssl.ca.location",
    "ssl.ca.pem",
    "ssl.certificate.location",
    "ssl.certificate.pem",
    "ssl.key.location",
    "ssl.key.pem",
    "ssl.key.password",
    "ssl.endpoint.identification.algorithm",
    "enable.ssl.certificate.verification",
    "group.instance.id",
    "group.protocol",
    "session.timeout.ms",
    "heartbeat.interval.ms",
    "max.poll.interval.ms",
    "fetch.max.bytes",
    "fetch.wait.max.ms",
    "fetch.min.bytes",
    "fetch.message.max.bytes",
    "queued.max.messages.kbytes",
    "queued.min.messages",
    "receive.message.max.bytes",
    "client.rack",
];

/// What the user may override.
const DEFAULTS: [(&str, &str); 11] = [
    // Memory: of each partition the client holds at most this queue and one fetch. A record in it takes some 400 bytes more than it
    // has, so that it is their number that counts.
    ("queued.max.messages.kbytes", "2048"),
    ("queued.min.messages", "4000"),
    ("fetch.max.bytes", "1048576"),
    ("fetch.message.max.bytes", "524288"),
    // librdkafka's own default is a second, which is how long a full queue would stay empty after it was emptied.
    ("fetch.queue.backoff.ms", "5"),
    ("fetch.wait.max.ms", "500"),
    ("reconnect.backoff.max.ms", "5000"),
    // How soon a new partition is found.
    ("topic.metadata.refresh.interval.ms", "10000"),
    ("metadata.max.age.ms", "60000"),
    ("socket.keepalive.enable", "true"),
    ("socket.nagle.disable", "true"),
];

/// What the promises own; see [`REFUSED`] for the reasons.
const OWNED: [(&str, &str); 9] = [
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    ("auto.offset.reset", "error"),
    ("isolation.level", "read_committed"),
    ("check.crcs", "true"),
    ("enable.partition.eof", "true"),
    ("allow.auto.create.topics", "false"),
    ("statistics.interval.ms", "5000"),
    // One line of this context tells that a topic has been replaced by another of its name; see `consumer`.
    ("debug", "topic"),
];

/// Brokers and the user's properties: what every client of ours needs.
///
/// # Errors
/// [`Kind::Config`] naming the property, never its value.
pub(super) fn connection(
    brokers: &str,
    properties: &std::collections::BTreeMap<String, String>,
) -> Result<ClientConfig> {
    let mut config = ClientConfig::new();
    config.set_log_level(RDKafkaLogLevel::Warning);
    for (name, value) in properties {
        if let Some(fault) = fault(name, value) {
            return Err(Error::new(Kind::Config, fault).remedy("mend [kafka.properties]"));
        }
        config.set(name, value);
    }
    config.set("bootstrap.servers", brokers);
    Ok(config)
}

/// The whole configuration of a source's client.
pub(super) fn consumer(options: &SourceOptions) -> Result<ClientConfig> {
    let mut config = connection(&options.brokers, &options.properties)?;
    for (name, value) in DEFAULTS {
        if !options.properties.contains_key(name) {
            config.set(name, value);
        }
    }
    for (name, value) in OWNED {
        config.set(name, value);
    }
    // With the newer group protocol the broker assigns, and refuses to be told how.
    if options.properties.get("group.protocol").is_none_or(|protocol| protocol != "consumer") {
        config.set("partition.assignment.strategy", "cooperative-sticky");
    }
    config.set("group.id", &options.group).set("client.id", &options.client_id);
    config.set_log_level(RDKafkaLogLevel::Debug);
    Ok(config)
}

/// The configuration of a client that reads a whole topic by itself: no member of any group, nothing is committed.
pub(super) fn follower(options: &super::follow::FollowOptions) -> Result<ClientConfig> {
    let mut config = connection(&options.brokers, &options.properties)?;
    for (name, value) in DEFAULTS {
        if !options.properties.contains_key(name) {
            config.set(name, value);
        }
    }
    for (name, value) in OWNED.iter().filter(|(name, _)| !["statistics.interval.ms", "debug"].contains(name)) {
        config.set(*name, *value);
    }
    config.remove("group.instance.id").remove("group.protocol");
    // The client asks for a group's name although it joins none.
    config.set("group.id", &options.group).set("client.id", &options.client_id);
    Ok(config)
}

/// Why a client can't be created, as far as that can be said without a property's value, which a KafkaError's own text may repeat.
pub(super) fn not_accepted(error: KafkaError) -> Error {
    let what = match error {
        KafkaError::ClientConfig(_, _, name, _) => format!("the Kafka property `{name}` is not accepted"),
        KafkaError::ClientCreation(what) => format!("can't create the Kafka client: {what}"),
        _ => "can't create the Kafka client".to_owned(),
    };
    Error::new(Kind::Config, what).remedy("mend [kafka] and [kafka.properties]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_we_own_is_refused_to_the_user() {
        for (name, _) in OWNED {
            assert!(refused(name).is_some(), "{name} is ours but could be set");
        }
        for (name, _) in DEFAULTS {
            assert!(refused(name).is_none(), "{name} is a default but could not be changed");
        }
    }

    // Proves: P6, R61
    #[test]
    fn faults_name_the_property_and_never_its_value() {
        assert_eq!(fault("sasl.password", "hunter2"), None);
        let fault_of = |name, value| fault(name, value).unwrap();
        assert!(fault_of("auto.offset.reset", "earliest").contains("must be named, not skipped"));
        assert!(fault_of("sesion.timeout.ms", "1").contains("did you mean `session.timeout.ms`?"));
        let odd = fault_of("session.timeout.ms", "hunter2");
        assert!(odd.contains("session.timeout.ms") && !odd.contains("hunter2"), "{odd}");
    }

    #[test]
    fn properties_that_contradict_each_other_are_named_whichever_client_is_first() {
        let contradiction = [("fetch.max.bytes".to_owned(), "16384".to_owned())].into();
        let error = super::super::Broker::new("127.0.0.1:1", &contradiction, std::time::Duration::from_secs(1)).err();
        let text = error.map(|error| error.to_string()).unwrap_or_default();
        assert!(text.contains("fetch.max.bytes"), "{text}");
    }

    #[test]
    fn what_we_set_is_what_librdkafka_knows() {
        for (name, value) in DEFAULTS.iter().chain(&OWNED) {
            assert!(ClientConfig::new().set(*name, *value).create_native_config().is_ok(), "{name}={value}");
        }
        for name in KNOWN {
            let what = ClientConfig::new().set(name, "?").create_native_config().err().map(|error| error.to_string());
            assert!(!what.unwrap_or_default().contains("No such"), "{name}");
        }
    }
}
