//! One seed, one plan: the workload, the faults, their order and their timing.
//!
//! A plan is made before anything runs and never looks at a clock, so that the same seed is the same plan everywhere. Real servers don't
//! replay bit for bit, but the same trouble meets the same events. Faults are rare but correlated: after one there is a fair chance that
//! the next strikes within the recovery from it.

use std::time::Duration;

use afterimage::demo::server::Flavour;
use afterimage::generate::{Mix, Workload};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::support::proxy::Fault;

/// Where the engine can be told to die or to stand still, see `src/failpoint.rs`.
const PLACES: [&str; 15] = [
    "before_acquire",
    "after_acquire",
    "before_begin",
    "after_poll",
    "after_models",
    "after_stage",
    "before_swap",
    "after_swap",
    "before_upserts",
    "after_upserts",
    "after_merge",
    "before_commit",
    "after_commit",
    "before_broker_commit",
    "before_read_back",
];

/// Statements whose connection may break: staging, rows as values, each part of the transaction, COMMIT (thrice as often), the read-back.
const STATEMENTS: [&str; 18] = [
    "COMMIT",
    "COMMIT",
    "COMMIT",
    "SELECT KAFKA_PARTITION, NEXT_OFFSET, OWNER_EPOCH, OWNER_TOKEN",
    "START TRANSACTION",
    "LOAD DATA",
    "EXECUTE INSERT INTO `AFTERIMAGE_STAGE`",
    "EXECUTE INSERT INTO `ENRICHED_USER`",
    "EXECUTE INSERT INTO OUT_OF_ORDER_EVENTS",
    "INSERT INTO OUT_OF_ORDER_EVENTS",
    "CREATE TEMPORARY",
    "UPDATE (SELECT",
    "INSERT INTO AFTERIMAGE_TOMBSTONES",
    "INSERT INTO `ENRICHED_USER`",
    "DELETE T FROM",
    "DELETE FROM `ENRICHED_USER`",
    "SELECT S.N",
    "UPDATE AFTERIMAGE_POSITIONS SET OWNER_EPOCH",
];

/// Errors that say nothing about a row: deadlock, lock wait, snapshot changed, rolled back at commit, read-only in three spellings, full
/// disk, shutting down, killed, too many connections, error at commit.
const REFUSALS: [u16; 12] = [1213, 1205, 1020, 3101, 1290, 1836, 1792, 1114, 1053, 1317, 1040, 1180];

/// What happens next.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// So many records are written.
    Write(usize),
    Wait(Duration),
    Fault(Act),
}

/// A fault. Instances are numbered; what lasts heals by itself after its time, while other steps go on.
#[derive(Debug, Clone, PartialEq)]
pub enum Act {
    /// SIGKILL; started again at once.
    Kill(usize),
    /// SIGKILL, and started again so that it dies at a place after having passed it so often; a second place for the life after that.
    DieAt {
        instance: usize,
        place: &'static str,
        after: u32,
        then: Option<&'static str>,
    },
    /// The same, but it stands still at that place (SIGSTOP) and is woken up after a time.
    StopAt {
        instance: usize,
        place: &'static str,
        after: u32,
        time: Duration,
    },
    /// SIGSTOP at some moment, for a time.
    Pause(usize, Duration),
    /// SIGTERM; started again when it has ended.
    Terminate(usize),
    /// One more instance, for a time; ended by SIGKILL.
    Guest(Duration),
    /// The connection breaks at the next such statement, and, if so, at the one that follows up on it.
    Break {
        statement: &'static str,
        how: Fault,
        again: Option<(&'static str, Fault)>,
    },
    /// Packets of the database's connections vanish for a time.
    Blackhole(Duration),
    /// Nobody listens on the database's port for a time; open connections are cut.
    Away(Duration),
    /// All connections to the database are ended by KILL.
    KillSessions,
    /// Somebody else holds locks on rows of the target, last key first, for a time.
    LockRows(Duration),
    /// Somebody else holds locks on the positions for a time.
    LockPositions(Duration),
    /// Somebody else changes the target's comment: metadata locks.
    AlterTable,
    /// An operator marks everything refused for another try.
    Retry,
    /// So many records are written in a transaction that is aborted: nobody may ever see them.
    Aborted(usize),
    /// The topic gets its further partitions.
    Grow,
    /// The database server is killed and started again after a time. This and what follows only on servers of the run's own.
    ServerKill(Duration),
    ServerStop(Duration),
    ServerPause(Duration),
    ReadOnly(Duration),
    BrokerKill(Duration),
    BrokerPause(Duration),
    /// The database server is stopped and its data set back to a copy that is so old.
    SetBack,
}

#[derive(Debug, Clone)]
pub struct Plan {
    pub seed: u64,
    pub flavour: Flavour,
    /// Servers of the run's own, which it may stop, kill and set back.
    pub own_servers: bool,
    pub instances: usize,
    /// Partitions at the start; the workload's are those after `Grow`.
    pub partitions: i32,
    pub static_members: bool,
    pub hold: bool,
    pub batch: usize,
    pub lanes: u64,
    pub workload: Workload,
    pub steps: Vec<Step>,
    /// No further step after this time.
    pub limit: Option<Duration>,
}

impl Plan {
    /// A short run: some thousand events, three to nine faults.
    pub fn short(seed: u64) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        let own_servers = random.random_ratio(1, 12);
        let flavour = if random.random_bool(0.5) { Flavour::MySql } else { Flavour::MariaDb };
        let mut plan = Self::of(seed, &mut random, flavour, own_servers, 1_500..4_000);
        let faults = random.random_range(3..10);
        let chunk = usize::try_from(plan.workload.events).unwrap() / (faults * 2) + 1;
        plan.steps = steps(&mut random, &plan, faults, chunk);
        plan.steps.push(Step::Write(usize::MAX));
        plan
    }

