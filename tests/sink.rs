//! The write path by itself, on real servers: a batch as text, through LOAD DATA, through INSERT and as values of prepared statements,
//! into the stage or as one whose keys are taken to be new, or to have rows, leave the same tables and say the same of what lost, and that
//! is what a fold says; two writers on the same keys don't disturb each other, whichever way each takes.

mod writer;

use std::collections::{BTreeMap, BTreeSet};

use afterimage::demo::server::Flavour;
use afterimage::error::Kind;
use afterimage::hold::Key;
use afterimage::position::{Position, Version};
use afterimage::sink::positions::{Advance, SumChanges, TopicIdentity};
use afterimage::sink::{Known, Outcome, Staging, Superseded};
use afterimage::work::OutOfOrder;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use self::writer::{Change, KEYS, SHAPES, WAYS, Way, Writer, batch, database};
use crate::{on_both_servers, on_mariadb};

const TABLES: [&str; 2] = [
    "SELECT HEX(id), HEX(name), ratio, at, cdc_ts, cdc_partition, cdc_offset FROM t ORDER BY id",
    "SELECT HEX(row_key), cdc_ts, cdc_partition, cdc_offset FROM afterimage_tombstones ORDER BY row_key",
];

/// What must stand: the newest version of each key's row and of its tombstone.
#[derive(Debug, Default, Clone)]
struct Fold {
    rows: BTreeMap<usize, Version>,
    tombstones: BTreeMap<usize, Version>,
}

impl Fold {
    fn known(&self, key: usize) -> Option<Version> {
        self.rows.get(&key).copied().max(self.tombstones.get(&key).copied())
    }

    /// Whether it was too old.
    fn apply(&mut self, change: Change) -> bool {
        if change.deleted() {
            let tombstone = self.tombstones.entry(change.key).or_insert(change.version);
            *tombstone = (*tombstone).max(change.version);
            let overtaken = change.version < *tombstone || self.rows.get(&change.key) > Some(&change.version);
            if self.rows.get(&change.key) <= Some(tombstone) {
                self.rows.remove(&change.key);
            }
            return overtaken;
        }
        if self.known(change.key) > Some(change.version) {
            return true;
        }
        self.rows.insert(change.key, change.version);
        false
    }
}

fn random_batch(random: &mut SmallRng, most: usize, offsets: i64) -> Vec<Change> {
    let keys: Vec<usize> = (0..KEYS.len()).collect();
    let count = random.random_range(1..=most);
    let keys: BTreeSet<usize> = keys.sample(random, count).copied().collect();
    let changes = keys.into_iter().map(|key| Change {
        key,
        version: Version {
            ts_ns: random.random_range(0..12),
            partition: random.random_range(0..3),
            offset: random.random_range(0..offsets),
        },
    });
    changes.collect()
}

