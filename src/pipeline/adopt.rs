//! Adopting partitions: from "the group assigned it" to "it is read from the stored position".
//!
//! In: assignments. For each: take ownership in MySQL (fences the former owner), compare the stored position with what the brokers
//! have, load who is on hold, then let the source begin. Nothing is read before that. A partition whose position Kafka can't serve
//! halts by name and is looked at again now and then; the others go on. What fails for lack of brokers or database is tried
//! again later while other partitions are being worked on.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::health::State;
use super::protocol::Lost;
use super::{Owned, Pipeline, Standing, policy, protocol};
use crate::diagnostic::Diagnostic;
use crate::error::{Error, Kind, Result};
use crate::failpoint::failpoint;
use crate::position::Partition;
use crate::sink::inspect::{self, Inspected};
use crate::sink::positions::{Acquired, Found, Stored, SumChanges, TopicIdentity};
use crate::source::{self, Assignment, Verdict, Watermarks, position_check};

/// How long until a halted partition is looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// Fenced so often within that time, while the group gave the partition to us all along: somebody outside of the group has it.
const CONTESTED: usize = 3;
const CONTESTED_WITHIN: Duration = Duration::from_secs(300);

/// Assignments that aren't positioned yet.
#[derive(Debug, Default)]
pub(super) struct Adoption {
    waiting: BTreeMap<Partition, (Assignment, Instant)>,
    attempt: u32,
    /// Ends of the partitions when we began, for `--until-caught-up`.
    goals: Option<BTreeMap<Partition, i64>>,
    asked_offsets: Option<Instant>,
    /// When each assignment was fenced lately.
    fenced: BTreeMap<Assignment, Vec<Instant>>,
}

impl Adoption {
    pub(super) fn add(&mut self, assignments: Vec<Assignment>) {
        self.add_at(assignments, Instant::now());
    }

    fn add_at(&mut self, assignments: Vec<Assignment>, when: Instant) {
        for assignment in assignments {
            self.waiting.insert(assignment.partition, (assignment, when));
        }
    }

    pub(super) fn revoke(&mut self, partitions: &[Partition]) {
        self.waiting.retain(|partition, _| !partitions.contains(partition));
        self.fenced.retain(|assignment, _| !partitions.contains(&assignment.partition));
    }

    /// Remembers that `assignment` was fenced; whether that keeps happening. A former owner that doesn't know yet does it once.
    fn fenced(&mut self, assignment: Assignment) -> bool {
        let times = self.fenced.entry(assignment).or_default();
        times.retain(|at| at.elapsed() < CONTESTED_WITHIN);
        times.push(Instant::now());
        times.len() >= CONTESTED
    }

    /// Whether the group gave us this partition and we haven't begun it yet.
    pub(super) fn awaits(&self, partition: Partition) -> bool {
        self.waiting.contains_key(&partition)
    }

    /// When the next one is due.
    pub(super) fn due(&self) -> Instant {
        let far = Instant::now() + Duration::from_secs(3600);
        self.waiting.values().map(|(_, when)| *when).min().unwrap_or(far)
    }
}

/// Two that take a partition from each other do no damage, but half of their work is in vain, and nobody meant it.
fn contested() -> Error {
    let what = "this partition is taken away again and again by an instance that is not of this consumer group: two deployments \
                run this pipeline against one database";
    Error::new(Kind::Fenced, what).remedy(
        "stop one of them (`afterimage status` names the owner of each partition), or give both the same `group`, or the pipelines \
         different names",
    )
}

/// What the brokers say about the topic now.
struct TopicNow {
    identity: TopicIdentity,
    partitions: usize,
    watermarks: Vec<Watermarks>,
}

impl Pipeline {
    /// Connects and checks what must be right before anything is read; waits for a database that is away. `false`: asked to stop.
    pub(super) async fn open(&mut self) -> Result<bool> {
        let mut attempt = 0;
        loop {
            let error = match self.look_at_database().await {
                Ok(()) => break,
                Err(error) => error,
            };
            attempt += 1;
            let Some(pace) = policy::pace(error.kind) else { return Err(error) };
            self.health.enter(State::Waiting, &error.to_string());
            if !self.pause(policy::pause(pace, attempt)).await {
                return Ok(false);
            }
        }
        self.health.enter(State::Running, "");
        Ok(true)
    }

