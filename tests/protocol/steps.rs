//! What happens: the state after each action. The instance's, the server's and bad luck's part.

use afterimage::error::Kind;
use afterimage::generation::{Fingerprint, Generation};
use afterimage::pipeline::protocol::{self, Claim, Lost, Next, Observed};
use afterimage::sink::positions::{Advance, Found, SumChanges, Token};

use super::broken::Broken;
use super::model::{Action, FRESH, Protocol, Sight};
use super::state::{Content, DOWN, Doing, Each, Id, Instance, Moves, Open, Owned, PARTITIONS, Part, Refused, Row, Run};
use super::state::{State, Work};

fn bytes(run: Run) -> Token {
    [run; 16]
}

fn id_bytes(id: Id) -> Token {
    match id {
        Id::Created(run) => bytes(run),
        Id::Work(number) => [[number; 8], [0xff; 8]].concat().try_into().unwrap(),
    }
}

/// A row as the engine reads it.
fn found(part: usize, row: Row) -> Found {
    Found {
        partition: i32::try_from(part).unwrap(),
        next_offset: row.next.into(),
        epoch: row.epoch.into(),
        owner: bytes(row.owner),
        transaction: id_bytes(row.id),
        generation: generation(row.generation),
    }
}

fn generation(number: u8) -> Generation {
    Generation { number: number.into(), fingerprint: Fingerprint::default() }
}

fn advance(part: usize, moves: &Moves, number: u8) -> Advance {
    Advance {
        partition: i32::try_from(part).unwrap(),
        epoch: moves.known.epoch.into(),
        last: id_bytes(moves.known.id),
        from: moves.from.into(),
        to: moves.to.into(),
        high_water_ns: None,
        sums: SumChanges::default(),
        generation: generation(number),
    }
}

fn advances(work: &Work) -> Vec<Advance> {
    work.moves
        .iter()
        .enumerate()
        .filter_map(|(part, moves)| Some(advance(part, moves.as_ref()?, work.generation)))
        .collect()
}

impl Protocol {
    /// The state after an action, not yet canonical; `None` where it has to wait. `fresh` is the name that is drawn if one is.
    pub fn after(&self, state: &State, action: Action, fresh: u8) -> Option<State> {
        let mut next = state.clone();
        match action {
            Action::Acquire(index, parts) => self.bump(&mut next, index, parts)?,
            Action::Begin(index, ends) => {
                let moves = std::array::from_fn(|part| {
                    let known = next.instances[index].owned[part]?;
                    (ends[part] > 0).then_some(Moves { from: known.next, to: ends[part], known })
                });
                if ends.iter().zip(&moves).any(|(end, moves)| moves.is_some_and(|moves| *end > moves.from + 1)) {
                    self.seen.note(Sight::LargeBatch);
                }
                let generation = next.instances[index].generation;
                self.swap(&mut next, index, Work { id: Id::Work(fresh), generation, moves })?;
            }
            Action::Rerun(index, part) => {
                let known = next.instances[index].owned[part]?;
                let mut moves = Each::default();
                moves[part] = Some(Moves { from: known.next, to: known.next, known });
                let generation = next.instances[index].generation;
                self.swap(&mut next, index, Work { id: Id::Work(fresh), generation, moves })?;
            }
            Action::Step(index) => self.step(&mut next, index)?,
            Action::Look(index) => self.look(&mut next, index)?,
            Action::Register(index, new) => self.fence(&mut next, index, new)?,
            // One with an older definition is refused and waits, which is as good as down.
            Action::Start(index) => {
                next.instances[index] = Instance { run: fresh, generation: state.newest, ..DOWN };
            }
            Action::RefuseRow(index) => self.refuse_row(&mut next, index)?,
            Action::Cut(index) => {
                next.faults -= 1;
                self.cut(&mut next, index);
            }
            Action::Crash(index) => {
                next.faults -= 1;
                self.crash(&mut next, index);
            }
            Action::Commit(open) => self.commit(&mut next, open),
            Action::RollBack(open) => {
                let open = next.open.remove(open);
                if open.connected {
                    next.faults -= 1;
                }
            }
            Action::Backup => {
                next.backups -= 1;
                next.backup = next.database;
            }
            Action::Restore => {
                next.restores -= 1;
                if self.there_and_back {
                    std::mem::swap(&mut next.database, &mut next.backup);
                } else {
                    next.database = next.backup;
                }
                next.open.clear();
                next.restored = true;
            }
        }
        Some(next)
    }

