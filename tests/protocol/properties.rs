//! What holds in every state, and what can still be reached from it.

use stateright::{Model, Property};

use super::model::{Action, FRESH, Protocol, Sight};
use super::state::{Content, Doing, Each, Instance, PARTITIONS, Part, Refused, State};

pub const ONCE: &str = "every record below next_offset is applied once, none above it is";
pub const FENCED: &str = "no transaction of an older owner commits after a newer one has acquired";
pub const NEWEST: &str = "no transaction of an older definition commits after a newer one is registered";
pub const KNOWING: &str = "what commits rests on a memory that equals the database";
pub const STICKY: &str = "an unanswered COMMIT stays in doubt until it is decided";
pub const FOLLOWS: &str = "an owner's memory equals the database unless that was set back";
pub const GOES_ON: &str = "nothing halts";
pub const HEALS: &str = "once faults end, everything is applied";
pub const DRAINED: &str = "everything is applied";

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![self.initial().canonical()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.possible(state, actions);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let after = self.after(state, action, FRESH)?.canonical();
        (after != *state).then_some(after)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ONCE, |model: &Self, state: &State| {
                state.database[..model.partitions].iter().all(|part| model.is_fold(part))
            }),
            Property::always(FENCED, |_, state: &State| !state.wrong.unfenced),
            Property::always(NEWEST, |_, state: &State| !state.wrong.outdated),
            Property::always(KNOWING, |_, state: &State| !state.wrong.blind),
            Property::always(STICKY, |_, state: &State| doubt_is_kept(state)),
            Property::always(FOLLOWS, |_, state: &State| {
                state.restored || state.instances.iter().all(|one| follows(state, one))
            }),
            Property::always(GOES_ON, |_, state: &State| !state.wrong.halted),
            Property::always(HEALS, |model: &Self, state: &State| !model.check_healing || model.heals(state)),
            Property::sometimes(DRAINED, |model: &Self, state: &State| {
                let drained = model.is_drained(state);
                if drained {
                    model.seen.note(Sight::Drained);
                }
                drained
            }),
        ]
    }
}

impl Protocol {
    /// P2 and P3 at once: what is stored equals the fold of exactly the records below the position.
    fn is_fold(&self, part: &Part) -> bool {
        let next = part.row.map_or(0, |row| row.next);
        let once = part.applied.iter().zip(0u8..).all(|(times, offset)| *times == u8::from(offset < next));
        let refused = match part.refused {
            Refused::NotRead => next == 0 || !self.refusals,
            Refused::Pending | Refused::Settled(1) => next > 0 && self.refusals,
            Refused::Settled(_) => false,
        };
        once && refused
    }

    pub fn is_drained(&self, state: &State) -> bool {
        state.open.is_empty()
            && state.database[..self.partitions]
                .iter()
                .all(|part| part.row.is_some_and(|row| row.next == self.records) && !part.pending())
    }

    /// Lets the server decide what is open and the instances finish what they are in the middle of, then leaves all partitions to the
    /// first instance: everything must be applied after a bounded number of steps.
    fn heals(&self, state: &State) -> bool {
        let calm = Self { epochs: u8::MAX, seen: Default::default(), ..self.clone() };
        let mut state = State { faults: 0, backups: 0, restores: 0, definitions: 0, ..state.clone() };
        for round in 0..60 {
            if self.is_drained(&state) {
                return true;
            }
            while let Some(open) = state.open.iter().position(|open| open.committing || !open.connected) {
                let decided = if state.open[open].committing { Action::Commit(open) } else { Action::RollBack(open) };
                state = calm.after(&state, decided, 0).unwrap();
            }
            for index in 0..state.instances.len() {
                let Some(action) = calm.calm_action(&state, index) else { continue };
                if let Some(after) = calm.after(&state, action, FRESH - 10 - round) {
                    state = after;
                }
            }
        }
        false
    }

    fn calm_action(&self, state: &State, index: usize) -> Option<Action> {
        let instance = &state.instances[index];
        if instance.doing != Doing::Idle {
            return Some(Action::Step(index));
        }
        if index > 0 {
            return None;
        }
        if instance.run == 0 {
            return Some(Action::Start(index));
        }
        if instance.generation != state.newest {
            return Some(Action::Register(index, false));
        }
        let mut parts = Each::default();
        parts[..self.partitions].fill(true);
        if (0..self.partitions).any(|part| instance.owned[part].is_none()) {
            return Some(Action::Acquire(index, parts));
        }
        if let Some(part) = (0..PARTITIONS).find(|&part| instance.owned[part].is_some_and(|owned| owned.pending)) {
            return Some(Action::Rerun(index, part));
        }
        let end = |part: usize| {
            instance.owned[part].map_or(0, |owned| if owned.next < self.records { owned.next + 1 } else { 0 })
        };
        let ends: Each<u8> = std::array::from_fn(end);
        // If all that memory knows of is applied, and yet the database isn't there, only a look can tell.
        Some(if ends == [0; PARTITIONS] { Action::Look(index) } else { Action::Begin(index, ends) })
    }
}

/// As long as the server may still carry out a COMMIT, the instance that sent it, unless it is gone, waits for the answer or asks what
/// became of that very transaction, and does nothing else.
fn doubt_is_kept(state: &State) -> bool {
    state.open.iter().filter(|open| open.committing).all(|open| {
        let Content::Apply { work: sent, .. } = open.content else { return true };
        state.instances.iter().filter(|instance| instance.run == open.run).all(|instance| match instance.doing {
            Doing::Committing { work, .. } | Doing::InDoubt(work) => work.id == sent.id,
            _ => false,
        })
    })
}

/// An instance that owns a partition, and isn't just finding out what became of its own transaction, knows its row.
fn follows(state: &State, instance: &Instance) -> bool {
    if matches!(instance.doing, Doing::Committing { .. } | Doing::InDoubt(_)) {
        return true;
    }
    instance.owned.iter().zip(&state.database).all(|(owned, part)| {
        let (Some(owned), Some(row)) = (owned, part.row) else { return true };
        row.owner != instance.run
            || row.epoch != owned.epoch
            || (owned.next == row.next && owned.id == row.id && owned.pending == part.pending())
    })
}
