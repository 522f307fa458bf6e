//! What becomes of a batch.

use super::*;
use crate::error::Kind;
use crate::target::Holds;
use crate::work::{Changes, Classes};

#[tokio::test]
async fn the_shipped_models_pass_the_check_and_give_the_documented_target() {
    let (engine, warnings) = prepare(&spec()).await.unwrap();
    assert_eq!(warnings, []);
    let target = engine.derive_target("enriched_user");
    let columns: Vec<&str> = target.columns.iter().map(|column| column.name.as_str()).collect();
    assert_eq!(columns, ["user_id", "name", "email", "country", "country_name", "region"]);
    assert_eq!((target.key_len, target.columns[0].nullable, target.columns[1].nullable), (1, false, true));
    assert_eq!(target.columns[1].holds, Holds::Text { max_chars: 255, max_bytes: 1020 });
}

#[tokio::test]
async fn the_newest_change_of_each_user_wins_whatever_its_place_in_the_batch() {
    let mut engine = shipped().await;
    let events = batch(&[
        upsert("b", Some("FR"), 5, 0),
        upsert("a", Some("DE"), 2, 1),
        upsert("a", Some("JP"), 1, 2),
        upsert("c", None, 3, 3),
        delete("b", 6, 4),
        delete("b", 4, 5),
    ]);
    let evaluation = World::default().run(&mut engine, events).await.unwrap();
    let rows: Vec<_> = (0..3).map(|row| (key_of(&evaluation.latest, row), image_of(&evaluation.latest, row))).collect();
    let version = |ts: i64, offset| Version { ts_ns: ts * 1_000_000_000, partition: 0, offset };
    assert_eq!(
        rows,
        [
            ("a".into(), (version(2, 1), Some("Name|-|DE|Germany|Europe".into()))),
            ("b".into(), (version(6, 4), None)),
            ("c".into(), (version(3, 3), Some("Name|-|-|-|-".into()))),
        ]
    );
    let sums = &evaluation.sums[0];
    assert_eq!(sums.classes, Classes { read: 6, accepted: 6, ..Classes::default() });
    assert_eq!(sums.changes, Changes { changes: 6, upserted: 2, deleted: 1, superseded: 3 });
    assert_eq!(sums.high_water_ns, Some(6_000_000_000));
}

#[tokio::test]
async fn a_batch_without_events_yields_no_rows() {
    let mut engine = shipped().await;
    let evaluation = World::default().run(&mut engine, batch(&[])).await.unwrap();
    assert_eq!(evaluation.latest, engine.no_rows().unwrap());
    assert_eq!(evaluation.sums, []);
}

#[tokio::test]
async fn a_change_of_key_deletes_the_old_and_writes_the_new() {
    let mut engine = shipped().await;
    let mut world = World::default();
    let events = batch(&[upsert("a", Some("DE"), 1, 0), rename("a", "b", Some("DE"), 2, 1)]);
    let evaluation = world.run(&mut engine, events).await.unwrap();
    assert_eq!(world.users(), ["b"]);
    assert_eq!(evaluation.sums[0].classes.accepted, 2);
    assert_eq!(evaluation.sums[0].changes, Changes { changes: 3, upserted: 1, deleted: 1, superseded: 1 });
}

#[tokio::test]
async fn a_failed_event_holds_its_user_and_nobody_else() {
    let mut engine = shipped().await;
    let mut world = World::default();
    let events = batch(&[
        upsert("a", Some("DE"), 1, 0),
        upsert("a", Some("XX"), 2, 1),
        upsert("b", Some("FR"), 3, 2),
        upsert("a", Some("DE"), 4, 3),
    ]);
    let evaluation = world.run(&mut engine, events).await.unwrap();
    assert_eq!((refused(&evaluation), held(&evaluation)), (vec![1], vec![3]));
    let why = &evaluation.refused[0];
    assert_eq!((why.stage, why.model.as_deref()), (Stage::Model, Some("enriched")));
    assert_eq!(why.keys, [key("[\"a\"]")]);
    assert_eq!(world.table["a"].0.offset, 0);
    // The hold outlives the batch, and a delete waits too.
    let evaluation = world.run(&mut engine, batch(&[delete("a", 5, 4), upsert("b", None, 5, 5)])).await.unwrap();
    assert_eq!((refused(&evaluation), held(&evaluation)), (vec![], vec![4]));
    assert_eq!(world.table["b"].0.offset, 5);
    let classes = evaluation.sums[0].classes;
    assert_eq!(classes, Classes { read: 2, held: 1, accepted: 1, ..Classes::default() });
}

