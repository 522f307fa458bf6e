//! Our own tables and the target, as DDL: created and upgraded by `migrate`, checked by `run`.
//!
//! Tables are listed as columns, so that an upgrade is "add what is missing": columns are only ever added, each with a default.

use super::quoting::identifier;
use crate::target::{Column, Holds, Target};

pub const POSITIONS: &str = "afterimage_positions";
pub const GENERATIONS: &str = "afterimage_generations";
pub const TOMBSTONES: &str = "afterimage_tombstones";
pub const QUARANTINE: &str = "error_data_enrichment";
pub const OUT_OF_ORDER: &str = "out_of_order_events";
pub const METRICS: &str = "user_cdc_pipeline_metrics";

/// Longest encoded key of a tombstone or evidence row, bytes; InnoDB indexes 3072 together with the other key columns.
pub const MAX_KEY_BYTES: usize = 2048;

/// One of our tables.
pub struct OwnTable {
    pub name: &'static str,
    pub columns: &'static [(&'static str, &'static str)],
    pub indexes: &'static str,
    pub comment: &'static str,
}

const NAME: &str = "VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL";
const TOPIC: &str = "VARCHAR(249) CHARACTER SET ascii COLLATE ascii_bin NOT NULL";
const WORD: &str = "VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NULL";
const TEXT: &str = "LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL";
const FINGERPRINT: &str = "BINARY(32) NOT NULL DEFAULT ''";
const COUNT: &str = "BIGINT NOT NULL DEFAULT 0";

/// All tables of ours, in the order of creation.
pub const OWN_TABLES: [OwnTable; 6] = [
    OwnTable {
        name: POSITIONS,
        columns: &[
            ("pipeline", NAME),
            ("topic", TOPIC),
            ("kafka_partition", "INT NOT NULL"),
            ("next_offset", "BIGINT NOT NULL"),
            ("cluster_id", WORD),
            ("topic_id", WORD),
            ("high_water_ns", "BIGINT NULL"),
            ("owner_epoch", COUNT),
            ("owner_token", "BINARY(16) NOT NULL"),
            ("owner", "VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL DEFAULT ''"),
            ("transaction_id", "BINARY(16) NOT NULL"),
            ("n_read", COUNT),
            ("n_ignored", COUNT),
            ("n_refused", COUNT),
            ("n_held", COUNT),
            ("n_accepted", COUNT),
            ("n_changes", COUNT),
            ("n_upserted", COUNT),
            ("n_deleted", COUNT),
            ("n_superseded", COUNT),
            ("updated", "DATETIME(6) NOT NULL"),
            ("generation", COUNT),
            ("fingerprint", FINGERPRINT),
            ("wrote_generation", COUNT),
        ],
        indexes: "PRIMARY KEY (pipeline, topic, kafka_partition)",
        comment: "per partition: next offset to read, owner, exact running sums; moves in the same transaction as the rows",
    },
    OwnTable {
        name: GENERATIONS,
        columns: &[
            ("pipeline", NAME),
            ("generation", "BIGINT NOT NULL"),
            ("fingerprint", FINGERPRINT),
            ("schema_fingerprint", FINGERPRINT),
            ("first_seen", "DATETIME(6) NOT NULL"),
            ("instance", "VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL"),
        ],
        indexes: "PRIMARY KEY (pipeline, generation)",
        comment: "versions of each pipeline's models, schema and settings, in the order in which they came into use",
    },
    OwnTable {
        name: TOMBSTONES,
        columns: &[
            ("pipeline", NAME),
            ("row_key", "VARBINARY(2048) NOT NULL"),
            ("cdc_ts", "BIGINT NOT NULL"),
            ("cdc_partition", "INT NOT NULL"),
            ("cdc_offset", "BIGINT NOT NULL"),
            ("deleted", "DATETIME(6) NOT NULL"),
        ],
        indexes: "PRIMARY KEY (pipeline, row_key)",
        comment: "version of each key's newest delete, so that a late older update cannot bring the row back",
    },
    OwnTable {
        name: QUARANTINE,
        columns: &[
            ("pipeline", NAME),
            ("topic", TOPIC),
            ("kafka_partition", "INT NOT NULL"),
            ("kafka_offset", "BIGINT NOT NULL"),
            ("state", "VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL"),
            ("stage", WORD),
            ("model", WORD),
            ("column_name", WORD),
            ("reason", TEXT),
            ("event_keys", TEXT),
            ("kafka_timestamp_ms", "BIGINT NULL"),
            ("record_key", "LONGBLOB NULL"),
            ("record_value", "LONGBLOB NULL"),
            ("record_headers", TEXT),
            ("attempts", "INT NOT NULL DEFAULT 1"),
            ("first_attempt", "DATETIME(6) NOT NULL"),
            ("last_attempt", "DATETIME(6) NOT NULL"),
            ("generation", COUNT),
        ],
        indexes: "PRIMARY KEY (pipeline, topic, kafka_partition, kafka_offset), KEY by_state (pipeline, state)",
        comment: "records refused (state refused, retry, discard) or waiting behind one (held); done: resolved, discarded",
    },
    OwnTable {
        name: OUT_OF_ORDER,
        columns: &[
            ("pipeline", NAME),
            ("topic", TOPIC),
            ("kafka_partition", "INT NOT NULL"),
            ("kafka_offset", "BIGINT NOT NULL"),
            ("event_key", "VARBINARY(2048) NOT NULL"),
            ("event_ts_ns", "BIGINT NOT NULL"),
            ("newest_ts_ns", "BIGINT NOT NULL"),
            ("newest_partition", "INT NOT NULL"),
            ("newest_offset", "BIGINT NOT NULL"),
            ("detected", "DATETIME(6) NOT NULL"),
        ],
        indexes: "PRIMARY KEY (pipeline, topic, kafka_partition, kafka_offset, event_key)",
        comment: "accepted events older than one accepted before them for the same key, with both positions and times",
    },
    OwnTable {
        name: METRICS,
        columns: &[
            ("id", "BIGINT NOT NULL AUTO_INCREMENT"),
            ("pipeline", NAME),
            ("instance", "VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL"),
            ("window_start", "DATETIME(6) NOT NULL"),
            ("window_end", "DATETIME(6) NOT NULL"),
            ("transactions", COUNT),
            ("retries", COUNT),
            ("records_read", COUNT),
            ("records_ignored", COUNT),
            ("records_refused", COUNT),
            ("records_held", COUNT),
            ("records_accepted", COUNT),
            ("changes", COUNT),
            ("upserted", COUNT),
            ("deleted", COUNT),
            ("superseded", COUNT),
            ("out_of_order", COUNT),
            ("bytes_read", COUNT),
            ("decode_ms", "DOUBLE NOT NULL DEFAULT 0"),
            ("sql_ms", "DOUBLE NOT NULL DEFAULT 0"),
            ("sink_ms", "DOUBLE NOT NULL DEFAULT 0"),
            ("lag_records", "BIGINT NULL"),
            ("freshness_ms", "BIGINT NULL"),
            ("extra", TEXT),
            ("generation", COUNT),
        ],
        indexes: "PRIMARY KEY (id), KEY by_time (pipeline, window_end)",
        comment: "one row per pipeline, instance and interval: counts, times per station, lag, freshness",
    },
];