on_both_servers! {
    // Proves: P1, P4
    async fn every_way_of_a_batch_leaves_what_the_fold_says(server) {
        for shape in &SHAPES {
            let mut random = SmallRng::seed_from_u64(11);
            let mut writers = Vec::new();
            for way in WAYS {
                let database = database(server, shape, "").await;
                writers.push((Writer::new(&database, shape, "topic", way).await, database));
            }
            let mut fold = Fold::default();
            for round in 0..40 {
                let changes = random_batch(&mut random, KEYS.len(), 4);
                let late: Vec<bool> = changes.iter().map(|_| random.random_bool(0.4)).collect();
                let expected: Known = (0..changes.len())
                    .filter(|row| late[*row])
                    .map(|row| (row, fold.known(changes[row].key)))
                    .collect();
                let mut lost: BTreeMap<i32, Superseded> = BTreeMap::new();
                for change in &changes {
                    if fold.apply(*change) {
                        let partition = change.version.partition;
                        let sum = lost.entry(partition).or_insert(Superseded { partition, ..Superseded::default() });
                        if change.deleted() { sum.deletes += 1 } else { sum.upserts += 1 }
                    }
                }
                let lost: Vec<Superseded> = lost.into_values().collect();
                let (rows, late) = batch(shape, &changes, &late);
                let mut tables = Vec::new();
                for (writer, database) in &mut writers {
                    let what = format!("{} {:?} round {round}: {changes:?}", shape.name, writer.way);
                    let (known, outcome, _) = writer.attempt(&rows, &late).await;
                    assert_eq!(outcome.unwrap(), lost, "{what}");
                    assert_eq!(known, expected, "{what}");
                    tables.push([database.rows(TABLES[0]).await, database.rows(TABLES[1]).await]);
                    let sizes = tables.last().unwrap().each_ref().map(Vec::len);
                    assert_eq!(sizes, [fold.rows.len(), fold.tombstones.len()], "{what}");
                }
                assert!(tables.iter().all(|each| *each == tables[0]), "{} round {round}: {tables:#?}", shape.name);
            }
            let newest = |row: &Vec<String>, first: usize| -> Vec<String> { row[first..].to_vec() };
            let written = |versions: &BTreeMap<usize, Version>| -> Vec<Vec<String>> {
                let text = |Version { ts_ns, partition, offset }: &Version| {
                    vec![ts_ns.to_string(), partition.to_string(), offset.to_string()]
                };
                versions.values().map(text).collect()
            };
            // Keys are in the order of their bytes, except as the tombstones of compound ones.
            for (_, database) in &writers {
                let mut rows: Vec<_> = database.rows(TABLES[0]).await.iter().map(|row| newest(row, 4)).collect();
                let mut expected = written(&fold.rows);
                rows.sort();
                expected.sort();
                assert_eq!(rows, expected, "{}", shape.name);
                let mut tombstones: Vec<_> = database.rows(TABLES[1]).await.iter().map(|row| newest(row, 1)).collect();
                let mut expected = written(&fold.tombstones);
                tombstones.sort();
                expected.sort();
                assert_eq!(tombstones, expected, "{}", shape.name);
            }
        }
    }

    // Proves: P1, R22
    async fn two_writers_on_the_same_keys_leave_what_the_fold_says(server) {
        let shape = &SHAPES[0];
        for (seed, ways) in [(1, [Way::Text, Way::Text]), (2, [Way::Text, Way::Load]), (3, [Way::Load, Way::Load]), (4, [Way::NewLoad, Way::NewInsert]), (5, [Way::NewLoad, Way::Load]), (6, [Way::Bulk, Way::BulkAlone]), (7, [Way::Bulk, Way::Load]), (8, [Way::NewBulk, Way::Bulk])] {
            let database = database(server, shape, "").await;
            let writers = [
                Writer::new(&database, shape, "one", ways[0]).await,
                Writer::new(&database, shape, "two", ways[1]).await,
            ];
            let mut plans = [Vec::new(), Vec::new()];
            let mut random = SmallRng::seed_from_u64(seed);
            for number in 0..2 * 120 {
                plans[number % 2].push(random_batch(&mut random, 5, 1_000_000));
            }
            let mut fold = Fold::default();
            // Versions are distinct, so that the order doesn't matter.
            plans.iter().flatten().flatten().for_each(|change| {
                fold.apply(*change);
            });
            let work = writers.into_iter().zip(plans).map(async |(mut writer, plan)| {
                let mut repeated = 0;
                for changes in plan {
                    let (rows, late) = batch(shape, &changes, &vec![false; changes.len()]);
                    loop {
                        match writer.attempt(&rows, &late).await.1 {
                            Ok(_) => break,
                            Err(Some(error)) if error.kind == Kind::SinkContention => repeated += 1,
                            Err(other) => panic!("{other:?}"),
                        }
                    }
                }
                repeated
            });
            let repeated = futures::future::join_all(work).await;
            println!("{ways:?}: deadlocks and lock waits {repeated:?}");
            let rows: Vec<Vec<String>> = database.rows("SELECT cdc_ts, cdc_partition, cdc_offset FROM t ORDER BY id").await;
            let expected: Vec<Vec<String>> = fold
                .rows
                .values()
                .map(|version| [version.ts_ns, version.partition.into(), version.offset].map(|part| part.to_string()).to_vec())
                .collect();
            assert_eq!(rows, expected, "{ways:?}");
        }
    }

    // Proves: P1
    async fn rows_are_new_only_if_nothing_of_their_keys_is_stored_that_counts(server) {
        let shape = &SHAPES[0];
        // Whatever its age, no change of these is a delete.
        let ts_ns = |key: usize, age: i64| 3 * age + (1 - key as i64).rem_euclid(3);
        let row = |key, age| Change { key, version: Version { ts_ns: ts_ns(key, age), partition: 0, offset: 3 } };
        let upserts = |keys: std::ops::Range<usize>, age| -> Vec<Change> { keys.map(|key| row(key, age)).collect() };
        let ways = [Way::NewLoad, Way::NewInsert, Way::NewBulk];
        for way in if server.flavour() == Flavour::MySql { &ways[..2] } else { &ways } {
            let way = *way;
            let database = database(server, shape, "").await;
            let mut writer = Writer::new(&database, shape, "topic", way).await;
            let tombstone = async |key: usize, age: i64| {
                let sql = format!(
                    "INSERT INTO afterimage_tombstones (pipeline, row_key, cdc_ts, cdc_partition, cdc_offset, deleted) VALUES ('p', CAST('{}' AS \
                     BINARY), {}, 0, 9, UTC_TIMESTAMP(6))",
                    KEYS[key],
                    ts_ns(key, age)
                );
                database.execute(&sql).await;
            };
            let count = async || database.number("SELECT COUNT(*) FROM t").await;
            let mut apply = async |changes: &[Change]| {
                assert!(changes.iter().all(|change| !change.deleted()), "{changes:?}");
                let (rows, late) = batch(shape, changes, &vec![false; changes.len()]);
                let lost = writer.attempt(&rows, &late).await.1.unwrap();
                (lost.iter().map(|lost| lost.upserts).sum::<i64>(), writer.sink.expects_new_rows())
            };
            // An older tombstone of one of them disturbs nothing.
            tombstone(1, 1).await;
            assert_eq!(apply(&upserts(0..3, 3)).await, (0, true), "{way:?}: all new");
            assert_eq!(count().await, 3);
            assert_eq!(apply(&upserts(2..4, 4)).await, (0, false), "{way:?}: one is there, and is older");
            assert_eq!(apply(&upserts(2..5, 2)).await, (2, false), "{way:?}: two are there, and are newer");
            assert_eq!(count().await, 5);
            // Newer than the row of its key, or as new: deleted.
            tombstone(5, 5).await;
            assert_eq!(apply(&upserts(5..7, 4)).await, (1, false), "{way:?}: a tombstone dominates");
            assert_eq!(count().await, 6);
            // Newer, but of nobody's key: looked at, and then it is as if it weren't there.
            database.execute("DELETE FROM afterimage_tombstones").await;
            tombstone(0, 50).await;
            assert_eq!(apply(&upserts(7..8, 4)).await, (0, false), "{way:?}: a newer tombstone of another key");
            assert_eq!(count().await, 7);
            assert_eq!(database.number("SELECT MIN(cdc_ts) FROM t").await, ts_ns(4, 2));
        }
    }

    // Proves: P6
    async fn positions_of_one_transaction_wait_for_no_other_partitions(server) {
        let database = database(server, &SHAPES[0], "").await;
        let mut writer = Writer::new(&database, &SHAPES[0], "topic", Way::Load).await;
        let owner = writer.sink.owner().clone();
        let mut stored = vec![writer.at.clone()];
        for partition in 1..4 {
            stored.push(owner.create(writer.sink.session().await.unwrap(), partition, 0, &TopicIdentity::default()).await.unwrap());
        }
        let advance = |partition: &usize| {
            let at = &stored[*partition];
            Advance {
                partition: *partition as i32,
                epoch: at.epoch,
                last: at.transaction,
                from: at.next_offset,
                to: at.next_offset + 1,
                high_water_ns: None,
                sums: SumChanges::default(),
                generation: owner.generation,
            }
        };
        let mut other = writer.sink.another();
        let (first, second) = (writer.sink.session().await.unwrap(), other.session().await.unwrap());
        second.run("SET SESSION innodb_lock_wait_timeout = 1").await.unwrap();
        for (one, two) in [(vec![0], vec![1]), (vec![2], vec![1]), (vec![0, 2], vec![1, 3]), (vec![3], vec![0, 1, 2])] {
            for (session, partitions) in [(&mut *first, &one), (&mut *second, &two)] {
                session.run("START TRANSACTION").await.unwrap();
                let advances: Vec<Advance> = partitions.iter().map(advance).collect();
                let done = session.run(&owner.swap(&advances, &[9; 16])).await;
                let done = done.unwrap_or_else(|error| panic!("{one:?} {two:?}: {error:?}"));
                assert_eq!(done.affected, partitions.len() as u64);
            }
            first.rollback().await;
            second.rollback().await;
        }
    }

    // Proves: P5
    async fn a_row_that_the_server_refuses_is_named_whichever_way_it_went(server) {
        let shape = &SHAPES[0];
        let refused = ", CHECK (ratio <> 0.5)";
        let changes: Vec<Change> = (0..6)
            .map(|key| Change { key, version: Version { ts_ns: 1, partition: 0, offset: 1 + 3 * key as i64 } })
            .filter(|change| !change.deleted())
            .collect();
        assert!(changes.len() >= 2);
        // Offset 4 makes a ratio of one half.
        let bad = changes.iter().position(|change| change.version.offset == 4).unwrap();
        for way in WAYS {
            let database = database(server, shape, refused).await;
            let mut writer = Writer::new(&database, shape, "topic", way).await;
            let (rows, late) = batch(shape, &changes, &vec![false; changes.len()]);
            let (_, outcome, faults) = writer.attempt(&rows, &late).await;
            assert!(faults.is_empty());
            assert_eq!(outcome.unwrap_err().unwrap().kind, Kind::RowRefused, "{way:?}");
            let faults = writer.sink.refused_rows(&rows).await.unwrap();
            assert_eq!(faults.iter().map(|fault| fault.row).collect::<Vec<_>>(), [bad], "{way:?}");
            // A value that doesn't fit.
            database.execute("ALTER TABLE t MODIFY name VARCHAR(3) CHARACTER SET utf8mb4 NULL").await;
            let (_, outcome, faults) = writer.attempt(&rows.slice(0, 1), &late[..1]).await;
            assert!(outcome.is_err());
            let faults = if faults.is_empty() { writer.sink.refused_rows(&rows.slice(0, 1)).await.unwrap() } else { faults };
            assert_eq!(faults.len(), 1, "{way:?}");
            assert_eq!(database.number("SELECT COUNT(*) FROM t").await, 0);
        }
    }

    // Proves: P1
    async fn values_of_every_kind_are_the_same_whichever_way_they_went(server) {
        let shape = &SHAPES[0];
        let mut found = Vec::new();
        for way in WAYS {
            let database = database(server, shape, "").await;
            database
                .execute(
                    "ALTER TABLE t ADD amount DECIMAL(20,5), ADD seen DATETIME(6), ADD stamp TIMESTAMP(3) NULL, ADD part FLOAT, \
                     ADD yes TINYINT(1), ADD day DATE, ADD doc JSON, ADD raw VARBINARY(9), ADD blobs BLOB, ADD flags BIT(9), \
                     ADD large BIGINT UNSIGNED, ADD small SMALLINT, ADD lasted TIME(3), ADD kind ENUM('a','b'), ADD words TEXT CHARACTER SET utf8mb4",
                )
                .await;
            let rows = writer::every_kind_of_value();
            let mut writer = Writer::of_columns(&database, shape, &writer::EVERY_KIND, "topic", way).await;
            let (_, outcome, faults) = writer.attempt(&rows, &vec![false; rows.num_rows()]).await;
            let lost = outcome.unwrap_or_else(|error| panic!("{way:?}: {error:?}, {faults:?}"));
            assert!(lost.is_empty(), "{way:?}");
            found.push(
                database
                    .rows(
                        "SELECT HEX(id), amount, seen, stamp, part, yes, day, doc, HEX(raw), HEX(blobs), flags + 0, large, small, \
                         lasted, kind, HEX(words) FROM t ORDER BY id",
                    )
                    .await,
            );
        }
        let (first, others) = found.split_first().unwrap();
        assert!(first.len() == 5 && first[0][8].starts_with("FF00"), "{first:?}");
        for (way, rows) in WAYS[1..].iter().zip(others) {
            assert_eq!(rows, first, "{way:?}");
        }
    }

    // Proves: P4
    async fn evidence_of_late_events_is_the_same_whichever_way_it_went(server) {
        let shape = &SHAPES[0];
        let version = |number: i64| Version { ts_ns: i64::MIN + number, partition: 1, offset: number };
        // More than fit into a request, and keys of all kinds.
        let events: Vec<OutOfOrder> = (0..45_i64)
            .map(|number| OutOfOrder {
                position: Position { partition: 0, offset: number },
                key: Key(KEYS[number as usize % KEYS.len()].into()),
                ts_ns: -number,
                known: version(number),
            })
            .collect();
        let mut found = Vec::new();
        for way in [Way::Load, Way::Bulk] {
            let database = database(server, shape, "").await;
            let mut writer = Writer::new(&database, shape, "topic", way).await;
            let (rows, late) = batch(shape, &[], &[]);
            // All by themselves, few, and all again.
            for evidence in [&events[3..40], &events[..5], &events[..]] {
                writer.choose_way().await;
                let work = writer.work(&rows, &late);
                let Staging::Ready(waiting) = writer.sink.stage(&work).await.unwrap() else { panic!("refused") };
                let outcome = writer.sink.transact(&work, &waiting, evidence).await.unwrap();
                assert!(matches!(outcome, Outcome::Committed { out_of_order, .. } if out_of_order == evidence.len()));
                writer.follow(&work);
            }
            let all = "SELECT pipeline, topic, kafka_partition, kafka_offset, HEX(event_key), event_ts_ns, newest_ts_ns, newest_partition, \
                       newest_offset, detected > UTC_TIMESTAMP() - INTERVAL 1 HOUR FROM out_of_order_events ORDER BY kafka_offset";
            found.push(database.rows(all).await);
        }
        let wanted: Vec<Vec<String>> = events
            .iter()
            .map(|OutOfOrder { position, key, ts_ns, known }| {
                let key: String = key.0.bytes().map(|byte| format!("{byte:02X}")).collect();
                let numbers = [*ts_ns, known.ts_ns, known.partition.into(), known.offset, 1].map(|number| number.to_string());
                [vec!["p".into(), "topic".into(), "0".into(), position.offset.to_string(), key], numbers.to_vec()].concat()
            })
            .collect();
        assert_eq!(found, [wanted.clone(), wanted]);
    }
}

