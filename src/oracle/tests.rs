use super::*;

const T: i64 = 1_700_000_000_000;
const NS: i64 = 1_000_000;

fn settings() -> Settings {
    let country = |code: &str, name: &str, region: &str| (code.to_owned(), (name.to_owned(), region.to_owned()));
    Settings::users(BTreeMap::from([country("DE", "Germany", "Europe"), country("JP", "Japan", "Asia")]))
}

/// A topic written down: each payload at the next offset of partition 0, all records with a Kafka timestamp of T + 1 s.
fn run(settings: Settings, payloads: &[&str]) -> Expected {
    let values: Vec<Option<&[u8]>> = payloads.iter().map(|payload| Some(payload.as_bytes())).collect();
    run_values(settings, &values)
}

fn run_values(settings: Settings, values: &[Option<&[u8]>]) -> Expected {
    let records = values.iter().zip(0..).map(|(value, offset)| RawRecord {
        partition: 0,
        offset,
        timestamp_ms: Some(T + 1000),
        key: None,
        value: *value,
        headers: b"",
    });
    fold(settings, records)
}

fn create(user: &str, name: &str, country: &str, at: i64) -> String {
    format!(
        r#"{{"op":"c","before":null,"after":{{"userId":"{user}","name":"{name}","country":"{country}"}},"timestamp":{}}}"#,
        T + at
    )
}

fn update(old: &str, new: &str, name: &str, at: i64) -> String {
    format!(
        r#"{{"op":"u","before":{{"userId":"{old}"}},"after":{{"userId":"{new}","name":"{name}"}},"timestamp":{}}}"#,
        T + at
    )
}

