//! What becomes of batches under way: memory runs ahead of them when they are sent, follows them when they are committed, and goes back
//! to what MySQL has when anything else comes of them.
//!
//! A parcel that doesn't land as committed ends the flight of all others: those behind it stood back, those of other lanes are waited
//! for. Then its transaction is repeated until its fate is known, alone, and the batches that stood back are evaluated again after it:
//! they may have been evaluated over what is different now.

use std::time::{Duration, Instant};

use super::Pipeline;
use super::commit::{Applied, committed};
use super::health::State;
use super::lanes::{Event, Landed, Landing, Parcel, Question};
use super::upkeep::Committed;
use crate::error::{Kind, Result};
use crate::failpoint::failpoint;
use crate::hold::{Pending, PendingState};
use crate::position::OffsetRange;
use crate::record::RawBatch;
use crate::sink::Outcome;
use crate::sink::positions::{Advance, Token};
use crate::work::{Evaluation, Refusal};

impl Pipeline {
    /// Sends an evaluated batch on its way; memory runs ahead.
    pub(super) fn send(&mut self, parcel: Parcel) {
        for advance in &parcel.advances {
            if let Some(owned) = self.owned.get_mut(&advance.partition) {
                owned.ahead.next_offset = advance.to;
                owned.ahead.transaction = parcel.id;
                owned.ahead.high_water_ns = owned.ahead.high_water_ns.max(advance.high_water_ns);
            }
        }
        self.hold(&parcel.evaluation);
        self.lanes.launch(parcel, &self.stations.sink);
    }

    /// Does what the lanes ask for, and goes on from whatever a parcel came to.
    pub(super) async fn land(&mut self, event: Event) -> Result<()> {
        match self.note(event).await {
            // Boxed, because it may come back here.
            Some(landing) => Box::pin(self.begin_again(landing)).await,
            None => Ok(()),
        }
    }

    /// Waits until nothing is under way: what changes partitions, engine or target has to come between two batches.
    pub(super) async fn land_all(&mut self) -> Result<()> {
        while !self.lanes.is_idle() {
            let event = self.lanes.next().await;
            self.land(event).await?;
        }
        Ok(())
    }

    /// Answers a question, follows a commit; gives back what landed otherwise.
    pub(super) async fn note(&mut self, event: Event) -> Option<Landing> {
        let landing = match event {
            Event::Asked(question) => {
                self.answer(question).await;
                return None;
            }
            Event::Landed(landing) => *landing,
        };
        match landing.landed {
            Landed::Outcome(Ok(outcome @ Outcome::Committed { .. })) => {
                self.health.enter(State::Running, "");
                self.follow(&landing.parcel.id, &landing.parcel.advances);
                self.applied(&landing.parcel, &committed(Ok(outcome), 1), landing.took);
                None
            }
            landed => Some(Landing { landed, ..landing }),
        }
    }

    async fn answer(&mut self, question: Question) {
        let Question { parcel, known, answer } = question;
        let evidence = self.stations.engine.evidence(&parcel.evaluation.suspicion, &known).await;
        // Broken off meanwhile.
        let _ = answer.send(evidence);
    }

    /// A batch was committed: it counts, and the broker is told.
    fn applied(&mut self, parcel: &Parcel, committed: &Committed, took: Duration) {
        failpoint!("after_commit");
        self.breaker.record(Instant::now(), parcel.read(), parcel.evaluation.refused.len() as u64);
        self.report(parcel, committed, took);
        let ranges: Vec<OffsetRange> = parcel.raw.chunks.iter().map(|chunk| chunk.range()).collect();
        failpoint!("before_broker_commit");
        self.stations.source.acknowledge(&ranges); // for lag tools
    }

    /// Memory follows a transaction that was committed, whatever was in it.
    pub(super) fn follow(&mut self, id: &Token, advances: &[Advance]) {
        for advance in advances {
            if let Some(owned) = self.owned.get_mut(&advance.partition) {
                owned.stored.next_offset = advance.to;
                owned.stored.transaction = *id;
                owned.stored.high_water_ns = owned.stored.high_water_ns.max(advance.high_water_ns);
            }
        }
        if self.lanes.is_idle() {
            self.go_back();
        }
    }