    /// START TRANSACTION and the UPDATE of an acquisition.
    fn bump(&self, state: &mut State, index: usize, parts: Each<bool>) -> Option<()> {
        if state.locked(parts) {
            self.seen.note(Sight::AcquireWaitedForLock);
            if self.broken != Some(Broken::AcquireDoesNotWait) {
                return None;
            }
        }
        let run = state.instances[index].run;
        let ours = state.instances[index].generation;
        let other = |part: usize| state.database[part].row.is_some_and(|row| row.generation != ours);
        if (0..PARTITIONS).any(|part| parts[part] && other(part)) {
            // Rolled back.
            self.seen.note(Sight::OutdatedAcquiring);
            return None;
        }
        // Only rows that exist can be locked.
        let locks = std::array::from_fn(|part| parts[part] && state.database[part].row.is_some());
        state.open.push(Open { run, connected: true, committing: false, locks, content: Content::Acquire });
        state.instances[index].doing = Doing::Bumped(parts);
        Some(())
    }

    /// START TRANSACTION and the compare-and-swap of `work`.
    fn swap(&self, state: &mut State, index: usize, work: Work) -> Option<()> {
        let run = state.instances[index].run;
        let fits = |part: usize, moves: &Moves| {
            let row = state.database[part].row?;
            Some(self.fits(row, run, &advance(part, moves, work.generation)))
        };
        let all_fit = work.moves.iter().enumerate().all(|(part, moves)| match moves {
            Some(moves) => fits(part, moves) == Some(true),
            None => true,
        });
        if !all_fit {
            self.note_refusal(state, run, &work);
            // Under READ COMMITTED a row that doesn't match need not be waited for.
            state.instances[index].doing = Doing::SwapRefused(work);
            return Some(());
        }
        if state.locked(work.parts()) {
            return None;
        }
        let content = Content::Apply { work, written: false };
        state.open.push(Open { run, connected: true, committing: false, locks: work.parts(), content });
        state.instances[index].doing = Doing::Swapped(work);
        if self.broken == Some(Broken::RowsApart) {
            move_positions(state, &work);
        }
        Some(())
    }

    /// The compare of the compare-and-swap.
    fn fits(&self, row: Row, run: Run, advance: &Advance) -> bool {
        let row = found(usize::try_from(advance.partition).unwrap(), row);
        match self.broken {
            Some(broken) => broken.fits(&row, advance, &bytes(run)),
            None => row.fits(advance, &bytes(run)),
        }
    }

    /// START TRANSACTION of a registration, its number, and its UPDATE of all positions.
    fn fence(&self, state: &mut State, index: usize, new: bool) -> Option<()> {
        if state.registering() {
            return None;
        }
        let locks = state.database.map(|part| part.row.is_some());
        if state.locked(locks) {
            self.seen.note(Sight::RegisteringWaitedForLock);
            if self.broken != Some(Broken::RegistrationDoesNotWait) {
                return None;
            }
        }
        if new {
            state.definitions -= 1;
        }
        let generation = state.newest + u8::from(new);
        let run = state.instances[index].run;
        let content = Content::Register(generation);
        state.open.push(Open { run, connected: true, committing: false, locks, content });
        state.instances[index].doing = Doing::Fencing(generation);
        Some(())
    }

    fn note_refusal(&self, state: &State, run: Run, work: &Work) {
        for (part, moves) in work.moves.iter().enumerate() {
            let (Some(moves), Some(row)) = (moves, state.database[part].row) else { continue };
            let stands = row.next == moves.from && row.epoch == moves.known.epoch;
            if stands && row.owner != run {
                self.seen.note(Sight::EpochGivenTwice);
            }
            if stands && row.owner == run && row.id != moves.known.id {
                self.seen.note(Sight::OnlyTransactionDiffers);
            }
        }
    }

