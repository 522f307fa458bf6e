//! Re-running quarantined records: through the same models, guard and transaction as fresh ones, in order per user.
//!
//! What runs: records marked for retry, records held behind nothing that is still refused, and what the models had refused, once
//! lookups or the models themselves are others. What operators gave up is settled without a run. Positions don't move, but are part of the transaction: an
//! instance that lost the partition can't do any of this.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use super::commit::{Applied, token};
use super::{Pipeline, sum_changes};
use crate::error::Result;
use crate::failpoint::failpoint;
use crate::hold::{Pending, PendingState};
use crate::position::{Partition, Position};
use crate::record::RawBatch;
use crate::sink::Work;
use crate::sink::positions::{Advance, SumChanges};
use crate::sink::quarantine::{self, PendingRow, Settled, SettledInto};
use crate::work::{Evaluation, PartitionSums, Suspicion};

/// Records per transaction.
const AT_ONCE: usize = 5_000;

impl Pipeline {
    /// Takes rows read from the quarantine table into the hold set. Under `skip_event` they keep nobody waiting, but are known.
    pub(super) fn remember_pending(&mut self, rows: Vec<PendingRow>) {
        for row in rows {
            let again = row.pending.state == PendingState::Refused && self.may_be_mended(&row);
            let state = if again { PendingState::Retry } else { row.pending.state };
            self.holds.insert(row.position, Pending { state, ..row.pending });
        }
    }

    /// Whether what refused a record has changed since: an older generation's models, or its way to read events.
    fn may_be_mended(&self, row: &PendingRow) -> bool {
        match row.stage.as_str() {
            "model" | "target" => row.generation < self.stations.sink.owner().generation.number,
            "decode" => row.generation <= self.reload.read_differently,
            _ => false,
        }
    }

    /// Has another try at what older generations refused.
    pub(super) async fn retry_older_refusals(&mut self) -> Result<()> {
        let rows = self.pending().await?;
        self.remember_pending(rows);
        Ok(())
    }

    /// Marks what the models refused for another try: a lookup changed. Yields how many.
    pub(super) async fn retry_model_refusals(&mut self) -> Result<usize> {
        // Whatever waits in our partitions is known here, so that a lookup that changes all day costs the database nothing.
        if self.holds.is_empty() {
            return Ok(0);
        }
        let mut count = 0;
        for row in self.pending().await? {
            if row.stage == "model" && row.pending.state == PendingState::Refused {
                self.holds.insert(row.position, Pending { keys: row.pending.keys, state: PendingState::Retry });
                count += 1;
            }
        }
        Ok(count)
    }

    /// What stands in quarantine of our partitions. Where they aren't as we know them they are let go instead: what is pending there
    /// may be another owner's work.
    async fn pending(&mut self) -> Result<Vec<PendingRow>> {
        let owner = self.stations.sink.owner().clone();
        let partitions: Vec<Partition> = self.owned.keys().copied().collect();
        let session = self.stations.sink.session().await?;
        let (found, mut rows) = owner.find_pending(session, &partitions).await?;
        self.let_go_lost(&found);
        if self.reload.outdated {
            return Ok(Vec::new());
        }
        rows.retain(|row| self.owned.contains_key(&row.position.partition));
        Ok(rows)
    }

    /// Looks for marks of operators, then runs a chunk of whatever may run. What is left is due at once, but fresh records have their
    /// turn in between: however much waits, nobody else does.
    pub(super) async fn rerun_due(&mut self) -> Result<()> {
        let goes_on = std::mem::take(&mut self.upkeep.rerun_goes_on);
        if self.owned.is_empty() {
            return Ok(());
        }
        let owner = self.stations.sink.owner().clone();
        if !goes_on && quarantine::any_marked(self.stations.sink.session().await?, &owner).await? {
            self.land_all().await?;
            // Somebody has mended something: perhaps the target, and perhaps a moment after it was looked at last.
            self.look_at_target().await?;
            let rows = self.pending().await?;
            let (given_up, rows): (Vec<PendingRow>, Vec<PendingRow>) = rows.into_iter().partition(|row| row.discard);
            self.remember_pending(rows);
            if !given_up.is_empty() {
                self.discard(&given_up).await?;
            }
        }
        if !self.holds.runnable(1).is_empty() {
            self.land_all().await?;
        }
        let runnable = self.holds.runnable(AT_ONCE);
        if !runnable.is_empty() && !self.stopping() && self.rerun(&runnable).await? {
            self.upkeep.rerun_goes_on = !self.holds.runnable(1).is_empty();
        }
        if self.upkeep.rerun_goes_on {
            self.upkeep.marks = Instant::now();
        } else {
            self.stations.lookups.retry_ended();
        }
        Ok(())
    }

    /// Settles records that an operator gave up: they count as refused for good and keep nobody waiting.
    async fn discard(&mut self, rows: &[PendingRow]) -> Result<()> {
        let settled = rows.iter().map(|row| Settled { position: row.position, into: SettledInto::Discarded }).collect();
        let moved = |partition: Partition| {
            let was_held = rows.iter().filter(|row| row.position.partition == partition && row.was_held).count() as i64;
            SumChanges { refused: was_held, held: -was_held, ..SumChanges::default() }
        };
        let positions: Vec<Position> = rows.iter().map(|row| row.position).collect();
        let latest = self.stations.engine.no_rows()?;
        let work = Work {
            id: token(),
            advances: self.standing(|partition| touches(&positions, partition), moved),
            latest: &latest,
            late: Vec::new(),
            wants_evidence: false,
            quarantine: Vec::new(),
            settled,
        };
        if let Applied::Committed(_) = self.commit(&work, &Suspicion::default(), None).await? {
            for position in &positions {
                self.holds.remove(*position);
            }
            tracing::info!(pipeline = self.settings.name, records = positions.len(), "quarantined records discarded");
        }
        Ok(())
    }