#[tokio::test]
async fn a_change_of_key_carries_the_hold_to_the_other_user() {
    let mut engine = shipped().await;
    let mut world = World::default();
    let events = batch(&[
        upsert("b", Some("FR"), 1, 0),
        upsert("a", Some("XX"), 2, 1),
        rename("a", "b", Some("DE"), 3, 2),
        upsert("b", Some("JP"), 4, 3),
        upsert("c", Some("JP"), 4, 4),
    ]);
    let evaluation = world.run(&mut engine, events).await.unwrap();
    assert_eq!((refused(&evaluation), held(&evaluation)), (vec![1], vec![2, 3]));
    assert_eq!(evaluation.held[0].keys, [key("[\"b\"]"), key("[\"a\"]")]);
    assert_eq!(world.users(), ["b", "c"]);
    assert_eq!(world.table["b"].0.offset, 0);
}

#[tokio::test]
async fn a_change_of_key_that_fails_is_refused_whole() {
    let mut engine = shipped().await;
    let mut world = World::default();
    let events = batch(&[upsert("a", Some("FR"), 1, 0), rename("a", "b", Some("XX"), 2, 1), upsert("a", None, 3, 2)]);
    let evaluation = world.run(&mut engine, events).await.unwrap();
    assert_eq!((refused(&evaluation), held(&evaluation)), (vec![1], vec![2]));
    assert_eq!(world.users(), ["a"]);
}

#[tokio::test]
async fn holds_are_kept_per_partition() {
    let mut engine = shipped().await;
    let mut world = World::default();
    let elsewhere = Event { partition: 1, ..upsert("a", Some("JP"), 9, 0) };
    let evaluation = world.run(&mut engine, batch(&[upsert("a", Some("XX"), 1, 0), elsewhere])).await.unwrap();
    assert_eq!((refused(&evaluation), held(&evaluation)), (vec![0], vec![]));
    assert_eq!(world.users(), ["a"]);
    assert_eq!(evaluation.sums.iter().map(|sums| sums.partition).collect::<Vec<_>>(), [0, 1]);
}

#[tokio::test]
async fn under_skip_event_nobody_waits() {
    let (mut engine, _) = prepare(&ModelSpec { hold_keys: false, ..spec() }).await.unwrap();
    let mut world = World::default();
    let evaluation =
        world.run(&mut engine, batch(&[upsert("a", Some("XX"), 1, 0), upsert("a", Some("DE"), 2, 1)])).await.unwrap();
    assert_eq!((refused(&evaluation), held(&evaluation)), (vec![0], vec![]));
    let evaluation = world.run(&mut engine, batch(&[upsert("a", Some("FR"), 3, 2)])).await.unwrap();
    assert_eq!(evaluation.sums[0].classes.accepted, 1);
}

#[tokio::test]
async fn held_events_run_again_in_order_once_the_lookup_knows_their_country() {
    let mut engine = shipped().await;
    let mut world = World::default();
    let first = [upsert("a", Some("XX"), 1, 0), upsert("a", Some("DE"), 2, 1), upsert("a", Some("YY"), 3, 2)];
    world.run(&mut engine, batch(&first)).await.unwrap();
    assert_eq!(world.users(), Vec::<String>::new());
    let table = |codes: &[&str]| {
        let column = |values: Vec<&str>| Arc::new(StringArray::from(values)) as ArrayRef;
        let names = ["code", "name", "region"].map(|name| (name, column(codes.to_vec())));
        RecordBatch::try_from_iter(names).unwrap()
    };
    assert_eq!(engine.set_lookup("countries", table(&["DE", "XX"])), Ok(true));
    assert_eq!(engine.set_lookup("countries", table(&["DE", "XX"])), Ok(false));
    let rerun: HashSet<Position> = (0..3).map(|offset| Position { partition: 0, offset }).collect();
    let evaluation = world.run_with(&mut engine, batch(&first), &[], &[], &rerun).await.unwrap();
    // The third one is judged now, and fails by itself.
    assert_eq!((refused(&evaluation), held(&evaluation)), (vec![2], vec![]));
    assert_eq!(world.table["a"].0.offset, 1);
}

