//! AI04xx: what the servers say, and what the target must be.

use super::{Code, code};

const TABLE: &str = "the table in MySQL";
const RIGHT: &str = "CREATE TABLE enriched_user (
  user_id VARCHAR(255) COLLATE utf8mb4_0900_bin NOT NULL PRIMARY KEY,
  name VARCHAR(255),
  cdc_ts BIGINT NOT NULL, cdc_partition INT NOT NULL, cdc_offset BIGINT NOT NULL
) ENGINE=InnoDB;
";

pub(super) const CODES: &[Code] = &[
    code(
        "AI0400",
        "the process can't start a thread",
        "Each pipeline runs on a thread of its own.",
        "the process's limits",
        ["ulimit -u 1\n", "ulimit -u unlimited\n"],
        "raise the limit of processes and memory for this account",
    ),
    code(
        "AI0401",
        "the brokers don't answer (`check --online`)",
        "Nothing can be said about the topic.",
        "afterimage.toml",
        ["[kafka]\nbrokers = \"127.0.0.1:1\"\n", "[kafka]\nbrokers = \"127.0.0.1:9092\"\n"],
        "look at `[kafka]`, the network, ACLs",
    ),
    code(
        "AI0402",
        "the topic does not exist (`check --online`)",
        "The service would wait for it for ever.",
        "afterimage.toml",
        [
            "[pipelines.users]\ntopic = \"users_cdc\"\ntable = \"enriched_user\"\nkey = [\"user_id\"]\n",
            "[pipelines.users]\ntopic = \"user_cdc\"\ntable = \"enriched_user\"\nkey = [\"user_id\"]\n",
        ],
        "create it, or correct `topic`",
    ),
    code(
        "AI0403",
        "MySQL doesn't answer, or refuses (`check --online`)",
        "Nothing can be said about the tables.",
        "afterimage.toml",
        ["[mysql]\nurl = \"mysql://app@127.0.0.1:1/app\"\n", "[mysql]\nurl = \"mysql://app@127.0.0.1:3306/app\"\n"],
        "look at `[mysql]`, the network, grants",
    ),
    code(
        "AI0404",
        "the database lacks tables or columns of ours (`check --online`)",
        "Positions, tombstones and quarantine stand in them, and move in the same transaction as the rows.",
        "the database",
        ["an empty database\n", "a database after `afterimage migrate`\n"],
        "`afterimage migrate`",
    ),
    code(
        "AI0405",
        "the account lacks a privilege (`check --online`)",
        "The service would start, and wait at the first statement that the server refuses.",
        "the account in MySQL",
        [
            "GRANT SELECT ON shop.enriched_user TO 'afterimage'@'%';\n",
            "GRANT SELECT, INSERT, UPDATE, DELETE ON shop.enriched_user TO 'afterimage'@'%';\n",
        ],
        "run the GRANT that the message has; the page lists all under Accounts",
    ),
    code(
        "AI0406",
        "warning: the topic is compacted (`check --online`)",
        "Kafka removes records of which there is a newer one with the same record key. Where that isn't the row's key, whole rows go. \
         Where it is, the table stays right, but sums and evidence lack what was removed before it was read.",
        "the topic",
        ["cleanup.policy=compact\n", "cleanup.policy=delete\n"],
        "compact only a topic whose record key is the row's key",
    ),
    code(
        "AI0407",
        "warning: the topic keeps its records for less than three days (`check --online`)",
        "Records that are deleted before they were read are lost, and the pipeline halts by name.",
        "the topic",
        ["retention.ms=3600000\n", "retention.ms=604800000\n"],
        "raise `retention.ms` above the longest outage, and the age of the backup you would restore",
    ),
    code(
        "AI0408",
        "a setting of the server that goes against the promises (`check --online`)",
        "With `binlog_format = STATEMENT` nothing can be written. Without a flush at each commit the server acknowledges \
         what a crash of its machine then takes away (a warning).",
        "the server's settings",
        ["binlog_format = STATEMENT\n", "binlog_format = ROW\ninnodb_flush_log_at_trx_commit = 1\nsync_binlog = 1\n"],
        "set it as the message says, or accept the warning where the machine's crash is no concern",
    ),
    code(
        "AI0410",
        "there is no such table",
        "There is nothing to write to.",
        TABLE,
        ["(none)\n", RIGHT],
        "`afterimage migrate`, which makes it from what `latest` yields",
    ),
    code(
        "AI0411",
        "no InnoDB base table: no transactions",
        "Rows, positions and quarantine are written in one transaction, or half a batch would be seen.",
        TABLE,
        ["CREATE TABLE enriched_user (..) ENGINE=MyISAM;\n", RIGHT],
        "`ALTER TABLE .. ENGINE=InnoDB`; a view can't be a target",
    ),
    code(
        "AI0412",
        "version columns `cdc_ts BIGINT`, `cdc_partition INT`, `cdc_offset BIGINT`, all NOT NULL and signed, are missing or different",
        "Each row carries the version of the event that made it, so that a late one can't overwrite a newer one.",
        TABLE,
        ["CREATE TABLE enriched_user (user_id VARCHAR(255) NOT NULL PRIMARY KEY, name VARCHAR(255));\n", RIGHT],
        "`ALTER TABLE .. ADD COLUMN ..` or `MODIFY`; with default 0 rows that are there lose against any event",
    ),
    code(
        "AI0413",
        "the config names a key column that the table hasn't",
        "Rows are found again by their key.",
        TABLE,
        ["CREATE TABLE enriched_user (id VARCHAR(255) NOT NULL PRIMARY KEY, ..);\n", RIGHT],
        "correct `key`, or the table",
    ),
    code(
        "AI0414",
        "a second unique key: an upsert would overwrite the row it belongs to",
        "`INSERT .. ON DUPLICATE KEY UPDATE` takes whichever unique key is hit, so a row of another key would be changed.",
        TABLE,
        ["CREATE TABLE enriched_user (.., UNIQUE KEY (email));\n", RIGHT],
        "make it a plain index",
    ),
    code(
        "AI0415",
        "the primary key isn't the pipeline's `key`",
        "One row per key is what the primary key guarantees.",
        TABLE,
        ["CREATE TABLE enriched_user (.., PRIMARY KEY (email));\n", RIGHT],
        "make both the same",
    ),
    code(
        "AI0416",
        "a key column's collation calls different strings equal (case, accents, spaces at the end)",
        "Two users whose keys differ in case would share one row.",
        TABLE,
        [
            "CREATE TABLE enriched_user (user_id VARCHAR(255) COLLATE utf8mb4_general_ci NOT NULL PRIMARY KEY, ..);\n",
            RIGHT,
        ],
        "`utf8mb4_0900_bin` (MySQL), `utf8mb4_nopad_bin` (MariaDB), or `VARBINARY`",
    ),
    code(
        "AI0417",
        "a key column of type float, double, char, binary, enum, set or bit doesn't keep keys as they are",
        "MySQL pads, rounds or renumbers such values, and the key that is read back isn't the one that was written.",
        TABLE,
        ["CREATE TABLE enriched_user (user_id CHAR(20) NOT NULL PRIMARY KEY, ..);\n", RIGHT],
        "`VARCHAR`, `VARBINARY`, an integer, `DECIMAL`, `DATETIME`",
    ),
    code(
        "AI0430",
        "the files here are an older generation than the one in use (a running service)",
        "Two generations that write in turns would mix their rows; a stale instance must not undo a rollout.",
        "queries/users/latest.sql",
        ["-- as it was before the last rollout\n", "-- as it is on the other instances\n"],
        "bring the newer files here, or go back to these on purpose: `afterimage generations adopt`",
    ),
    code(
        "AI0431",
        "`latest` doesn't yield a column of the target; it is left to its default (a warning)",
        "A column that was added for models to come harms nothing, one that was forgotten in the SELECT stays empty.",
        TABLE,
        ["CREATE TABLE enriched_user (.., phone VARCHAR(32) NULL, ..);\n", RIGHT],
        "add the column to the SELECT to fill it, or drop it",
    ),
    code(
        "AI0432",
        "the watcher of the files has ended: changes are not taken up (a running service)",
        "The pipeline goes on as it is, but an edit would be waited for in vain.",
        "the log",
        ["bug: a panic in afterimage\n", "(no such line)\n"],
        "restart the service, and report the place that the log names",
    ),
    code(
        "AI0433",
        "changed files wait for the database (a running service)",
        "A new generation is registered there before anything is written under it.",
        "the database",
        ["(away)\n", "(answers)\n"],
        "bring it back; they are taken up by themselves",
    ),
    code(
        "AI0434",
        "a lookup can't be read while changed files are judged (a running service)",
        "Models are planned over the columns of the lookups that they join.",
        "afterimage.toml",
        [
            "[pipelines.users.lookups.tiers]\nquery = \"SELECT code, name FROM teirs\"\nkey = [\"code\"]\n",
            "[pipelines.users.lookups.tiers]\nquery = \"SELECT code, name FROM tiers\"\nkey = [\"code\"]\n",
        ],
        "mend the query, or grant it; then save again, or send SIGHUP",
    ),
];
