//! How long the brokers keep a topic's records, and whether they compact it.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;

use super::properties;
use crate::error::Result;

/// What the topic's config says; `None` where the brokers don't tell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Retention {
    /// Older records of a key are removed.
    pub compacted: Option<bool>,
    /// Records older than this are deleted; `None` also where none ever are.
    pub time: Option<Duration>,
    /// Beyond so many bytes per partition the oldest records are deleted; as above.
    pub bytes: Option<u64>,
}

/// Asks the brokers; needs DESCRIBE_CONFIGS on the topic. What isn't told is left open: no fault of the topic.
///
/// # Errors
/// [`Kind::Config`](crate::error::Kind::Config) for a property that librdkafka doesn't accept.
pub async fn retention(
    brokers: &str,
    properties: &BTreeMap<String, String>,
    topic: &str,
    timeout: Duration,
) -> Result<Option<Retention>> {
    let mut config = properties::connection(brokers, properties)?;
    config.set("client.id", "afterimage-inspect");
    let client: AdminClient<DefaultClientContext> = config.create().map_err(properties::not_accepted)?;
    let options = AdminOptions::new().request_timeout(Some(timeout)).operation_timeout(Some(timeout));
    let wanted = [ResourceSpecifier::Topic(topic)];
    let asked = client.describe_configs(&wanted, &options);
    let answer = tokio::time::timeout(timeout + Duration::from_secs(1), asked).await;
    let Ok(Ok(answer)) = answer else { return Ok(None) };
    let Some(Ok(resource)) = answer.into_iter().next() else { return Ok(None) };
    let value =
        |name: &str| resource.entries.iter().find(|entry| entry.name == name).and_then(|entry| entry.value.clone());
    let number = |name: &str| value(name).and_then(|value| value.parse::<u64>().ok());
    let policy = value("cleanup.policy");
    let deletes = policy.as_deref().is_none_or(|policy| policy.contains("delete"));
    Ok(Some(Retention {
        compacted: policy.map(|policy| policy.contains("compact")),
        time: number("retention.ms").filter(|_| deletes).map(Duration::from_millis),
        bytes: number("retention.bytes").filter(|_| deletes),
    }))
}