#[tokio::test]
async fn a_record_that_decode_refused_holds_the_users_it_names() {
    let mut engine = shipped().await;
    let mut world = World::default();
    let bad = Event { ts: 0, ..rename("a", "b", Some("DE"), 0, 1) };
    let nobody = Event { op: "d", before: None, after: None, ts: 0, partition: 0, offset: 3 };
    let events = batch(&[upsert("a", None, 1, 0), upsert("b", None, 2, 2), upsert("c", None, 2, 4)]);
    let bad = [(bad, "no timestamp"), (nobody, "not JSON")];
    let evaluation = world.run_with(&mut engine, events, &bad, &[], &HashSet::new()).await.unwrap();
    assert_eq!((refused(&evaluation), held(&evaluation)), (vec![1, 3], vec![2]));
    assert_eq!(evaluation.refused[0].keys, [key("[\"b\"]"), key("[\"a\"]")]);
    assert_eq!(evaluation.refused[1].keys, []);
    assert_eq!((evaluation.refused[0].stage, evaluation.refused[0].reason.as_str()), (Stage::Decode, "no timestamp"));
    let classes = evaluation.sums[0].classes;
    assert_eq!(classes, Classes { read: 5, refused: 2, held: 1, accepted: 2, ignored: 0 });
}

#[tokio::test]
async fn a_row_that_mysql_refused_is_refused_with_its_event() {
    let mut engine = shipped().await;
    let mut world = World::default();
    let events = batch(&[rename("a", "b", None, 1, 0), upsert("b", None, 2, 1), upsert("c", None, 3, 2)]);
    let forced = [refusal(0, 0, Stage::MySql, "1366")];
    let evaluation = world.run_with(&mut engine, events, &[], &forced, &HashSet::new()).await.unwrap();
    assert_eq!((refused(&evaluation), held(&evaluation)), (vec![0], vec![1]));
    assert_eq!(evaluation.refused[0].stage, Stage::MySql);
    assert_eq!(evaluation.refused[0].keys.len(), 2);
    assert_eq!(world.users(), ["c"]);
}

#[tokio::test]
async fn a_value_that_the_target_cannot_hold_refuses_its_event() {
    let mut engine = shipped().await;
    let mut target = engine.derive_target("enriched_user");
    for column in &mut target.columns {
        column.nullable = false;
        if column.name == "name" {
            column.holds = Holds::Text { max_chars: 3, max_bytes: 12 };
        }
    }
    target.columns[2].nullable = true;
    engine.set_target(target).unwrap();
    let named = |name, country, offset| {
        let after = Some([Some("a"), name, None, country]);
        Event { op: "c", before: None, after, ts: 1, partition: offset as i32, offset }
    };
    let events = batch(&[
        named(Some("Ann"), Some("DE"), 0),
        named(Some("Anna"), Some("DE"), 1),
        named(None, Some("DE"), 2),
        named(Some("Ann"), None, 3),
    ]);
    let evaluation = World::default().run(&mut engine, events).await.unwrap();
    let why: Vec<_> = evaluation.refused.iter().map(|it| (it.stage, it.column.as_deref().unwrap())).collect();
    assert_eq!(why, [(Stage::Target, "name"), (Stage::Target, "name"), (Stage::Target, "country")]);
    assert!(evaluation.refused[0].reason.contains("4 characters"), "{}", evaluation.refused[0].reason);
    assert!(!evaluation.refused.iter().any(|refusal| refusal.reason.contains("Anna")));
}

#[tokio::test]
async fn an_event_on_which_a_model_fails_is_found_and_refused_alone() {
    let (_dir, spec) = edited(&[(
        "changes",
        &sql("changes").replace("after.country AS country", "CAST(CAST(after.country AS INT) AS VARCHAR) AS country"),
    )]);
    let spec = ModelSpec { lookups: numbered(&spec), ..spec };
    let (mut engine, _) = prepare(&spec).await.unwrap();
    let mut world = World::default();
    let country = |offset: i64| if offset % 37 == 5 { Some("five") } else { Some("1") };
    let ids: Vec<&'static str> = vec!["a", "b", "c", "d", "e", "f", "g"];
    let events: Vec<Event> =
        (0..100).map(|offset| upsert(ids[offset as usize % 7], country(offset), offset, offset)).collect();
    let evaluation = world.run(&mut engine, batch(&events)).await.unwrap();
    // `changes` itself fails on them, so that nobody can tell whose they are and nobody waits.
    assert_eq!(refused(&evaluation), [5, 42, 79]);
    assert_eq!(held(&evaluation), Vec::<i64>::new());
    assert_eq!(evaluation.sums[0].classes.accepted, 97);
    let why = &evaluation.refused[0];
    assert_eq!((why.stage, why.model.as_deref()), (Stage::Model, Some("changes")));
    assert!(why.reason.contains("Cannot cast") && !why.reason.contains("five"), "{}", why.reason);
}

