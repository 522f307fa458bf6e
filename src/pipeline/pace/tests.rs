//! The pace against made-up servers, in simulated time.

use std::cell::Cell;

use super::*;

const MOST: BatchLimits = BatchLimits { max_events: 131_072, max_bytes: 64 << 20, max_wait: Duration::from_millis(5) };

/// What a batch of so many events costs, at a time of the simulation.
struct Cost {
    preparing: f64,
    transaction: f64,
}

/// A batch as the reader of the table sees it. Times in seconds since the start.
#[derive(Debug, Clone, Copy)]
struct Commit {
    at: f64,
    events: usize,
    transaction: f64,
}

/// One lane over a backlog of which two events make a row.
fn drain(pace: &mut Pace, events: usize, event_bytes: usize, server: impl Fn(f64, usize) -> Cost) -> Vec<Commit> {
    drain_of(pace, events, event_bytes, |events| events / 2, server)
}

/// One lane over a backlog: a batch is prepared while the one before it is in its transaction. `rows` says what its events come to.
fn drain_of(
    pace: &mut Pace,
    events: usize,
    event_bytes: usize,
    rows: impl Fn(usize) -> usize,
    server: impl Fn(f64, usize) -> Cost,
) -> Vec<Commit> {
    let (mut left, mut prepared_at, mut committed_at) = (events, 0.0_f64, 0.0_f64);
    let mut commits: Vec<Commit> = Vec::new();
    let mut unseen: Option<(f64, Pass)> = None;
    while left > 0 {
        // Taken as soon as the one before has begun its transaction; by then only what had been committed is known.
        let taken_at = prepared_at;
        if let Some((_, pass)) = unseen.take_if(|(at, _)| *at <= taken_at) {
            pace.note(&pass);
        }
        let limits = pace.limits();
        let count = limits.max_events.min((limits.max_bytes / event_bytes).max(1)).min(left);
        left -= count;
        let cost = server(taken_at, count);
        let ready_at = taken_at + cost.preparing;
        let begun_at = ready_at.max(committed_at);
        if let Some((_, pass)) = unseen.take() {
            pace.note(&pass);
        }
        prepared_at = begun_at;
        committed_at = begun_at + cost.transaction;
        commits.push(Commit { at: committed_at, events: count, transaction: cost.transaction });
        let seconds = Duration::from_secs_f64;
        let (preparing, transaction) = (seconds(cost.preparing), seconds(cost.transaction));
        unseen = Some((
            committed_at,
            Pass {
                events: count,
                bytes: count * event_bytes,
                rows: rows(count),
                more: left > 0,
                age: Duration::ZERO,
                limits,
                preparing,
                transaction,
            },
        ));
    }
    commits
}

/// Events that a reader sees at `at`.
fn visible(commits: &[Commit], at: f64) -> usize {
    commits.iter().filter(|commit| commit.at <= at).map(|commit| commit.events).sum()
}

/// Events per second over the second half of all.
fn steady(commits: &[Commit]) -> f64 {
    let half = &commits[commits.len() / 2..];
    let events: usize = half[1..].iter().map(|commit| commit.events).sum();
    events as f64 / (half[half.len() - 1].at - half[0].at)
}

/// A server that needs 4 ms per transaction and so many seconds per event.
fn plain(per_event: f64) -> impl Fn(f64, usize) -> Cost {
    move |_, events| Cost { preparing: events as f64 * 2e-6, transaction: 0.004 + events as f64 * per_event }
}

#[test]
fn the_first_second_of_a_backlog_shows_most_of_what_a_second_can_do() {
    for per_event in [2e-6, 5e-6, 2e-5, 1e-4] {
        let commits = drain(&mut Pace::new(MOST), (10.0 / per_event) as usize, 300, plain(per_event));
        assert!(commits[0].at < 0.2, "{per_event}: {:?}", commits[0]);
        // Whenever in that second somebody looks, and later.
        let moments = (20..=40).map(|step| f64::from(step) / 20.0);
        let shares: Vec<f64> = moments.map(|at| visible(&commits, at) as f64 / (steady(&commits) * at)).collect();
        let mean = shares.iter().sum::<f64>() / shares.len() as f64;
        assert!(mean > 0.75 && shares.iter().all(|share| *share > 0.65), "{per_event}: {mean} {shares:?}");
    }
}

#[test]
fn a_long_backlog_is_worked_off_in_transactions_of_up_to_a_second_or_as_large_as_allowed() {
    for per_event in [2e-6, 5e-6, 2e-5, 1e-4, 1e-3] {
        let commits = drain(&mut Pace::new(MOST), (20.0 / per_event) as usize, 300, plain(per_event));
        let longest = commits.iter().map(|commit| commit.transaction).fold(0.0, f64::max);
        let largest = commits.iter().map(|commit| commit.events).max().unwrap();
        assert!(longest < 1.1, "{per_event}: {longest}");
        assert!(longest > 0.8 || largest == MOST.max_events, "{per_event}: {longest} {largest}");
    }
}

