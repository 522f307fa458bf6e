//! Every key of the config file: type, default, meaning. The one table that reading, suggestions and docs/config.md follow.

use std::collections::BTreeSet;

use crate::diagnostic::did_you_mean;

/// What may stand at a key.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    Text,
    /// A path, relative to the config file.
    Path,
    Flag,
    Count {
        min: u64,
        max: u64,
    },
    /// With a unit, such as `"5ms"`; limits are written the same way.
    Duration {
        min: &'static str,
        max: &'static str,
    },
    /// With a unit, such as `"32MiB"`; limits are written the same way.
    Size {
        min: &'static str,
        max: &'static str,
    },
    /// A percentage, such as `"50%"`.
    Share,
    Choice(&'static [&'static str]),
    /// A list of column names.
    Columns,
}

/// What happens where a key is absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absent {
    Refused,
    /// As if this text stood there.
    Default(&'static str),
    /// As described here, for the docs; the code that reads it decides.
    Means(&'static str),
}

/// One key.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    pub name: &'static str,
    pub kind: Kind,
    pub absent: Absent,
    pub doc: &'static str,
}

/// A table of the file; `*` in its path stands for a name that the user chooses.
#[derive(Debug)]
pub struct Section {
    pub path: &'static str,
    pub doc: &'static str,
    pub keys: &'static [Key],
}

const fn key(name: &'static str, kind: Kind, absent: Absent, doc: &'static str) -> Key {
    Key { name, kind, absent, doc }
}

pub(super) static ROOT: Section = Section { path: "", doc: "", keys: &[] };

pub(super) static KAFKA: Section = Section {
    path: "kafka",
    doc: "The brokers.",
    keys: &[
        key(
            "brokers",
            Kind::Text,
            Absent::Refused,
            "Where to find the cluster: `host:port`, several separated by commas.",
        ),
        key(
            "group",
            Kind::Text,
            Absent::Default("afterimage"),
            "Consumer group. Replicas with the same group share the partitions.",
        ),
        key(
            "allow_insecure",
            Kind::Flag,
            Absent::Default("false"),
            "Speak to brokers that are not on loopback in plain text, where `security.protocol` says so (as it does by default), and \
             accept properties that switch the check of their certificates off.",
        ),
    ],
};

pub(super) static KAFKA_PROPERTIES: Section = Section {
    path: "kafka.properties",
    doc: "Any property of librdkafka, such as `security.protocol`; values are texts, numbers, or true/false. \
          Relative paths in `*.location` start at the config file. Some cannot be set (below).",
    keys: &[],
};

pub(super) static MYSQL: Section = Section {
    path: "mysql",
    doc: "The server that holds the tables, our own among them. Off loopback the connection is encrypted.",
    keys: &[
        key(
            "url",
            Kind::Text,
            Absent::Refused,
            "`mysql://user:password@host:port/database`. User and password that come from a variable are taken as they are; \
             what is written out is percent-encoded.",
        ),
        key(
            "password_file",
            Kind::Path,
            Absent::Means("the URL's password"),
            "File that holds the password, instead of one in the URL; a line break at its end is dropped.",
        ),
        key(
            "connect_timeout",
            Kind::Duration { min: "100ms", max: "10m" },
            Absent::Default("10s"),
            "How long an attempt to connect may take.",
        ),
        key(
            "ca_file",
            Kind::Path,
            Absent::Means("public authorities"),
            "PEM file of the authorities that sign the server's certificate. Encrypts on loopback too.",
        ),
        key(
            "allow_insecure",
            Kind::Flag,
            Absent::Default("false"),
            "Connect in plain text to a server that is not on loopback: password and rows can be read on the way.",
        ),
    ],
};

pub(super) static HTTP: Section = Section {
    path: "http",
    doc: "Metrics, health and status.",
    keys: &[
        key("enabled", Kind::Flag, Absent::Default("true"), "Whether to listen at all."),
        key(
            "listen",
            Kind::Text,
            Absent::Default("127.0.0.1:9190"),
            "Address and port. Off loopback everyone who reaches it can read it.",
        ),
    ],
};

