//! What the model takes for granted, on real servers: the statements do to the positions what the model's functions say, and reading
//! them waits for whoever has them locked.

use std::time::Duration;

use afterimage::demo::server::PrivateServer;
use afterimage::error::Kind;
use afterimage::generation::{Fingerprint, Generation, Marks};
use afterimage::position::Partition;
use afterimage::sink::generations::{Grounds, Registered};
use afterimage::sink::migrate;
use afterimage::sink::positions::{Advance, Found, Owner, SumChanges, Token, TopicIdentity};
use afterimage::sink::session::Session;
use mysql_async::prelude::Queryable;

use crate::on_both_servers;
use crate::support::mysql::{Database, connector};

const OURS: Token = [1; 16];
const THEIRS: Token = [2; 16];
const LAST: Token = [3; 16];
const OTHER: Token = [4; 16];
const NEXT: Token = [5; 16];
const NEWEST: Generation = Generation { number: 2, fingerprint: Fingerprint([6; 32]) };
/// Other ones: an older one, and one of the same number from before the database was set back.
const OTHERS: [Generation; 2] =
    [Generation { number: 1, ..NEWEST }, Generation { number: 2, fingerprint: Fingerprint([7; 32]) }];

async fn migrated(server: &PrivateServer) -> (Database, Session) {
    let database = Database::create(server).await;
    let mut session = connector(&database.url).connect().await.unwrap();
    let statements = migrate::plan(&mut session, &[]).await.unwrap();
    migrate::run(&mut session, &statements).await.unwrap();
    (database, session)
}

fn owner(token: Token) -> Owner {
    Owner { pipeline: "users".into(), topic: "user_cdc".into(), token, name: "test".into(), generation: NEWEST }
}

/// Rows that differ in everything that the swap may look at, one partition each.
fn all_rows() -> Vec<Found> {
    let mut rows = Vec::new();
    for next_offset in [7, 8] {
        for epoch in [3, 4] {
            for owner in [OURS, THEIRS] {
                for transaction in [LAST, OTHER] {
                    for generation in [NEWEST, OTHERS[0], OTHERS[1]] {
                        let partition = Partition::try_from(rows.len()).unwrap();
                        rows.push(Found { partition, next_offset, epoch, owner, transaction, generation });
                    }
                }
            }
        }
    }
    rows
}

async fn store(database: &Database, rows: &[Found]) {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let values: Vec<String> = rows
        .iter()
        .map(|row| {
            format!(
                "('users', 'user_cdc', {}, {}, {}, x'{}', x'{}', UTC_TIMESTAMP(6), {}, x'{}')",
                row.partition,
                row.next_offset,
                row.epoch,
                hex(&row.owner),
                hex(&row.transaction),
                row.generation.number,
                hex(&row.generation.fingerprint.0)
            )
        })
        .collect();
    database.execute("DELETE FROM afterimage_positions").await;
    let columns = "pipeline, topic, kafka_partition, next_offset, owner_epoch, owner_token, transaction_id, updated, \
                   generation, fingerprint";
    database.execute(&format!("INSERT INTO afterimage_positions ({columns}) VALUES {}", values.join(", "))).await;
}

