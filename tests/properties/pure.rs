//! Rules that are plain functions, against references so naive that they can be read at a glance.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::{Duration, Instant};

use afterimage::error::Kind;
use afterimage::hold::{Candidate, HoldSet, Key, Pending, PendingState, Verdict, judge};
use afterimage::pipeline::breaker::{Breaker, BreakerLimits};
use afterimage::pipeline::policy::pace;
use afterimage::pipeline::protocol::{Claim, Next, Observed, next};
use afterimage::position::{Position, Version};
use afterimage::sink::server_error::{Class, classify};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

/// Every code that is about a row's values, with its name in the servers' references. Nothing else is ever taken for a bad row.
const ROW_CODES: [(u16, &str); 25] = [
    (1048, "BAD_NULL_ERROR"),
    (1062, "DUP_ENTRY"),
    (1118, "TOO_BIG_ROWSIZE"),
    (1261, "WARN_TOO_FEW_RECORDS"),
    (1262, "WARN_TOO_MANY_RECORDS"),
    (1263, "WARN_NULL_TO_NOTNULL"),
    (1264, "WARN_DATA_OUT_OF_RANGE"),
    (1265, "WARN_DATA_TRUNCATED"),
    (1292, "TRUNCATED_WRONG_VALUE"),
    (1300, "INVALID_CHARACTER_STRING"),
    (1364, "NO_DEFAULT_FOR_FIELD"),
    (1366, "TRUNCATED_WRONG_VALUE_FOR_FIELD"),
    (1406, "DATA_TOO_LONG"),
    (1411, "WRONG_VALUE_FOR_TYPE"),
    (1441, "DATETIME_FUNCTION_OVERFLOW"),
    (1451, "ROW_IS_REFERENCED_2"),
    (1452, "NO_REFERENCED_ROW_2"),
    (1644, "SIGNAL_EXCEPTION"),
    (1690, "DATA_OUT_OF_RANGE"),
    (3140, "INVALID_JSON_TEXT"),
    (3141, "INVALID_JSON_TEXT_IN_PARAM"),
    (3156, "INVALID_JSON_VALUE_FOR_CAST"),
    (3819, "CHECK_CONSTRAINT_VIOLATED"),
    (1526, "NO_PARTITION_FOR_GIVEN_VALUE"),
    (4025, "CONSTRAINT_FAILED (MariaDB)"),
];

/// What follows an error of a transaction.
fn after(kind: Kind) -> Next {
    next(&Claim { id: &[1; 16], owner: &[2; 16], advances: &[] }, Observed::Failed(kind))
}

// Proves: P5, R19, R33
#[test]
fn of_all_error_codes_only_those_about_values_make_a_bad_row() {
    let rows: BTreeSet<u16> = ROW_CODES.iter().map(|(code, _)| *code).collect();
    for code in 0..=u16::MAX {
        let class = classify(code);
        assert_eq!(class == Class::Row, rows.contains(&code), "{code} is {class:?}");
        assert_eq!(after(class.kind()) == Next::FindRows, class == Class::Row, "{code}");
        // No error of a server stops the pipeline: it goes on by itself once the server is mended.
        assert!(pace(class.kind()).is_some() && after(class.kind()) != Next::Halt, "{code}");
    }
}

// Proves: P5
#[test]
fn of_all_kinds_of_error_only_a_refused_row_is_searched_for() {
    use Kind::{
        BrokerUnavailable, Bug, CommitUnknown, Config, Fenced, Model, PositionLost, RecordRefused, RowRefused,
        SinkConfig, SinkContention, SinkUnavailable, TooManyRefused,
    };
    let others = [
        BrokerUnavailable,
        SinkUnavailable,
        SinkContention,
        CommitUnknown,
        Fenced,
        SinkConfig,
        PositionLost,
        Model,
        Config,
        TooManyRefused,
        RecordRefused,
        Bug,
    ];
    assert_eq!(after(RowRefused), Next::FindRows);
    assert!(others.iter().all(|kind| after(*kind) != Next::FindRows));
}