    fn step(&self, state: &mut State, index: usize) -> Option<()> {
        let open = state.transaction_of(index);
        match state.instances[index].doing {
            Doing::Idle => return None,
            Doing::Bumped(parts) => self.read_and_commit(state, index, parts, open)?,
            Doing::Acquired { parts, rows, answered: true } => {
                state.instances[index].doing = Doing::Adopting { parts, rows };
            }
            // No answer yet; or never: acquiring is given up for now.
            Doing::Acquired { .. } if open.is_some() => return None,
            Doing::Acquired { .. } => state.instances[index].doing = Doing::Idle,
            Doing::Adopting { parts, rows } => self.adopt(state, index, parts, rows)?,
            Doing::Fencing(generation) => match open {
                Some(open) => {
                    state.open[open].committing = true;
                    state.instances[index].doing = Doing::Registering { generation, answered: false };
                }
                None => state.instances[index].doing = Doing::Idle,
            },
            Doing::Registering { generation, answered: true } => {
                let instance = &mut state.instances[index];
                if instance.owned.iter().any(Option::is_some) {
                    self.seen.note(Sight::CaughtUp);
                }
                (instance.generation, instance.doing) = (generation, Doing::Idle);
            }
            Doing::Registering { .. } if open.is_some() => return None,
            // Nobody knows; it asks again, and goes on as it was until then.
            Doing::Registering { .. } => state.instances[index].doing = Doing::Idle,
            Doing::Retrying(work) => self.swap(state, index, work)?,
            Doing::Swapped(work) => match open {
                Some(open) => {
                    state.open[open].content = Content::Apply { work, written: true };
                    state.instances[index].doing = Doing::Written(work);
                }
                None => self.decide(state, index, work, Observed::Failed(Kind::SinkUnavailable)),
            },
            Doing::Written(work) => match open {
                Some(open) => {
                    state.open[open].committing = true;
                    state.instances[index].doing = Doing::Committing { work, answered: false };
                    if self.broken == Some(Broken::MemoryLeads) {
                        remember(&mut state.instances[index], &work, self.refusals);
                    }
                }
                None => self.decide(state, index, work, Observed::Failed(Kind::SinkUnavailable)),
            },
            Doing::Committing { work, answered: true } => self.decide(state, index, work, Observed::Committed),
            Doing::Committing { .. } if open.is_some() => return None,
            Doing::Committing { work, .. } => {
                self.decide(state, index, work, Observed::Failed(Kind::CommitUnknown));
            }
            Doing::SwapRefused(work) => {
                let rows = self.locking_read(state, &work)?;
                self.decide(state, index, work, Observed::SwapRefused(&rows));
            }
            Doing::InDoubt(work) => {
                let rows = self.locking_read(state, &work)?;
                self.decide(state, index, work, Observed::ReadBack(&rows));
            }
        }
        Some(())
    }

    /// The SELECT .. FOR UPDATE of an acquisition, and its COMMIT sent.
    fn read_and_commit(&self, state: &mut State, index: usize, parts: Each<bool>, open: Option<usize>) -> Option<()> {
        let Some(open) = open else {
            state.instances[index].doing = Doing::Idle;
            return Some(());
        };
        let bumped = state.open[open].locks;
        let others = std::array::from_fn(|part| parts[part] && !bumped[part]);
        if state.locked(others) {
            return None;
        }
        let run = state.instances[index].run;
        let rows = std::array::from_fn(|part| {
            let row = state.database[part].row.filter(|_| parts[part])?;
            if !bumped[part] {
                self.seen.note(Sight::RowOfAnotherRead);
            }
            let row = if bumped[part] { acquired(part, row, run) } else { row };
            Some(row.seen(state.database[part].pending()))
        });
        state.open[open].committing = true;
        state.instances[index].doing = Doing::Acquired { parts, rows, answered: false };
        Some(())
    }