impl OwnTable {
    pub fn create(&self) -> String {
        let columns: Vec<String> =
            self.columns.iter().map(|(name, ddl)| format!("  {} {ddl}", identifier(name))).collect();
        format!(
            "CREATE TABLE IF NOT EXISTS {} (\n{},\n  {}\n) ENGINE=InnoDB COMMENT='{}'",
            identifier(self.name),
            columns.join(",\n"),
            self.indexes,
            self.comment.replace('\'', "''")
        )
    }

    /// `ALTER TABLE` that adds the columns not in `present`, if there are any.
    pub fn upgrade(&self, present: &[String]) -> Option<String> {
        let missing: Vec<String> = self
            .columns
            .iter()
            .filter(|(name, _)| !present.iter().any(|column| column.eq_ignore_ascii_case(name)))
            .map(|(name, ddl)| format!("ADD COLUMN {} {ddl}", identifier(name)))
            .collect();
        (!missing.is_empty()).then(|| format!("ALTER TABLE {} {}", identifier(self.name), missing.join(", ")))
    }
}

/// The collation under which different strings are different keys: binary and without padding.
pub fn key_collation(mariadb: bool) -> &'static str {
    if mariadb { "utf8mb4_nopad_bin" } else { "utf8mb4_0900_bin" }
}

/// Name and type of a column that follows from the models; texts get the collation of keys.
pub fn column_ddl(column: &Column, mariadb: bool) -> String {
    let text = matches!(column.holds, Holds::Text { .. });
    let collate =
        if text { format!(" CHARACTER SET utf8mb4 COLLATE {}", key_collation(mariadb)) } else { String::new() };
    format!("{} {}{collate}", identifier(&column.name), column.ddl_type)
}

/// `CREATE TABLE` for a target that doesn't exist yet, from what the model `latest` yields.
pub fn create_target(target: &Target, mariadb: bool) -> String {
    let mut lines: Vec<String> = Vec::new();
    for (index, column) in target.columns.iter().enumerate() {
        let null = if index < target.key_len { "NOT NULL" } else { "NULL" };
        lines.push(format!("  {} {null}", column_ddl(column, mariadb)));
    }
    lines.push("  `cdc_ts` BIGINT NOT NULL COMMENT 'event time, ns since 1970 UTC'".to_owned());
    lines.push("  `cdc_partition` INT NOT NULL".to_owned());
    lines.push("  `cdc_offset` BIGINT NOT NULL".to_owned());
    let keys: Vec<String> = target.keys().iter().map(|column: &Column| identifier(&column.name)).collect();
    lines.push(format!("  PRIMARY KEY ({})", keys.join(", ")));
    format!("CREATE TABLE IF NOT EXISTS {} (\n{}\n) ENGINE=InnoDB", identifier(&target.table), lines.join(",\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upgrade_adds_only_what_is_missing() {
        let positions = &OWN_TABLES[0];
        let all: Vec<String> = positions.columns.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(positions.upgrade(&all), None);
        let old: Vec<String> = all.iter().filter(|name| *name != "topic_id").cloned().collect();
        let ddl = positions.upgrade(&old).unwrap();
        assert!(ddl.contains("ADD COLUMN `topic_id`") && !ddl.contains("next_offset"), "{ddl}");
    }
}