    /// Runs `positions` again in one transaction. `false` where there is no point in going on now.
    async fn rerun(&mut self, positions: &[Position]) -> Result<bool> {
        failpoint!("before_rerun");
        let owner = self.stations.sink.owner().clone();
        let stored = quarantine::records(self.stations.sink.session().await?, &owner, positions).await?;
        // Rows deleted by hand meanwhile leave the hold set; their users may go on.
        let found: Vec<Position> = stored.iter().map(|record| record.position).collect();
        for position in positions.iter().filter(|position| !found.contains(position)) {
            self.holds.remove(*position);
        }
        let positions = found.as_slice();
        if positions.is_empty() {
            return Ok(true);
        }
        let rerun: HashSet<Position> = positions.iter().copied().collect();
        let nothing = RawBatch { topic: Arc::clone(&self.settings.topic), chunks: Vec::new(), more: false };
        let mut forced = Vec::new();
        let decoded = self.stations.decoder.decode(stored.iter().map(|record| record.as_raw()))?;
        loop {
            let evaluation = self.evaluate(&nothing, &decoded, &forced, &rerun).await?;
            let work = Work {
                id: token(),
                advances: self.standing(
                    |partition| touches(positions, partition),
                    |partition| {
                        let sums = evaluation.sums.iter().find(|sums| sums.partition == partition);
                        self.reclassified(&rerun, partition, sums)
                    },
                ),
                latest: &evaluation.latest,
                // Late by design, not by the producer's fault: no evidence.
                late: vec![true; evaluation.latest.num_rows()],
                wants_evidence: false,
                quarantine: Vec::new(),
                settled: settle(positions, &evaluation),
            };
            if work.advances.is_empty() {
                return Ok(false);
            }
            match self.commit(&work, &evaluation.suspicion, None).await? {
                Applied::Committed(_) => {
                    let progress = self.settle_in_memory(positions, &evaluation);
                    let resolved = positions.len() - evaluation.refused.len() - evaluation.held.len();
                    let (refused, held) = (evaluation.refused.len(), evaluation.held.len());
                    tracing::info!(
                        pipeline = self.settings.name,
                        resolved,
                        refused,
                        held,
                        "quarantined records run again"
                    );
                    self.health.update(|snapshot| {
                        for advance in &work.advances {
                            snapshot.totals.add(&advance.sums);
                        }
                    });
                    return Ok(progress);
                }
                Applied::Refused(refusals) => forced.extend(refusals),
                Applied::Altered => {}
                Applied::Outdated | Applied::Lost(_) | Applied::Stopped => return Ok(false),
            }
        }
    }

    /// Advances that leave the positions where they are, for those of our partitions that are chosen.
    pub(super) fn standing(
        &self,
        chosen: impl Fn(Partition) -> bool,
        sums: impl Fn(Partition) -> SumChanges,
    ) -> Vec<Advance> {
        self.owned
            .iter()
            .filter(|(partition, _)| chosen(**partition))
            .map(|(partition, owned)| Advance {
                partition: *partition,
                epoch: owned.epoch,
                last: owned.stored.transaction,
                from: owned.stored.next_offset,
                to: owned.stored.next_offset,
                high_water_ns: None,
                sums: sums(*partition),
                generation: self.stations.sink.owner().generation,
            })
            .collect()
    }

    /// The records were read long ago; now they leave one class for another.
    fn reclassified(
        &self,
        rerun: &HashSet<Position>,
        partition: Partition,
        sums: Option<&PartitionSums>,
    ) -> SumChanges {
        let mut changes = sums.map(sum_changes).unwrap_or_default();
        let mine = rerun.iter().filter(|position| position.partition == partition);
        let (mut were_held, mut were_refused) = (0, 0);
        for position in mine {
            if self.holds.get(*position).is_some_and(|pending| pending.state == PendingState::Held) {
                were_held += 1;
            } else {
                were_refused += 1;
            }
        }
        changes.read = 0;
        changes.held -= were_held;
        changes.refused -= were_refused;
        changes
    }

    /// The hold set follows what was committed; `false` if every record is where it was, so that running on would spin.
    fn settle_in_memory(&mut self, positions: &[Position], evaluation: &Evaluation) -> bool {
        for position in positions {
            self.holds.remove(*position);
        }
        self.hold(evaluation);
        evaluation.refused.len() + evaluation.held.len() < positions.len() || !evaluation.refused.is_empty()
    }
}

fn touches(positions: &[Position], partition: Partition) -> bool {
    positions.iter().any(|position| position.partition == partition)
}

/// How each record stands after its re-run.
fn settle(positions: &[Position], evaluation: &Evaluation) -> Vec<Settled> {
    positions
        .iter()
        .map(|position| {
            let refusal = evaluation.refused.iter().find(|refusal| refusal.position == *position);
            let held = evaluation.held.iter().any(|held| held.position == *position);
            let into = match (refusal, held) {
                (Some(refusal), _) => SettledInto::Refused(refusal.clone()),
                (None, true) => SettledInto::Held,
                (None, false) => SettledInto::Resolved,
            };
            Settled { position: *position, into }
        })
        .collect()
}
