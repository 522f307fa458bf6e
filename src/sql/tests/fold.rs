//! Against a naive fold: whatever the events and however they are cut into batches, table, quarantine, sums and evidence are
//! the same (P1, P4).

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const USERS: [[&str; 4]; 2] = [["a", "b", "c", "d"], ["k", "l", "m", "n"]];
const COUNTRIES: [Option<&str>; 6] = [Some("DE"), Some("FR"), Some("JP"), None, Some("XX"), Some("DE")];

/// What the engine must come to, event by event.
#[derive(Debug, Default, PartialEq)]
struct Expected {
    table: BTreeMap<String, (Version, Option<String>)>,
    refused: BTreeSet<(Partition, i64)>,
    held: BTreeSet<(Partition, i64)>,
    late: BTreeSet<(Partition, i64, String)>,
    changes: u64,
}

fn naive(events: &[Event], hold_keys: bool) -> Expected {
    let mut expected = Expected::default();
    let mut waiting: BTreeSet<(Partition, &str)> = BTreeSet::new();
    let mut newest: BTreeMap<(Partition, &str), i64> = BTreeMap::new();
    for event in events {
        let before = event.before.and_then(|image| image[0]);
        let after = event.after.and_then(|image| image[0]);
        let gone = if event.op == "d" || before != after { before } else { None };
        let users: Vec<&str> = after.into_iter().chain(gone).collect();
        let place = (event.partition, event.offset);
        let country = event.after.and_then(|image| image[3]);
        let fails = country == Some("XX");
        let waits = users.iter().any(|user| waiting.contains(&(event.partition, *user)));
        if waits || fails {
            if waits { &mut expected.held } else { &mut expected.refused }.insert(place);
            if hold_keys {
                waiting.extend(users.iter().map(|user| (event.partition, *user)));
            }
            continue;
        }
        let version = Version { ts_ns: event.ts * 1_000_000_000, partition: event.partition, offset: event.offset };
        for user in users {
            expected.changes += 1;
            let row = (Some(user) == after).then(|| {
                let [_, name, email, country] = event.after.unwrap().map(|value| value.unwrap_or("-"));
                let known = match country {
                    "DE" => "Germany|Europe",
                    "FR" => "France|Europe",
                    "JP" => "Japan|Asia",
                    _ => "-|-",
                };
                format!("{name}|{email}|{country}|{known}")
            });
            let stored = expected.table.entry(user.to_owned()).or_insert((version, row.clone()));
            if version > stored.0 {
                *stored = (version, row);
            }
            let top = newest.entry((event.partition, user)).or_insert(event.ts);
            if event.ts < *top {
                expected.late.insert((event.partition, event.offset, user.to_owned()));
            }
            *top = (*top).max(event.ts);
        }
    }
    expected
}

fn event() -> impl Strategy<Value = (u8, usize, usize, usize, i64, usize)> {
    // kind, user, other user, country, time, partition
    (0..10_u8, 0..4_usize, 0..4_usize, 0..6_usize, 0..12_i64, 0..2_usize)
}

fn build(parts: &[(u8, usize, usize, usize, i64, usize)]) -> Vec<Event> {
    let mut offsets = [0_i64, 0];
    let mut events = Vec::new();
    for (kind, one, other, country, ts, partition) in parts {
        let (one, other) = (USERS[*partition][*one], USERS[*partition][*other]);
        let country = COUNTRIES[*country];
        let offset = offsets[*partition];
        let made = match kind {
            0 | 1 => delete(one, *ts, offset),
            2 => rename(one, other, country, *ts, offset),
            _ => upsert(one, country, *ts, offset),
        };
        // Holes in the offsets are normal.
        offsets[*partition] += 1 + i64::from(kind % 3);
        events.push(Event { partition: *partition as Partition, ..made });
    }
    events
}

async fn by_engine(engine: &mut Engine, events: &[Event], cuts: &[usize]) -> Expected {
    let mut world = World::default();
    let mut found = Expected::default();
    let mut rest = events;
    let mut cuts = cuts.iter().cycle();
    while !rest.is_empty() {
        let size = (*cuts.next().unwrap()).clamp(1, rest.len());
        let (now, later) = rest.split_at(size);
        rest = later;
        let mut now = now.to_vec();
        now.sort_by_key(|event| (event.partition, event.offset));
        let evaluation = world.run(engine, batch(&now)).await.unwrap();
        for sums in &evaluation.sums {
            let classes = sums.classes;
            assert_eq!(classes.read, classes.ignored + classes.refused + classes.held + classes.accepted, "P4");
            let changes = sums.changes;
            assert_eq!(changes.changes, changes.upserted + changes.deleted + changes.superseded, "P4");
            assert_eq!(classes.ignored, 0);
            found.changes += changes.changes;
        }
        let place = |position: &Position| (position.partition, position.offset);
        found.refused.extend(evaluation.refused.iter().map(|refusal| place(&refusal.position)));
        found.held.extend(evaluation.held.iter().map(|held| place(&held.position)));
    }
    let late = |it: &OutOfOrder| {
        (it.position.partition, it.position.offset, it.key.0.trim_matches(['[', ']', '"']).to_owned())
    };
    found.late = world.evidence.iter().map(late).collect();
    found.table = world.table;
    found
}

fn compare(cases: u32, hold_keys: bool) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let spec = ModelSpec { hold_keys, ..spec() };
    let engine = std::cell::RefCell::new(runtime.block_on(prepare(&spec)).unwrap().0);
    let strategy = (proptest::collection::vec(event(), 1..60), proptest::collection::vec(1..20_usize, 1..6));
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let done = runner.run(&strategy, |(parts, cuts)| {
        let events = build(&parts);
        let found = runtime.block_on(by_engine(&mut engine.borrow_mut(), &events, &cuts));
        prop_assert_eq!(&found, &naive(&events, hold_keys));
        Ok(())
    });
    done.unwrap();
}

#[test]
fn any_events_in_any_batches_come_to_the_naive_fold() {
    compare(96, true);
}

#[test]
fn under_skip_event_too() {
    compare(32, false);
}