on_mariadb! {
    // Proves: P1
    async fn rows_of_known_keys_are_not_staged_and_one_that_is_not_as_expected_takes_back_all(server) {
        let shape = &SHAPES[0];
        // Whatever its age, no change of these is a delete.
        let ts_ns = |key: usize, age: i64| 3 * age + (1 - key as i64).rem_euclid(3);
        let row = |key, age| Change { key, version: Version { ts_ns: ts_ns(key, age), partition: 0, offset: 3 } };
        for way in [Way::Bulk, Way::BulkAlone] {
            let database = database(server, shape, "").await;
            let mut writer = Writer::new(&database, shape, "topic", way).await;
            let count = async || database.number("SELECT COUNT(*) FROM t").await;
            let mut apply = async |changes: &[Change], late: &[usize]| {
                let late: Vec<bool> = (0..changes.len()).map(|row| late.contains(&row)).collect();
                let (rows, late) = batch(shape, changes, &late);
                let lost = writer.attempt(&rows, &late).await.1.unwrap();
                (lost.iter().map(|lost| lost.upserts).sum::<i64>(), writer.staged().await)
            };
            let keys = |keys: std::ops::Range<usize>, age| -> Vec<Change> { keys.map(|key| row(key, age)).collect() };
            assert_eq!(apply(&keys(0..5, 1), &[]).await, (0, 5), "{way:?}: nothing is known of the keys");
            assert_eq!(apply(&keys(0..5, 2), &[]).await, (0, 5), "{way:?}: the last ones were new, so these are tried as such");
            assert_eq!(apply(&keys(0..7, 3), &[]).await, (0, 2), "{way:?}: five are, two not");
            assert_eq!(apply(&keys(0..7, 4), &[1, 2, 3]).await, (0, 3), "{way:?}: what is stored of three is asked for");
            assert_eq!(apply(&keys(0..7, 5), &[]).await, (0, 3), "{way:?}: nothing is left to stage");
            assert_eq!(count().await, 7);
            assert_eq!(apply(&keys(3..5, 2), &[]).await, (2, 2), "{way:?}: both lose, and are staged to say so");
            assert_eq!(apply(&[row(2, 6), row(3, 6), row(4, 4)], &[]).await, (1, 3), "{way:?}: one loses");
            // Somebody deletes a row behind our back: it is inserted, because no tombstone dominates it, or isn't.
            let forget = format!("DELETE FROM t WHERE id IN ('{}', '{}')", KEYS[5], KEYS[6].replace('\n', "\\n"));
            database.execute(&forget).await;
            let tombstone = format!(
                "INSERT INTO afterimage_tombstones (pipeline, row_key, cdc_ts, cdc_partition, cdc_offset, deleted) VALUES ('p', CAST('{}' AS \
                 BINARY), {}, 0, 9, UTC_TIMESTAMP(6))",
                KEYS[5],
                ts_ns(5, 9)
            );
            database.execute(&tombstone).await;
            assert_eq!(apply(&keys(4..7, 7), &[]).await, (1, 3), "{way:?}: two are gone, one of them for good");
            assert_eq!(count().await, 6);
            let newest = "SELECT MIN(cdc_ts), MAX(cdc_ts) FROM t";
            let (least, most) = (ts_ns(0, 5).min(ts_ns(1, 5)), ts_ns(4, 7).max(ts_ns(6, 7)));
            assert_eq!(database.rows(newest).await, [[least.to_string(), most.to_string()]]);
        }
    }

    // Proves: P1
    async fn of_keys_in_a_batch_on_its_way_the_next_one_knows_what_is_left(server) {
        let shape = &SHAPES[0];
        let database = database(server, shape, "").await;
        let mut first = Writer::new(&database, shape, "topic", Way::Bulk).await;
        // The time says whether a change is a delete.
        let change = |key: usize, age: i64, deleted: bool| {
            let ts_ns = 3 * age + (i64::from(!deleted) - key as i64).rem_euclid(3);
            Change { key, version: Version { ts_ns, partition: 0, offset: 3 } }
        };
        let upserts = |keys: std::ops::Range<usize>, age| -> Vec<Change> { keys.map(|key| change(key, age, false)).collect() };
        // The second time they aren't new: the next batches aren't tried as such.
        for age in [0, 1] {
            let (rows, late) = batch(shape, &upserts(0..5, age), &[]);
            assert_eq!(first.attempt(&rows, &late).await.1.unwrap(), []);
        }
        let mut second = first.another();
        // Two are deleted, one of them by an event behind which an older one came; a sixth is new, a seventh perhaps.
        let (rows, late) = batch(
            shape,
            &[change(0, 2, true), change(1, 2, true), change(2, 2, false), change(3, 2, false), change(5, 2, false), change(6, 2, false)],
            &[false, true, false, false, false, true],
        );
        first.choose_way().await;
        let work = first.work(&rows, &late);
        let Staging::Ready(waiting) = first.sink.stage(&work).await.unwrap() else { panic!("refused") };
        assert_eq!(first.staged().await, 4, "two updates are on this side still");
        // The next one is on its way before the first one is applied.
        second.follow(&work);
        second.choose_way().await;
        let (next_rows, next_late) = batch(shape, &upserts(0..7, 3), &[]);
        let next = second.work(&next_rows, &next_late);
        let Staging::Ready(next_waiting) = second.sink.stage(&next).await.unwrap() else { panic!("refused") };
        assert_eq!(second.staged().await, 3, "those that are deleted, and the one that may have lost");
        let outcome = first.sink.transact(&work, &waiting, &[]).await.unwrap();
        assert!(matches!(outcome, Outcome::Committed { .. }), "{outcome:?}");
        let outcome = second.sink.transact(&next, &next_waiting, &[]).await.unwrap();
        assert!(matches!(&outcome, Outcome::Committed { superseded, .. } if superseded.is_empty()), "{outcome:?}");
        assert_eq!(second.staged().await, 3, "and nothing was taken back");
        assert_eq!(database.number("SELECT COUNT(*) FROM t WHERE cdc_ts >= 9").await, 7);
        // One that isn't applied after all teaches nothing; two of the next one's keys are known, and what is taken back is staged whole.
        second.follow(&next);
        second.choose_way().await;
        let (rows, late) = batch(shape, &upserts(7..9, 4), &[]);
        let work = second.work(&rows, &late);
        assert!(matches!(second.sink.stage(&work).await.unwrap(), Staging::Ready(_)));
        second.sink.forget();
        let (rows, late) = batch(shape, &upserts(5..9, 4), &[]);
        assert_eq!(second.attempt(&rows, &late).await.1.unwrap(), []);
        assert_eq!(second.staged().await, 2, "the two that came to nothing are new still");
        // Whichever of two batches is staged first: the one behind knows what the one before it leaves.
        first.at = second.at.clone();
        let (rows, late) = batch(shape, &[change(0, 5, true), change(1, 5, false)], &[]);
        let work = first.work(&rows, &late);
        first.sink.expect(&rows, &late);
        second.follow(&work);
        let (next_rows, next_late) = batch(shape, &upserts(0..4, 6), &[]);
        let next = second.work(&next_rows, &next_late);
        second.sink.expect(&next_rows, &next_late);
        second.choose_way().await;
        let Staging::Ready(next_waiting) = second.sink.stage(&next).await.unwrap() else { panic!("refused") };
        assert_eq!(second.staged().await, 1, "the one that is going to be deleted");
        first.choose_way().await;
        let Staging::Ready(waiting) = first.sink.stage(&work).await.unwrap() else { panic!("refused") };
        for (writer, work, waiting) in [(&mut first, &work, &waiting), (&mut second, &next, &next_waiting)] {
            let outcome = writer.sink.transact(work, waiting, &[]).await.unwrap();
            assert!(matches!(&outcome, Outcome::Committed { superseded, .. } if superseded.is_empty()), "{outcome:?}");
        }
        assert_eq!(second.staged().await, 1, "and nothing was taken back");
    }

    // Proves: P1, P4
    async fn what_may_have_lost_takes_no_others_with_it_where_no_evidence_is_wanted(server) {
        let shape = &SHAPES[0];
        let database = database(server, shape, "").await;
        let mut writer = Writer::new(&database, shape, "topic", Way::Bulk).await;
        let change = |key: usize, ts_ns: i64| Change { key, version: Version { ts_ns, partition: 0, offset: 3 } };
        // The time says whether a change is a delete.
        let upsert = |key: usize, age: i64| change(key, 3 * age + (1 - key as i64).rem_euclid(3));
        for age in [1, 2] {
            let (rows, late) = batch(shape, &(0..5).map(|key| upsert(key, age)).collect::<Vec<_>>(), &[]);
            assert_eq!(writer.attempt(&rows, &late).await.1.unwrap(), []);
        }
        for (age, wanted) in [(3, true), (4, false)] {
            let changes = [upsert(0, age), upsert(1, 0), upsert(2, age), upsert(3, age)];
            let (rows, late) = batch(shape, &changes, &[false, true, false, false]);
            writer.choose_way().await;
            let mut work = writer.work(&rows, &late);
            work.wants_evidence = wanted;
            let Staging::Ready(waiting) = writer.sink.stage(&work).await.unwrap() else { panic!("refused") };
            assert_eq!(writer.staged().await, 1, "three updates are on this side still");
            let known = writer.sink.known(&work, &waiting).await.unwrap();
            assert_eq!(known.len(), usize::from(wanted));
            let outcome = writer.sink.transact(&work, &waiting, &[]).await.unwrap();
            let Outcome::Committed { superseded, .. } = &outcome else { panic!("{outcome:?}") };
            assert_eq!(superseded.iter().map(|lost| lost.upserts).sum::<i64>(), 1);
            assert_eq!(writer.staged().await, 1, "and nothing was taken back");
            writer.follow(&work);
        }
    }
}
