//! Tables to measure with: the shipped `enriched_user`, one of 200 columns, one of long texts. For each: its events, what a row of it
//! is, and the files that a pipeline on it takes.

use std::fmt::Write;
use std::sync::OnceLock;

use afterimage::demo::outcome;
use afterimage::record::OwnedRecord;
use serde_json::Value;

use crate::process::Workspace;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// The shipped pipeline.
    Users,
    /// 200 columns of texts, numbers and truth values.
    Wide,
    /// A text of 10 kB.
    Long,
}

/// What one record changes.
pub struct Change {
    pub key: String,
    /// All columns, the key first; `None` for a delete.
    pub row: Option<Vec<Option<String>>>,
    /// Event time in nanoseconds, partition, offset.
    pub version: (i64, i32, i64),
}

/// Texts, whole numbers, fractions and truth values of a wide row; with the key 200 columns.
const WIDE: [(char, usize); 4] = [('t', 50), ('i', 80), ('d', 40), ('b', 29)];
const LONG: usize = 10_000;

impl Shape {
    /// The pipeline's name, which is also that of its folders.
    pub fn pipeline(self) -> &'static str {
        match self {
            Self::Users => "users",
            Self::Wide => "wide",
            Self::Long => "long",
        }
    }

    pub fn table(self) -> &'static str {
        if self == Self::Users { "enriched_user" } else { "target" }
    }

    /// The target's columns but for the version, the key first.
    pub fn columns(self) -> Vec<String> {
        match self {
            Self::Users => {
                ["user_id", "name", "email", "country", "country_name", "region"].map(str::to_owned).to_vec()
            }
            Self::Wide => {
                std::iter::once("id".to_owned()).chain(wide().map(|(kind, at)| format!("{kind}{at}"))).collect()
            }
            Self::Long => vec!["id".to_owned(), "body".to_owned()],
        }
    }

    /// One event; images are told by numbers.
    pub fn event(self, op: char, id: &str, before: Option<u64>, after: Option<u64>, ts_ms: i64) -> Vec<u8> {
        let mut text = format!("{{\"op\":\"{op}\",\"before\":");
        for (name, image) in [("", before), (",\"after\":", after)] {
            text.push_str(name);
            match image {
                None => text.push_str("null"),
                Some(number) => self.image(&mut text, id, number),
            }
        }
        let _ = write!(text, ",\"timestamp\":{ts_ms}}}");
        text.into_bytes()
    }

    fn image(self, text: &mut String, id: &str, number: u64) {
        let _ = match self {
            Self::Users => {
                let codes = countries();
                let country = &codes[number as usize % codes.len()].0;
                write!(
                    text,
                    "{{\"userId\":\"{id}\",\"name\":\"User {number} of the Many Names\",\"email\":\"user.{number}@example.com\",\"country\":\"{country}\"}}"
                )
            }
            Self::Wide => {
                let _ = write!(text, "{{\"id\":\"{id}\"");
                for (kind, at) in wide() {
                    let value = number.wrapping_mul(31).wrapping_add(at as u64) % 1_000_000;
                    let _ = match kind {
                        't' => write!(text, ",\"t{at}\":\"text {value}\""),
                        'i' => write!(text, ",\"i{at}\":{value}"),
                        'd' => write!(text, ",\"d{at}\":{value}.5"),
                        _ => write!(text, ",\"b{at}\":{}", value.is_multiple_of(2)),
                    };
                }
                write!(text, "}}")
            }
            Self::Long => {
                let word = format!("{number:09} ");
                write!(text, "{{\"id\":\"{id}\",\"body\":\"{}\"}}", word.repeat(LONG / word.len()))
            }
        };
    }

    /// Reads a record of one of our events; panics on any other.
    pub fn change(self, record: &OwnedRecord) -> Change {
        let event: Value = serde_json::from_slice(record.value.as_deref().unwrap()).unwrap();
        let key = String::from_utf8(record.key.clone().unwrap()).unwrap();
        let row = (event["op"] != "d").then(|| self.row(&key, &event["after"]));
        Change {
            key,
            row,
            version: (event["timestamp"].as_i64().unwrap() * 1_000_000, record.partition, record.offset),
        }
    }

    fn row(self, key: &str, after: &Value) -> Vec<Option<String>> {
        let text = |value: &Value| match value {
            Value::Null => None,
            Value::String(text) => Some(text.clone()),
            Value::Bool(flag) => Some(u8::from(*flag).to_string()),
            other => Some(other.to_string()),
        };
        if self != Self::Users {
            return self.columns().iter().map(|column| text(&after[column])).collect();
        }
        let country = text(&after["country"]);
        let known = countries().iter().find(|(code, _, _)| Some(code) == country.as_ref());
        let (name, region) = known.map_or((None, None), |(_, name, region)| (Some(name.clone()), Some(region.clone())));
        vec![Some(key.to_owned()), text(&after["name"]), text(&after["email"]), country, name, region]
    }

    /// The target's DDL where `migrate` isn't to make it.
    pub fn create_table(self, mariadb: bool) -> Option<String> {
        let collation = afterimage::sink::tables::key_collation(mariadb);
        (self == Self::Long).then(|| {
            format!(
                "CREATE TABLE target (id VARCHAR(255) CHARACTER SET utf8mb4 COLLATE {collation} NOT NULL PRIMARY KEY, body MEDIUMTEXT CHARACTER \
                 SET utf8mb4 COLLATE {collation}, cdc_ts BIGINT NOT NULL, cdc_partition INT NOT NULL, cdc_offset BIGINT NOT NULL)"
            )
        })
    }

    /// Lines of a pipeline's section in the config.
    pub fn config(self) -> &'static str {
        match self {
            Self::Users => "key = [\"user_id\"]\n",
            Self::Wide | Self::Long => "key = [\"id\"]\non_error = \"skip_event\"\n",
        }
    }

    /// Models and schema, where they aren't the shipped ones.
    pub fn write_files(self, workspace: &Workspace) {
        if self == Self::Users {
            return;
        }
        let kind = |name: &str| match (self, name.chars().next()) {
            (Self::Long, _) | (_, Some('t')) => "utf8",
            (_, Some('d')) => "float64",
            (_, Some('b')) => "boolean",
            _ => "int64",
        };
        let columns = self.columns();
        let fields: Vec<String> = columns
            .iter()
            .map(|name| {
                let kind = if name == "id" { "utf8" } else { kind(name) };
                format!("{{\"name\":\"{name}\",\"type\":\"{kind}\",\"nullable\":{}}}", name != "id")
            })
            .collect();
        let schema = format!("{{\"doc\":\"For measurements.\",\"fields\":[{}]}}", fields.join(","));
        let after: Vec<String> = columns.iter().map(|name| format!("after.{name} AS {name}")).collect();
        let gone: Vec<String> = columns
            .iter()
            .map(|name| if name == "id" { "before.id AS id".into() } else { format!("NULL AS {name}") })
            .collect();
        let changes = format!(
            "SELECT {}, false AS _deleted, ts, _partition, _offset FROM events WHERE op <> 'd' UNION ALL \
             SELECT {}, true AS _deleted, ts, _partition, _offset FROM events \
             WHERE op = 'd' OR (op = 'u' AND before.id IS NOT NULL AND before.id IS DISTINCT FROM after.id)\n",
            after.join(", "),
            gone.join(", ")
        );
        let latest = format!(
            "SELECT {}, _deleted, ts, _partition, _offset FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY id ORDER BY ts DESC, \
             _partition DESC, _offset DESC) AS newest FROM accepted) WHERE newest = 1\n",
            columns.join(", ")
        );
        let pipeline = self.pipeline();
        workspace.write(&format!("schemas/{pipeline}/1.json"), &schema);
        workspace.write(&format!("queries/{pipeline}/changes.sql"), &changes);
        let enriched = "SELECT *, CAST(NULL AS VARCHAR) AS _error FROM changes\n";
        workspace.write(&format!("queries/{pipeline}/enriched.sql"), enriched);
        let accepted = "SELECT * EXCEPT (_error) FROM enriched WHERE _error IS NULL\n";
        workspace.write(&format!("queries/{pipeline}/accepted.sql"), accepted);
        workspace.write(&format!("queries/{pipeline}/latest.sql"), &latest);
    }

    /// Query that yields what [`digest`] does, of the table as the server holds it.
    pub fn digest_query(self, table: &str) -> String {
        let parts: Vec<String> = self.columns().iter().map(|name| format!("IFNULL({name}, '~')")).collect();
        format!("SELECT COUNT(*), COALESCE(SUM(CRC32(CONCAT_WS('|', {}))), 0) FROM {table}", parts.join(", "))
    }
}

fn wide() -> impl Iterator<Item = (char, usize)> {
    WIDE.into_iter().flat_map(|(kind, count)| (0..count).map(move |at| (kind, at)))
}

/// Code, name, region.
fn countries() -> &'static [(String, String, String)] {
    static COUNTRIES: OnceLock<Vec<(String, String, String)>> = OnceLock::new();
    COUNTRIES
        .get_or_init(|| outcome::countries().into_iter().map(|(code, (name, region))| (code, name, region)).collect())
}

/// How many rows there are, and the sum of their checksums.
pub fn digest(rows: impl Iterator<Item = Vec<Option<String>>>) -> (u64, u64) {
    let mut sum = (0, 0);
    for row in rows {
        let parts: Vec<&str> = row.iter().map(|value| value.as_deref().unwrap_or("~")).collect();
        sum.0 += 1;
        sum.1 += u64::from(crc32(parts.join("|").as_bytes()));
    }
    sum
}

/// As MySQL's CRC32().
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 })
    })
}
