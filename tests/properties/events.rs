//! Short logs that are denser in trouble than any workload: a handful of users whose keys look alike, a few milliseconds in which
//! everything happens, and every way to get an event wrong.
//!
//! What comes out shrinks well: fewer records first, then plainer ones.

use std::fmt::Write;

use afterimage::generate::OwnedRecord;
use afterimage::position::Partition;
use proptest::prelude::*;

pub const PARTITIONS: Partition = 3;

/// Event time around which everything happens, milliseconds, and the Kafka timestamp of the records.
const START_MS: i64 = 1_700_000_000_000;
const KAFKA_MS: i64 = START_MS + 1_000;
const MAX_SKEW_MS: i64 = 3_600_000;

/// Users. Those at the same place modulo [`PARTITIONS`] share a partition, so that changes of key stay inside it.
const USERS: [&str; 12] = [
    "a",
    "A",
    "b",
    "\u{e9}",   // é composed
    "e\u{301}", // é decomposed
    "e",
    "a ", // trailing space
    "",
    "\u{df}", // ß, which some collations call ss
    "SS",
    "\u{1f600}\"\\", // beyond the basic plane, and what JSON must escape
    "LONG",          // stands for 255 letters
];

/// Where a user's events stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// A user stays in one partition for life, a change of key included.
    Faithful,
    /// Any partition, each time.
    Anywhere,
}

#[derive(Debug, Clone)]
enum Kind {
    Write {
        op: &'static str,
        dress: u8,
    },
    /// An update whose `before` is another user.
    KeyChange(usize),
    Delete {
        with_after: bool,
    },
    NullValue,
    /// The bytes of the record so many places before it in its partition, once more.
    Repeat(usize),
    /// A write with one byte changed, put in or taken out.
    Mutated {
        place: u16,
        byte: u8,
        how: u8,
    },
    /// One of [`broken`].
    Broken(u8),
}

#[derive(Debug, Clone)]
struct Event {
    user: usize,
    partition: Partition,
    kind: Kind,
    at_ms: i64,
    kafka_ms: Option<i64>,
    name: u8,
    country: u8,
    gap: i64,
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        10 => (prop_oneof![Just("c"), Just("u"), Just("u"), Just("r")], 0..8u8)
            .prop_map(|(op, dress)| Kind::Write { op, dress }),
        4 => any::<bool>().prop_map(|with_after| Kind::Delete { with_after }),
        4 => (0..USERS.len()).prop_map(Kind::KeyChange),
        1 => Just(Kind::NullValue),
        2 => (0..12usize).prop_map(Kind::Repeat),
        1 => (any::<u16>(), any::<u8>(), 0..3u8).prop_map(|(place, byte, how)| Kind::Mutated { place, byte, how }),
        1 => (0..BROKEN).prop_map(Kind::Broken),
    ]
}

/// Milliseconds after the start: mostly within a few of each other.
fn moment() -> impl Strategy<Value = i64> {
    prop_oneof![
        20 => 0..12i64,
        4 => -40..40i64,
        1 => Just(1_000 + MAX_SKEW_MS),
        1 => Just(1_000 + MAX_SKEW_MS + 1),
        1 => Just(2 * 86_400_000),
        1 => Just(-START_MS),
        1 => Just(-3 * START_MS),
    ]
}

fn event(placement: Placement) -> impl Strategy<Value = Event> {
    let kafka_ms = prop_oneof![9 => Just(Some(KAFKA_MS)), 1 => Just(None)];
    let gap = prop_oneof![6 => Just(0i64), 1 => 1..5i64];
    (0..USERS.len(), 0..PARTITIONS, kind(), moment(), kafka_ms, 0..12u8, 0..12u8, gap).prop_map(
        move |(user, partition, kind, at_ms, kafka_ms, name, country, gap)| {
            let class = (user % PARTITIONS as usize) as Partition;
            let (partition, kind) = match (placement, kind) {
                (Placement::Anywhere, kind) => (partition, kind),
                (Placement::Faithful, Kind::KeyChange(from)) => {
                    let from = (from - from % PARTITIONS as usize + class as usize).min(USERS.len() - 1);
                    (class, Kind::KeyChange(from))
                }
                (Placement::Faithful, kind) => (class, kind),
            };
            // What a changed digit makes of the time must not be judged by this machine's clock.
            let any_time = matches!(kind, Kind::Mutated { .. } | Kind::Repeat(_));
            let kafka_ms = if any_time { Some(KAFKA_MS) } else { kafka_ms };
            Event { user, partition, kind, at_ms, kafka_ms, name, country, gap }
        },
    )
}

/// A log of up to `most` records in the order of their arrival; offsets rise in each partition, with holes.
pub fn log(placement: Placement, most: usize) -> impl Strategy<Value = Vec<OwnedRecord>> {
    proptest::collection::vec(event(placement), 1..most).prop_map(|events| {
        let mut next = [0i64; PARTITIONS as usize];
        let mut records: Vec<OwnedRecord> = Vec::with_capacity(events.len());
        for event in events {
            let next = &mut next[event.partition as usize];
            *next += event.gap;
            records.push(record(&event, *next, &records));
            *next += 1;
        }
        records
    })
}

