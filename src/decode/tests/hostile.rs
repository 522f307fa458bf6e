//! Payloads made to hurt: what they cost, and that nothing but their own record suffers.

use std::time::{Duration, Instant};

use super::*;

/// Far above what any of them takes; what grows with the square of its length takes hours.
const BOUND: Duration = Duration::from_secs(30);
const TEN_MIB: usize = 10 << 20;

/// What a payload between two good ones comes to: whether it is refused. The others come through, and the memory held afterwards
/// is a small multiple of what came in.
fn defuse(what: &str, payload: &str) -> (bool, Decoded) {
    let started = Instant::now();
    let decoded = decode(&users(), &[GOOD.as_bytes(), payload.as_bytes(), GOOD.as_bytes()]);
    assert!(started.elapsed() < BOUND, "{what} took {:?}", started.elapsed());
    let held = decoded.events.get_array_memory_size() + decoded.salvage.get_array_memory_size();
    assert!(held < 4 * payload.len() + (1 << 20), "{what}: {held} bytes are held");
    let offsets = decoded.events.column_by_name("_offset").unwrap().as_primitive::<Int64Type>();
    assert_eq!((offsets.values().first(), offsets.values().last()), (Some(&0), Some(&2)), "{what}");
    assert!(decoded.refused.iter().all(|refusal| refusal.reason.len() < 300), "{what}: a reason is for people");
    assert!(decoded.unmapped.len() < 300, "{what}: names become labels");
    (!decoded.refused.is_empty(), decoded)
}

fn with(member: &str) -> String {
    format!(r#"{{"op":"c",{member},"after":{{"userId":"1"}},"timestamp":1}}"#)
}

// Proves: R36, P5
#[test]
fn depth_bombs_are_refused_without_recursion() {
    let levels = 100_000;
    let arrays = format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    let objects = format!("{}1{}", r#"{"a":"#.repeat(levels), "}".repeat(levels));
    for nested in [&arrays, &objects, &"[".repeat(levels), &r#"{"a":"#.repeat(levels)] {
        for payload in [
            nested.clone(),
            with(&format!(r#""x":{nested}"#)),
            with(&format!(r#""before":{nested}"#)),
            with(&format!(r#""before":{{"userId":{nested}}}"#)),
            with(&format!(r#""before":{{"x":{nested}}}"#)),
            format!(r#"{{"op":{nested},"after":{{"userId":"1"}},"timestamp":1}}"#),
            format!(r#"{{"op":"c","after":{{"userId":"1"}},"timestamp":{nested}}}"#),
        ] {
            let start: String = payload.chars().take(40).collect();
            let (refused, decoded) = defuse(&start, &payload);
            assert!(refused, "{start}");
            assert_eq!(images(&decoded.salvage), [json!([null, null, null])], "{start}: nobody is named");
        }
    }
}

// Proves: R36
#[test]
fn texts_of_ten_megabytes_are_read_or_refused_in_time() {
    let long = "x".repeat(TEN_MIB);
    let escapes = r"\u00e9".repeat(TEN_MIB / 6);
    for text in [&long, &escapes] {
        assert!(!defuse("an unknown field", &with(&format!(r#""x":"{text}""#))).0);
        assert!(!defuse("an unknown name", &with(&format!(r#""{text}":1"#))).0);
        assert!(
            !defuse("a name", &format!(r#"{{"op":"c","after":{{"userId":"1","name":"{text}"}},"timestamp":1}}"#)).0
        );
        assert!(defuse("an op", &format!(r#"{{"op":"{text}","after":{{"userId":"1"}},"timestamp":1}}"#)).0);
        assert!(defuse("a key", &format!(r#"{{"op":"x","after":{{"userId":"{text}"}},"timestamp":1}}"#)).0);
        assert!(defuse("a text cut off", &with(&format!(r#""x":"{text}"#)).replace(r#"","after"#, "")).0);
    }
    let digits = "9".repeat(TEN_MIB);
    assert!(!defuse("an unknown number", &with(&format!(r#""x":{digits}e{digits}"#))).0);
    assert!(defuse("a time", &format!(r#"{{"op":"c","after":{{"userId":"1"}},"timestamp":{digits}}}"#)).0);
    assert!(!defuse("white space", &format!("{}{GOOD}{}", " ".repeat(TEN_MIB), "\n".repeat(TEN_MIB))).0);
}

// Proves: R36
#[test]
fn a_million_members_are_read_or_refused_in_time() {
    let members = |name: fn(usize) -> String| (0..1_000_000).map(name).collect::<Vec<_>>().join(",");
    let different = members(|number| format!(r#""k{number}":{number}"#));
    let same = members(|_| r#""k":0"#.to_owned());
    let known = members(|_| r#""userId":"1""#.to_owned());
    for many in [&different, &same] {
        assert!(!defuse("members of the event", &with(many)).0);
        assert!(!defuse("of an image", &with(&format!(r#""before":{{"userId":"1",{many}}}"#))).0);
        assert!(!defuse("of an unknown object", &with(&format!(r#""x":{{{many}}}"#))).0);
        assert!(defuse("of a bad event", &with(&format!(r#"{many},"op":"x""#))).0);
        assert!(defuse("of a bad image", &with(&format!(r#""before":{{"userId":7,{many}}}"#))).0);
    }
    assert!(defuse("one field", &with(&format!(r#""before":{{{known}}}"#))).0);
}

// Proves: R40
#[test]
fn our_clock_has_no_say_where_a_record_has_a_timestamp() {
    let year_2200_ms = 7_258_118_400_000;
    let at = |kafka_ms: i64, event_ms: i64| {
        let payload = format!(r#"{{"op":"c","after":{{"userId":"1"}},"timestamp":{event_ms}}}"#);
        let raw = RawRecord { timestamp_ms: Some(kafka_ms), ..record(0, payload.as_bytes()) };
        decoder(&users()).decode([raw]).unwrap().refused.is_empty()
    };
    // Any clock says of both times that they are far ahead, or of both that they are long past.
    for kafka_ms in [0, 1_000_000_000_000, year_2200_ms] {
        assert!(at(kafka_ms, kafka_ms + 3_600_000), "{kafka_ms}");
        assert!(!at(kafka_ms, kafka_ms + 3_600_001), "{kafka_ms}");
    }
}