    /// The first rows of partitions that had none, one per step; then the partitions are ours, as far as we know.
    fn adopt(&self, state: &mut State, index: usize, parts: Each<bool>, mut rows: Each<Option<Owned>>) -> Option<()> {
        let run = state.instances[index].run;
        if let Some(part) = (0..PARTITIONS).find(|&part| parts[part] && rows[part].is_none()) {
            if state.registering() {
                return None;
            }
            let generation = state.instances[index].generation;
            if generation != state.newest && self.broken != Some(Broken::FirstRowOfAnyGeneration) {
                self.seen.note(Sight::OutdatedFirstRow);
                state.instances[index].doing = Doing::Idle;
                return Some(());
            }
            if state.database[part].row.is_some() {
                // Duplicate key: another instance was faster.
                self.seen.note(Sight::FirstRowLost);
                state.instances[index].doing = Doing::Idle;
                return Some(());
            }
            let row = Row { next: 0, epoch: 1, owner: run, id: Id::Created(run), generation };
            state.database[part].row = Some(row);
            rows[part] = Some(row.seen(false));
            state.instances[index].doing = Doing::Adopting { parts, rows };
            return Some(());
        }
        for part in (0..PARTITIONS).filter(|&part| parts[part]) {
            let mut owned = rows[part];
            if let (Some(owned), Some(Broken::HoldsReadLater)) = (&mut owned, self.broken) {
                owned.pending = state.database[part].pending();
            }
            state.instances[index].owned[part] = owned;
        }
        state.instances[index].doing = Doing::Idle;
        Some(())
    }

    /// Reads a transaction's rows with locks; `None` while somebody else holds one.
    fn locking_read(&self, state: &State, work: &Work) -> Option<Vec<Found>> {
        if state.locked(work.parts()) {
            self.seen.note(Sight::DoubtWaitedForLock);
            if self.broken != Some(Broken::ReadBackWithoutLocks) {
                return None;
            }
        }
        Some(rows_of(&state.database, work.parts()))
    }

    /// Hands what was observed to the engine, and does what it says.
    fn decide(&self, state: &mut State, index: usize, work: Work, observed: Observed<'_>) {
        let instance = &mut state.instances[index];
        let (id, owner, advances) = (id_bytes(work.id), bytes(instance.run), advances(&work));
        let claim = Claim { id: &id, owner: &owner, advances: &advances };
        let next = protocol::next(&claim, observed);
        self.note_decision(&claim, &observed, &next);
        let next = self.broken.map_or(next.clone(), |broken| broken.next(observed, next));
        instance.doing = match next {
            Next::Advance => {
                if self.broken != Some(Broken::MemoryLeads) {
                    remember(instance, &work, self.refusals);
                }
                Doing::Idle
            }
            Next::Repeat(_) => Doing::Retrying(work),
            Next::ReadBack(_) => Doing::InDoubt(work),
            Next::Fenced(partitions) | Next::Moved(partitions) => {
                if self.broken != Some(Broken::KeepsWhatIsLost) {
                    partitions.iter().for_each(|&partition| instance.owned[partition as usize] = None);
                }
                Doing::Idle
            }
            // Its partitions stay: their rows are compared again before anything is written. Or it leaves, which is a crash.
            Next::Outdated => Doing::Idle,
            // The refused rows' events are quarantined and the batch is made up anew: for the protocol any other batch.
            Next::FindRows => Doing::Idle,
            Next::Halt => {
                state.wrong.halted = true;
                Doing::Idle
            }
        };
    }

    fn note_decision(&self, claim: &Claim<'_>, observed: &Observed<'_>, next: &Next) {
        let lost = |rows: &[Found]| protocol::lost(claim.owner, claim.advances, rows);
        let sight = match (observed, next) {
            (Observed::SwapRefused(rows), Next::Moved(_)) if lost(rows) == Lost::default() => Sight::RefusedForNothing,
            (Observed::SwapRefused(_), Next::Outdated) => Sight::OutdatedAtSwap,
            (Observed::ReadBack(_), Next::Outdated) => Sight::OutdatedInDoubt,
            (Observed::SwapRefused(_), Next::Moved(_)) => Sight::MovedAtSwap,
            (Observed::SwapRefused(_), Next::Fenced(_)) => Sight::FencedAtSwap,
            (Observed::ReadBack(rows), Next::Advance) if !lost(rows).fenced.is_empty() => Sight::CommittedThoughFenced,
            (Observed::ReadBack(_), Next::Advance) => Sight::DoubtCommitted,
            (Observed::ReadBack(_), Next::Repeat(_)) => Sight::DoubtNotCommitted,
            (Observed::ReadBack(_), Next::Fenced(_)) => Sight::FencedInDoubt,
            (Observed::ReadBack(_), Next::Moved(_)) => Sight::MovedInDoubt,
            (Observed::ReadBackFailed, Next::ReadBack(_)) => Sight::DoubtReadBackFailed,
            _ => return,
        };
        self.seen.note(sight);
    }