#[tokio::test]
async fn the_user_of_an_event_on_which_a_later_model_fails_waits() {
    let failing = sql("accepted")
        .replace("e.* EXCEPT (_error)", "e.* EXCEPT (_error, region), CAST(CAST(e.email AS INT) AS VARCHAR) AS region");
    let (_dir, spec) = edited(&[("accepted", &failing)]);
    let (mut engine, _) = prepare(&spec).await.unwrap();
    let mailed = |id, email, offset| Event {
        op: "c",
        before: None,
        after: Some([Some(id), None, Some(email), None]),
        ts: 1,
        partition: 0,
        offset,
    };
    let events = batch(&[mailed("a", "1", 0), mailed("b", "x", 1), mailed("b", "2", 2), mailed("c", "3", 3)]);
    let evaluation = World::default().run(&mut engine, events).await.unwrap();
    assert_eq!((refused(&evaluation), held(&evaluation)), (vec![1], vec![2]));
    assert_eq!(evaluation.refused[0].model.as_deref(), Some("accepted"));
    assert_eq!(evaluation.sums[0].classes.accepted, 2);
}

/// The lookup `countries` with numbers for codes.
fn numbered(spec: &ModelSpec) -> Vec<LookupSpec> {
    let column = |values: Vec<&str>| Arc::new(StringArray::from(values)) as ArrayRef;
    let rows = RecordBatch::try_from_iter([
        ("code", column(vec!["1"])),
        ("name", column(vec!["One"])),
        ("region", column(vec!["Numbers"])),
    ]);
    vec![LookupSpec { from: LookupFrom::Table(rows.unwrap()), ..spec.lookups[0].clone() }]
}

#[tokio::test]
async fn a_failure_that_no_single_event_explains_stops_the_pipeline() {
    // Fails for two events together and for neither alone.
    let failing = sql("latest")
        .replace("        *,\n", "        *, 10 / (1 + MIN(_offset) OVER () - MAX(_offset) OVER ()) AS apart,\n")
        .replace("newest = 1", "newest = 1 AND apart > 0");
    let (_dir, spec) = edited(&[("latest", &failing)]);
    let (mut engine, _) = prepare(&spec).await.unwrap();
    let mut world = World::default();
    world.run(&mut engine, batch(&[upsert("a", None, 1, 0)])).await.unwrap();
    let error = world.run(&mut engine, batch(&[upsert("a", None, 1, 1), upsert("b", None, 1, 2)])).await.unwrap_err();
    assert_eq!(error.kind, Kind::Model);
    assert!(error.what.starts_with("latest.sql fails: "), "{error}");
}

#[tokio::test]
async fn a_latest_that_does_not_hold_the_newest_is_caught() {
    // Written so that `check` doesn't see through it.
    let oldest = sql("latest").replace("ts DESC", "0 - CAST(ts AS BIGINT) DESC");
    let (_dir, spec) = edited(&[("latest", &oldest)]);
    let (mut engine, _) = prepare(&spec).await.unwrap();
    let events = batch(&[upsert("a", None, 1, 0), upsert("a", None, 2, 1)]);
    let error = World::default().run(&mut engine, events).await.unwrap_err();
    assert_eq!(error.kind, Kind::Model);
    assert!(
        error.what.contains("partition 0 offset 0, but the one with the greatest version is at partition 0 offset 1"),
        "{error}"
    );

    let fewer = sql("latest").replace("newest = 1", "newest = 1 AND user_id <> 'b'");
    let (_dir, spec) = edited(&[("latest", &fewer)]);
    let (mut engine, _) = prepare(&spec).await.unwrap();
    let events = batch(&[upsert("a", None, 1, 0), upsert("b", None, 2, 1)]);
    let error = World::default().run(&mut engine, events).await.unwrap_err();
    assert!(error.what.ends_with("it has 1 rows for 2 keys"), "{error}");
}