fn delete(user: &str, at: i64) -> String {
    format!(r#"{{"op":"d","before":{{"userId":"{user}"}},"after":null,"timestamp":{}}}"#, T + at)
}

fn names(expected: &Expected) -> Vec<(&str, &str)> {
    expected.rows.iter().map(|(user, row)| (user.as_str(), row.name.as_deref().unwrap_or("-"))).collect()
}

fn quarantine(expected: &Expected) -> Vec<(i64, &str, &str)> {
    let quarantine = expected.quarantine.iter();
    quarantine.map(|(place, record)| (place.1, record.state.as_str(), record.stage.as_deref().unwrap_or("-"))).collect()
}

fn sums(read: u64, ignored: u64, refused: u64, held: u64, accepted: u64, changes: u64) -> Sums {
    Sums { read, ignored, refused, held, accepted, changes }
}

#[test]
fn a_create_is_enriched_and_carries_its_version() {
    let expected = run(settings(), &[&create("1", "Alice", "DE", 5)]);
    let row = Row {
        name: Some("Alice".into()),
        email: None,
        country: Some("DE".into()),
        country_name: Some("Germany".into()),
        region: Some("Europe".into()),
        cdc_ts: (T + 5) * NS,
        cdc_partition: 0,
        cdc_offset: 0,
    };
    assert_eq!(expected.rows, BTreeMap::from([("1".to_owned(), row)]));
    assert_eq!(expected.sums, BTreeMap::from([(0, sums(1, 0, 0, 0, 1, 1))]));
    assert_eq!(expected.next_offset, BTreeMap::from([(0, 1)]));
}

#[test]
fn the_greatest_event_time_wins_and_at_equal_times_the_later_offset() {
    let expected = run(
        settings(),
        &[
            &create("1", "first", "DE", 10),
            &update("1", "1", "older", 5),
            &create("2", "first", "DE", 10),
            &update("2", "2", "same time", 10),
        ],
    );
    assert_eq!(names(&expected), [("1", "first"), ("2", "same time")]);
    let late = Late { ts_ns: (T + 5) * NS, known_ns: (T + 10) * NS };
    assert_eq!(expected.out_of_order, BTreeMap::from([((0, 1, "1".to_owned()), late)]));
}

#[test]
fn a_late_update_does_not_bring_a_deleted_user_back_but_a_newer_one_does() {
    let late = run(settings(), &[&create("1", "a", "DE", 1), &delete("1", 9), &update("1", "1", "late", 5)]);
    assert_eq!(names(&late), []);
    assert_eq!(late.standing_tombstones(), BTreeMap::from([("1".to_owned(), ((T + 9) * NS, 0, 1))]));
    assert_eq!(late.sums[&0], sums(3, 0, 0, 0, 3, 3));

    let newer = run(settings(), &[&create("1", "a", "DE", 1), &delete("1", 9), &create("1", "again", "JP", 10)]);
    assert_eq!(names(&newer), [("1", "again")]);
    assert_eq!(newer.standing_tombstones(), BTreeMap::new());
    assert_eq!(newer.tombstones.len(), 1);
}

#[test]
fn an_old_delete_leaves_a_newer_row_alone() {
    let expected = run(settings(), &[&create("1", "a", "DE", 9), &delete("1", 5)]);
    assert_eq!(names(&expected), [("1", "a")]);
    assert_eq!(expected.out_of_order.len(), 1);
}

#[test]
fn a_change_of_key_is_a_delete_and_an_upsert_with_one_version() {
    let expected = run(settings(), &[&create("1", "a", "DE", 1), &update("1", "2", "moved", 7)]);
    assert_eq!(names(&expected), [("2", "moved")]);
    assert_eq!(expected.rows["2"].version(), ((T + 7) * NS, 0, 1));
    assert_eq!(expected.tombstones, BTreeMap::from([("1".to_owned(), ((T + 7) * NS, 0, 1))]));
    assert_eq!(expected.sums[&0], sums(2, 0, 0, 0, 2, 3));
}

#[test]
fn a_refused_event_holds_its_user_and_nobody_else() {
    let payloads =
        [&create("1", "a", "XX", 1), &update("1", "1", "waits", 2), &create("2", "flows", "JP", 3), &delete("1", 4)];
    let expected = run(settings(), &payloads.map(String::as_str));
    assert_eq!(names(&expected), [("2", "flows")]);
    assert_eq!(quarantine(&expected), [(0, "refused", "model"), (1, "held", "-"), (3, "held", "-")]);
    assert_eq!(expected.sums[&0], sums(4, 0, 1, 2, 1, 1));

    let skipping = run(Settings { hold: false, ..settings() }, &payloads.map(String::as_str));
    assert_eq!(quarantine(&skipping), [(0, "refused", "model")]);
    assert_eq!(skipping.sums[&0], sums(4, 0, 1, 0, 3, 3));
}

#[test]
fn a_change_of_key_waits_for_either_user_and_holds_both() {
    let expected = run(
        settings(),
        &[
            &create("1", "a", "XX", 1),
            &create("2", "b", "DE", 2),
            &update("2", "1", "onto the held one", 3),
            &update("2", "2", "held by the change of key", 4),
            &create("3", "c", "DE", 5),
        ],
    );
    assert_eq!(names(&expected), [("2", "b"), ("3", "c")]);
    assert_eq!(quarantine(&expected), [(0, "refused", "model"), (2, "held", "-"), (3, "held", "-")]);
    let both = BTreeSet::from(["1".to_owned(), "2".to_owned()]);
    assert_eq!(expected.quarantine[&(0, 2)].users, both);
}

#[test]
fn waiting_goes_before_failing() {
    let broken = r#"{"op":"x","before":null,"after":{"userId":"1"},"timestamp":1}"#;
    let expected = run(settings(), &[&create("1", "a", "XX", 1), broken, &create("1", "b", "XX", 2)]);
    assert_eq!(quarantine(&expected), [(0, "refused", "model"), (1, "held", "-"), (2, "held", "-")]);
}

#[test]
fn a_hold_ends_at_its_partition_and_with_a_discard() {
    let (bad, good) = (create("1", "a", "XX", 1), create("1", "b", "DE", 2));
    let record = |partition, offset, value: &'static str| RawRecord {
        partition,
        offset,
        timestamp_ms: Some(T),
        key: None,
        value: Some(value.as_bytes()),
        headers: b"",
    };
    let (bad, good): (&'static str, &'static str) = (bad.leak(), good.leak());
    let elsewhere = fold(settings(), [record(0, 0, bad), record(1, 0, good)]);
    assert_eq!(names(&elsewhere), [("1", "b")]);

    let discarded = Settings { discarded: BTreeSet::from([(0, 0)]), ..settings() };
    let discarded = fold(discarded, [record(0, 0, bad), record(0, 1, good)]);
    assert_eq!(names(&discarded), [("1", "b")]);
    assert_eq!(quarantine(&discarded), [(0, "refused", "model")]);
}