#[test]
fn a_server_that_becomes_ten_times_slower_gets_one_long_transaction_and_short_ones_from_then_on() {
    let slow_from = 6.0;
    let server = |at: f64, events: usize| plain(if at < slow_from { 2e-5 } else { 2e-4 })(at, events);
    let commits = drain(&mut Pace::new(MOST), 600_000, 300, server);
    let long: Vec<_> = commits.iter().filter(|commit| commit.transaction > 1.2).collect();
    // The one whose cost wasn't known, and the one that had been taken by then.
    assert!((1..=2).contains(&long.len()), "{long:?}");
    let after = commits.iter().skip_while(|commit| commit.at < long[long.len() - 1].at).skip(1);
    assert!(after.map(|commit| commit.transaction).fold(0.0, f64::max) < 1.1);
}

#[test]
fn records_that_have_waited_for_long_may_take_longer_in_one_batch_than_those_produced_just_now() {
    let third = |age: Duration, more: bool| {
        let mut pace = Pace::new(MOST);
        for _ in 0..3 {
            let limits = pace.limits();
            let (events, transaction) = (limits.max_events, Duration::from_secs_f64(limits.max_events as f64 * 2e-5));
            let preparing = Duration::ZERO;
            pace.note(&Pass { events, bytes: events, rows: events / 2, more, age, limits, preparing, transaction });
        }
        pace.limits().max_events
    };
    let just_now = third(Duration::ZERO, true);
    assert!(just_now <= 8_000, "{just_now}: more than would fit into 150 ms");
    let waited = third(Duration::from_secs(60), true);
    assert!((49_000..=50_000).contains(&waited), "{waited}: a second's worth");
    // A replay of old records is no backlog.
    let mut pace = Pace::new(MOST);
    let (limits, age, second) = (pace.limits(), Duration::from_secs(60), Duration::from_secs(1));
    pace.note(&Pass {
        events: 900,
        bytes: 9,
        rows: 450,
        more: false,
        age,
        limits,
        preparing: second,
        transaction: second,
    });
    assert!(pace.limits().max_events < 100, "{:?}", pace.limits());
}

#[test]
fn one_stall_costs_speed_for_a_few_batches_only() {
    let stalled = Cell::new(false);
    let stall = |at: f64, events: usize| {
        let mut cost = plain(1e-5)(at, events);
        if at > 5.0 && !stalled.replace(true) {
            cost.transaction += 8.0;
        }
        cost
    };
    let commits = drain(&mut Pace::new(MOST), 2_000_000, 300, stall);
    let end = commits.iter().position(|commit| commit.transaction > 5.0).unwrap();
    let recovered = commits[end..].iter().position(|commit| commit.events > 80_000).unwrap();
    assert!(recovered < 8, "{recovered} batches");
}

#[test]
fn a_batch_that_the_client_could_not_fill_ends_no_backlog_while_more_is_to_come() {
    let learned = || {
        let mut pace = Pace::new(MOST);
        for _ in 0..40 {
            let limits = pace.limits();
            let transaction = Duration::from_secs_f64(0.004 + limits.max_events as f64 * 1e-5);
            let (events, preparing) = (limits.max_events, Duration::from_millis(1));
            pace.note(&Pass {
                events,
                bytes: events * 300,
                rows: events / 2,
                more: true,
                age: Duration::ZERO,
                limits,
                preparing,
                transaction,
            });
        }
        pace
    };
    let after = |share: usize, more: bool| {
        let mut pace = learned();
        let limits = pace.limits();
        let events = limits.max_events / share;
        let transaction = Duration::from_secs_f64(0.004 + events as f64 * 1e-5);
        pace.note(&Pass {
            events,
            bytes: events * 300,
            rows: events / 2,
            more,
            age: Duration::ZERO,
            limits,
            preparing: Duration::ZERO,
            transaction,
        });
        pace.limits().max_events
    };
    let large = learned().limits().max_events;
    assert!(after(2, true) > large * 9 / 10, "{large} {}", after(2, true));
    assert!(after(2, false) < large / 5, "the end was reached: {}", after(2, false));
    assert!(after(20, true) < large / 2, "so small a batch is traffic, no backlog: {}", after(20, true));
}

