//! What the model takes for granted, on real servers: the statements do to the positions what the model's functions say, and reading
//! them waits for whoever has them locked.

use std::time::Duration;

use afterimage::demo::server::PrivateServer;
use afterimage::position::Partition;
use afterimage::sink::migrate;
use afterimage::sink::positions::{Advance, Found, Owner, SumChanges, Token, TopicIdentity};
use afterimage::sink::session::{Address, Connector, Session};
use mysql_async::prelude::Queryable;

use crate::on_both_servers;
use crate::support::mysql::Database;

const OURS: Token = [1; 16];
const THEIRS: Token = [2; 16];
const LAST: Token = [3; 16];
const OTHER: Token = [4; 16];
const NEXT: Token = [5; 16];

fn connector(server: &PrivateServer, database: &Database) -> Connector {
    let address = Address {
        host: "127.0.0.1".into(),
        port: server.port(),
        user: server.account().to_owned(),
        password: server.password().to_owned(),
        database: database.name.clone(),
        tls: false,
        ca_file: None,
    };
    Connector {
        address: std::sync::Arc::new(move || Ok(address.clone())),
        connect_timeout: Duration::from_secs(30),
        statement_timeout: Duration::from_secs(60),
    }
}

async fn migrated(server: &PrivateServer) -> (Database, Session) {
    let database = Database::create(server).await;
    let mut session = connector(server, &database).connect().await.unwrap();
    let statements = migrate::plan(&mut session, &[]).await.unwrap();
    migrate::run(&mut session, &statements).await.unwrap();
    (database, session)
}

fn owner(token: Token) -> Owner {
    Owner { pipeline: "users".into(), topic: "user_cdc".into(), token, name: "test".into() }
}

/// Rows that differ in everything that the swap may look at, one partition each.
fn all_rows() -> Vec<Found> {
    let mut rows = Vec::new();
    for next_offset in [7, 8] {
        for epoch in [3, 4] {
            for owner in [OURS, THEIRS] {
                for transaction in [LAST, OTHER] {
                    let partition = Partition::try_from(rows.len()).unwrap();
                    rows.push(Found { partition, next_offset, epoch, owner, transaction });
                }
            }
        }
    }
    rows
}

async fn store(database: &Database, rows: &[Found]) {
    let hex = |token: Token| token.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let values: Vec<String> = rows
        .iter()
        .map(|row| {
            format!(
                "('users', 'user_cdc', {}, {}, {}, x'{}', x'{}', UTC_TIMESTAMP(6))",
                row.partition,
                row.next_offset,
                row.epoch,
                hex(row.owner),
                hex(row.transaction)
            )
        })
        .collect();
    database.execute("DELETE FROM afterimage_positions").await;
    let columns = "pipeline, topic, kafka_partition, next_offset, owner_epoch, owner_token, transaction_id, updated";
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
                let advance = |partition| Advance { partition, epoch, last, from, to, high_water_ns: None, sums };
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
        let (owner, rows) = (owner(OURS), all_rows());
        store(&database, &rows).await;
        let all: Vec<Partition> = rows.iter().map(|row| row.partition).collect();
        let (asked, left) = all.split_at(all.len() / 2);
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
        assert_eq!((acquired.stored.len(), untouched), (asked.len(), &rows[left[0] as usize..]));
    }

    // Proves: R9
    async fn acquiring_waits_for_the_former_owner_and_reads_what_that_left_in_quarantine(server) {
        let (database, mut session) = migrated(server).await;
        let row = Found { partition: 0, next_offset: 7, epoch: 3, owner: THEIRS, transaction: LAST };
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
        let row = Found { partition: 0, next_offset: 7, epoch: 3, owner: OURS, transaction: LAST };
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
        let first = owner(OURS).create(&mut session, 0, 7, &identity).await.unwrap();
        let second = owner(THEIRS).create(&mut session, 0, 9, &identity).await.unwrap_err();
        assert_eq!(second.kind, afterimage::error::Kind::Fenced);
        let found = owner(OURS).find(&mut session, &[0]).await.unwrap();
        let expected = Found { partition: 0, next_offset: 7, epoch: 1, owner: OURS, transaction: first.transaction };
        assert_eq!(found, [expected]);
    }
}

/// A connection that has moved `row` by five and quarantined a record, and has not committed.
async fn former_owner_in_the_middle(database: &Database, row: &Found) -> mysql_async::Conn {
    let mut connection = database.connect().await;
    let (epoch, from) = (row.epoch, row.next_offset);
    let sums = SumChanges::default();
    let advance = Advance { partition: 0, epoch, last: row.transaction, from, to: from + 5, high_water_ns: None, sums };
    connection.query_drop("START TRANSACTION").await.unwrap();
    connection.query_drop(owner(row.owner).swap(&[advance], &NEXT)).await.unwrap();
    let quarantined = "INSERT INTO error_data_enrichment (pipeline, topic, kafka_partition, kafka_offset, state, event_keys, attempts, \
                       first_attempt, last_attempt) \
                       VALUES ('users', 'user_cdc', 0, 8, 'held', '[]', 1, UTC_TIMESTAMP(6), UTC_TIMESTAMP(6))";
    connection.query_drop(quarantined).await.unwrap();
    connection
}