pub(super) static LOG: Section = Section {
    path: "log",
    doc: "Log lines, on standard error.",
    keys: &[
        key("format", Kind::Choice(&["text", "json"]), Absent::Default("text"), "`json` writes one object per line."),
        key(
            "level",
            Kind::Choice(&["error", "warn", "info", "debug", "trace"]),
            Absent::Default("info"),
            "Least important lines to write. The variable `AFTERIMAGE_LOG` overrules it, e.g. `info,afterimage::sink=debug`.",
        ),
    ],
};

pub(super) static PIPELINE: Section = Section {
    path: "pipelines.*",
    doc: "One topic kept as one table. The name is the pipeline's own: letters, digits, `_` and `-`.",
    keys: &[
        key("topic", Kind::Text, Absent::Refused, "Topic to read. One name, no pattern."),
        key("table", Kind::Text, Absent::Refused, "Target table, in the database of `mysql.url`."),
        key(
            "key",
            Kind::Columns,
            Absent::Refused,
            "Key columns of the table; events of one key never overtake each other.",
        ),
        key("group", Kind::Text, Absent::Means("`kafka.group`"), "Consumer group of this pipeline alone."),
        key(
            "version",
            Kind::Choice(&["event_time", "arrival"]),
            Absent::Default("event_time"),
            "Which of two events of a key is the newer one: by `timestamp`, then partition and offset; or by partition and \
             offset alone.",
        ),
        key(
            "timestamp_unit",
            Kind::Choice(&["s", "ms", "us", "ns"]),
            Absent::Default("ms"),
            "Unit of the event's `timestamp`.",
        ),
        key(
            "on_error",
            Kind::Choice(&["hold_key", "skip_event", "stop"]),
            Absent::Default("hold_key"),
            "What a refused event does: `hold_key` makes later events of its key wait behind it, `skip_event` lets them pass, \
             `stop` stops the pipeline.",
        ),
        key("queries", Kind::Path, Absent::Means("`queries/<pipeline>`"), "Folder of the SQL models."),
        key("schemas", Kind::Path, Absent::Means("`schemas/<pipeline>`"), "Folder of the schema files."),
        key(
            "max_future_skew",
            Kind::Duration { min: "0s", max: "3650d" },
            Absent::Default("1h"),
            "An event dated further than this past its Kafka timestamp is refused: it would freeze its key.",
        ),
        key(
            "tombstone_retention",
            Kind::Duration { min: "1m", max: "3650d" },
            Absent::Default("7d"),
            "How long a deleted key is remembered, so that a late, older update does not bring it back.",
        ),
        key(
            "lanes",
            Kind::Count { min: 1, max: 64 },
            Absent::Default("2"),
            "How many transactions may be open at the same time, each of other partitions. Every lane takes two connections.",
        ),
        key(
            "metrics_interval",
            Kind::Duration { min: "1s", max: "1d" },
            Absent::Default("10s"),
            "How often a row goes to `user_cdc_pipeline_metrics`.",
        ),
        key(
            "shutdown_timeout",
            Kind::Duration { min: "0s", max: "1h" },
            Absent::Default("20s"),
            "How long an orderly stop may take before the open transaction is abandoned (nothing is lost by that).",
        ),
    ],
};

pub(super) static BATCH: Section = Section {
    path: "pipelines.*.batch",
    doc: "Limits of one micro-batch. With a backlog batches grow as far as these allow; without one they are small and follow \
          at once.",
    keys: &[
        key(
            "max_events",
            Kind::Count { min: 1, max: 1_000_000 },
            Absent::Default("32768"),
            "Events in a batch, at most.",
        ),
        key(
            "max_bytes",
            Kind::Size { min: "1KiB", max: "1GiB" },
            Absent::Default("7MiB"),
            "Bytes of keys, values and headers in a batch, at most; one larger record is a batch of its own.",
        ),
        key(
            "max_wait",
            Kind::Duration { min: "0s", max: "1m" },
            Absent::Default("5ms"),
            "A batch that isn't full waits until the one before it was taken so long ago; an event after a quiet while doesn't wait.",
        ),
    ],
};

