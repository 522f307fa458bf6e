//! What must be the same however a log is cut, repeated, interrupted, shared out or thinned: the metamorphic properties, each checked
//! on short logs full of trouble, between two runs of the road and against the independent fold.
//!
//! Without servers, except for the last one. `PROPTEST_CASES` sets how many logs each property sees. A log that breaks one is made as
//! small as it gets, and its seed is kept in `proptest-regressions/`, to be tried first from then on.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::AsyncFn;
use std::time::Duration;

use afterimage::generate::OwnedRecord;
use afterimage::oracle::{Expected, Settings};
use afterimage::position::Partition;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, FileFailurePersistence, RngAlgorithm, TestCaseError, TestRng, TestRunner};

use crate::support::rig::{Rig, Variant};
use crate::support::servers;
use crate::support::world::{self, Instance, Tables, differences, state_differences};

mod events;
mod pure;

use events::{PARTITIONS, Placement, cuts, is_noise, log, noise, split};

/// Logs per property, unless `PROPTEST_CASES` says otherwise.
const CASES: u32 = 60;
/// Records of a log.
const MOST: usize = 90;

/// Instances, made once: planning the models takes longer than running them.
struct Lab {
    holding: [Instance; 3],
    skipping: Instance,
    /// The fold's settings.
    settings: Settings,
}

impl Lab {
    async fn new() -> Self {
        let holding = [Instance::new(true).await, Instance::new(true).await, Instance::new(true).await];
        Self { holding, skipping: Instance::new(false).await, settings: world::settings(true) }
    }

    /// A fresh instance on fresh tables, and the settings that go with it.
    fn fresh(&mut self, hold: bool) -> (&mut Instance, Tables, Settings) {
        let instance = if hold { &mut self.holding[0] } else { &mut self.skipping };
        instance.recover(&Tables::default(), &BTreeSet::new());
        (instance, Tables::default(), Settings { hold, ..self.settings.clone() })
    }

    /// The tables after all batches.
    async fn run(&mut self, hold: bool, batches: &[&[OwnedRecord]]) -> Tables {
        let (instance, mut tables, _) = self.fresh(hold);
        for batch in batches {
            instance.run(&mut tables, batch).await;
        }
        tables
    }
}

type Checked = Result<(), TestCaseError>;