#[test]
fn a_missing_country_is_fine_and_a_long_text_is_not() {
    let long = "é".repeat(256);
    let fits = "é".repeat(255);
    let expected = run(
        settings(),
        &[&update("1", "1", &fits, 1), &update("2", "2", &long, 1), &delete("3", 1), &update(&long, "4", "key", 1)],
    );
    assert_eq!(names(&expected), [("1", fits.as_str())]);
    assert_eq!(expected.rows["1"].country_name, None);
    assert_eq!(quarantine(&expected), [(1, "refused", "target"), (3, "refused", "target")]);
}

#[test]
fn null_values_are_ignored_and_empty_ones_refused() {
    let expected = run_values(settings(), &[None, Some(b"")]);
    assert_eq!(quarantine(&expected), [(1, "refused", "decode")]);
    assert_eq!(expected.sums[&0], sums(2, 1, 1, 0, 0, 0));
}

#[test]
fn arrival_orders_by_offset_and_finds_nothing_out_of_order() {
    let arrival = Settings { arrival: true, ..settings() };
    let expected = run(arrival, &[&create("1", "first", "DE", 10), &update("1", "1", "second", 5)]);
    assert_eq!(names(&expected), [("1", "second")]);
    assert_eq!(expected.rows["1"].version(), (0, 0, 1));
    assert_eq!(expected.out_of_order, BTreeMap::new());
}

#[test]
fn the_future_begins_after_the_allowed_skew() {
    // Kafka's timestamp is T + 1 s, the skew one hour.
    let edge = 1000 + 3_600_000;
    let expected = run(settings(), &[&create("1", "a", "DE", edge), &create("2", "b", "DE", edge + 1)]);
    assert_eq!(names(&expected), [("1", "a")]);
    assert_eq!(quarantine(&expected), [(1, "refused", "decode")]);
    assert_eq!(expected.quarantine[&(0, 1)].users, BTreeSet::from(["2".to_owned()]));
}