pub(super) static MAX_REFUSED: Section = Section {
    path: "pipelines.*.max_refused",
    doc: "When more than `share` of the events read within `window` is refused, the pipeline stops instead of diverting everything.",
    keys: &[
        key(
            "share",
            Kind::Share,
            Absent::Default("50%"),
            "Largest share that is still quarantined; `100%` never stops.",
        ),
        key("window", Kind::Duration { min: "1s", max: "1d" }, Absent::Default("1m"), "Stretch of time that counts."),
        key(
            "min_events",
            Kind::Count { min: 1, max: 1_000_000_000 },
            Absent::Default("1000"),
            "Fewer events than this within the window never stop it.",
        ),
    ],
};

pub(super) static LOOKUP: Section = Section {
    path: "pipelines.*.lookups.*",
    doc: "A table that the models can join, by its name. It has one of `file`, `mysql` and `topic`.",
    keys: &[
        key(
            "file",
            Kind::Path,
            Absent::Means("`mysql` or `topic`"),
            "CSV file with a header, NDJSON or Parquet file, told by its extension; read again when it changes.",
        ),
        key("mysql", Kind::Text, Absent::Means("`file` or `topic`"), "Query on the server of `mysql.url`."),
        key(
            "topic",
            Kind::Text,
            Absent::Means("`file` or `mysql`"),
            "Compacted topic of the same brokers, read from its beginning and then followed; its values are JSON objects.",
        ),
        key(
            "refresh",
            Kind::Duration { min: "1s", max: "30d" },
            Absent::Means("`60s`"),
            "How often the query runs again; only with `mysql`.",
        ),
        key(
            "key",
            Kind::Columns,
            Absent::Refused,
            "Columns that identify a row: no two rows have the same values there.",
        ),
    ],
};

pub(super) static LOOKUP_COLUMNS: Section = Section {
    path: "pipelines.*.lookups.*.columns",
    doc: "Columns of a lookup that is a `topic`, and their types as schema files name them, such as `code = \"utf8\"` and \
          `rate = \"decimal128(10,4)\"`. Required there, and only there.",
    keys: &[],
};

/// All of them, in the order of the docs.
pub static SECTIONS: [&Section; 10] =
    [&KAFKA, &KAFKA_PROPERTIES, &MYSQL, &PIPELINE, &BATCH, &MAX_REFUSED, &LOOKUP, &LOOKUP_COLUMNS, &HTTP, &LOG];

impl Section {
    pub fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }

    /// Every name that may stand in this table: keys, then tables beneath it.
    pub fn names(&self) -> Vec<&'static str> {
        let prefix = if self.path.is_empty() { String::new() } else { format!("{}.", self.path) };
        let beneath: BTreeSet<&'static str> = SECTIONS
            .iter()
            .filter_map(|section| section.path.strip_prefix(prefix.as_str()))
            .filter_map(|below| below.split('.').next())
            .collect();
        self.keys.iter().map(|key| key.name).chain(beneath).collect()
    }
}

/// The key most like `name` in all of the file, and where it belongs: `topic` in `[pipelines.<name>]`.
pub(super) fn belongs_in(name: &str) -> Option<(&'static str, String)> {
    let keys = || SECTIONS.iter().flat_map(|section| section.keys.iter().map(|key| (key.name, section.path)));
    let meant = did_you_mean(name, keys().map(|(key, _)| key))?;
    let (_, path) = keys().find(|(key, _)| *key == meant)?;
    Some((meant, format!("[{}]", path.replace('*', "<name>"))))
}
