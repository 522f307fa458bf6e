//! Structs, lists and JSON from the event to the target's columns.

use super::*;
use crate::decode::{self, DecodeOptions, Decoder, TimestampUnit};
use crate::record::RawRecord;
use crate::schema::SourceSchema;
use crate::target::Holds;

const SCHEMA: &str = r#"{"fields": [
    {"name": "id", "type": "int64", "nullable": false},
    {"name": "address", "type": "struct", "fields": [
        {"name": "zip", "type": "utf8", "nullable": false},
        {"name": "city", "type": "utf8"},
        {"name": "more", "type": "json"}
    ]},
    {"name": "tags", "type": "list", "items": {"type": "utf8"}},
    {"name": "extra", "type": "json"}
]}"#;

const CHANGES: &str = "SELECT after.id AS id, after.address AS address, after.address.city AS city, after.address.zip IS NULL AS homeless,
    after.tags AS tags, after.tags[1] AS first_tag, after.extra AS extra, after.address.more AS more,
    false AS _deleted, ts, _partition, _offset FROM events WHERE op <> 'd'
    UNION ALL SELECT before.id, NULL, NULL, false, NULL, NULL, NULL, NULL, true, ts, _partition, _offset FROM events WHERE op = 'd'";
const ENRICHED: &str = "SELECT c.*, CAST(NULL AS VARCHAR) AS _error FROM changes c";
const ACCEPTED: &str =
    "SELECT e.* EXCEPT (_error) FROM enriched e LEFT JOIN held h ON h.id = e.id AND h._partition = e._partition
    WHERE e._error IS NULL AND (h._since IS NULL OR e._offset < h._since)";
const LATEST: &str =
    "SELECT * EXCEPT (newest) FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY id ORDER BY ts DESC, _partition DESC,
    _offset DESC) AS newest FROM accepted) WHERE newest = 1";

fn decoder() -> Decoder {
    let schema = SourceSchema::parse(1, Path::new("1.json"), SCHEMA).unwrap();
    let options =
        DecodeOptions { topic: "t".into(), timestamp_unit: TimestampUnit::Ms, max_future_skew: Default::default() };
    Decoder::new(&schema, options)
}

async fn engine() -> (tempfile::TempDir, Engine) {
    let dir = tempfile::tempdir().unwrap();
    for (name, sql) in [("changes", CHANGES), ("enriched", ENRICHED), ("accepted", ACCEPTED), ("latest", LATEST)] {
        std::fs::write(dir.path().join(format!("{name}.sql")), sql).unwrap();
    }
    let spec = ModelSpec { queries: dir.path().to_owned(), key: vec!["id".into()], lookups: Vec::new(), ..spec() };
    let schema = SourceSchema::parse(1, Path::new("1.json"), SCHEMA).unwrap();
    let (engine, _) = Engine::prepare(&spec, decode::events_schema(&schema), None).await.unwrap();
    (dir, engine)
}

/// What comes of rows that are created; the first is at offset 0.
async fn created(engine: &mut Engine, rows: &[&str]) -> Evaluation {
    let payloads: Vec<String> = rows.iter().map(|row| format!(r#"{{"op":"c","after":{row},"timestamp":1}}"#)).collect();
    let records = payloads.iter().enumerate().map(|(offset, payload)| RawRecord {
        partition: 0,
        offset: offset as i64,
        timestamp_ms: None,
        key: None,
        value: Some(payload.as_bytes()),
        headers: b"",
    });
    let decoded = decoder().decode(records).unwrap();
    assert_eq!(decoded.refused, []);
    let salvage = decoded.salvage.clone();
    let input = Input {
        events: decoded.events,
        salvage,
        decode_refused: &[],
        ignored: &[],
        forced: &[],
        holds: &HoldSet::default(),
        rerun: &HashSet::new(),
        high_water_ns: &BTreeMap::new(),
        partitions: &[],
    };
    engine.evaluate(input).await.unwrap()
}

#[tokio::test]
async fn structs_lists_and_json_become_json_columns() {
    let (_dir, mut engine) = engine().await;
    let target = engine.derive_target("t");
    let kinds: Vec<(&str, &str)> =
        target.columns.iter().map(|column| (column.name.as_str(), column.ddl_type.as_str())).collect();
    let expected = [
        ("id", "bigint"),
        ("address", "json"),
        ("city", "varchar(255)"),
        ("homeless", "tinyint(1)"),
        ("tags", "json"),
        ("first_tag", "varchar(255)"),
        ("extra", "json"),
        ("more", "json"),
    ];
    assert_eq!(kinds, expected);
    let rows = [
        r#"{"id":1,"address":{"zip":"10115","city":"Berlin","more":{"b": 1.50}},"tags":["x","y"],"extra":[1, {"z":0,"a":1}]}"#,
        r#"{"id":2}"#,
    ];
    let evaluation = created(&mut engine, &rows).await;
    let row = |number: usize| kinds[1..].iter().map(move |(name, _)| (*name, number));
    let texts = |number: usize| -> Vec<Option<String>> {
        row(number)
            .filter(|(name, _)| *name != "homeless")
            .map(|(name, number)| text(&evaluation.latest, name, number))
            .collect()
    };
    let expected = [
        r#"{"zip":"10115","city":"Berlin","more":{"b": 1.50}}"#,
        "Berlin",
        r#"["x","y"]"#,
        "x",
        r#"[1, {"z":0,"a":1}]"#,
        r#"{"b": 1.50}"#,
    ];
    assert_eq!(texts(0), expected.map(|text| Some(text.to_owned())));
    assert_eq!(texts(1), [const { None }; 6]);
    // The zip of an address is never null, that of no address is.
    let homeless = evaluation.latest.column_by_name("homeless").unwrap().as_boolean();
    assert_eq!((homeless.value(0), homeless.value(1)), (false, true));
}

// Proves: P5, P6
#[tokio::test]
async fn a_value_that_the_json_column_would_change_refuses_its_event_alone() {
    let (_dir, mut engine) = engine().await;
    let rows = [r#"{"id":1,"extra":{"a":1.5}}"#, r#"{"id":2,"extra":{"a":1.0000000000000000000001}}"#, r#"{"id":3}"#];
    let evaluation = created(&mut engine, &rows).await;
    assert_eq!(refused(&evaluation), [1]);
    let refusal = &evaluation.refused[0];
    assert_eq!((refusal.stage, refusal.column.as_deref()), (Stage::Target, Some("extra")));
    assert_eq!(refusal.reason, "extra holds a number with more digits than MySQL's JSON keeps");
    // As text, which is what MariaDB makes of JSON, it fits.
    let mut target = engine.derive_target("t");
    target
        .columns
        .iter_mut()
        .filter(|column| column.holds == Holds::Json)
        .for_each(|column| column.holds = Holds::JsonText);
    engine.set_target(target).unwrap();
    assert_eq!(refused(&created(&mut engine, &rows).await), Vec::<i64>::new());
}