fn config() -> ProptestConfig {
    let default = ProptestConfig::default();
    let persistence = FileFailurePersistence::SourceParallel("proptest-regressions");
    ProptestConfig { source_file: Some(file!()), failure_persistence: Some(Box::new(persistence)), ..default }
}

fn position() -> impl Strategy<Value = Position> {
    (0..2i32, 0..14i64).prop_map(|(partition, offset)| Position { partition, offset })
}

fn keys() -> impl Strategy<Value = Vec<Key>> {
    let key = prop_oneof![Just("[1]"), Just("[2]"), Just("[3]"), Just("[4]")].prop_map(|text| Key(text.into()));
    proptest::collection::vec(key, 0..3)
}

fn pending() -> impl Strategy<Value = BTreeMap<Position, Pending>> {
    let state = prop_oneof![Just(PendingState::Refused), Just(PendingState::Retry), Just(PendingState::Held)];
    let pending = (keys(), state).prop_map(|(keys, state)| Pending { keys, state });
    proptest::collection::btree_map(position(), pending, 0..10)
}

fn hold_set(pending: &BTreeMap<Position, Pending>) -> HoldSet {
    let mut holds = HoldSet::default();
    for (position, pending) in pending {
        holds.insert(*position, pending.clone());
    }
    holds
}

fn share(left: &[Key], right: &[Key]) -> bool {
    left.iter().any(|key| right.contains(key))
}

