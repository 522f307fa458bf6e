//! Takes up changed files between two batches, and waits where another instance has newer ones.
//!
//! In: what the watcher of the files has seen ([`Seen`]): files that are being judged, faults, or a [`Definition`] that is planned and
//! tested. Out: the pipeline goes on with it, or stays what it is and says why. Three steps, none of which the road waits for: the target
//! must be able to hold what the new models yield, the definition is registered as the newest generation, then engine and decoder are
//! exchanged. What older models had refused is tried again.
//!
//! A swap, an acquisition or a look that finds another generation in the database ends in [`Pipeline::catch_up`]: nothing is written
//! until ours is the newest. If that doesn't come about soon the pipeline ends with [`Kind::Outdated`]: its partitions go to others.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc};

use super::health::{self, FileState, Health, State};
use super::{Pipeline, policy};
use crate::decode::Decoder;
use crate::diagnostic::Diagnostic;
use crate::error::{Error, Kind, Result};
use crate::generation::{Generation, Marks};
use crate::sink::generations::{self, Grounds, Registered};
use crate::sink::inspect::Inspected;
use crate::sql::Engine;

/// Between two tries to take up a definition that target or database aren't ready for.
const AGAIN: Duration = Duration::from_secs(2);
/// So long a pipeline that is outdated keeps its partitions, because its own files may be about to change: leaving the group and coming
/// back costs more.
const GRACE: Duration = Duration::from_secs(5);
/// The same while files that have changed are being judged.
const JUDGING: Duration = Duration::from_secs(60);

/// A version of what the analysts write, ready to run.
pub struct Definition {
    pub marks: Marks,
    pub engine: Engine,
    pub decoder: Decoder,
}

/// What the watcher of the files has to tell.
pub enum Seen {
    /// They have changed and are being judged.
    Changed,
    /// They can't be used: nothing changes.
    Faulty(Vec<Diagnostic>),
    /// They can be used.
    Ready(Box<Definition>),
}

/// The pipeline's end of the line to the watcher of its files, and what came of it.
pub struct Reload {
    seen: mpsc::UnboundedReceiver<Seen>,
    look: Arc<Notify>,
    /// The files have changed, and nothing is known of them yet.
    judging: bool,
    /// The watcher is gone; its line would be ready for ever.
    deaf: bool,
    ready: Option<Box<Definition>>,
    due: Instant,
    /// The database was seen at another generation than ours.
    pub(super) outdated: bool,
    /// Refusals of older generations are to be tried again.
    retry: bool,
    /// The last generation that read events in another way than ours.
    pub(super) read_differently: i64,
}

impl Reload {
    pub fn new(seen: mpsc::UnboundedReceiver<Seen>, look: Arc<Notify>) -> Self {
        Self {
            seen,
            look,
            judging: false,
            deaf: false,
            ready: None,
            due: Instant::now(),
            outdated: false,
            retry: false,
            read_differently: 0,
        }
    }

    /// One that never sees anything: files are what they were at the start.
    pub fn never() -> Self {
        let (_, seen) = mpsc::unbounded_channel();
        Self { deaf: true, ..Self::new(seen, Arc::default()) }
    }

    /// A definition that was ready, but not taken up.
    pub fn take_ready(&mut self) -> Option<Definition> {
        self.outdated = false;
        self.ready.take().map(|ready| *ready)
    }

    /// The next thing that was seen; pending for ever if nothing can be. Cancel-safe.
    pub async fn news(&mut self) -> Option<Seen> {
        if self.deaf {
            return std::future::pending().await;
        }
        let seen = self.seen.recv().await;
        self.deaf = seen.is_none();
        seen
    }

    /// When there is something to do besides.
    pub(super) fn due(&self) -> Instant {
        let idle = self.ready.is_none() && !self.retry;
        if idle { Instant::now() + Duration::from_secs(3600) } else { self.due }
    }
}