    /// A long run: `minutes` of writing with a fault every few seconds, servers included.
    pub fn long(seed: u64, flavour: Flavour, minutes: u64) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        let seconds = minutes * 60;
        // More than can be done in the time.
        let mut plan = Self::of(seed, &mut random, flavour, true, seconds * 10_000..seconds * 10_000 + 1);
        plan.limit = Some(Duration::from_secs(seconds));
        plan.instances = 3;
        plan.workload.users = 4_000;
        plan.workload.mix = Mix::default();
        plan.steps = steps(&mut random, &plan, usize::try_from(seconds).unwrap(), 300);
        plan
    }

    fn of(seed: u64, random: &mut SmallRng, flavour: Flavour, own_servers: bool, events: std::ops::Range<u64>) -> Self {
        let partitions = random.random_range(1..=4);
        let grown = if random.random_ratio(1, 4) { partitions + random.random_range(1..=2) } else { partitions };
        let workload = Workload {
            events: random.random_range(events),
            users: random.random_range(20..400),
            partitions: grown,
            seed: random.random(),
            mix: if random.random_bool(0.6) { Mix::harsh() } else { Mix::default() },
            ..Workload::default()
        };
        Self {
            seed,
            flavour,
            own_servers,
            instances: random.random_range(1..=3),
            partitions,
            static_members: random.random_bool(0.6),
            hold: random.random_bool(0.8),
            batch: random.random_range(40..600),
            // Not drawn: the plans of known seeds stay what they are.
            lanes: 1 + seed % 3,
            workload,
            steps: Vec::new(),
            limit: None,
        }
    }
}

/// So many faults, some with a second one close behind, and about `chunk` records written before and after each.
fn steps(random: &mut SmallRng, plan: &Plan, faults: usize, chunk: usize) -> Vec<Step> {
    let mut steps = Vec::new();
    let grow_at = (plan.workload.partitions > plan.partitions).then(|| random.random_range(0..faults.min(20)));
    for number in 0..faults {
        steps.push(Step::Write(random.random_range(chunk / 2..=chunk * 3 / 2)));
        steps.push(Step::Wait(milliseconds(random, 20..700)));
        if grow_at == Some(number) {
            steps.push(Step::Fault(Act::Grow));
        }
        steps.push(Step::Fault(act(random, plan)));
        steps.push(Step::Write(random.random_range(chunk / 2..=chunk * 3 / 2)));
        if random.random_bool(0.4) {
            steps.push(Step::Wait(milliseconds(random, 0..300)));
            steps.push(Step::Fault(act(random, plan)));
        }
        steps.push(Step::Wait(milliseconds(random, 50..900)));
    }
    steps
}

fn act(random: &mut SmallRng, plan: &Plan) -> Act {
    if plan.own_servers && random.random_ratio(1, 4) {
        return server_act(random);
    }
    let instance = random.random_range(0..plan.instances);
    match random.random_range(0..100) {
        0..6 => Act::Kill(instance),
        6..24 => Act::DieAt {
            instance,
            place: place(random),
            after: random.random_range(0..6),
            then: random.random_bool(0.3).then(|| place(random)),
        },
        24..34 => Act::StopAt {
            instance,
            place: place(random),
            after: random.random_range(0..5),
            time: milliseconds(random, 300..6_000),
        },
        34..40 => Act::Pause(instance, milliseconds(random, 200..6_000)),
        40..44 => Act::Terminate(instance),
        44..49 => Act::Guest(milliseconds(random, 500..4_000)),
        49..71 => breaking(random),
        71..75 => Act::Blackhole(milliseconds(random, 100..3_000)),
        75..79 => Act::Away(milliseconds(random, 100..3_000)),
        79..84 => Act::KillSessions,
        84..88 => Act::LockRows(milliseconds(random, 100..3_000)),
        88..91 => Act::LockPositions(milliseconds(random, 100..3_000)),
        91..93 => Act::AlterTable,
        93..96 => Act::Retry,
        _ => Act::Aborted(random.random_range(1..60)),
    }
}

fn server_act(random: &mut SmallRng) -> Act {
    let time = milliseconds(random, 200..4_000);
    match random.random_range(0..8) {
        0 => Act::ServerKill(time),
        1 => Act::ServerStop(time),
        2 => Act::ServerPause(time),
        3 => Act::ReadOnly(time),
        4 => Act::BrokerKill(time),
        5 => Act::BrokerPause(time),
        6 => Act::SetBack,
        _ => Act::KillSessions,
    }
}

fn breaking(random: &mut SmallRng) -> Act {
    let statement = STATEMENTS[random.random_range(0..STATEMENTS.len())];
    let how = match random.random_range(0..4) {
        0 => Fault::CutBefore,
        1 => Fault::CutAfter,
        2 => Fault::CutDuring,
        _ => Fault::Refuse(REFUSALS[random.random_range(0..REFUSALS.len())]),
    };
    let again = random.random_bool(0.4).then(|| {
        let follows = if statement == "COMMIT" { STATEMENTS[3] } else { statement };
        (follows, if random.random_bool(0.5) { Fault::CutBefore } else { Fault::CutAfter })
    });
    Act::Break { statement, how, again }
}

fn place(random: &mut SmallRng) -> &'static str {
    PLACES[random.random_range(0..PLACES.len())]
}

fn milliseconds(random: &mut SmallRng, range: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(random.random_range(range))
}

#[test]
fn a_seed_is_one_plan_and_seeds_differ() {
    for seed in 0..50 {
        assert_eq!(Plan::short(seed).steps, Plan::short(seed).steps);
    }
    assert_ne!(Plan::short(1).steps, Plan::short(2).steps);
}