#[test]
fn where_a_transaction_costs_a_lot_by_itself_batches_grow_all_the_same() {
    let costly = |_: f64, events: usize| Cost { preparing: 1e-3, transaction: 0.03 + events as f64 * 5e-6 };
    let commits = drain(&mut Pace::new(MOST), 1_000_000, 300, costly);
    let early: Vec<usize> = commits.iter().take_while(|commit| commit.at < 0.5).map(|commit| commit.events).collect();
    // Two are under way at a time. By their own cost per event each would be followed by one not half as large again.
    assert!(early[4] > 5 * early[0], "{early:?}");
}

#[test]
fn wide_rows_fill_batches_by_bytes_and_count_as_full() {
    let mut pace = Pace::new(MOST);
    let commits = drain(&mut pace, 200_000, 20_000, plain(1e-4));
    assert!(commits.iter().all(|commit| commit.events * 20_000 <= MOST.max_bytes));
    assert_eq!(commits.iter().map(|commit| commit.events).max(), Some(MOST.max_bytes / 20_000));
}

#[test]
fn where_versions_of_a_key_fall_together_batches_become_as_large_as_allowed() {
    let users = 25_000.0;
    let collapsing = |_: f64, events: usize| {
        let rows = users * (1.0 - (-(events as f64) / users).exp());
        Cost { preparing: events as f64 * 2e-6, transaction: 0.004 + rows * 1.5e-5 }
    };
    let commits = drain(&mut Pace::new(MOST), 3_000_000, 300, collapsing);
    assert_eq!(commits[commits.len() - 2].events, MOST.max_events);
    let half_a_second = commits.iter().find(|commit| commit.at > 1.0).unwrap();
    assert!(half_a_second.events > 10_000, "{half_a_second:?}");
}

#[test]
fn where_nothing_falls_together_a_batch_is_as_long_as_pays_for_what_it_costs_by_itself() {
    let longest = |each: f64, rows: fn(usize) -> usize| {
        let server = |_: f64, events: usize| Cost { preparing: 1e-3, transaction: each + events as f64 * 1e-5 };
        let commits = drain_of(&mut Pace::new(MOST), 2_000_000, 300, rows, server);
        (commits.iter().map(|commit| commit.transaction).fold(0.0, f64::max), steady(&commits))
    };
    let (near, pace) = longest(0.004, |events| events);
    assert!((0.1..0.2).contains(&near), "{near}");
    assert!(pace > 95_000.0, "{pace}: of 100,000 without statements and commit");
    // Across a network, a commit and some statements take as long as 15,000 events.
    let (far, pace) = longest(0.15, |events| events);
    assert!((0.9..1.2).contains(&far), "{far}");
    assert!(pace > 80_000.0, "{pace}");
    let (collapsing, _) = longest(0.004, |events| events - events / 20);
    assert!((0.9..1.2).contains(&collapsing), "{collapsing}: a twentieth falls together");
    // Of a small batch, that is: more would of a large one.
    let (collapsing, _) = longest(0.004, |events| events - events / 64);
    assert!((0.9..1.2).contains(&collapsing), "{collapsing}: a sixty-fourth falls together");
    let (hardly, _) = longest(0.004, |events| events - events / 500);
    assert!((0.1..0.2).contains(&hardly), "{hardly}: next to nothing falls together");
}

#[test]
fn without_a_backlog_the_next_one_starts_small_and_small_batches_teach_nothing_about_large_ones() {
    let mut pace = Pace::new(MOST);
    let learned = drain(&mut pace, 3_000_000, 300, plain(1e-5));
    assert!(learned[learned.len() - 2].events > 50_000);
    for _ in 0..100 {
        let limits = pace.limits();
        let (preparing, transaction) = (Duration::from_millis(1), Duration::from_millis(4));
        pace.note(&Pass {
            events: 3,
            bytes: 900,
            rows: 1,
            more: false,
            age: Duration::ZERO,
            limits,
            preparing,
            transaction,
        });
    }
    // Four times the first one: of what 100 ms could hold at the cost that the large ones had, it has to grow there again.
    assert!((3_000..=5_000).contains(&pace.limits().max_events), "{:?}", pace.limits());
}

#[test]
fn whatever_is_measured_a_batch_holds_something_and_no_more_than_allowed() {
    let mut pace = Pace::new(BatchLimits { max_events: 7, max_bytes: 1, ..MOST });
    for (events, transaction) in [(0, 0), (7, 0), (7, 3_600_000), (1, 3_600_000), (0, 3_600_000), (1, 0), (7, 1)] {
        let limits = pace.limits();
        assert!((1..=7).contains(&limits.max_events) && limits.max_bytes == 1);
        let transaction = Duration::from_millis(transaction);
        pace.note(&Pass {
            events,
            bytes: events,
            rows: events / 2,
            more: true,
            age: Duration::ZERO,
            limits,
            preparing: Duration::ZERO,
            transaction,
        });
    }
}