impl Pipeline {
    /// Notes what the watcher has seen; `None` when it is gone.
    pub(super) fn note_files(&mut self, seen: Option<Seen>) {
        self.reload.judging = false;
        match seen {
            Some(Seen::Changed) => {
                self.reload.judging = true;
                self.health.files(FileState::Pending, &[]);
            }
            Some(Seen::Faulty(faults)) => self.refuse_files(&faults),
            Some(Seen::Ready(definition)) if definition.marks == self.stations.marks => {
                self.reload.ready = None;
                self.health.files(FileState::Current, &[]);
                tracing::info!(pipeline = self.settings.name, "the files are as they run");
            }
            Some(Seen::Ready(definition)) => {
                self.reload.ready = Some(definition);
                self.reload.due = Instant::now();
            }
            None => {
                let fault = Diagnostic::error("AI0432", "the watcher of the files has ended: changes are not taken up");
                self.refuse_files(&[fault.help("restart; please report it, the log has its place")]);
            }
        }
    }

    fn refuse_files(&mut self, faults: &[Diagnostic]) {
        self.reload.ready = None;
        refuse(&self.health, &self.settings.name, faults);
    }

    /// Takes up a definition that is ready, and has another try at what older ones refused.
    pub(super) async fn reload_due(&mut self) -> Result<()> {
        if self.reload.due() > Instant::now() {
            return Ok(());
        }
        self.reload.due = Instant::now() + AGAIN;
        self.land_all().await?;
        if let Some(definition) = self.reload.ready.take() {
            self.reload.ready = self.take_up(definition).await?;
        }
        if self.reload.retry {
            let done = self.retry_older_refusals().await;
            self.reload.retry = done.is_err();
            // Before anybody looks what the change has mended.
            self.upkeep.marks = Instant::now();
            self.tolerate("trying older refusals again", done)?;
        }
        Ok(())
    }

    /// Goes on with `definition`, or gives it back to be tried again.
    async fn take_up(&mut self, mut definition: Box<Definition>) -> Result<Option<Box<Definition>>> {
        let wanted = definition.engine.derive_target(&self.settings.table);
        let found = match self.stations.sink.look(&wanted).await {
            Ok(found) => found,
            Err(error) => return self.postpone(definition, error),
        };
        let fitting = found.and_then(|found| definition.engine.set_target(found.target.clone()).map(|()| found));
        let Inspected { target, spare } = match fitting {
            Ok(found) => found,
            Err(faults) if faults.iter().all(mended_by_alter) => {
                self.await_target(&faults);
                return Ok(Some(definition));
            }
            Err(faults) => {
                self.refuse_files(&faults);
                return Ok(None);
            }
        };
        let from = self.stations.sink.owner().generation;
        match self.register(&definition.marks, Grounds::Edit(from)).await {
            Ok(Registered::Known(generation) | Registered::New(generation)) => {
                self.stations.sink.use_target(target);
                self.name_spare_columns(&spare);
                definition.engine.share_lookups(&self.stations.engine);
                let Definition { marks, engine, decoder } = *definition;
                (self.stations.marks, self.stations.engine, self.stations.decoder) = (marks, engine, decoder);
                self.stations.lookups.planned_anew();
                self.use_generation(generation);
                self.health.files(FileState::Current, &[]);
                tracing::info!(
                    pipeline = self.settings.name,
                    generation = generation.number,
                    fingerprint = generation.fingerprint.short(),
                    "changed files taken up"
                );
                Ok(None)
            }
            Ok(Registered::Outdated { ours, newest }) => {
                let error = generations::outdated(&self.settings.name, ours, newest);
                self.health.files(FileState::Pending, &[Diagnostic::error("AI0430", error.what).help(error.remedy)]);
                Ok(Some(definition))
            }
            Err(error) => self.postpone(definition, error),
        }
    }

    /// The database is away: once more later.
    fn postpone(&self, definition: Box<Definition>, error: Error) -> Result<Option<Box<Definition>>> {
        if policy::pace(error.kind).is_none() {
            return Err(error);
        }
        let fault = Diagnostic::warning("AI0433", format!("changed files wait for the database: {}", error.what));
        self.health.files(FileState::Pending, &[fault.help(error.remedy)]);
        Ok(Some(definition))
    }