proptest! {
    #![proptest_config(config())]

    // Proves: P5
    #[test]
    fn holding_is_what_a_naive_reader_of_its_rule_would_do(
        pending in pending(),
        rerun_too in any::<bool>(),
        rerun in proptest::collection::vec(any::<bool>(), 10),
        events in proptest::collection::btree_map(position(), (keys(), any::<bool>()), 0..14),
        hold in any::<bool>(),
    ) {
        let rerun: HashSet<Position> = match rerun_too {
            true => pending.keys().zip(&rerun).filter(|(_, again)| **again).map(|(position, _)| *position).collect(),
            false => HashSet::new(),
        };
        let candidates: Vec<Candidate> = events
            .iter()
            .map(|(position, (keys, failed))| Candidate { position: *position, keys: keys.clone(), failed: *failed })
            .collect();
        let (verdicts, since) = judge(&candidates, &hold_set(&pending), &rerun, hold);

        // Who stands in the way: records in quarantine, and events of this batch that didn't pass.
        let in_quarantine = pending.iter().filter(|(position, _)| !rerun.contains(position));
        let mut blockers: Vec<(Position, &[Key])> = in_quarantine.map(|(at, pending)| (*at, &*pending.keys)).collect();
        for (event, verdict) in candidates.iter().zip(&verdicts) {
            let waits = hold && blockers.iter().any(|(at, keys)| {
                // Fresh events come after everything in quarantine, re-run ones stand between.
                let earlier = rerun.is_empty() || at.offset <= event.position.offset;
                at.partition == event.position.partition && earlier && share(keys, &event.keys)
            });
            let expected = match (waits, event.failed) {
                (true, _) => Verdict::Held,
                (false, true) => Verdict::Refused,
                (false, false) => Verdict::Accepted,
            };
            prop_assert_eq!(*verdict, expected, "{:?}", event);
            if expected != Verdict::Accepted {
                blockers.push((event.position, &event.keys));
            }
            // What the SQL of `accepted` has to go by says the same.
            let behind = event.keys.iter().any(|key| {
                since.get(&(event.position.partition, key.clone())).is_some_and(|from| *from <= event.position.offset)
            });
            prop_assert!(behind == (expected != Verdict::Accepted) || (event.keys.is_empty() || !hold) && !behind);
        }
    }

    // Proves: P5
    #[test]
    fn what_may_run_again_overtakes_nobody(pending in pending(), limit in 0..12usize) {
        let mut expected: Vec<Position> = Vec::new();
        for (position, record) in &pending {
            let overtakes = pending.iter().any(|(earlier, other)| {
                earlier < position
                    && earlier.partition == position.partition
                    && share(&other.keys, &record.keys)
                    && !expected.contains(earlier)
            });
            if !overtakes && record.state != PendingState::Refused && expected.len() < limit {
                expected.push(*position);
            }
        }
        prop_assert_eq!(hold_set(&pending).runnable(limit), expected);
    }

    #[test]
    fn the_hold_set_forgets_exactly_what_it_is_told_to(
        pending in pending(),
        again in pending(),
        removed in proptest::collection::vec(position(), 0..6),
        forgotten in proptest::option::of(0..2i32),
    ) {
        let (mut holds, mut plain) = (hold_set(&pending), pending);
        for (position, record) in again {
            holds.insert(position, record.clone());
            plain.insert(position, record);
        }
        for position in removed {
            holds.remove(position);
            plain.remove(&position);
        }
        if let Some(partition) = forgotten {
            holds.forget(partition);
            plain.retain(|position, _| position.partition != partition);
        }
        let named: BTreeSet<(i32, Key)> = plain
            .iter()
            .flat_map(|(position, record)| record.keys.iter().map(|key| (position.partition, key.clone())))
            .collect();
        prop_assert_eq!((holds.len(), holds.is_empty()), (plain.len(), plain.is_empty()));
        prop_assert_eq!(&holds.keys().map(|(partition, key)| (partition, key.clone())).collect::<BTreeSet<_>>(), &named);
        for partition in 0..2 {
            for key in ["[1]", "[2]", "[3]", "[4]"].map(|text| Key(text.into())) {
                prop_assert_eq!(holds.holds(partition, &key), named.contains(&(partition, key)));
            }
        }
        prop_assert!(plain.iter().all(|(position, record)| holds.get(*position) == Some(record)));
    }

    // Proves: P1
    #[test]
    fn versions_are_ordered_totally_by_time_then_partition_then_offset(
        versions in proptest::collection::vec((-2..3i64, 0..3i32, 0..3i64), 3)
    ) {
        let version = |(ts_ns, partition, offset)| Version { ts_ns, partition, offset };
        let [a, b, c] = [versions[0], versions[1], versions[2]].map(version);
        prop_assert_eq!(a.cmp(&b), versions[0].cmp(&versions[1]));
        prop_assert_eq!(a.cmp(&b), b.cmp(&a).reverse());
        prop_assert_eq!(a == b, versions[0] == versions[1]);
        prop_assert!(!(a <= b && b <= c) || a <= c);
    }

    // Proves: R33
    #[test]
    fn the_breaker_counts_what_lies_in_its_window(
        batches in proptest::collection::vec((0..90u64, 0..50u64, 0..50u64), 0..12),
        max_percent in 0..=100u32,
        min_records in 0..60u64,
    ) {
        let limits = BreakerLimits {
            max_share: f64::from(max_percent) / 100.0,
            window: Duration::from_secs(60),
            min_records,
        };
        let (mut breaker, mut now) = (Breaker::new(limits), Instant::now());
        let mut seen: Vec<(Instant, u64, u64)> = Vec::new();
        for (seconds, read, bad) in batches {
            now += Duration::from_secs(seconds);
            let refused = bad.min(read);
            let recent = seen.iter().filter(|(at, _, _)| now - *at <= limits.window);
            let (all, all_bad) = recent.fold((read, refused), |(all, bad), batch| (all + batch.1, bad + batch.2));
            let trips = all >= min_records && all_bad as f64 > limits.max_share * all as f64;
            prop_assert_eq!(breaker.would_trip(now, read, refused), trips.then_some((all_bad, all)));
            if !trips {
                breaker.record(now, read, refused);
                seen.push((now, read, refused));
            }
        }
    }
}
