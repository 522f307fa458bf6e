//! The commit and fencing protocol, checked exhaustively: every order of steps, lost answers, crashes, pauses and restores in small
//! worlds. The model asks the engine's own decision function; what it leaves out is said in `docs/commit-protocol.md`.
//!
//! A world is checked to its end: no property is violated in any state, and every situation that it is meant for was met. Then
//! the protocol is broken on purpose, one way at a time, and each must be found out.

mod broken;
mod model;
mod properties;
mod restored;
mod state;
mod steps;
mod swap;

use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model};

use self::broken::Broken;
use self::model::{Protocol, Sight};
use self::properties::{FENCED, FOLLOWS, HEALS, KNOWING, NEWEST, ONCE, STICKY};

/// Checks a world to its end; all of `sights` must have been met on the way.
fn assert_holds(name: &str, world: Protocol, sights: &[Sight]) {
    let (seen, started) = (world.seen.clone(), Instant::now());
    let checker = world.checker().threads(2).spawn_bfs().join();
    let (states, steps, depth) = (checker.unique_state_count(), checker.state_count(), checker.max_depth());
    println!("{name}: {states} states, {steps} steps, depth {depth}, {:.1} s", started.elapsed().as_secs_f64());
    checker.assert_properties();
    let missing: Vec<&Sight> = sights.iter().filter(|sight| !seen.has(**sight)).collect();
    assert!(missing.is_empty(), "{name} never met {missing:?}");
}