    /// What stands in quarantine is read together with the positions, with locks, and only believed where those are as we know them.
    fn look(&self, state: &mut State, index: usize) -> Option<()> {
        let instance = &mut state.instances[index];
        let parts = instance.owned.map(|owned| owned.is_some());
        if self.broken == Some(Broken::MarksReadWithoutLocks) {
            for (owned, part) in instance.owned.iter_mut().zip(&state.database) {
                owned.iter_mut().for_each(|owned| owned.pending |= part.pending());
            }
            return Some(());
        }
        if state.locked(parts) || self.broken == Some(Broken::NeverLooks) {
            return None;
        }
        let instance = &mut state.instances[index];
        let standing = std::array::from_fn(|part| {
            instance.owned[part].map(|known| Moves { from: known.next, to: known.next, known })
        });
        let rows: Vec<Found> = rows_of(&state.database, parts);
        let generation = instance.generation;
        let advances = advances(&Work { id: Id::Work(FRESH), generation, moves: standing });
        let Lost { outdated, fenced, moved } = protocol::lost(&bytes(instance.run), &advances, &rows);
        if outdated {
            return None;
        }
        if self.broken != Some(Broken::KeepsWhatIsLost) {
            fenced.iter().chain(&moved).for_each(|&partition| instance.owned[partition as usize] = None);
        }
        for (owned, part) in instance.owned.iter_mut().zip(&state.database) {
            owned.iter_mut().for_each(|owned| owned.pending |= part.pending());
        }
        Some(())
    }

    fn refuse_row(&self, state: &mut State, index: usize) -> Option<()> {
        let Doing::Swapped(work) = state.instances[index].doing else { return None };
        let open = state.transaction_of(index)?;
        state.faults -= 1;
        state.open.remove(open);
        self.decide(state, index, work, Observed::RowsRefused);
        Some(())
    }

    /// The connection of an instance breaks.
    fn cut(&self, state: &mut State, index: usize) {
        let doing = state.instances[index].doing;
        if let Some(open) = state.transaction_of(index) {
            state.open[open].connected = false;
        }
        match doing {
            Doing::Idle | Doing::Bumped(_) | Doing::Acquired { .. } | Doing::Adopting { .. } => {
                state.instances[index].doing = Doing::Idle;
            }
            Doing::Fencing(_) | Doing::Registering { .. } => state.instances[index].doing = Doing::Idle,
            Doing::Retrying(work) | Doing::Swapped(work) | Doing::Written(work) | Doing::SwapRefused(work) => {
                self.decide(state, index, work, Observed::Failed(Kind::SinkUnavailable));
            }
            Doing::Committing { work, .. } => {
                self.decide(state, index, work, Observed::Failed(Kind::CommitUnknown));
            }
            Doing::InDoubt(work) => self.decide(state, index, work, Observed::ReadBackFailed),
        }
    }

    fn crash(&self, state: &mut State, index: usize) {
        match state.instances[index].doing {
            Doing::Bumped(_) | Doing::Acquired { .. } | Doing::Adopting { .. } => {
                self.seen.note(Sight::CrashedAcquiring);
            }
            Doing::Swapped(_) | Doing::Written(_) => self.seen.note(Sight::CrashedInTransaction),
            Doing::Committing { .. } => self.seen.note(Sight::CrashedCommitting),
            Doing::InDoubt(_) => self.seen.note(Sight::CrashedInDoubt),
            Doing::Idle | Doing::Retrying(_) | Doing::SwapRefused(_) => {}
            Doing::Fencing(_) | Doing::Registering { .. } => {}
        }
        if let Some(open) = state.transaction_of(index) {
            state.open[open].connected = false;
        }
        state.instances[index] = DOWN;
    }

