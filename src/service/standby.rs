//! Waits with a pipeline whose definition another instance has replaced by a newer one, outside of the group: others have its
//! partitions. It goes on when the files here become other ones, or when an operator makes theirs the newest again.

use std::time::Duration;

use tokio::sync::watch;

use super::watch::define_anew;
use crate::config::{self, Config};
use crate::error::Result;
use crate::generation::Fingerprint;
use crate::pipeline::health::{FileState, Health, State};
use crate::pipeline::reload::{Definition, Reload, Seen, refuse};
use crate::sink::generations;
use crate::sink::session::Connector;

/// Between two looks at what is registered.
const LOOK: Duration = Duration::from_secs(1);

pub struct Standby<'a> {
    pub config: &'a Config,
    pub pipeline: &'a config::Pipeline,
    pub health: &'a Health,
    pub stop: &'a mut watch::Receiver<bool>,
}

impl Standby<'_> {
    /// `first`, or another definition from the same files, once it isn't outdated. `None`: asked to stop. A database that is away is
    /// the pipeline's to wait for.
    pub async fn turn(&mut self, first: Option<Definition>, reload: &mut Reload) -> Option<Definition> {
        let connector = super::connector(self.config);
        let mut definition = first;
        let mut waited = false;
        loop {
            if definition.is_none() {
                definition = self.from_files().await;
                waited = false;
            }
            if let Some(found) = definition.take() {
                match outdated_by(&connector, self.pipeline, found.marks.whole).await {
                    Ok(Some((ours, newest))) => {
                        let error = generations::outdated(&self.pipeline.name, ours, newest);
                        self.health.enter(State::Waiting, &error.to_string());
                        self.health.update(|snapshot| {
                            (snapshot.generation, snapshot.fingerprint) = (ours, found.marks.whole.to_string());
                        });
                        definition = Some(found);
                    }
                    // Lookups may have changed while it waited.
                    Ok(None) | Err(_) if waited => continue,
                    Ok(None) | Err(_) => return Some(found),
                }
            }
            waited = true;
            tokio::select! {
                seen = reload.news() => self.note(seen, &mut definition),
                () = tokio::time::sleep(LOOK) => {}
                _ = self.stop.changed() => return None,
            }
        }
    }

    async fn from_files(&self) -> Option<Definition> {
        match define_anew(self.config, self.pipeline).await {
            Ok(definition) => Some(definition),
            Err(faults) => {
                refuse(self.health, &self.pipeline.name, &faults);
                None
            }
        }
    }

    fn note(&self, seen: Option<Seen>, definition: &mut Option<Definition>) {
        match seen {
            Some(Seen::Ready(ready)) => {
                self.health.files(FileState::Current, &[]);
                *definition = Some(*ready);
            }
            Some(Seen::Faulty(faults)) => refuse(self.health, &self.pipeline.name, &faults),
            Some(Seen::Changed) | None => {}
        }
    }
}

async fn outdated_by(
    connector: &Connector,
    pipeline: &config::Pipeline,
    whole: Fingerprint,
) -> Result<Option<(i64, i64)>> {
    let mut session = connector.connect().await?;
    super::owner(pipeline).outdated_by(&mut session, whole).await
}