/// Checks a property on values of `strategy`.
fn check<S: Strategy>(name: &'static str, strategy: S, property: impl AsyncFn(&mut Lab, S::Value) -> Checked) {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(CASES);
    let persistence = FileFailurePersistence::SourceParallel("proptest-regressions");
    let mut runner = TestRunner::new(Config {
        cases,
        test_name: Some(name),
        source_file: Some(file!()),
        failure_persistence: Some(Box::new(persistence)),
        max_shrink_iters: 2_000,
        ..Config::default()
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let lab = RefCell::new(runtime.block_on(Lab::new()));
    let checked = runner.run(&strategy, |value| runtime.block_on(property(&mut *lab.borrow_mut(), value)));
    if let Err(error) = checked {
        panic!("{error}");
    }
}

/// No differences.
fn none(lines: &[String]) -> Checked {
    if lines.is_empty() { Ok(()) } else { Err(TestCaseError::fail(lines.join("\n"))) }
}

fn all_partitions() -> BTreeSet<Partition> {
    (0..PARTITIONS).collect()
}

// Proves: P1, P4, P5, R35, R38, R39, R42
#[test]
fn rebatching_changes_nothing() {
    let strategy = (log(Placement::Faithful, MOST), cuts(), cuts(), any::<bool>());
    check("rebatching", strategy, async |lab, (log, first, second, hold)| {
        let one = lab.run(hold, &split(&log, &first)).await.found();
        let other = lab.run(hold, &split(&log, &second)).await.found();
        none(&differences(&one, &other))?;
        let settings = Settings { hold, ..lab.settings.clone() };
        none(&differences(&world::fold(&settings, &log), &other))
    });
}

// Proves: P1, P3, R58
#[test]
fn a_database_set_back_to_an_earlier_state_comes_to_the_same_tables() {
    let strategy = (log(Placement::Faithful, MOST), cuts(), cuts(), 0..20usize);
    check("restore", strategy, async |lab, (log, first, second, kept)| {
        let settings = lab.settings.clone();
        let (instance, mut tables, _) = lab.fresh(true);
        let mut backup = tables.clone();
        for (number, batch) in split(&log, &first).into_iter().enumerate() {
            if number == kept {
                backup = tables.clone();
            }
            instance.run(&mut tables, batch).await;
        }
        none(&differences(&world::fold(&settings, &log), &tables.found()))?;
        // Rows, quarantine and positions go back together; what comes after them in the topic is read again.
        instance.recover(&backup, &all_partitions());
        let rest: Vec<OwnedRecord> = log.iter().filter(|record| !done(&backup, record)).cloned().collect();
        for batch in split(&rest, &second) {
            instance.run(&mut backup, batch).await;
        }
        none(&differences(&tables.found(), &backup.found()))
    });
}

fn done(tables: &Tables, record: &OwnedRecord) -> bool {
    tables.next_offset.get(&record.partition).is_some_and(|next| record.offset < *next)
}

// Proves: P1, R39
#[test]
fn replay_from_any_earlier_offset_leaves_every_row_as_it_is() {
    let strategy = (log(Placement::Anywhere, MOST), cuts(), cuts(), [0..40i64, 0..40i64, 0..40i64], any::<bool>());
    check("replay", strategy, async |lab, (log, first, second, from, hold)| {
        let mut tables = lab.run(hold, &split(&log, &first)).await;
        let before = tables.found();
        // Only the positions were set back: tables and quarantine know more than what is read again.
        let again: Vec<OwnedRecord> =
            log.iter().filter(|record| record.offset >= from[record.partition as usize]).cloned().collect();
        let instance = if hold { &mut lab.holding[0] } else { &mut lab.skipping };
        instance.recover(&tables, &all_partitions());
        for batch in split(&again, &second) {
            instance.run(&mut tables, batch).await;
        }
        let after = tables.found();
        prop_assert_eq!(&before.rows, &after.rows);
        prop_assert_eq!(before.standing_tombstones(), after.standing_tombstones());
        Ok(())
    });
}

// Proves: P1, P4, R39, R41
#[test]
fn partitions_interleave_in_any_way() {
    let strategy = (log(Placement::Anywhere, MOST), cuts(), proptest::collection::vec(0..PARTITIONS, MOST));
    check("interleaving", strategy, async |lab, (log, cuts, choice)| {
        let settings = lab.settings.clone();
        let mixed = interleave(&log, &choice);
        let found = lab.run(true, &split(&mixed, &cuts)).await.found();
        none(&state_differences(&world::fold(&settings, &log), &found))
    });
}

/// The same log, each partition in its order, in another mixture of partitions.
fn interleave(log: &[OwnedRecord], choice: &[Partition]) -> Vec<OwnedRecord> {
    let mut queues: BTreeMap<Partition, Vec<&OwnedRecord>> = BTreeMap::new();
    for record in log.iter().rev() {
        queues.entry(record.partition).or_default().push(record);
    }
    let mut mixed = Vec::with_capacity(log.len());
    for wanted in choice.iter().chain(std::iter::repeat(&0)) {
        let next = queues.get_mut(wanted).and_then(Vec::pop);
        let next = next.or_else(|| queues.values_mut().find_map(Vec::pop));
        let Some(record) = next else { break };
        mixed.push(record.clone());
    }
    mixed
}

// Proves: P1, R39
#[test]
fn records_in_any_order_at_all_come_to_the_same_rows_where_nobody_waits() {
    let strategy =
        log(Placement::Anywhere, MOST).prop_flat_map(|log| (Just(log.clone()), Just(log).prop_shuffle(), cuts()));
    check("permutation", strategy, async |lab, (log, shuffled, cuts)| {
        let found = lab.run(false, &split(&shuffled, &cuts)).await.found();
        let settings = Settings { hold: false, ..lab.settings.clone() };
        none(&state_differences(&world::fold(&settings, &log), &found))
    });
}

/// What happens where one batch would be applied.
#[derive(Debug, Clone, Copy)]
enum Turn {
    Apply,
    /// Evaluated, not applied, evaluated again: a transaction that was rolled back.
    Repeat,
    /// The process dies before the batch is applied; another one reads the tables.
    CrashBefore,
    /// It dies after evaluating it.
    CrashDuring,
    /// It dies after the transaction.
    CrashAfter,
}

fn turn() -> impl Strategy<Value = Turn> {
    let turns = [Turn::Apply, Turn::Repeat, Turn::CrashBefore, Turn::CrashDuring, Turn::CrashAfter];
    proptest::sample::select(turns.to_vec())
}

// Proves: P1, P3, P4, R1, R2, R4
#[test]
fn crashes_between_batches_change_nothing() {
    let strategy = (log(Placement::Faithful, MOST), cuts(), proptest::collection::vec(turn(), 1..12));
    check("crashes", strategy, async |lab, (log, cuts, turns)| {
        let (instance, mut tables, settings) = lab.fresh(true);
        for (batch, turn) in split(&log, &cuts).into_iter().zip(turns.iter().cycle()) {
            match turn {
                Turn::Apply | Turn::CrashAfter => {}
                Turn::Repeat => drop(instance.evaluate(batch).await),
                Turn::CrashBefore => instance.recover(&tables, &all_partitions()),
                Turn::CrashDuring => {
                    drop(instance.evaluate(batch).await);
                    instance.recover(&tables, &all_partitions());
                }
            }
            instance.run(&mut tables, batch).await;
            if matches!(turn, Turn::CrashAfter) {
                instance.recover(&tables, &all_partitions());
            }
        }
        none(&differences(&world::fold(&settings, &log), &tables.found()))
    });
}

/// What instances do: so many records of each partition that falls to `one`, while `other` works on its own, and who applies first.
#[derive(Debug, Clone)]
struct Shift {
    owners: [usize; PARTITIONS as usize],
    sizes: [usize; PARTITIONS as usize],
    backwards: bool,
}

fn shift() -> impl Strategy<Value = Shift> {
    let owners = [0..3usize, 0..3usize, 0..3usize];
    (owners, [0..9usize, 0..9usize, 0..9usize], any::<bool>()).prop_map(|(owners, sizes, backwards)| Shift {
        owners,
        sizes,
        backwards,
    })
}

// Proves: P1, P3, P4, R41
#[test]
fn any_number_of_instances_comes_to_the_same_tables() {
    let placement = prop_oneof![Just(Placement::Faithful), Just(Placement::Anywhere)];
    let log = placement.prop_flat_map(|placement| (Just(placement), log(placement, MOST)));
    let strategy = (log, proptest::collection::vec(shift(), 1..10));
    check("instances", strategy, async |lab, ((placement, log), shifts)| {
        let (settings, mut tables) = (lab.settings.clone(), Tables::default());
        for instance in &mut lab.holding {
            instance.recover(&tables, &BTreeSet::new());
        }
        let mut owned: [BTreeSet<Partition>; 3] = Default::default();
        let all = Shift { owners: [0, 1, 2], sizes: [MOST; 3], backwards: false };
        for shift in shifts.iter().chain([&all]) {
            rebalance(lab, &mut owned, shift, &tables);
            // All of them evaluate before any of them applies.
            let mut work = Vec::new();
            for number in 0..3 {
                let batch = batch_of(&log, &tables, shift, number);
                if !batch.is_empty() {
                    let evaluation = lab.holding[number].evaluate(&batch).await;
                    work.push((number, batch, evaluation));
                }
            }
            if shift.backwards {
                work.reverse();
            }
            for (number, batch, evaluation) in work {
                lab.holding[number].apply(&mut tables, &evaluation, &batch).await;
            }
        }
        let expected = world::fold(&settings, &log);
        match placement {
            Placement::Faithful => none(&differences(&expected, &tables.found())),
            Placement::Anywhere => none(&state_differences(&expected, &tables.found())),
        }
    });
}

/// Instances that get or lose partitions read the tables; the others go on with what they know.
fn rebalance(lab: &mut Lab, owned: &mut [BTreeSet<Partition>; 3], shift: &Shift, tables: &Tables) {
    for (number, owned) in owned.iter_mut().enumerate() {
        let mine: BTreeSet<Partition> = (0..PARTITIONS).filter(|part| shift.owners[*part as usize] == number).collect();
        if *owned != mine {
            lab.holding[number].recover(tables, &mine);
            *owned = mine;
        }
    }
}

/// The next records of the partitions that an instance owns.
fn batch_of(log: &[OwnedRecord], tables: &Tables, shift: &Shift, number: usize) -> Vec<OwnedRecord> {
    let mut left = shift.sizes;
    let next = log.iter().filter(|record| shift.owners[record.partition as usize] == number && !done(tables, record));
    let taken = next.filter(|record| {
        let left = &mut left[record.partition as usize];
        let take = *left > 0;
        *left = left.saturating_sub(1);
        take
    });
    taken.cloned().collect()
}

// Proves: P1, R38
#[test]
fn what_compaction_takes_away_is_not_missed() {
    let strategy = (log(Placement::Anywhere, MOST), cuts(), proptest::collection::vec(any::<bool>(), MOST));
    check("compaction", strategy, async |lab, (log, cuts, lost)| {
        let settings = lab.settings.clone();
        let whole = world::fold(&settings, &log);
        let kept = log.iter().zip(lost).filter(|(record, lost)| !(*lost && is_superseded(&settings, &whole, record)));
        let kept: Vec<OwnedRecord> = kept.map(|(record, _)| record.clone()).collect();
        let found = lab.run(true, &split(&kept, &cuts)).await.found();
        prop_assert_eq!(&whole.rows, &found.rows);
        prop_assert_eq!(whole.standing_tombstones(), found.standing_tombstones());
        prop_assert_eq!(&whole.quarantine, &found.quarantine);
        Ok(())
    });
}

/// Whether a later version of every user that `record` changes is known. What is in quarantine is no version, and keeps others waiting.
fn is_superseded(settings: &Settings, whole: &Expected, record: &OwnedRecord) -> bool {
    if whole.quarantine.contains_key(&(record.partition, record.offset)) {
        return false;
    }
    let alone = world::fold(settings, std::slice::from_ref(record));
    let versions = alone.rows.iter().map(|(user, row)| (user, row.version()));
    let mut versions = versions.chain(alone.tombstones.iter().map(|(user, version)| (user, *version)));
    versions.all(|(user, version)| {
        let row = whole.rows.get(user).map(|row| row.version());
        row.max(whole.tombstones.get(user).copied()) > Some(version)
    })
}

// Proves: P4, P5, R33, R35
#[test]
fn noise_changes_only_quarantine_and_sums() {
    let noises = proptest::collection::vec((any::<prop::sample::Index>(), noise()), 1..40);
    check("noise", (log(Placement::Faithful, MOST), noises, cuts()), async |lab, (mut log, noises, cuts)| {
        // Room for one record of noise after each record.
        log.iter_mut().for_each(|record| record.offset *= 2);
        let settings = lab.settings.clone();
        let quiet = world::fold(&settings, &log);
        let noisy = with_noise(&log, noises);
        let found = lab.run(true, &split(&noisy, &cuts)).await.found();
        none(&differences(&world::fold(&settings, &noisy), &found))?;

        let rows: BTreeMap<_, _> = found.rows.iter().filter(|(user, _)| !is_noise(user)).collect();
        prop_assert_eq!(quiet.rows.iter().collect::<BTreeMap<_, _>>(), rows);
        prop_assert_eq!(quiet.standing_tombstones(), found.standing_tombstones());
        prop_assert!(quiet.quarantine.iter().all(|(place, record)| found.quarantine.get(place) == Some(record)));
        let more = found.quarantine.iter().filter(|(place, _)| !quiet.quarantine.contains_key(*place));
        prop_assert!(more.clone().all(|((_, offset), _)| offset % 2 == 1));
        Ok(())
    });
}

fn with_noise(log: &[OwnedRecord], noises: Vec<(prop::sample::Index, OwnedRecord)>) -> Vec<OwnedRecord> {
    let mut noisy = log.to_vec();
    for (place, noise) in noises {
        let before = place.get(log);
        let position = (before.partition, before.offset + 1);
        let free = noisy.iter().all(|record| (record.partition, record.offset) != position);
        if free && noise.partition == before.partition {
            let at = noisy.iter().position(|record| record == before).unwrap_or_default();
            noisy.insert(at + 1, OwnedRecord { offset: position.1, ..noise });
        }
    }
    noisy
}

// Proves: P1, P5
#[test]
fn a_bad_record_of_one_partitions_users_leaves_the_others_alone() {
    let strategy = (log(Placement::Faithful, MOST), any::<prop::sample::Index>(), cuts());
    check("isolation", strategy, async |lab, (mut log, place, cuts)| {
        let quiet = world::fold(&lab.settings.clone(), &log);
        let victim = place.index(log.len());
        let partition = log[victim].partition;
        log[victim].value = Some(b"{}".to_vec());
        let found = lab.run(true, &split(&log, &cuts)).await.found();
        for (user, row) in quiet.rows.iter().filter(|(_, row)| row.cdc_partition != partition) {
            prop_assert_eq!(found.rows.get(user), Some(row));
        }
        Ok(())
    });
}

/// A log that is the same in every run.
fn fixed_log(seed: u8) -> Vec<OwnedRecord> {
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let strategy = proptest::collection::vec(log(Placement::Faithful, MOST), 8);
    let logs = strategy.new_tree(&mut runner).unwrap().current();
    // One after the other.
    let mut next = BTreeMap::new();
    let mut whole = Vec::new();
    for log in logs {
        let base: BTreeMap<Partition, i64> = next.clone();
        for record in log {
            let offset = record.offset + base.get(&record.partition).copied().unwrap_or_default();
            next.insert(record.partition, offset + 1);
            whole.push(OwnedRecord { offset, ..record });
        }
    }
    whole
}

// Proves: P1, P4, R42
#[tokio::test(flavor = "multi_thread")]
async fn mysql_and_mariadb_come_to_the_same_tables() {
    let log = fixed_log(7);
    let table = "SELECT user_id, name, email, country, country_name, region, cdc_ts, cdc_partition, cdc_offset \
                 FROM enriched_user ORDER BY CAST(user_id AS BINARY)";
    let mut tables = Vec::new();
    for server in [servers::mysql().await, servers::mariadb().await] {
        let mut rig = Rig::new(server, Variant { partitions: PARTITIONS, ..Variant::default() }).await;
        // Two runs, so that what is stored meets what is new.
        for (number, half) in log.chunks(log.len().div_ceil(2)).enumerate() {
            rig.write(half.iter().cloned()).await;
            rig.catch_up(&format!("half-{number}"), Duration::from_secs(60)).await;
        }
        rig.assert_as_folded().await;
        tables.push(rig.database.rows(table).await);
    }
    assert!(tables[0].len() >= 3, "only {} rows: the log proves nothing", tables[0].len());
    assert_eq!(tables[0], tables[1]);
}