/// Sizes of batches, used in turn.
pub fn cuts() -> impl Strategy<Value = Vec<usize>> {
    proptest::collection::vec(prop_oneof![4 => 1..8usize, 1 => 8..80usize], 1..8)
}

/// `records` in batches of the sizes that `cuts` names in turn.
pub fn split<'a>(records: &'a [OwnedRecord], cuts: &[usize]) -> Vec<&'a [OwnedRecord]> {
    let mut batches = Vec::new();
    let (mut rest, mut sizes) = (records, cuts.iter().cycle());
    while !rest.is_empty() {
        let (batch, others) = rest.split_at(rest.len().min(*sizes.next().unwrap_or(&1)));
        batches.push(batch);
        rest = others;
    }
    batches
}

fn record(event: &Event, offset: i64, before: &[OwnedRecord]) -> OwnedRecord {
    let value = match &event.kind {
        Kind::NullValue => None,
        Kind::Repeat(back) => {
            let mut earlier = before.iter().rev().filter(|record| record.partition == event.partition);
            match earlier.nth(*back) {
                Some(record) => record.value.clone(),
                None => Some(write(event, "c", 0)),
            }
        }
        Kind::Write { op, dress } => Some(write(event, op, *dress)),
        Kind::KeyChange(from) => {
            let (before, after) = (image(*from, 0, 2, 0), image(event.user, event.name, event.country, 0));
            Some(envelope("u", &before, &after, event.at_ms))
        }
        Kind::Delete { with_after } => {
            let before = image(event.user, event.name, event.country, 0);
            let after = if *with_after { before.as_str() } else { "null" };
            Some(envelope("d", &before, after, event.at_ms))
        }
        Kind::Mutated { place, byte, how } => {
            // No changed letter makes one of these users another one, or one of the others.
            let of = ["mutant zero", "mutant one", "mutant two"][event.partition as usize];
            let after = format!(r#"{{"userId":"{of}","name":"m","email":null,"country":"DE"}}"#);
            Some(mutated(envelope("u", "null", &after, event.at_ms), *place, *byte, *how))
        }
        Kind::Broken(which) => Some(broken(*which, event)),
    };
    let key = value.as_ref().map(|_| text(USERS[event.user]).into_bytes());
    OwnedRecord { partition: event.partition, offset, timestamp_ms: event.kafka_ms, key, value }
}

fn mutated(mut value: Vec<u8>, place: u16, byte: u8, how: u8) -> Vec<u8> {
    let place = usize::from(place) % value.len();
    match how {
        0 => value[place] = byte,
        1 => value.insert(place, byte),
        _ => value.truncate(place),
    }
    value
}

/// A JSON string.
fn text(value: &str) -> String {
    serde_json::Value::from(value).to_string()
}

/// A JSON string in which every character is an escape: the same text in other bytes.
fn escaped(value: &str) -> String {
    let mut json = String::from("\"");
    for unit in value.encode_utf16() {
        let _ = write!(json, "\\u{unit:04X}");
    }
    json + "\""
}

fn user(user: usize) -> String {
    if USERS[user] == "LONG" { "x".repeat(255) } else { USERS[user].to_owned() }
}

fn image(of: usize, name: u8, country: u8, dress: u8) -> String {
    let country = match country {
        0..=4 => r#""DE""#,
        5..=7 => r#""JP""#,
        8 => "null",
        9 => r#""de""#,
        10 => r#""""#,
        _ => r#""XX""#,
    };
    let name = match name {
        0 => "null".to_owned(),
        1 => text(&"n".repeat(255)),
        2 => text(&"\u{1f600}".repeat(255)),
        3 => text(&"n".repeat(256)),
        4 => text("\u{0}\u{7f}\u{feff}\u{202e}"),
        plain => text(&format!("n{plain}")),
    };
    let (key, email) = (text(&user(of)), text("e@example.com"));
    match dress {
        0..=2 => format!(r#"{{"userId":{key},"name":{name},"email":null,"country":{country}}}"#),
        3 => format!(r#"{{"country":{country},"email":{email},"name":{name},"userId":{}}}"#, escaped(&user(of))),
        4 => format!(r#"{{"userId":{key},"country":{country}}}"#),
        5 => format!(
            r#"{{ "userId" : {key} , "plan" : 1e999 , "name" : {name}, "tags" : ["\ud83d", -0, {{}}], "plan" : 2 }}"#
        ),
        _ => format!(r#"{{"userId":{key},"name":{name},"userid":"other","country":{country},"Country":"XX"}}"#),
    }
}

fn envelope(op: &str, before: &str, after: &str, at_ms: i64) -> Vec<u8> {
    format!(r#"{{"op":"{op}","before":{before},"after":{after},"timestamp":{}}}"#, START_MS + at_ms).into_bytes()
}

fn write(event: &Event, op: &str, dress: u8) -> Vec<u8> {
    let after = image(event.user, event.name, event.country, dress);
    match dress {
        0 | 1 => envelope(op, "null", &after, event.at_ms),
        2 => envelope(op, &after, &after, event.at_ms),
        _ => {
            let source = r#""source":{"db":"\udead","lsn":1e-999},"extra":[[]]"#;
            let at = START_MS + event.at_ms;
            format!("\n{{\"timestamp\":{at},\t{source},\"after\":{after},\"\\u006fp\":\"{op}\"}} ").into_bytes()
        }
    }
}

/// How many kinds of [`broken`] there are.
const BROKEN: u8 = 30;

/// Bytes that are no event, or hardly one.
fn broken(which: u8, event: &Event) -> Vec<u8> {
    let (key, image, at) = (text(&user(event.user)), image(event.user, 5, 0, 0), START_MS + event.at_ms);
    let with = |op: &str, after: &str, at: &str| {
        format!(r#"{{"op":{op},"before":null,"after":{after},"timestamp":{at}}}"#).into_bytes()
    };
    let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    let good = with(r#""c""#, &image, &at.to_string());
    match which {
        0 => Vec::new(),
        1 => b"\xef\xbb\xbf{}".to_vec(),
        2 => [b"\xef\xbb\xbf".as_slice(), &good].concat(),
        3 => [good.as_slice(), &good].concat(),
        4 => b"null".to_vec(),
        5 => format!("[{image}]").into_bytes(),
        6 => with(r#""c""#, r#"{"userId":"\ud83d"}"#, &at.to_string()),
        7 => with(r#""c""#, &format!(r#"{{"userId":{key},"name":"\udc00"}}"#), &at.to_string()),
        8 => with(r#""c""#, &format!(r#"{{"userId":{key},"name":NaN}}"#), &at.to_string()),
        9 => with(r#""c""#, &format!(r#"{{"userId":{key},"name":7}}"#), &at.to_string()),
        10 => with(r#""c""#, &format!(r#"{{"userId":{key},"userId":{key}}}"#), &at.to_string()),
        11 => with(r#""c","op":"c""#, &image, &at.to_string()),
        12 => with(r#""x""#, &image, &at.to_string()),
        13 => with("null", &image, &at.to_string()),
        14 => with(r#""u""#, "null", &at.to_string()),
        15 => with(r#""d""#, &image, &at.to_string()),
        16 => with(r#""c""#, r#"{"name":"nobody"}"#, &at.to_string()),
        17 => with(r#""c""#, r#"{"userId":null}"#, &at.to_string()),
        18 => with(r#""c""#, &image, "null"),
        19 => with(r#""c""#, &image, "-0"),
        20 => with(r#""c""#, &image, &format!("{at}.0")),
        21 => with(r#""c""#, &image, &format!("\"{at}\"")),
        22 => with(r#""c""#, &image, "99999999999999999999"),
        23 => with(r#""c""#, &image, "9223372036855"),
        24 => format!(r#"{{"op":"c","after":{image}}}"#).into_bytes(),
        25 => with(r#""c""#, &format!(r#"{{"userId":{key},"x":{}}}"#, nested(125)), &at.to_string()),
        26 => with(r#""c""#, &format!(r#"{{"userId":{key},"x":{}}}"#, nested(126)), &at.to_string()),
        27 => format!(r#"{{"op":"c","after":{image},"timestamp":{at},"\ud83d":1}}"#).into_bytes(),
        28 => with(r#""c""#, &format!(r#"{{"userId":{key},"\ud83d":1}}"#), &at.to_string()),
        _ => format!(r#"{{"op":"u","before":{{"userId":{key},"name":[]}},"after":{image},"timestamp":{at}}}"#)
            .into_bytes(),
    }
}

/// Records that must not matter: broken beyond recognition, null, or about users whom nobody else speaks of.
pub fn noise() -> impl Strategy<Value = OwnedRecord> {
    let value = |partition: Partition| {
        prop_oneof![
            Just(None),
            Just(Some(Vec::new())),
            proptest::collection::vec(any::<u8>(), 0..30).prop_map(|bytes| Some([b"{".as_slice(), &bytes].concat())),
            (0..3u8, 0..12u8).prop_map(move |(user, country)| {
                let code = if country < 6 { "XX" } else { "DE" };
                let after = format!(r#"{{"userId":"noise {partition} {user}","country":"{code}"}}"#);
                Some(envelope("u", "null", &after, i64::from(country)))
            }),
            Just(Some(envelope("x", "null", &format!(r#"{{"userId":"noise {partition} 0"}}"#), 0))),
        ]
    };
    (0..PARTITIONS).prop_flat_map(move |partition| {
        value(partition).prop_map(move |value| OwnedRecord {
            partition,
            offset: 0,
            timestamp_ms: Some(KAFKA_MS),
            key: None,
            value,
        })
    })
}

/// Whether a user comes from [`noise`].
pub fn is_noise(user: &str) -> bool {
    user.starts_with("noise ")
}