#[test]
fn each_kind_of_bad_payload_is_refused_and_names_the_users_that_can_be_read() {
    let deep =
        format!(r#"{{"op":"u","after":{{"userId":"1"}},"timestamp":1,"x":{}1{}}}"#, "[".repeat(200), "]".repeat(200));
    let cases: &[(&str, &[&str])] = &[
        ("", &[]),
        ("garbage", &[]),
        ("null", &[]),
        ("[1]", &[]),
        ("42", &[]),
        (r#"{"op":"u","after":{"userId":"1"},"timestamp":1"#, &[]),
        (r#"{"op":"u","after":{"userId":"1"},"timestamp":1} {}"#, &[]),
        (&deep, &[]),
        (r#"{"op":"t","after":{"userId":"1"},"timestamp":1}"#, &["1"]),
        (r#"{"after":{"userId":"1"},"timestamp":1}"#, &["1"]),
        (r#"{"op":"u","before":{"userId":"1"},"after":null,"timestamp":1}"#, &["1"]),
        (r#"{"op":"d","before":null,"after":{"userId":"1"},"timestamp":1}"#, &["1"]),
        (r#"{"op":"u","before":{"userId":"1"},"after":{"name":"x"},"timestamp":1}"#, &["1"]),
        (r#"{"op":"u","after":{"userId":null},"timestamp":1}"#, &[]),
        (r#"{"op":"u","after":{"userId":7},"timestamp":1}"#, &[]),
        (r#"{"op":"u","before":{"userId":"1"},"after":{"userId":"2","name":7},"timestamp":1}"#, &["1", "2"]),
        (r#"{"op":"c","before":{"userId":"1"},"after":{"userId":"2","name":7},"timestamp":1}"#, &["2"]),
        (r#"{"op":"d","before":{"userId":"1"},"after":{"userId":"2"}}"#, &["1"]),
        (r#"{"op":"u","after":{"userId":"1"}}"#, &["1"]),
        (r#"{"op":"u","after":{"userId":"1"},"timestamp":null}"#, &["1"]),
        (r#"{"op":"u","after":{"userId":"1"},"timestamp":"1"}"#, &["1"]),
        (r#"{"op":"u","after":{"userId":"1"},"timestamp":1.5}"#, &["1"]),
        (r#"{"op":"u","after":{"userId":"1"},"timestamp":9223372036855}"#, &["1"]),
        (r#"{"op":"u","op":"u","after":{"userId":"1"},"timestamp":1}"#, &["1"]),
        (r#"{"op":"u","after":{"userId":"1","name":"a","name":"b"},"timestamp":1}"#, &["1"]),
        (r#"{"op":"u","after":"1","timestamp":1}"#, &[]),
    ];
    for (payload, users) in cases {
        let expected = run(settings(), &[payload]);
        assert_eq!(quarantine(&expected), [(0, "refused", "decode")], "{payload}");
        let users: BTreeSet<String> = users.iter().map(|user| (*user).to_owned()).collect();
        assert_eq!(expected.quarantine[&(0, 0)].users, users, "{payload}");
    }
}

#[test]
fn unknown_fields_do_no_harm_even_twice() {
    let payload =
        r#"{"op":"u","after":{"userId":"1","new":{"userId":"9"},"new":2},"timestamp":1,"source":{},"source":1}"#;
    let expected = run(settings(), &[payload]);
    assert_eq!(names(&expected), [("1", "-")]);
}

#[test]
fn whatever_is_json_may_stand_in_a_field_that_no_schema_knows() {
    for value in [r#""\ud83d""#, "1e999", "-0", r#"{"\ud83d":1}"#, "[[[]]]"] {
        let payload = format!(r#"{{"op":"u","x":{value},"after":{{"userId":"1","y":{value}}},"timestamp":1}}"#);
        assert_eq!(names(&run(settings(), &[&payload])), [("1", "-")], "{value}");
    }
    let nameless = r#"{"op":"u","\ud83d":1,"after":{"userId":"1"},"timestamp":1}"#;
    assert_eq!(quarantine(&run(settings(), &[nameless])), [(0, "refused", "decode")], "it couldn't be counted by name");
}

#[test]
fn a_text_that_is_none_leaves_the_user_readable() {
    let payload = r#"{"op":"u","after":{"userId":"1","name":"\ud83d"},"timestamp":1}"#;
    let expected = run(settings(), &[payload]);
    assert_eq!(expected.quarantine[&(0, 0)].users, BTreeSet::from(["1".to_owned()]));
}

#[test]
fn folding_up_to_offsets_leaves_out_what_comes_after_them() {
    let (first, second) = (create("1", "a", "DE", 1), delete("1", 2));
    let record = |partition, offset, value| RawRecord {
        partition,
        offset,
        timestamp_ms: None,
        key: None,
        value: Some(value),
        headers: b"",
    };
    let records = [record(0, 0, first.as_bytes()), record(0, 1, second.as_bytes()), record(1, 0, second.as_bytes())];
    let expected = fold_until(settings(), records, &BTreeMap::from([(0, 1)]));
    assert_eq!(names(&expected), [("1", "a")]);
    assert_eq!(expected.next_offset, BTreeMap::from([(0, 1)]));
}

#[test]
fn differences_name_what_is_missing_unexpected_and_different() {
    let expected =
        run(settings(), &[&create("1", "a", "DE", 1), &create("2", "b", "DE", 1), &create("3", "c", "DE", 1)]);
    let mut found = expected.rows.clone();
    assert_eq!(differences("row", &expected.rows, &found, 10), Vec::<String>::new());
    found.remove("1");
    found.insert("9".to_owned(), Row::default());
    found.get_mut("2").unwrap().name = None;
    let lines = differences("row", &expected.rows, &found, 10);
    assert_eq!(lines.len(), 3);
    assert!(lines[0].starts_with(r#"row "1": missing, expected name Some("a")"#), "{lines:?}");
    assert_eq!(lines[1], r#"row "2": name: expected Some("b"), found None"#);
    assert!(lines[2].starts_with(r#"row "9": unexpected, found name None"#), "{lines:?}");
    assert_eq!(differences("row", &expected.rows, &found, 1).last().unwrap(), "row: 2 more differences");
}
