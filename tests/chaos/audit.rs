//! Side tables that count what idempotent upserts hide, kept by triggers inside the data transactions (P3, fencing).
//!
//! `test_hits` counts how often each version of a key was sent to the target or the tombstones; `test_swaps` lists every move of a
//! position with the owner that made it. Triggers see what the engine does, whatever it believes, and a rolled back transaction takes
//! its traces along. After the faults: no version was sent twice, the ranges of each partition follow each other without gap or
//! overlap, and no owner wrote after a newer one had taken over.

use mysql_async::Conn;
use mysql_async::prelude::Queryable;

const TABLES_AND_TRIGGERS: [&str; 6] = [
    "CREATE TABLE test_hits (kind CHAR(1) NOT NULL, row_key VARBINARY(700) NOT NULL, cdc_ts BIGINT NOT NULL, cdc_partition INT NOT NULL, \
     cdc_offset BIGINT NOT NULL, hits INT NOT NULL, PRIMARY KEY (cdc_partition, cdc_offset, kind, row_key)) ENGINE=InnoDB",
    "CREATE TABLE test_swaps (id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY, kafka_partition INT NOT NULL, was BIGINT NOT NULL, \
     becomes BIGINT NOT NULL, owner_epoch BIGINT NOT NULL, owner_token VARBINARY(16) NOT NULL, n_read BIGINT NOT NULL, \
     writer VARCHAR(255) NOT NULL) ENGINE=InnoDB",
    "CREATE TRIGGER test_row BEFORE INSERT ON enriched_user FOR EACH ROW INSERT INTO test_hits VALUES \
     ('u', NEW.user_id, NEW.cdc_ts, NEW.cdc_partition, NEW.cdc_offset, 1) ON DUPLICATE KEY UPDATE hits = hits + 1",
    "CREATE TRIGGER test_tombstone BEFORE INSERT ON afterimage_tombstones FOR EACH ROW INSERT INTO test_hits VALUES \
     ('d', NEW.row_key, NEW.cdc_ts, NEW.cdc_partition, NEW.cdc_offset, 1) ON DUPLICATE KEY UPDATE hits = hits + 1",
    "CREATE TRIGGER test_begun AFTER INSERT ON afterimage_positions FOR EACH ROW INSERT INTO test_swaps \
     (kafka_partition, was, becomes, owner_epoch, owner_token, n_read, writer) VALUES \
     (NEW.kafka_partition, NEW.next_offset, NEW.next_offset, NEW.owner_epoch, NEW.owner_token, 0, USER())",
    // Not of registrations, which are nobody's: they change the generation alone.
    "CREATE TRIGGER test_swap AFTER UPDATE ON afterimage_positions FOR EACH ROW INSERT INTO test_swaps \
     (kafka_partition, was, becomes, owner_epoch, owner_token, n_read, writer) SELECT \
     NEW.kafka_partition, OLD.next_offset, NEW.next_offset, NEW.owner_epoch, NEW.owner_token, NEW.n_read - OLD.n_read, USER() \
     FROM DUAL WHERE NEW.generation = OLD.generation AND NEW.fingerprint = OLD.fingerprint",
];

/// Makes the tables and triggers in a migrated database.
pub async fn install(conn: &mut Conn) -> mysql_async::Result<()> {
    for statement in TABLES_AND_TRIGGERS {
        conn.query_drop(statement).await?;
    }
    Ok(())
}

/// Everything that the side tables say against the engine; empty if nothing.
pub async fn violations(conn: &mut Conn) -> mysql_async::Result<Vec<String>> {
    let mut found = Vec::new();
    let twice: Vec<(String, i32, i64, i32)> =
        conn.query("SELECT kind, cdc_partition, cdc_offset, hits FROM test_hits WHERE hits > 1 LIMIT 10").await?;
    for (kind, partition, offset, hits) in twice {
        found.push(format!("P3: change {kind} of partition {partition} offset {offset} was applied {hits} times"));
    }
    let sql = "SELECT kafka_partition, was, becomes, owner_epoch, owner_token, n_read, writer FROM test_swaps ORDER BY kafka_partition, id";
    let moves: Vec<Move> = conn
        .query_map(sql, |(partition, was, becomes, epoch, token, read, writer)| Move {
            partition,
            was,
            becomes,
            epoch,
            token,
            read,
            writer,
        })
        .await?;
    for pair in moves.windows(2) {
        if let [before, after] = pair
            && before.partition == after.partition
        {
            found.extend(before.faults_of_next(after));
        }
    }
    found.truncate(20);
    Ok(found)
}

/// One change of a positions row.
struct Move {
    partition: i32,
    was: i64,
    becomes: i64,
    epoch: i64,
    token: Vec<u8>,
    read: i64,
    /// The account that did it: every instance has its own.
    writer: String,
}

impl Move {
    fn faults_of_next(&self, next: &Self) -> Vec<String> {
        let place = format!("partition {}, {}..{}", next.partition, next.was, next.becomes);
        let same_epoch = next.epoch == self.epoch;
        let faults = [
            (next.was != self.becomes, format!("P3: {place} begins where nobody stood ({})", self.becomes)),
            (next.becomes < next.was, format!("P3: {place} goes back")),
            (next.becomes - next.was < next.read, format!("P4: {place} counts {} records", next.read)),
            (next.epoch < self.epoch, format!("fencing: {place} has epoch {} after {}", next.epoch, self.epoch)),
            (same_epoch && next.token != self.token, format!("fencing: {place} changes its owner within an epoch")),
            (
                same_epoch && next.writer != self.writer,
                format!("fencing: {place} is written by another than its owner"),
            ),
        ];
        faults.into_iter().filter_map(|(is_one, fault)| is_one.then_some(fault)).collect()
    }
}