    async fn look_at_database(&mut self) -> Result<()> {
        let sink = &mut self.stations.sink;
        let missing = inspect::unmigrated(sink.session().await?).await?;
        if !missing.is_empty() {
            let what = format!("the database lacks {}", missing.join(", "));
            return Err(Error::new(Kind::Config, what).remedy("run `afterimage migrate`"));
        }
        let wanted = self.stations.engine.derive_target(&self.settings.table);
        let faults = match sink.look(&wanted).await? {
            Ok(Inspected { target, spare }) => match self.stations.engine.set_target(target.clone()) {
                Ok(_) => {
                    sink.use_target(target);
                    self.name_spare_columns(&spare);
                    return self.register_at_start().await;
                }
                Err(faults) => faults,
            },
            Err(faults) => faults,
        };
        Err(Error::new(Kind::Config, format!("the target can't be kept right: {}", texts(&faults))))
    }

    /// Adopts what is due. Errors that pass by themselves only postpone it.
    pub(super) async fn adopt_due(&mut self) -> Result<()> {
        let now = Instant::now();
        if self.adoption.due() > now {
            return Ok(());
        }
        self.land_all().await?;
        let due: Vec<Assignment> = self
            .adoption
            .waiting
            .values()
            .filter(|(_, when)| *when <= now)
            .map(|(assignment, _)| *assignment)
            .collect();
        match self.adopt(&due).await {
            Ok(()) => {
                self.adoption.attempt = 0;
                self.publish_partitions();
                if !self.owned.is_empty() {
                    self.health.enter(State::Running, "");
                }
                Ok(())
            }
            Err(error) if error.kind == Kind::Outdated => {
                self.reload.outdated = true;
                self.adoption.add(due);
                Ok(())
            }
            Err(error) => {
                let Some(pace) = policy::pace(error.kind) else { return Err(error) };
                self.adoption.attempt += 1;
                self.health.enter(State::Waiting, &error.to_string());
                let when = now + policy::pause(pace, self.adoption.attempt);
                self.adoption.add_at(due, when);
                Ok(())
            }
        }
    }

    async fn adopt(&mut self, due: &[Assignment]) -> Result<()> {
        let partitions: Vec<Partition> = due.iter().map(|assignment| assignment.partition).collect();
        let topic = self.ask_brokers(&partitions).await?;
        failpoint!("before_acquire");
        let owner = self.stations.sink.owner().clone();
        let session = self.stations.sink.session().await?;
        let Acquired { stored, mut pending } = owner.acquire(session, &partitions).await?;
        failpoint!("after_acquire");
        let count = owner.count(session).await?;
        if count == 0 && inspect::holds_rows(session, &self.settings.table).await? {
            let (pipeline, topic, table) = (&self.settings.name, &*self.settings.topic, &self.settings.table);
            tracing::warn!(
                pipeline,
                topic,
                table,
                "the target holds rows, but no position is stored: the topic is read from its beginning; if the database was restored \
                 without afterimage's tables, rows whose deletion Kafka no longer holds stay: rebuild the table then"
            );
        }
        let mut begun: Vec<(Assignment, Stored)> = Vec::new();
        let mut halted: Vec<(Assignment, Error)> = Vec::new();
        for assignment in due {
            let row = stored.iter().find(|row| row.partition == assignment.partition);
            match self.check(&topic, assignment.partition, row, count) {
                Ok((from, warnings)) => {
                    for warning in warnings {
                        tracing::warn!(pipeline = self.settings.name, partition = assignment.partition, "{warning}");
                    }
                    let row = match row {
                        Some(row) => row.clone(),
                        None => {
                            let session = self.stations.sink.session().await?;
                            owner.create(session, assignment.partition, from, &topic.identity).await?
                        }
                    };
                    begun.push((*assignment, row));
                }
                Err(error) => halted.push((*assignment, error)),
            }
        }
        let mine: Vec<Partition> = begun.iter().map(|(assignment, _)| assignment.partition).collect();
        let session = self.stations.sink.session().await?;
        if !mine.is_empty() && topic.identity != TopicIdentity::default() {
            owner.identify(session, &mine, &topic.identity).await?;
        }
        pending.retain(|row| mine.contains(&row.position.partition));
        for partition in &mine {
            self.holds.forget(*partition);
        }
        self.remember_pending(pending);
        failpoint!("before_begin");
        for (assignment, row) in begun {
            self.begin(assignment, row);
        }
        for (assignment, error) in halted {
            self.halt_partition(assignment, &error);
        }
        Ok(())
    }