    /// Remembers what a batch refuses and holds. Under `skip_event` a refused record keeps nobody waiting, but a retry has to find it. Of a
    /// partition that was revoked meanwhile nothing is remembered: that is for its next owner.
    pub(super) fn hold(&mut self, evaluation: &Evaluation) {
        let refused = evaluation.refused.iter().map(|refusal| (refusal.position, &refusal.keys, PendingState::Refused));
        let held = evaluation.held.iter().map(|held| (held.position, &held.keys, PendingState::Held));
        for (position, keys, state) in refused.chain(held) {
            if self.owned.contains_key(&position.partition) {
                self.holds.insert(position, Pending { keys: keys.clone(), state });
            }
        }
    }

    /// Memory is as far as MySQL is: nothing is under way.
    pub(super) fn go_back(&mut self) {
        for owned in self.owned.values_mut() {
            owned.ahead = owned.stored;
        }
    }

    /// Takes up what landed without a commit, and all that stood back for it.
    async fn begin_again(&mut self, first: Landing) -> Result<()> {
        if let Landed::Outcome(Err(error)) = &first.landed
            && error.kind == Kind::SinkUnavailable
        {
            // Others under way may take as long to find out.
            self.health.enter(State::Waiting, &error.to_string());
        }
        let mut left = vec![first];
        while !self.lanes.is_idle() {
            let event = self.lanes.next().await;
            left.extend(self.note(event).await);
        }
        let lost = |landing: &Landing| match &landing.landed {
            Landed::Outcome(Err(error)) => matches!(error.kind, Kind::CommitUnknown | Kind::SinkUnavailable),
            Landed::Outcome(Ok(_)) | Landed::StoodBack => false,
        };
        if left.iter().any(lost) {
            // Older connections may lead to a server that is the writer no more: questions and repetitions take new ones.
            self.stations.sink.disconnect();
            self.lanes.disconnect();
        }
        for Landing { parcel, .. } in &left {
            let Evaluation { refused, held, .. } = &parcel.evaluation;
            let positions = refused.iter().map(|refusal| refusal.position);
            for position in positions.chain(held.iter().map(|held| held.position)) {
                self.holds.remove(position);
            }
        }
        self.go_back();
        for Landing { parcel, landed, .. } in left {
            if self.stopping() {
                break;
            }
            match landed {
                Landed::Outcome(outcome) => {
                    let mut forced = Vec::new();
                    if let Some(raw) = self.settle(parcel, Some(outcome), &mut forced).await? {
                        self.turn(raw, forced).await?;
                    }
                }
                Landed::StoodBack => self.turn(parcel.raw, Vec::new()).await?,
            }
        }
        Ok(())
    }

    /// One batch alone, with nothing else under way; `forced` are refused whatever the models say. Returns when it is applied, when its
    /// partitions are no longer ours, or when asked to stop.
    async fn turn(&mut self, mut raw: RawBatch, mut forced: Vec<Refusal>) -> Result<()> {
        loop {
            self.keep_owned(&mut raw);
            if raw.chunks.is_empty() {
                return Ok(());
            }
            let parcel = self.prepare(raw, &forced).await?;
            match self.settle(parcel, None, &mut forced).await? {
                Some(left) => raw = left,
                None => return Ok(()),
            }
        }
    }

    /// Repeats a parcel's transaction, of which `tried` is what came so far, until its fate is known. Gives back a batch that has to be
    /// evaluated again.
    async fn settle(
        &mut self,
        parcel: Parcel,
        tried: Option<Result<Outcome>>,
        forced: &mut Vec<Refusal>,
    ) -> Result<Option<RawBatch>> {
        let started = Instant::now();
        match self.commit(&parcel.work(), &parcel.evaluation.suspicion, tried).await? {
            Applied::Committed(committed) => {
                self.hold(&parcel.evaluation);
                self.applied(&parcel, &committed, started.elapsed());
                return Ok(None);
            }
            Applied::Stopped => return Ok(None),
            Applied::Refused(refusals) => forced.extend(refusals),
            Applied::Altered => {}
            Applied::Outdated => {
                if !self.catch_up().await? {
                    return Ok(None);
                }
                // What MySQL refused of the older models' rows.
                forced.clear();
            }
            Applied::Lost(partitions) => {
                forced.retain(|refusal| !partitions.contains(&refusal.position.partition));
            }
        }
        Ok(Some(parcel.raw))
    }
}