#[tokio::test]
async fn an_accepted_that_lets_a_waiting_user_through_is_caught() {
    let careless = sql("accepted").replace("h._since IS NULL OR", "h._since IS NULL OR true OR");
    let (_dir, spec) = edited(&[("accepted", &careless)]);
    let (mut engine, _) = prepare(&spec).await.unwrap();
    let events = batch(&[upsert("a", Some("XX"), 1, 0), upsert("a", None, 2, 1)]);
    let error = World::default().run(&mut engine, events).await.unwrap_err();
    assert_eq!(error.kind, Kind::Model);
    assert!(error.what.contains("refused or held, at partition 0 offset 1"), "{error}");
}

#[tokio::test]
async fn an_event_whose_rows_a_join_has_doubled_is_refused() {
    let doubling = sql("enriched").replace("ON l.code = c.country", "ON l.region = c.country");
    let (_dir, spec) = edited(&[("enriched", &doubling)]);
    let (mut engine, _) = prepare(&spec).await.unwrap();
    let events = batch(&[upsert("a", None, 1, 0), upsert("b", Some("Europe"), 2, 1), upsert("b", None, 3, 2)]);
    let evaluation = World::default().run(&mut engine, events).await.unwrap();
    assert_eq!((refused(&evaluation), held(&evaluation)), (vec![1], vec![2]));
    assert!(evaluation.refused[0].reason.contains("more than one row"));
}

#[tokio::test]
async fn an_event_that_the_models_leave_out_is_ignored_and_counted() {
    let choosy = format!("SELECT * FROM ({}) WHERE user_id <> 'a'", sql("changes"));
    let (_dir, spec) = edited(&[("changes", &choosy)]);
    let (mut engine, _) = prepare(&spec).await.unwrap();
    let events = batch(&[upsert("a", None, 1, 0), upsert("b", None, 2, 1)]);
    let evaluation = World::default().run(&mut engine, events).await.unwrap();
    assert_eq!(evaluation.sums[0].classes, Classes { read: 2, ignored: 1, accepted: 1, ..Classes::default() });
}

// Proves: P1
#[tokio::test]
async fn a_latest_with_one_key_twice_and_another_not_at_all_is_refused() {
    let newest = sql("latest").replace("WHERE newest = 1", "WHERE newest = 1 AND user_id = 'a'");
    let newest: String = newest.lines().filter(|line| !line.starts_with("--")).map(|line| format!("{line} ")).collect();
    let twice = format!("{newest} UNION ALL {newest}");
    let (_dir, spec) = edited(&[("latest", &twice)]);
    let (mut engine, _) = prepare(&spec).await.unwrap();
    let events = batch(&[upsert("a", None, 1, 0), upsert("b", None, 2, 1)]);
    let error = World::default().run(&mut engine, events).await.unwrap_err();
    assert_eq!(error.kind, Kind::Model);
    assert!(error.to_string().contains("it holds a key twice"), "{error}");
}

#[tokio::test]
async fn by_arrival_the_last_event_wins_and_nothing_is_late() {
    let arrival = sql("latest").replace("ts DESC, ", "");
    let (_dir, spec) = edited(&[("latest", &arrival)]);
    let (mut engine, _) = prepare(&ModelSpec { version: VersionBy::Arrival, ..spec }).await.unwrap();
    let mut world = World::default();
    let evaluation = world.run(&mut engine, batch(&[upsert("a", None, 9, 0), upsert("a", None, 1, 1)])).await.unwrap();
    assert_eq!(world.table["a"].0, Version { ts_ns: 0, partition: 0, offset: 1 });
    assert_eq!((evaluation.suspects.as_slice(), evaluation.sums[0].high_water_ns), (&[][..], None));
}