/// Which of `properties` a world violates; the check ends with the first one.
fn violated(world: Protocol, properties: &[&'static str]) -> Option<&'static str> {
    let until = HasDiscoveries::AnyOf(properties.iter().copied().collect());
    let checker = world.checker().threads(2).finish_when(until).spawn_bfs().join();
    let found = checker.discoveries();
    properties.iter().copied().find(|property| found.contains_key(property))
}

/// Two instances, one partition, two records of which the first is quarantined and run again later.
fn one_partition() -> Protocol {
    Protocol { refusals: true, ..Protocol::default() }
}

/// The same; no other fault than that the database is set back to any earlier state.
fn set_back() -> Protocol {
    Protocol { faults: 0, backups: 1, restores: 1, ..one_partition() }
}

fn two_partitions() -> Protocol {
    Protocol { partitions: 2, records: 1, ..Protocol::default() }
}

// Proves: P2, P3, R1, R2, R3, R6, R8, R9, R10, R11, R12, R13, R17, R20, R21, R48
#[test]
fn two_instances_apply_each_record_once_whatever_fails_twice_and_though_the_database_is_set_back() {
    let world = Protocol { faults: 2, backups: 1, restores: 1, ..one_partition() };
    let sights = [
        Sight::Drained,
        Sight::FencedAtSwap,
        Sight::MovedAtSwap,
        Sight::FencedInDoubt,
        Sight::MovedInDoubt,
        Sight::DoubtCommitted,
        Sight::DoubtNotCommitted,
        Sight::CommittedThoughFenced,
        Sight::RefusedForNothing,
        Sight::DoubtWaitedForLock,
        Sight::DoubtReadBackFailed,
        Sight::AcquireWaitedForLock,
        Sight::CommittedAlone,
        Sight::EpochGivenTwice,
        Sight::OnlyTransactionDiffers,
        Sight::CrashedAcquiring,
        Sight::CrashedInTransaction,
        Sight::CrashedCommitting,
        Sight::CrashedInDoubt,
        Sight::RanAgain,
    ];
    assert_holds("one partition", world, &sights);
}

// Proves: P2, P3, R20
#[test]
fn a_failover_to_a_copy_that_lags_and_back_applies_each_record_once_on_either() {
    let world = Protocol { records: 1, faults: 1, restores: 2, there_and_back: true, ..set_back() };
    assert_holds("there and back", world, &[Sight::Drained, Sight::EpochGivenTwice, Sight::OnlyTransactionDiffers]);
}

// Proves: P2, P3, R2, R3, R8, R11
#[test]
fn a_transaction_over_two_partitions_is_whole_though_each_may_have_another_owner_by_then() {
    let sights = [Sight::Drained, Sight::FencedAtSwap, Sight::FencedInDoubt, Sight::CommittedThoughFenced];
    assert_holds("two partitions", Protocol { faults: 2, ..two_partitions() }, &sights);
    let world = Protocol { faults: 1, backups: 1, restores: 1, epochs: 2, ..two_partitions() };
    assert_holds("two partitions, set back", world, &[Sight::Drained, Sight::EpochGivenTwice]);
}

// Proves: P2, P3, R8, R20, R56
#[test]
fn three_instances_that_all_believe_to_own_a_partition_take_turns() {
    let three = Protocol { instances: 3, records: 1, restores: 1, ..one_partition() };
    let calm = Protocol { faults: 0, epochs: 4, refusals: false, ..three.clone() };
    assert_holds("three instances", calm, &[Sight::Drained, Sight::FencedAtSwap, Sight::EpochGivenTwice]);
    assert_holds("three instances, a fault", Protocol { faults: 1, ..three }, &[Sight::FencedInDoubt]);
}

// Proves: P2, P3, R6
#[test]
fn partitions_without_a_row_are_begun_by_one_of_those_who_try() {
    let nothing = Protocol { rows_exist: false, records: 1, ..Protocol::default() };
    let sights = [Sight::Drained, Sight::FirstRowLost, Sight::RowOfAnotherRead, Sight::CrashedAcquiring];
    assert_holds("first row", Protocol { faults: 1, restores: 1, ..nothing.clone() }, &sights);
    let two = Protocol { partitions: 2, faults: 0, epochs: 2, ..nothing };
    assert_holds("two first rows", two, &[Sight::Drained, Sight::FirstRowLost]);
}

// Proves: P2, P3
#[test]
fn how_records_are_cut_into_batches_is_all_the_same() {
    let world = Protocol { records: 3, large_batches: true, faults: 2, restores: 1, ..Protocol::default() };
    assert_holds("batches", world, &[Sight::Drained, Sight::LargeBatch, Sight::FencedInDoubt]);
}

/// Two instances, one partition; two new definitions come into use, by either.
fn rollout() -> Protocol {
    Protocol { definitions: 2, faults: 1, ..one_partition() }
}

// Proves: P2, P3, R57
#[test]
fn no_older_definition_writes_after_a_newer_one_is_registered_whatever_fails_meanwhile() {
    let sights = [
        Sight::Drained,
        Sight::OutdatedAtSwap,
        Sight::OutdatedInDoubt,
        Sight::OutdatedAcquiring,
        Sight::RegisteredAlone,
        Sight::RegisteringWaitedForLock,
        Sight::CaughtUp,
    ];
    assert_holds("rollout", rollout(), &sights);
    let first_rows = Protocol { rows_exist: false, records: 1, refusals: false, definitions: 1, ..rollout() };
    assert_holds("rollout, first row", first_rows, &[Sight::Drained, Sight::OutdatedFirstRow]);
    let two = Protocol { definitions: 1, faults: 0, ..two_partitions() };
    assert_holds("rollout, two partitions", two, &[Sight::Drained, Sight::OutdatedAtSwap, Sight::CaughtUp]);
    let healing = Protocol { definitions: 1, check_healing: true, records: 1, ..rollout() };
    assert_holds("rollout, healing", healing, &[Sight::Drained, Sight::CaughtUp]);
}

// Proves: P3, R17, R58
#[test]
fn from_every_state_everything_is_applied_once_faults_end() {
    let world = Protocol { faults: 1, backups: 1, restores: 1, check_healing: true, ..one_partition() };
    assert_holds("healing", world, &[Sight::Drained, Sight::MovedAtSwap, Sight::DoubtReadBackFailed]);
}

#[test]
fn each_broken_protocol_is_found_out() {
    let healing = Protocol { check_healing: true, ..set_back() };
    let cases = [
        (Broken::NoSwap, one_partition(), ONCE),
        (Broken::SwapByEpochAlone, set_back(), ONCE),
        (Broken::SwapByOffsetAlone, one_partition(), FENCED),
        (Broken::SwapByTransactionAlone, set_back(), FENCED),
        (Broken::SwapByEpochAndToken, set_back(), ONCE),
        (Broken::SwapByOffsetAndToken, set_back(), KNOWING),
        (Broken::SwapWithoutToken, set_back(), FENCED),
        // The engine as it was before this model.
        (Broken::SwapWithoutTransaction, set_back(), KNOWING),
        (Broken::SwapWithoutGeneration, rollout(), NEWEST),
        (Broken::RegistrationDoesNotWait, rollout(), NEWEST),
        (Broken::FirstRowOfAnyGeneration, Protocol { rows_exist: false, refusals: false, ..rollout() }, NEWEST),
        (Broken::HoldsReadLater, set_back(), ONCE),
        (Broken::MarksReadWithoutLocks, set_back(), ONCE),
        (Broken::NeverLooks, healing.clone(), HEALS),
        (Broken::UnknownIsFailed, one_partition(), STICKY),
        (Broken::UnknownIsCommitted, one_partition(), FOLLOWS),
        (Broken::DoubtIsForgotten, one_partition(), STICKY),
        (Broken::ReadBackWithoutLocks, one_partition(), STICKY),
        (Broken::MemoryLeads, one_partition(), FOLLOWS),
        (Broken::RefusalIsCommitted, two_partitions(), FOLLOWS),
        (Broken::RowsApart, one_partition(), ONCE),
        (Broken::AcquireDoesNotWait, one_partition(), FENCED),
        (Broken::KeepsWhatIsLost, healing, HEALS),
    ];
    for (broken, world, property) in cases {
        let whole = violated(world.clone(), &[property]);
        assert_eq!(whole, None, "the whole protocol, in the world of {broken:?}");
        let found = violated(Protocol { broken: Some(broken), ..world }, &[property]);
        assert_eq!(found, Some(property), "{broken:?}");
    }
}

/// A finding: an instance that misjudges a lost answer loses time and its memory is wrong for a while, but it can't harm the tables.
#[test]
fn whatever_an_instance_makes_of_a_lost_answer_the_swap_keeps_the_tables_right() {
    for broken in [
        Broken::UnknownIsFailed,
        Broken::UnknownIsCommitted,
        Broken::DoubtIsForgotten,
        Broken::ReadBackWithoutLocks,
        Broken::MemoryLeads,
        Broken::RefusalIsCommitted,
    ] {
        for world in [one_partition(), set_back()] {
            let found = violated(Protocol { broken: Some(broken), ..world }, &[ONCE, FENCED, KNOWING]);
            assert_eq!(found, None, "{broken:?}");
        }
    }
}

/// Another: as long as the last transaction's name and the owner's token are compared, offset and epoch say nothing more.
#[test]
fn offset_and_epoch_are_a_second_lock_on_the_same_door() {
    for broken in [Broken::SwapWithoutOffset, Broken::SwapWithoutEpoch] {
        for world in [one_partition(), Protocol { faults: 1, ..set_back() }] {
            let found = violated(Protocol { broken: Some(broken), ..world }, &[ONCE, FENCED, KNOWING]);
            assert_eq!(found, None, "{broken:?}");
        }
    }
}
