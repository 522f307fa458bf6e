//! Follows a target that is altered while we run.
//!
//! It is looked at again now and then, and before anything is quarantined for its sake: a value that didn't fit may fit by now, and a
//! row that MySQL refuses may be refused for an alteration's sake rather than for its own (P5). A target that fits still is taken up
//! as it is; one that can't be kept right any more is waited for, by name, and nothing is written meanwhile.

use std::time::{Duration, Instant};

use super::health::State;
use super::policy;
use super::{Pipeline, adopt};
use crate::error::{Error, Kind, Result};
use crate::sink::inspect::Inspected;
use crate::work::{Evaluation, Stage};

/// Between two looks at a target that nothing is wrong with.
pub(super) const LOOK_AT_TARGET: Duration = Duration::from_secs(10);
/// A target that was looked at so recently is taken for what it is.
const RECENT: Duration = Duration::from_secs(1);

impl Pipeline {
    /// Looks at the target: `true` if it is another one than before, so that what was evaluated has to be evaluated again.
    /// [`Kind::SinkConfig`] if it can't be kept right as it is.
    pub(super) async fn look_at_target(&mut self) -> Result<bool> {
        self.upkeep.target = Instant::now() + LOOK_AT_TARGET;
        let sink = &mut self.stations.sink;
        let known = sink.target().cloned();
        let wanted = self.stations.engine.derive_target(&self.settings.table);
        let faults = match sink.look(&wanted).await? {
            Ok(Inspected { target: found, .. }) if Some(&found) == known.as_ref() => return Ok(false),
            Ok(Inspected { target: found, .. }) => match self.stations.engine.set_target(found.clone()) {
                Ok(()) => {
                    sink.use_target(found);
                    tracing::info!(
                        pipeline = self.settings.name,
                        "the target was altered: going on with it as it is now"
                    );
                    return Ok(true);
                }
                Err(faults) => faults,
            },
            Err(faults) => faults,
        };
        let what = format!("the target was altered and can't be kept right: {}", adopt::texts(&faults));
        Err(Error::new(Kind::SinkConfig, what).remedy("the service goes on by itself once it is mended"))
    }

    /// Whether an evaluation refuses values for the target's sake that the target may hold by now: then it is another one.
    pub(super) async fn target_fits_by_now(&mut self, evaluation: &Evaluation) -> bool {
        let misfits = evaluation.refused.iter().any(|refusal| refusal.stage == Stage::Target);
        let recent = self.upkeep.target.saturating_duration_since(Instant::now()) > LOOK_AT_TARGET - RECENT;
        // Whatever keeps us from looking is met again when the batch is applied.
        misfits && !recent && self.look_at_target().await.unwrap_or(false)
    }

    /// The look that is due by the clock. Waits, visibly, while the target can't be kept right.
    pub(super) async fn target_due(&mut self) -> Result<()> {
        let mut attempt = 0;
        loop {
            let error = match self.look_at_target().await {
                Err(error) if error.kind == Kind::SinkConfig => error,
                other => {
                    if attempt > 0 {
                        self.health.enter(State::Running, "");
                    }
                    return other.map(drop);
                }
            };
            let Some(pace) = policy::pace(error.kind) else { return Err(error) };
            attempt += 1;
            self.health.enter(State::Waiting, &error.to_string());
            if !self.pause(policy::pause(pace, attempt)).await {
                return Ok(());
            }
        }
    }
}
