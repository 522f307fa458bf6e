//! The limit: the server's own engine doing the same guarded merge, from a table that it already holds.
//!
//! The same rows in the same order as the service is given: the load's events cut into batches, the newest event of each key of a batch
//! kept, all of it put into a permanent table outside the clock. Clocked are, batch by batch, the three statements of the merge with
//! version guards and tombstones, and a durable COMMIT. No Kafka, no client, no transport, no text. The table starts from the same
//! state as the service's and grows as it does, in a database of its own on the same server; which half is merged before a run of the
//! service and which after it is the caller's.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::ops::Range;
use std::time::Instant;

use afterimage::demo::server::PrivateServer;
use bytes::Bytes;
use futures::StreamExt;
use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use crate::load::Load;
use crate::mysql::Database;
use crate::run::prepare_database;
use crate::shape::{Change, Shape};
use crate::usage::processor_seconds;

/// What some batches took.
#[derive(Debug, Clone, Copy, Default)]
pub struct Merged {
    pub rows: f64,
    pub seconds: f64,
    /// Processor seconds of the server.
    pub server: f64,
}

impl Merged {
    pub fn and(self, other: Self) -> Self {
        Self { rows: self.rows + other.rows, seconds: self.seconds + other.seconds, server: self.server + other.server }
    }

    pub fn rate(self) -> f64 {
        self.rows / self.seconds
    }
}

/// Batches of a load that the server holds. See the module page.
pub struct Reference {
    conn: Conn,
    pid: Option<u32>,
    statements: Vec<String>,
    /// Rows per batch.
    batches: Vec<usize>,
    /// Batches of the prelude.
    prelude: usize,
    table: &'static str,
    /// Dropped last.
    _database: Database,
}

impl Reference {
    /// Puts the load's batches of `size` events into `server`.
    pub async fn fill(server: &PrivateServer, load: &Load, size: usize) -> Self {
        let (database, _workspace) = prepare_database(server, load.shape).await;
        let mut conn = database.connect().await;
        let (table, columns) = (load.shape.table(), load.shape.columns());
        let key = &columns[0];
        let data: Vec<String> = columns[1..].iter().map(|name| format!("DROP COLUMN {name}")).collect();
        for statement in [
            "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED".to_owned(),
            format!("CREATE TABLE held LIKE {table}"),
            format!(
                "ALTER TABLE held ADD COLUMN batch INT NOT NULL, ADD COLUMN op CHAR(1) CHARACTER SET ascii NOT NULL, \
                 DROP PRIMARY KEY, ADD PRIMARY KEY (batch, {key})"
            ),
            format!("CREATE TABLE gone LIKE {table}"),
            format!("ALTER TABLE gone {}", data.join(", ")),
        ] {
            conn.query_drop(&statement).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
        }
        let mut reference = Self {
            conn,
            pid: server.pid(),
            statements: merge(table, &columns),
            batches: Vec::new(),
            prelude: 0,
            table,
            _database: database,
        };
        reference.load(load, size.max(1)).await;
        reference
    }

    async fn load(&mut self, load: &Load, size: usize) {
        let mut batch: BTreeMap<String, Change> = BTreeMap::new();
        let (mut text, mut events) = (String::new(), 0_usize);
        for (number, record) in (1..).zip(load.records()) {
            let change = load.shape.change(&record);
            events += 1;
            match batch.get_mut(&change.key) {
                Some(known) if known.version > change.version => {}
                Some(known) => *known = change,
                None => {
                    batch.insert(change.key.clone(), change);
                }
            }
            if events == size || number == load.prelude || number == load.prelude + load.events {
                for change in batch.values() {
                    line(&mut text, self.batches.len(), change, load.shape);
                }
                self.batches.push(batch.len());
                (batch, events) = (BTreeMap::new(), 0);
            }
            if number == load.prelude {
                self.prelude = self.batches.len();
            }
            if text.len() > 32 << 20 || number == load.prelude + load.events {
                self.send(std::mem::take(&mut text), load.shape).await;
            }
        }
    }

    async fn send(&mut self, text: String, shape: Shape) {
        let chunks: Vec<_> = text.as_bytes().chunks(128 << 10).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
        self.conn.set_infile_handler(async move { Ok(futures::stream::iter(chunks).boxed()) });
        let statement = format!(
            "LOAD DATA LOCAL INFILE 'held' INTO TABLE held CHARACTER SET utf8mb4 FIELDS TERMINATED BY '\\t' ESCAPED BY '\\\\' \
             LINES TERMINATED BY '\\n' (batch, op, {}, cdc_ts, cdc_partition, cdc_offset)",
            shape.columns().join(", ")
        );
        self.conn.query_drop(statement).await.unwrap();
        assert_eq!(self.conn.get_warnings(), 0, "the reference's rows don't fit its table");
    }