    /// All that was needed is known: the source may read.
    fn begin(&mut self, assignment: Assignment, row: Stored) {
        let (pipeline, partition, from) = (self.settings.name.as_str(), assignment.partition, row.next_offset);
        tracing::info!(pipeline, partition, from, epoch = row.epoch, "partition begun");
        self.stations.source.position(assignment, from);
        self.adoption.waiting.remove(&partition);
        self.health.update(|snapshot| {
            snapshot.halted.remove(&partition);
        });
        let stored =
            Standing { next_offset: row.next_offset, transaction: row.transaction, high_water_ns: row.high_water_ns };
        self.owned.insert(partition, Owned { assignment, epoch: row.epoch, stored, ahead: stored });
    }

    fn halt_partition(&mut self, assignment: Assignment, error: &Error) {
        let partition = assignment.partition;
        let reason = error.to_string();
        let mut news = false;
        self.health.update(|snapshot| {
            news = snapshot.halted.insert(partition, reason.clone()).as_ref() != Some(&reason);
        });
        if news {
            tracing::error!(pipeline = self.settings.name, partition, reason, "partition halted");
        }
        self.stations.source.halt(partition);
        self.adoption.add_at(vec![assignment], Instant::now() + LOOK_AGAIN);
    }

    /// Lets go of partitions whose rows in MySQL aren't ours or stand elsewhere, and comes back to them: at once where the database
    /// was set back, after a while where another instance took them.
    pub(super) fn let_go(&mut self, partitions: &[Partition], moved: bool) {
        for partition in partitions {
            let Some(owned) = self.owned.remove(partition) else { continue };
            self.stations.source.halt(*partition);
            self.holds.forget(*partition);
            let pause = if moved { Duration::ZERO } else { Duration::from_secs(3) };
            self.adoption.add_at(vec![owned.assignment], Instant::now() + pause);
            if !moved && self.adoption.fenced(owned.assignment) {
                self.halt_partition(owned.assignment, &contested());
            }
        }
        let pipeline = self.settings.name.as_str();
        if moved {
            tracing::warn!(pipeline, ?partitions, "the database stands at other positions: reading on from there");
        } else {
            tracing::warn!(pipeline, ?partitions, "fenced: another instance owns these partitions");
        }
        self.publish_partitions();
    }

    /// Looks whether our partitions' rows are still as we know them. An instance that has nothing to do would otherwise not notice
    /// that the database was set back, and what is missing in it would stay missing until the next record.
    pub(super) async fn look_at_positions(&mut self) -> Result<()> {
        let owner = self.stations.sink.owner().clone();
        if self.owned.is_empty() {
            // One that stands by should know before it is given a partition.
            self.reload.outdated |= !owner.is_newest(self.stations.sink.session().await?).await?;
            return Ok(());
        }
        let partitions: Vec<Partition> = self.owned.keys().copied().collect();
        let found = owner.find(self.stations.sink.session().await?, &partitions).await?;
        self.let_go_lost(&found);
        Ok(())
    }

    /// Lets go of those of our partitions that weren't found as we know them.
    pub(super) fn let_go_lost(&mut self, found: &[Found]) {
        let standing = self.standing(|_| true, |_| SumChanges::default());
        let Lost { outdated, fenced, moved } = protocol::lost(&self.stations.sink.owner().token, &standing, found);
        if outdated {
            // First of all: what is ours then, is seen at the next look.
            self.reload.outdated = true;
            return;
        }
        for (partitions, moved) in [(fenced, false), (moved, true)] {
            if !partitions.is_empty() {
                self.let_go(&partitions, moved);
            }
        }
    }

    pub(super) fn publish_partitions(&self) {
        let owned: Vec<Partition> = self.owned.keys().copied().collect();
        self.health.update(|snapshot| snapshot.owned = owned);
    }