    /// The target isn't ready for it: it will be looked at again and again.
    fn await_target(&self, faults: &[Diagnostic]) {
        if self.health.files(FileState::Pending, faults) {
            health::log_faults(&self.settings.name, faults);
            tracing::warn!(
                pipeline = self.settings.name,
                "the changed files wait for the target to be altered: what runs goes on as it is"
            );
        }
    }

    /// Names columns that are left to their defaults (P6).
    pub(super) fn name_spare_columns(&self, columns: &[String]) {
        if !columns.is_empty() {
            let (pipeline, table) = (&self.settings.name, &self.settings.table);
            tracing::warn!(
                pipeline,
                table,
                ?columns,
                "the target has columns that the model latest doesn't yield: they are left to their defaults"
            );
        }
    }

    /// Registers what runs, before anything is read. [`Kind::Outdated`] where it was replaced by a newer definition.
    pub(super) async fn register_at_start(&mut self) -> Result<()> {
        let marks = self.stations.marks;
        match self.register(&marks, Grounds::Start).await? {
            Registered::Known(generation) | Registered::New(generation) => {
                self.use_generation(generation);
                Ok(())
            }
            Registered::Outdated { ours, newest } => {
                let fingerprint = marks.whole;
                self.show_generation(Generation { number: ours, fingerprint });
                Err(generations::outdated(&self.settings.name, ours, newest))
            }
        }
    }

    async fn register(&mut self, marks: &Marks, grounds: Grounds) -> Result<Registered> {
        let owner = self.stations.sink.owner().clone();
        let session = self.stations.sink.session().await?;
        let registered = owner.register(session, marks, grounds).await?;
        if let Registered::Known(_) | Registered::New(_) = registered {
            self.reload.read_differently = owner.last_read_differently(session, marks.schema).await?;
        }
        Ok(registered)
    }

    fn use_generation(&mut self, generation: Generation) {
        self.stations.sink.use_generation(generation);
        self.reload.outdated = false;
        self.reload.retry = true;
        self.reload.due = Instant::now();
        self.show_generation(generation);
    }

    fn show_generation(&self, Generation { number, fingerprint }: Generation) {
        self.health.update(|snapshot| (snapshot.generation, snapshot.fingerprint) = (number, fingerprint.to_string()));
    }

    /// The database knows another generation than ours: becomes the newest one, if our files do so within a moment or an operator says
    /// so. Writes nothing meanwhile, but keeps its partitions. `false`: asked to stop. [`Kind::Outdated`] if it doesn't come about.
    pub(super) async fn catch_up(&mut self) -> Result<bool> {
        let began = Instant::now();
        self.reload.look.notify_one();
        let mut attempt = 0;
        loop {
            let error = match self.register_at_start().await {
                Ok(()) => break,
                Err(error) => error,
            };
            attempt += 1;
            self.health.enter(State::Waiting, &error.to_string());
            let patience = if self.reload.judging { JUDGING } else { GRACE };
            let pause = match policy::pace(error.kind) {
                Some(pace) => policy::pause(pace, attempt),
                None if error.kind == Kind::Outdated && began.elapsed() < patience => Duration::from_millis(300),
                None => return Err(error),
            };
            if self.stopping() {
                return Ok(false);
            }
            tokio::select! {
                seen = self.reload.news() => self.note_files(seen),
                () = tokio::time::sleep(pause) => {}
                _ = self.stop.changed() => return Ok(!self.stopping()),
            }
            if self.reload.ready.is_some() {
                self.reload.due = Instant::now();
                self.reload_due().await?;
                if !self.reload.outdated {
                    break;
                }
            }
        }
        self.health.enter(State::Running, "");
        Ok(true)
    }
}

/// Says that changed files aren't taken up, and why.
pub fn refuse(health: &Health, pipeline: &str, faults: &[Diagnostic]) {
    if health.files(FileState::Refused, faults) {
        health::log_faults(pipeline, faults);
        tracing::error!(pipeline, faults = faults.len(), "the changed files are refused: what runs goes on as it is");
    }
}

/// Whether an `ALTER TABLE` alone makes the target fit: a column that isn't there, or one of a narrower type.
fn mended_by_alter(fault: &Diagnostic) -> bool {
    matches!(fault.code, "AI0122" | "AI0123")
}