#[tokio::test]
async fn late_events_are_found_in_a_batch_and_across_batches() {
    let mut engine = shipped().await;
    let mut world = World::default();
    let ts = |seconds: i64| seconds * 1_000_000_000;
    let events = batch(&[
        upsert("a", None, 5, 0),
        upsert("b", None, 9, 1),
        upsert("a", None, 3, 2),
        upsert("a", None, 5, 3),
        upsert("c", None, 1, 4),
    ]);
    let evaluation = world.run(&mut engine, events).await.unwrap();
    // Users a and c may be late by the partition's clock; only a is.
    assert_eq!(evaluation.suspects, [0, 2]);
    let late = |partition, offset, seconds: i64, user: &str, known: Version| OutOfOrder {
        position: Position { partition, offset },
        key: key(&format!("[\"{user}\"]")),
        ts_ns: ts(seconds),
        known,
    };
    let version = |seconds: i64, offset| Version { ts_ns: ts(seconds), partition: 0, offset };
    assert_eq!(world.evidence, [late(0, 2, 3, "a", version(5, 0))]);
    world.evidence.clear();
    let events =
        batch(&[upsert("b", None, 8, 5), upsert("a", None, 4, 6), upsert("a", None, 20, 7), delete("a", 19, 8)]);
    let evaluation = world.run(&mut engine, events).await.unwrap();
    assert_eq!(
        world.evidence,
        [late(0, 5, 8, "b", version(9, 1)), late(0, 6, 4, "a", version(5, 3)), late(0, 8, 19, "a", version(20, 7)),]
    );
    // Asking again for the same batch gives the same answer, even when the engine has gone on to another one.
    let suspicion = &evaluation.suspicion;
    let next = batch(&[upsert("a", Some("DE"), 30, 9), upsert("z", None, 2, 10), upsert("z", None, 1, 11)]);
    for next in [None, Some(next)] {
        if let Some(events) = next {
            World::default().run(&mut engine, events).await.unwrap();
        }
        let again = engine.evidence(suspicion, &[(0, Some(version(5, 3)))]).await.unwrap();
        assert_eq!(again, world.evidence[1..]);
        assert_eq!(engine.evidence(suspicion, &[(0, None)]).await.unwrap(), [late(0, 8, 19, "a", version(20, 7))]);
    }
}

#[tokio::test]
async fn asking_what_was_late_in_one_batch_leaves_the_others_as_they_are() {
    let batches = [
        batch(&[upsert("a", None, 5, 0), upsert("b", None, 9, 1), upsert("a", None, 3, 2)]),
        batch(&[upsert("b", Some("DE"), 2, 3), upsert("c", Some("XX"), 8, 4), upsert("b", None, 1, 5)]),
        batch(&[delete("a", 1, 6), upsert("c", Some("FR"), 9, 7), upsert("d", None, 4, 8)]),
    ];
    let input = |events: &RecordBatch, holds, rerun, high_water_ns| Input {
        events: events.clone(),
        salvage: batch(&[]),
        decode_refused: &[],
        ignored: &[],
        forced: &[],
        holds,
        rerun,
        high_water_ns,
        partitions: &[],
    };
    let (holds, rerun, high_water_ns) = (HoldSet::default(), HashSet::new(), BTreeMap::from([(0, 6_000_000_000)]));
    let (mut ahead, mut in_turn) = (shipped().await, shipped().await);
    let mut evaluated = Vec::new();
    for events in &batches {
        evaluated.push(ahead.evaluate(input(events, &holds, &rerun, &high_water_ns)).await.unwrap());
    }
    for (events, early) in batches.iter().zip(&evaluated).rev() {
        let evaluation = in_turn.evaluate(input(events, &holds, &rerun, &high_water_ns)).await.unwrap();
        let known: Vec<_> = evaluation.suspects.iter().map(|row| (*row, None)).collect();
        assert!(!known.is_empty());
        let expected = in_turn.evidence(&evaluation.suspicion, &known).await.unwrap();
        assert_eq!(ahead.evidence(&early.suspicion, &known).await.unwrap(), expected);
        assert_eq!((&early.latest, &early.refused), (&evaluation.latest, &evaluation.refused));
    }
}

#[tokio::test]
async fn figures_are_named_as_the_model_names_them() {
    let mut engine = shipped().await;
    let events = batch(&[upsert("a", Some("DE"), 1, 0), upsert("b", None, 1, 1), delete("c", 1, 2)]);
    let metrics = World::default().run(&mut engine, events).await.unwrap().metrics;
    let figures = serde_json::json!(
        {"users_written": 2, "users_deleted": 1, "users_without_country": 1, "countries_seen": 1}
    );
    assert_eq!(serde_json::Value::Object(metrics), figures);
}

#[tokio::test]
async fn a_failing_metrics_model_harms_nothing() {
    let (_dir, spec) = edited(&[("metrics", "SELECT CAST(MAX(user_id) AS INT) AS broken FROM enriched")]);
    let (mut engine, _) = prepare(&spec).await.unwrap();
    let evaluation = World::default().run(&mut engine, batch(&[upsert("a", None, 1, 0)])).await.unwrap();
    assert!(evaluation.metrics.is_empty());
    assert_eq!(evaluation.sums[0].changes.upserted, 1);
}