on_both_servers! {
    // Proves: P3, R8
    async fn the_swap_moves_exactly_the_rows_that_are_as_the_instance_knows_them(server) {
        let (database, mut session) = migrated(server).await;
        let (owner, rows) = (owner(OURS), all_rows());
        let partitions: Vec<Partition> = rows.iter().map(|row| row.partition).collect();
        let mut moved = 0;
        for (from, epoch, last) in [(7, 3, LAST), (7, 3, OTHER), (7, 4, LAST), (8, 3, LAST), (8, 4, OTHER), (9, 3, LAST)] {
            // A batch, and records that are run again, whose position stays.
            for to in [from + 5, from] {
                store(&database, &rows).await;
                let sums = SumChanges::default();
                let generation = NEWEST;
                let advance = |partition| Advance { partition, epoch, last, from, to, high_water_ns: None, sums, generation };
                // One partition that has no row at all.
                let advances: Vec<Advance> = partitions.iter().copied().chain([99]).map(advance).collect();
                session.run("START TRANSACTION").await.unwrap();
                let done = session.run(&owner.swap(&advances, &NEXT)).await.unwrap();
                session.run("COMMIT").await.unwrap();
                let found = owner.find(&mut session, &partitions).await.unwrap();
                let mut expected = rows.clone();
                for (row, advance) in expected.iter_mut().zip(&advances) {
                    if row.fits(advance, &OURS) {
                        *row = row.swapped(advance, &NEXT);
                        moved += 1;
                    }
                }
                assert_eq!(found, expected, "{from} {to} {epoch} {last:?}");
                let fit = rows.iter().zip(&advances).filter(|(row, advance)| row.fits(advance, &OURS)).count();
                assert_eq!(done.affected, fit as u64, "{from} {to} {epoch} {last:?}");
            }
        }
        assert_eq!(moved, 10, "one row per question but the last");
    }

    // Proves: R8
    async fn acquiring_gives_the_next_epoch_and_our_token_to_the_rows_asked_for(server) {
        let (database, mut session) = migrated(server).await;
        let owner = owner(OURS);
        let rows: Vec<Found> = all_rows().into_iter().filter(|row| row.generation == NEWEST).collect();
        store(&database, &rows).await;
        let all: Vec<Partition> = rows.iter().map(|row| row.partition).collect();
        let (asked, _) = all.split_at(all.len() / 2);
        let acquired = owner.acquire(&mut session, &[asked, &[99]].concat()).await.unwrap();
        let found = owner.find(&mut session, &all).await.unwrap();
        let (now, untouched) = found.split_at(asked.len());
        for ((now, row), stored) in now.iter().zip(&rows).zip(&acquired.stored) {
            assert_eq!(*now, row.acquired(&OURS));
            assert_eq!(
                (stored.partition, stored.next_offset, stored.epoch, stored.transaction),
                (now.partition, now.next_offset, now.epoch, now.transaction)
            );
        }
        assert_eq!((acquired.stored.len(), untouched), (asked.len(), &rows[asked.len()..]));
    }

    // Proves: R9
    async fn acquiring_waits_for_the_former_owner_and_reads_what_that_left_in_quarantine(server) {
        let (database, mut session) = migrated(server).await;
        let row = Found { partition: 0, next_offset: 7, epoch: 3, owner: THEIRS, transaction: LAST, generation: NEWEST };
        store(&database, &[row]).await;
        let mut former = former_owner_in_the_middle(&database, &row).await;
        let newcomer = tokio::spawn(async move { owner(OURS).acquire(&mut session, &[0]).await.unwrap() });
        tokio::time::sleep(Duration::from_millis(700)).await;
        assert!(!newcomer.is_finished(), "it acquired a row that is locked");
        former.query_drop("COMMIT").await.unwrap();
        let acquired = newcomer.await.unwrap();
        assert_eq!((acquired.stored[0].next_offset, acquired.stored[0].epoch), (12, 4));
        assert_eq!((acquired.stored[0].transaction, acquired.pending.len()), (NEXT, 1));
    }

    // Proves: R12
    async fn reading_back_waits_for_a_commit_that_is_under_way(server) {
        let (database, mut session) = migrated(server).await;
        let row = Found { partition: 0, next_offset: 7, epoch: 3, owner: OURS, transaction: LAST, generation: NEWEST };
        store(&database, &[row]).await;
        let mut lost = former_owner_in_the_middle(&database, &row).await;
        let asking = tokio::spawn(async move { owner(OURS).find(&mut session, &[0]).await.unwrap() });
        tokio::time::sleep(Duration::from_millis(700)).await;
        assert!(!asking.is_finished(), "it read a row that is locked");
        lost.query_drop("COMMIT").await.unwrap();
        assert_eq!(asking.await.unwrap(), [Found { next_offset: 12, transaction: NEXT, ..row }]);
    }

    async fn of_two_instances_that_begin_a_partition_one_is_told_so(server) {
        let (_database, mut session) = migrated(server).await;
        let identity = TopicIdentity::default();
        let generation = registered(&mut session, NEWEST.fingerprint).await;
        let (ours, theirs) = (Owner { generation, ..owner(OURS) }, Owner { generation, ..owner(THEIRS) });
        let first = ours.create(&mut session, 0, 7, &identity).await.unwrap();
        let second = theirs.create(&mut session, 0, 9, &identity).await.unwrap_err();
        assert_eq!(second.kind, Kind::Fenced);
        let found = owner(OURS).find(&mut session, &[0]).await.unwrap();
        let transaction = first.transaction;
        let expected = Found { partition: 0, next_offset: 7, epoch: 1, owner: OURS, transaction, generation };
        assert_eq!(found, [expected]);
    }

    // Proves: R57
    async fn rows_of_another_generation_can_be_neither_acquired_nor_made(server) {
        let (database, mut session) = migrated(server).await;
        for generation in OTHERS {
            let row = |partition, generation| Found {
                partition, next_offset: 7, epoch: 3, owner: THEIRS, transaction: LAST, generation
            };
            let rows = [row(0, NEWEST), row(1, generation)];
            store(&database, &rows).await;
            let refused = owner(OURS).acquire(&mut session, &[0, 1]).await.unwrap_err();
            assert_eq!(refused.kind, Kind::Outdated, "{refused}");
            assert_eq!(owner(OURS).find(&mut session, &[0, 1]).await.unwrap(), rows, "one of two is none");
        }
        let refused = owner(OURS).create(&mut session, 2, 7, &TopicIdentity::default()).await.unwrap_err();
        assert_eq!(refused.kind, Kind::Outdated, "none is registered: {refused}");
        registered(&mut session, OTHERS[1].fingerprint).await;
        let refused = owner(OURS).create(&mut session, 2, 7, &TopicIdentity::default()).await.unwrap_err();
        assert_eq!(refused.kind, Kind::Outdated, "another is: {refused}");
        assert_eq!(owner(OURS).find(&mut session, &[2]).await.unwrap(), []);
    }

    // Proves: R57
    async fn registering_waits_for_commits_under_way_and_shuts_every_older_generation_out(server) {
        let (database, mut session) = migrated(server).await;
        let generation = registered(&mut session, NEWEST.fingerprint).await;
        let row = Found { partition: 0, next_offset: 7, epoch: 3, owner: OURS, transaction: LAST, generation };
        store(&database, &[row]).await;
        let mut older = former_owner_in_the_middle(&database, &row).await;
        let newer = tokio::spawn(async move { (registered(&mut session, OTHERS[1].fingerprint).await, session) });
        tokio::time::sleep(Duration::from_millis(700)).await;
        assert!(!newer.is_finished(), "registered while an older generation may still commit");
        older.query_drop("COMMIT").await.unwrap();
        let (newer, mut session) = newer.await.unwrap();
        assert_eq!(newer.number, generation.number + 1);
        let moved = Found { next_offset: 12, transaction: NEXT, generation: newer, ..row };
        assert_eq!(owner(OURS).find(&mut session, &[0]).await.unwrap(), [moved]);
        let sums = SumChanges::default();
        let advance = Advance {
            partition: 0, epoch: 3, last: NEXT, from: 12, to: 13, high_water_ns: None, sums, generation
        };
        assert!(!moved.fits(&advance, &OURS));
        assert_eq!(session.run(&owner(OURS).swap(&[advance], &OTHER)).await.unwrap().affected, 0);
        let restarted = owner(OURS).register(&mut session, &marks(NEWEST.fingerprint), Grounds::Start).await.unwrap();
        assert_eq!(restarted, Registered::Outdated { ours: generation.number, newest: newer.number });
        assert_eq!(owner(OURS).find(&mut session, &[0]).await.unwrap(), [moved]);
        let adopted = owner(OURS).register(&mut session, &marks(NEWEST.fingerprint), Grounds::Adoption).await.unwrap();
        assert_eq!(adopted, Registered::New(Generation { number: newer.number + 1, ..generation }));
    }

    // Proves: R57
    async fn of_definitions_registered_at_once_each_gets_a_number_and_the_greatest_is_in_force(server) {
        let (database, mut session) = migrated(server).await;
        let row = Found { partition: 0, next_offset: 7, epoch: 3, owner: OURS, transaction: LAST, generation: NEWEST };
        store(&database, &[Found { generation: Generation::default(), ..row }]).await;
        let mut others = Vec::new();
        for number in 0..12_u8 {
            let mut session = connector(&database.url).connect().await.unwrap();
            // Six definitions, each of two instances.
            let fingerprint = Fingerprint([number / 2; 32]);
            others.push(tokio::spawn(async move {
                loop {
                    match owner(OURS).register(&mut session, &marks(fingerprint), Grounds::Start).await {
                        Ok(registered) => return registered,
                        // Deadlock, lock wait: once more, as the engine does.
                        Err(error) => assert_eq!(error.kind, Kind::SinkContention, "{error}"),
                    }
                }
            }));
        }
        let mut newest = Vec::new();
        for other in others {
            if let Registered::New(generation) = other.await.unwrap() {
                newest.push(generation);
            }
        }
        newest.sort_by_key(|generation| generation.number);
        assert_eq!(newest.iter().map(|generation| generation.number).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
        let found = owner(OURS).find(&mut session, &[0]).await.unwrap();
        assert_eq!(Some(&found[0].generation), newest.last());
    }
}

fn marks(whole: Fingerprint) -> Marks {
    Marks { whole, schema: Fingerprint::default() }
}

/// Registers a definition that is not known yet.
async fn registered(session: &mut Session, fingerprint: Fingerprint) -> Generation {
    match owner(OURS).register(session, &marks(fingerprint), Grounds::Start).await.unwrap() {
        Registered::New(generation) => generation,
        known => panic!("{known:?}"),
    }
}

/// A connection that has moved `row` by five and quarantined a record, and has not committed.
async fn former_owner_in_the_middle(database: &Database, row: &Found) -> mysql_async::Conn {
    let mut connection = database.connect().await;
    let (epoch, from) = (row.epoch, row.next_offset);
    let sums = SumChanges::default();
    let (last, generation) = (row.transaction, row.generation);
    let advance = Advance { partition: 0, epoch, last, from, to: from + 5, high_water_ns: None, sums, generation };
    connection.query_drop("START TRANSACTION").await.unwrap();
    connection.query_drop(owner(row.owner).swap(&[advance], &NEXT)).await.unwrap();
    let quarantined = "INSERT INTO error_data_enrichment (pipeline, topic, kafka_partition, kafka_offset, state, event_keys, attempts, \
                       first_attempt, last_attempt) \
                       VALUES ('users', 'user_cdc', 0, 8, 'held', '[]', 1, UTC_TIMESTAMP(6), UTC_TIMESTAMP(6))";
    connection.query_drop(quarantined).await.unwrap();
    connection
}
