//! The limit: batches that lie in tables of the server, merged into a target by its own engine, as one would write it by hand.

use std::time::{Duration, Instant};

use afterimage::demo::server::PrivateServer;
use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use crate::STRETCH;
use crate::batch::{Change, Model, Width};

/// Tables that the reference merges from, and a number.
const STAGE: &str = "ref_stage";

/// The same merge inside the server, as one would write it by hand: versions compared as rows, tombstones joined.
pub struct Reference {
    pub conn: Conn,
    merge: [String; 3],
    /// Of its table.
    pub model: Model,
}

impl Reference {
    pub async fn new(server: &PrivateServer, database: &str, width: Width) -> Self {
        let mut conn = Conn::from_url(server.url(database)).await.unwrap();
        for statement in [
            "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
            "CREATE TABLE ref_user LIKE enriched_user",
            "CREATE TABLE ref_tomb (user_id VARCHAR(255) NOT NULL PRIMARY KEY, cdc_ts BIGINT NOT NULL, cdc_partition INT NOT NULL, cdc_offset BIGINT NOT NULL)",
        ] {
            conn.query_drop(statement).await.unwrap();
        }
        for number in 0..STRETCH {
            let create = format!("CREATE TABLE {STAGE}{number} LIKE enriched_user");
            let alter = format!("ALTER TABLE {STAGE}{number} ADD COLUMN op CHAR(1) NOT NULL");
            for statement in [create, alter] {
                conn.query_drop(statement).await.unwrap();
            }
        }
        let key = "SELECT column_type, collation_name FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name = 'enriched_user' AND column_name = 'user_id'";
        let (kind, collation): (String, String) = conn.query_first(key).await.unwrap().unwrap();
        let alter =
            format!("ALTER TABLE ref_tomb MODIFY user_id {kind} CHARACTER SET utf8mb4 COLLATE {collation} NOT NULL");
        conn.query_drop(alter).await.unwrap();
        let version = |alias: &str| format!("({alias}.cdc_ts,{alias}.cdc_partition,{alias}.cdc_offset)");
        let guarded = |old: &str, names: &[String]| -> String {
            let assign =
                |name: &String| format!("{old}.{name}=IF({}>={},s.{name},{old}.{name})", version("s"), version(old));
            names.iter().map(assign).collect::<Vec<_>>().join(",")
        };
        let versions = ["cdc_offset", "cdc_partition", "cdc_ts"].map(str::to_owned).to_vec();
        let mut names: Vec<String> = width.columns().into_iter().map(|(name, _)| name).collect();
        names.extend(versions.clone());
        let selected = names.iter().map(|name| format!("s.{name}")).collect::<Vec<_>>().join(",");
        let merge = [
            format!(
                "INSERT INTO ref_user (user_id,{}) SELECT s.user_id,{selected} FROM {STAGE} s LEFT JOIN ref_tomb d ON \
                 d.user_id=s.user_id WHERE s.op='u' AND (d.user_id IS NULL OR {}>{}) ON DUPLICATE KEY UPDATE {}",
                names.join(","),
                version("s"),
                version("d"),
                guarded("ref_user", &names)
            ),
            format!(
                "INSERT INTO ref_tomb (user_id,cdc_ts,cdc_partition,cdc_offset) SELECT s.user_id,s.cdc_ts,s.cdc_partition,s.cdc_offset \
                 FROM {STAGE} s WHERE s.op='d' ON DUPLICATE KEY UPDATE {}",
                guarded("ref_tomb", &versions)
            ),
            format!(
                "DELETE t FROM {STAGE} s STRAIGHT_JOIN ref_user t ON t.user_id=s.user_id WHERE s.op='d' AND {}<={}",
                version("t"),
                version("s")
            ),
        ];
        Self { conn, merge, model: Model::default() }
    }

    /// Takes over what the sink's table holds by now.
    pub async fn begin(&mut self, model: &Model) {
        self.conn.query_drop("INSERT INTO ref_user SELECT * FROM enriched_user").await.unwrap();
        self.model = model.clone();
    }

    /// Puts fresh batches into the tables that it merges them from, outside of the clock.
    pub async fn fill(&mut self, width: Width, batches: &[Vec<Change>]) {
        for (number, changes) in batches.iter().enumerate() {
            self.fill_one(&format!("{STAGE}{number}"), width, changes).await;
        }
    }

    /// Makes `stage` hold these changes and nothing else.
    async fn fill_one(&mut self, stage: &str, width: Width, changes: &[Change]) {
        self.conn.query_drop(format!("TRUNCATE TABLE {stage}")).await.unwrap();
        for chunk in changes.chunks(500) {
            let rows: Vec<String> = chunk
                .iter()
                .map(|change| {
                    let text =
                        |value: &Option<String>| value.as_ref().map_or("NULL".to_owned(), |value| format!("'{value}'"));
                    let values: Vec<String> = width.values(change).iter().map(text).collect();
                    let (op, version) = (if change.deleted { 'd' } else { 'u' }, change.version);
                    format!("('{}',{},{},0,{},'{op}')", change.user, values.join(","), version.ts_ns, version.offset)
                })
                .collect();
            self.conn.query_drop(format!("INSERT INTO {stage} VALUES {}", rows.join(","))).await.unwrap();
        }
    }

    /// Merges the first so many of them, one after the other.
    pub async fn merge(&mut self, batches: usize) -> Duration {
        let started = Instant::now();
        for number in 0..batches {
            self.conn.query_drop("START TRANSACTION").await.unwrap();
            for statement in &self.merge {
                self.conn.query_drop(statement.replace(STAGE, &format!("{STAGE}{number}"))).await.unwrap();
            }
            self.conn.query_drop("COMMIT").await.unwrap();
        }
        started.elapsed()
    }

    /// What any transaction costs here: one row changed and made durable.
    pub async fn floor(&mut self) -> Duration {
        let started = Instant::now();
        self.conn.query_drop("UPDATE afterimage_positions SET owner = UUID()").await.unwrap();
        started.elapsed()
    }
}