    /// The server carries out a COMMIT.
    fn commit(&self, state: &mut State, open: usize) {
        let client = state.instances.iter().position(|instance| instance.run == state.open[open].run);
        let open = state.open.remove(open);
        if !open.connected {
            self.seen.note(Sight::CommittedAlone);
        }
        match open.content {
            Content::Acquire => {
                for part in (0..PARTITIONS).filter(|&part| open.locks[part]) {
                    let row = &mut state.database[part].row;
                    *row = row.map(|row| acquired(part, row, open.run));
                }
            }
            Content::Register(generation) => {
                if !open.connected {
                    self.seen.note(Sight::RegisteredAlone);
                }
                state.newest = generation;
                for part in &mut state.database {
                    part.row = part.row.map(|row| Row { generation, ..row });
                }
            }
            Content::Apply { work, written } => self.apply(state, &work, written, open.run),
        }
        if let (Some(client), true) = (client, open.connected) {
            match &mut state.instances[client].doing {
                Doing::Acquired { answered, .. }
                | Doing::Committing { answered, .. }
                | Doing::Registering { answered, .. } => *answered = true,
                _ => {}
            }
        }
    }

    fn apply(&self, state: &mut State, work: &Work, written: bool, run: Run) {
        let positions_are_apart = self.broken == Some(Broken::RowsApart);
        for (part, moves) in work.moves.iter().enumerate() {
            let (Some(moves), now) = (moves, &mut state.database[part]) else { continue };
            let Some(row) = now.row else { continue };
            state.wrong.outdated |= work.generation < state.newest;
            if !positions_are_apart {
                state.wrong.unfenced |= row.owner != run;
                state.wrong.blind |= row.next != moves.from || now.pending() != moves.known.pending;
            }
            if !written {
                continue;
            }
            if moves.is_rerun() {
                self.seen.note(Sight::RanAgain);
                now.refused = match now.refused {
                    Refused::Settled(times) => Refused::Settled(times + 1),
                    Refused::NotRead | Refused::Pending => Refused::Settled(1),
                };
            }
            for offset in moves.from..moves.to {
                now.applied[usize::from(offset)] += 1;
                if offset == 0 && self.refusals {
                    now.refused = Refused::Pending;
                }
            }
        }
        if !positions_are_apart {
            move_positions(state, work);
        }
    }
}

fn rows_of(database: &Each<Part>, parts: Each<bool>) -> Vec<Found> {
    let chosen = database.iter().enumerate().filter(|(part, _)| parts[*part]);
    chosen.filter_map(|(part, now)| Some(found(part, now.row?))).collect()
}

/// A row after `run` acquired it.
fn acquired(part: usize, row: Row, run: Run) -> Row {
    let after = found(part, row).acquired(&bytes(run));
    Row { epoch: u8::try_from(after.epoch).unwrap(), owner: after.owner[0], ..row }
}

fn move_positions(state: &mut State, work: &Work) {
    for (part, moves) in work.moves.iter().enumerate() {
        if let (Some(moves), Some(row)) = (moves, &mut state.database[part].row) {
            let after = found(part, *row).swapped(&advance(part, moves, work.generation), &id_bytes(work.id));
            row.next = u8::try_from(after.next_offset).unwrap();
            row.id = work.id;
            debug_assert_eq!(id_bytes(row.id), after.transaction);
        }
    }
}

/// Memory follows a transaction.
fn remember(instance: &mut Instance, work: &Work, refusals: bool) {
    for (part, moves) in work.moves.iter().enumerate() {
        if let (Some(moves), Some(owned)) = (moves, &mut instance.owned[part]) {
            let pending = if moves.is_rerun() { false } else { owned.pending || (refusals && moves.from == 0) };
            *owned = Owned { next: moves.to, id: work.id, pending, ..*owned };
        }
    }
}
