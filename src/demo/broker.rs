//! An embedded broker: librdkafka's mock cluster, on a thread of its own because it can't change threads.
//!
//! Keeps at most 5 MiB per partition, which is enough for a demo and nothing else.

use std::collections::BTreeMap;
use std::sync::mpsc;

use rdkafka::mocking::MockCluster;

use crate::error::{Error, Kind, Result};
use crate::generate;
use crate::record::OwnedRecord;

/// A running broker; ends with its value.
pub(super) struct EmbeddedBroker {
    addresses: String,
    /// Dropped to end the thread.
    _stop: mpsc::Sender<()>,
}

impl EmbeddedBroker {
    pub(super) fn start(topic: &str, partitions: i32) -> Result<Self> {
        let (stop, stopped) = mpsc::channel::<()>();
        let (ready, started) = mpsc::channel();
        let topic = topic.to_owned();
        std::thread::spawn(move || {
            let cluster = MockCluster::new(1).and_then(|cluster| {
                cluster.create_topic(&topic, partitions, 1)?;
                Ok(cluster)
            });
            match cluster {
                Ok(cluster) => {
                    // Nobody waits any more if the demo has ended already.
                    let _ = ready.send(Ok(cluster.bootstrap_servers()));
                    let _ = stopped.recv();
                }
                Err(error) => {
                    let _ = ready.send(Err(error));
                }
            }
        });
        let trouble = || Error::new(Kind::BrokerUnavailable, "the embedded broker does not start");
        match started.recv() {
            Ok(Ok(addresses)) => Ok(Self { addresses, _stop: stop }),
            Ok(Err(error)) => Err(trouble().source(error)),
            Err(_) => Err(trouble()),
        }
    }

    pub(super) fn addresses(&self) -> &str {
        &self.addresses
    }

    /// Sends all records, `rate` per second.
    pub(super) async fn produce<I>(&self, topic: &str, records: I, rate: u64) -> Result<u64>
    where
        I: IntoIterator<Item = OwnedRecord> + Send + 'static,
    {
        let (addresses, topic) = (self.addresses.clone(), topic.to_owned());
        let sending = tokio::task::spawn_blocking(move || {
            generate::produce(&addresses, &topic, &BTreeMap::new(), records, Some(rate), |_| ())
        });
        sending.await.map_err(|error| Error::new(Kind::Bug, "the producer's thread died").source(error))?
    }
}