    /// An empty table again, with the prelude's batches merged.
    pub async fn reset(&mut self) {
        for table in [self.table, "gone"] {
            self.conn.query_drop(format!("TRUNCATE TABLE {table}")).await.unwrap();
        }
        self.batches(0..self.prelude).await;
    }

    /// Merges the first or the second half of the measured batches.
    pub async fn half(&mut self, second: bool) -> Merged {
        let middle = usize::midpoint(self.prelude, self.batches.len());
        self.batches(if second { middle..self.batches.len() } else { self.prelude..middle }).await
    }

    async fn batches(&mut self, which: Range<usize>) -> Merged {
        let server = || self.pid.map_or(0.0, processor_seconds);
        let (began, used) = (Instant::now(), server());
        let mut merged = Merged::default();
        for batch in which {
            self.conn.query_drop("START TRANSACTION").await.unwrap();
            for statement in &self.statements {
                self.conn.query_drop(statement.replace("{batch}", &batch.to_string())).await.unwrap();
            }
            merged.rows += self.batches[batch] as f64;
        }
        let server = || self.pid.map_or(0.0, processor_seconds);
        Merged { rows: merged.rows, seconds: began.elapsed().as_secs_f64(), server: server() - used }
    }

    /// Rows that the table holds.
    pub async fn rows(&mut self) -> u64 {
        self.conn.query_first(format!("SELECT COUNT(*) FROM {}", self.table)).await.unwrap().unwrap()
    }
}

fn line(text: &mut String, batch: usize, change: &Change, shape: Shape) {
    let (ts, partition, offset) = change.version;
    let _ = write!(text, "{batch}\t{}\t", if change.row.is_some() { 'u' } else { 'd' });
    match &change.row {
        Some(row) => {
            for value in row {
                match value {
                    Some(value) => text.push_str(value),
                    None => text.push_str("\\N"),
                }
                text.push('\t');
            }
        }
        None => {
            text.push_str(&change.key);
            text.push('\t');
            text.push_str(&"\\N\t".repeat(shape.columns().len() - 1));
        }
    }
    let _ = writeln!(text, "{ts}\t{partition}\t{offset}");
}

/// The merge of one batch and its COMMIT, as the same server would be told to do it by hand.
fn merge(table: &str, columns: &[String]) -> Vec<String> {
    let key = &columns[0];
    let version = |alias: &str| format!("({alias}.cdc_ts,{alias}.cdc_partition,{alias}.cdc_offset)");
    let guarded =
        |old: &str, name: &str| format!("{old}.{name}=IF({}>={},s.{name},{old}.{name})", version("s"), version(old));
    // Least significant first: the list is evaluated left to right on values already changed.
    let versions = ["cdc_offset", "cdc_partition", "cdc_ts"];
    let list = |old: &str, names: &[String]| {
        let names = names.iter().map(String::as_str).chain(versions);
        names.map(|name| guarded(old, name)).collect::<Vec<_>>().join(", ")
    };
    let selected: Vec<String> = columns.iter().map(|name| format!("s.{name}")).collect();
    vec![
        format!(
            "INSERT INTO {table} ({}, cdc_ts, cdc_partition, cdc_offset) SELECT {}, s.cdc_ts, s.cdc_partition, s.cdc_offset \
             FROM held s LEFT JOIN gone d ON d.{key}=s.{key} WHERE s.batch={{batch}} AND s.op='u' AND (d.{key} IS NULL OR {}>{}) \
             ON DUPLICATE KEY UPDATE {}",
            columns.join(", "),
            selected.join(", "),
            version("s"),
            version("d"),
            list(table, &columns[1..])
        ),
        format!(
            "INSERT INTO gone ({key}, cdc_ts, cdc_partition, cdc_offset) SELECT s.{key}, s.cdc_ts, s.cdc_partition, s.cdc_offset \
             FROM held s WHERE s.batch={{batch}} AND s.op='d' ON DUPLICATE KEY UPDATE {}",
            list("gone", &[])
        ),
        format!(
            "DELETE t FROM held s STRAIGHT_JOIN {table} t ON t.{key}=s.{key} WHERE s.batch={{batch}} AND s.op='d' AND {}<={}",
            version("t"),
            version("s")
        ),
        "COMMIT".to_owned(),
    ]
}