    async fn ask_brokers(&mut self, partitions: &[Partition]) -> Result<TopicNow> {
        let (broker, name) = (&self.stations.broker, &self.settings.topic);
        let Some(topic) = broker.topic(name).await? else {
            let error = Error::new(Kind::BrokerUnavailable, format!("topic `{name}` does not exist"));
            return Err(error.remedy("create it, or correct `topic` in the config; the service goes on by itself"));
        };
        let cluster_id = broker.cluster_id().await?;
        if self.settings.until_caught_up && self.adoption.goals.is_none() {
            let ends = broker.watermarks(name, &topic.partitions).await?;
            self.adoption.goals = Some(ends.iter().map(|ends| (ends.partition, ends.high)).collect());
        }
        let watermarks = broker.watermarks(name, partitions).await?;
        let identity = TopicIdentity { cluster_id, topic_id: topic.id };
        Ok(TopicNow { identity, partitions: topic.partitions.len(), watermarks })
    }

    /// From which offset a partition may be read, with warnings; or why not.
    fn check(
        &self,
        topic: &TopicNow,
        partition: Partition,
        row: Option<&Stored>,
        count: usize,
    ) -> Result<(i64, Vec<String>)> {
        let Some(ends) = topic.watermarks.iter().find(|ends| ends.partition == partition) else {
            return Err(Error::new(Kind::PositionLost, format!("partition {partition} is gone from the topic")));
        };
        let identity = row.map(|row| row.identity.clone()).unwrap_or_default();
        let stored = source::Stored {
            next_offset: row.map(|row| row.next_offset),
            topic_id: identity.topic_id,
            cluster_id: identity.cluster_id,
            partitions: count,
        };
        let found = source::Found {
            low: ends.low,
            high: ends.high,
            topic_id: topic.identity.topic_id.clone(),
            cluster_id: topic.identity.cluster_id.clone(),
            partitions: topic.partitions,
        };
        match position_check(&self.settings.topic, partition, &stored, &found) {
            Verdict::Start { from, warnings } => Ok((from, warnings)),
            Verdict::Halt(error) => Err(error),
        }
    }

    /// Whether everything that was there at the start is applied, by us or by others.
    pub(super) async fn caught_up(&mut self) -> Result<bool> {
        let Some(goals) = self.adoption.goals.clone() else { return Ok(false) };
        let stats = self.stations.source.stats();
        let halted = self.health.snapshot().halted;
        let mut elsewhere = Vec::new();
        for (partition, goal) in &goals {
            match self.owned.get(partition) {
                Some(owned) => {
                    // Control records at the end are never delivered: having been handed everything counts as well.
                    let drained = stats.partitions.iter().any(|known| {
                        known.assignment == owned.assignment
                            && known.at_end
                            && known.buffered_events == 0
                            && known.next.is_some_and(|next| next <= owned.stored.next_offset)
                    });
                    if owned.stored.next_offset < *goal && !drained {
                        return Ok(false);
                    }
                }
                None if halted.contains_key(partition) => {}
                None => elsewhere.push((*partition, *goal)),
            }
        }
        if elsewhere.is_empty() {
            return self.halted_end(&halted);
        }
        let recently = |asked: Instant| asked.elapsed() < Duration::from_millis(500);
        if self.adoption.asked_offsets.is_some_and(recently) {
            return Ok(false);
        }
        self.adoption.asked_offsets = Some(Instant::now());
        let owner = self.stations.sink.owner().clone();
        let offsets = match self.stations.sink.session().await {
            Ok(session) => owner.offsets(session).await,
            Err(error) => Err(error),
        };
        match offsets {
            Ok(offsets) if elsewhere.iter().all(|(partition, goal)| offsets.get(partition).unwrap_or(&0) >= goal) => {
                self.halted_end(&halted)
            }
            // Not there yet, or the database is away: asked again later.
            Ok(_) | Err(_) => Ok(false),
        }
    }

    /// Caught up, except for what is halted: that is for an operator.
    fn halted_end(&self, halted: &BTreeMap<Partition, String>) -> Result<bool> {
        match halted.iter().next() {
            None => Ok(true),
            Some((partition, reason)) => {
                Err(Error::new(Kind::PositionLost, format!("all but partition {partition} is applied: {reason}")))
            }
        }
    }
}

/// Faults of the target in one line.
pub(super) fn texts(faults: &[Diagnostic]) -> String {
    let text = |fault: &Diagnostic| match &fault.help {
        Some(help) => format!("[{}] {} ({help})", fault.code, fault.message),
        None => format!("[{}] {}", fault.code, fault.message),
    };
    faults.iter().map(text).collect::<Vec<_>>().join("; ")
}
