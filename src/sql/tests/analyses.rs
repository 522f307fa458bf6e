//! What only looks right: joins, orders and comparisons that would go wrong with some batch.

use super::checks::{faults, line, one, place};
use super::*;
use crate::diagnostic::Severity;

const KEYED: &str = "LEFT JOIN countries l ON l.code = c.country";

#[tokio::test]
async fn a_join_without_a_condition_is_refused_however_it_is_written() {
    for to in [
        "CROSS JOIN countries l",
        "JOIN countries l ON true",
        "LEFT JOIN countries l ON 1 = 1",
        "LEFT JOIN countries l ON c.country = 'DE'",
        ", countries l",
        "LEFT JOIN countries l ON l.region = 'Europe'",
    ] {
        let found = one("enriched", KEYED, to).await;
        let place = place("enriched", KEYED, to, "countries l");
        let expected = format!("AI0130 enriched.sql:{place} no condition connects countries");
        assert!(found.starts_with(&expected), "{to}: {found}");
    }
}

#[tokio::test]
async fn joins_that_cannot_multiply_rows_may_have_no_condition() {
    for to in [
        "CROSS JOIN (SELECT MIN(code) AS code, MIN(name) AS name, MIN(region) AS region FROM countries) l",
        "LEFT JOIN countries l ON l.code = 'DE'",
        ", countries l WHERE l.code = c.country",
        "LEFT JOIN countries l ON l.code = upper(c.country)",
        "LEFT JOIN (SELECT code, name, region FROM countries WHERE region = 'Europe') l ON l.code = c.country",
        "LEFT JOIN (SELECT code AS k, code, name, region FROM countries) l ON l.k = c.country",
    ] {
        let found = faults(&[("enriched", &sql("enriched").replace(KEYED, to))]).await;
        assert_eq!(found, Vec::<String>::new(), "{to}");
    }
}

#[tokio::test]
async fn a_lookup_that_is_not_joined_by_its_key_is_warned_about() {
    for (to, text) in [
        ("LEFT JOIN countries l ON l.name = c.country", "doesn't say what its key code equals"),
        ("LEFT JOIN countries l ON lower(l.code) = lower(c.country)", "compares lower(l.code) instead of the key code"),
        ("LEFT JOIN countries l ON c.country LIKE l.code || '%'", "doesn't say what its key code equals"),
        ("LEFT JOIN countries l ON TRY_CAST(l.code AS INT) = length(c.country)", "instead of the key code"),
    ] {
        let found = one("enriched", KEYED, to).await;
        let place = place("enriched", KEYED, to, "countries l");
        assert!(found.starts_with(&format!("AI0131 enriched.sql:{place} ")) && found.contains(text), "{to}: {found}");
    }
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), "it.csv", "code,name,region\nDE,Germany,Europe\nDE,Deutschland,Europa\n");
    let key = vec!["code".into(), "name".into()];
    let lookups = vec![LookupSpec { name: "countries".into(), key, from: LookupFrom::File(file) }];
    let (_, warnings) = prepare(&ModelSpec { lookups, ..spec() }).await.unwrap();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(line(&warnings[0]).contains("doesn't say what its key name equals"), "{}", line(&warnings[0]));
}

#[tokio::test]
async fn a_key_of_another_type_is_named_with_the_side_to_cast() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), "it.ndjson", "{\"code\":1,\"name\":\"a\",\"region\":\"b\"}\n");
    let lookups = vec![LookupSpec { from: LookupFrom::File(file), ..spec().lookups[0].clone() }];
    let (_, warnings) = prepare(&ModelSpec { lookups, ..spec() }).await.unwrap();
    let found: Vec<String> = warnings.iter().map(line).collect();
    assert!(found.iter().any(|fault| fault.starts_with("AI0135 enriched.sql:27:")), "{found:?}");
    assert!(found.len() <= 2, "{found:?}");
}

#[tokio::test]
async fn no_event_may_look_at_another_one_up_to_accepted() {
    let held = "  AND (h._since IS NULL OR e._offset < h._since)";
    let exists = "AND EXISTS (SELECT 1 FROM enriched o WHERE o.user_id = e.user_id AND o._error IS NOT NULL)";
    let same = "AND EXISTS (SELECT 1 FROM enriched o WHERE o._partition = e._partition AND o._offset = e._offset)";
    for (model, from, to) in [
        ("accepted", held, format!("{held}\n{exists}")),
        (
            "accepted",
            held,
            format!("{held}\nAND e.user_id NOT IN (SELECT o.user_id FROM enriched o WHERE o._error IS NOT NULL)"),
        ),
        ("accepted", held, format!("{held}\nAND e.ts >= (SELECT o.ts FROM enriched o)")),
        ("enriched", "FROM changes c", "FROM changes c JOIN changes o ON o.user_id = c.user_id".to_owned()),
        ("enriched", "l.region AS region", "(SELECT string_agg(o.name, ',') FROM changes o) AS region".to_owned()),
        (
            "enriched",
            "l.region AS region",
            "lag(c.name) OVER (PARTITION BY c.user_id ORDER BY c.ts) AS region".to_owned(),
        ),
        (
            "latest",
            "country_name, region,",
            "country_name, MAX(region) OVER (PARTITION BY user_id) AS region,".to_owned(),
        ),
    ] {
        let found = one(model, from, &to).await;
        assert!(found.starts_with(&format!("AI0119 {model}.sql:")), "{to}: {found}");
    }
    for text in [
        "SELECT DISTINCT user_id, name, email, country, _deleted, ts FROM raw",
        "SELECT user_id, name FROM raw UNION SELECT user_id, email FROM raw",
        "SELECT user_id, name FROM raw EXCEPT SELECT user_id, email FROM raw",
        "SELECT user_id, name FROM raw INTERSECT SELECT user_id, email FROM raw",
    ] {
        let changes = "SELECT r.* FROM raw r LEFT JOIN (SELECT 1 AS one) o ON true WHERE EXISTS (SELECT 1 FROM odd)";
        let found = faults(&[("raw", &sql("changes")), ("odd", text), ("changes", changes)]).await;
        assert!(found.iter().any(|fault| fault.starts_with("AI0119 odd.sql:1:")), "{text}: {found:#?}");
    }
    let same = sql("accepted").replace(held, &format!("{held}\n{same}"));
    assert_eq!(faults(&[("accepted", &same)]).await, Vec::<String>::new());
    let distinct =
        sql("changes").replacen("SELECT\n    after", "SELECT DISTINCT\n    after", 1).replace("UNION ALL", "UNION");
    assert_eq!(faults(&[("changes", &distinct)]).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_window_over_rows_that_a_lookup_was_joined_to_keeps_its_order() {
    // The rows are sorted below the join, which passes them on as they come.
    let per_event = "MAX(c.name) OVER (PARTITION BY c._partition, c._offset ORDER BY c.ts, c.user_id) AS region";
    let files = [("enriched", &*sql("enriched").replace("l.region AS region", per_event))];
    assert_eq!(faults(&files).await, Vec::<String>::new());
    let (_dir, spec) = edited(&files);
    let (mut engine, _) = prepare(&spec).await.unwrap();
    let mut world = World::default();
    world.run(&mut engine, batch(&[upsert("b", Some("DE"), 2, 0), upsert("a", None, 1, 1)])).await.unwrap();
    assert_eq!(world.table["b"].1.as_deref(), Some("Name|-|DE|Germany|Name"));
}

#[tokio::test]
async fn a_latest_that_keeps_more_than_one_row_of_a_key_is_refused() {
    let picking = "PARTITION BY user_id\n";
    for (from, to, text) in [
        ("\nWHERE newest = 1", "", "no condition takes the first"),
        ("newest = 1", "newest <= 2", "doesn't take exactly the first row"),
        ("newest = 1", "newest = 2", "doesn't take exactly the first row"),
        (
            picking,
            "PARTITION BY user_id, country\n",
            "numbers rows per (user_id, country), the key of the pipeline is (user_id)",
        ),
        (picking, "PARTITION BY name\n", "numbers rows per (name)"),
        (picking, "PARTITION BY lower(user_id)\n", "numbers rows per (lower(accepted.user_id))"),
        (picking, "\n", "numbers rows over all rows"),
    ] {
        let found = one("latest", from, to).await;
        assert!(found.starts_with("AI0132 latest.sql:") && found.contains(text), "{to}: {found}");
    }
    let found = faults(&[("latest", "SELECT user_id, name, _deleted, ts, _partition, _offset FROM accepted")]).await;
    assert!(found.len() == 1 && found[0].starts_with("AI0132 latest.sql latest keeps every accepted row"), "{found:?}");
}

#[tokio::test]
async fn an_order_that_is_not_the_versions_is_refused_and_one_that_leaves_ties_is_warned_about() {
    let order = "ORDER BY ts DESC, _partition DESC, _offset DESC";
    for (to, text) in [
        ("ORDER BY ts, _partition, _offset", "ts is ordered upwards"),
        ("ORDER BY ts DESC, _partition DESC, _offset ASC", "_offset is ordered upwards"),
        ("ORDER BY _partition DESC, _offset DESC", "version = \"event_time\" decides by ts first"),
        ("ORDER BY name DESC", "orders by name first"),
        ("", "its rows have no order"),
    ] {
        let found = one("latest", order, to).await;
        assert!(found.starts_with("AI0133 latest.sql:") && found.contains(text), "{to}: {found}");
    }
    for to in ["ORDER BY ts DESC", "ORDER BY ts DESC, _offset DESC", "ORDER BY ts DESC, _partition DESC"] {
        let (_dir, spec) = edited(&[("latest", &sql("latest").replace(order, to))]);
        let (_, warnings) = prepare(&spec).await.unwrap();
        assert!(warnings.len() == 1 && line(&warnings[0]).starts_with("AI0134 latest.sql:"), "{to}: {warnings:?}");
    }
    let arrival = ModelSpec { version: VersionBy::Arrival, ..spec() };
    let found: Vec<String> = prepare(&arrival).await.unwrap_err().iter().map(line).collect();
    assert!(found.len() == 1 && found[0].contains("version = \"arrival\" decides by _partition first"), "{found:?}");
    let (_dir, spec) = edited(&[("latest", &sql("latest").replace(order, "ORDER BY _partition DESC, _offset DESC"))]);
    assert_eq!(prepare(&ModelSpec { version: VersionBy::Arrival, ..spec }).await.unwrap().1, Vec::new());
}

#[tokio::test]
async fn other_ways_to_pick_the_newest_are_left_to_the_engine() {
    let qualified = "SELECT user_id, name, _deleted, ts, _partition, _offset FROM accepted
        QUALIFY ROW_NUMBER() OVER (PARTITION BY user_id ORDER BY ts DESC, _partition DESC, _offset DESC) = 1";
    assert_eq!(faults(&[("latest", qualified)]).await, Vec::<String>::new());
    let split = "SELECT user_id, name, _deleted, ts, _partition, _offset FROM ranked WHERE 1 = place";
    let ranked = "SELECT *, n AS place FROM (SELECT *, rank() OVER (PARTITION BY user_id ORDER BY ts DESC, _partition DESC, _offset DESC) AS n FROM accepted)";
    assert_eq!(faults(&[("latest", split), ("ranked", ranked)]).await, Vec::<String>::new());
    for same in ["newest >= 1 AND newest < 2", "newest IN (1)", "newest + 0 = 1"] {
        let found = faults(&[("latest", &sql("latest").replace("newest = 1", same))]).await;
        assert_eq!(found, Vec::<String>::new(), "{same}");
    }
    let distinct = "SELECT DISTINCT ON (user_id) user_id, name, _deleted, ts, _partition, _offset FROM accepted
        ORDER BY user_id, ts DESC, _partition DESC, _offset DESC";
    assert_eq!(faults(&[("latest", distinct)]).await, Vec::<String>::new());
    let none_newer = "SELECT user_id, name, _deleted, ts, _partition, _offset FROM accepted a WHERE NOT EXISTS (
        SELECT 1 FROM accepted b WHERE b.user_id = a.user_id AND (b.ts > a.ts OR (b.ts = a.ts AND b._offset > a._offset)))";
    let found = faults(&[("latest", none_newer)]).await;
    assert!(found.len() == 1 && found[0].starts_with("AI0119"), "not that it keeps every row: {found:?}");
}

#[tokio::test]
async fn comparing_a_text_with_a_number_is_warned_about_at_its_place() {
    let from = "c.country IS NOT NULL AND l.code IS NULL";
    for to in ["c.country = 5", "c.country IN (4, 5)", "c.country > c._offset"] {
        let (_dir, spec) = edited(&[("enriched", &sql("enriched").replace(from, to))]);
        let found: Vec<String> = match prepare(&spec).await {
            Ok((_, warnings)) => warnings.iter().map(line).collect(),
            Err(faults) => faults.iter().map(line).collect(),
        };
        let place = place("enriched", from, to, to);
        let at_place = |fault: &String| fault.starts_with(&format!("AI0135 enriched.sql:{place} "));
        assert!(found.len() == 1 && found.iter().all(at_place), "{to}: {found:?}");
    }
    for to in ["c.country = '5'", "c._offset = '5'", "c.ts > '2024-02-29T00:00:00Z'", "c._offset > 1.5"] {
        assert_eq!(faults(&[("enriched", &sql("enriched").replace(from, to))]).await, Vec::<String>::new(), "{to}");
    }
}

#[tokio::test]
async fn a_constant_that_cannot_be_converted_is_found_in_a_branch_that_nothing_took() {
    let from = "THEN 'the country is not in the lookup countries'";
    let to = "THEN CAST(CAST('many' AS BIGINT) AS VARCHAR)";
    let found = one("enriched", from, to).await;
    assert!(found.starts_with("AI0114 enriched.sql:"), "{found}");
    let to = "THEN CASE WHEN c.name = 'x' THEN CAST(CAST('many' AS BIGINT) AS VARCHAR) ELSE c.name END";
    let found = one("enriched", from, to).await;
    assert_eq!(&found[..found.find(' ').unwrap()], "AI0114", "{found}");
}

#[tokio::test]
async fn a_lookup_that_nobody_reads_or_that_hides_something_is_a_warning() {
    let unread = "SELECT *, NULL AS country_name, NULL AS region, NULL AS _error FROM changes";
    let (_dir, spec) = edited(&[("enriched", unread)]);
    let found = prepare(&spec).await;
    let codes = |faults: &[Diagnostic]| faults.iter().map(|fault| (fault.code, fault.severity)).collect::<Vec<_>>();
    let found = match &found {
        Ok((_, warnings)) => codes(warnings),
        Err(faults) => codes(faults),
    };
    assert!(found.contains(&("AI0136", Severity::Warning)), "{found:?}");
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), "it.csv", "code,name,region,ts,_offset\nDE,Germany,Europe,1,2\n");
    let lookups = vec![LookupSpec { from: LookupFrom::File(file), ..super::spec().lookups[0].clone() }];
    let (_, warnings) = prepare(&ModelSpec { lookups, ..super::spec() }).await.unwrap();
    assert_eq!(codes(&warnings), [("AI0137", Severity::Warning)]);
    assert!(warnings[0].message.contains("ts, _offset"), "{}", warnings[0].message);
}

#[tokio::test]
async fn functions_of_the_clock_are_refused_in_every_spelling() {
    for call in [
        "current_timestamp",
        "CURRENT_DATE",
        "current_time",
        "\"now\"()",
        "localtimestamp",
        "today()",
        "gen_random_uuid()",
    ] {
        let to = format!("CAST({call} AS VARCHAR) AS name,");
        let found = one("enriched", "c.name,", &to).await;
        assert!(
            found.starts_with("AI0118") || found.starts_with("AI0111") || found.starts_with("AI0109"),
            "{call}: {found}"
        );
    }
}

#[tokio::test]
async fn a_struct_field_is_placed_where_it_is_taken_from_the_struct() {
    let from = "after.email   AS email";
    let to = "after.name AS emial, after.emial   AS email";
    let (_dir, spec) = edited(&[("changes", &sql("changes").replacen(from, to, 1))]);
    let found: Vec<String> = prepare(&spec).await.unwrap_err().iter().map(line).collect();
    let place = place("changes", from, to, "emial   AS");
    assert!(found[0].starts_with(&format!("AI0110 changes.sql:{place} ")), "{found:?}");
}

#[tokio::test]
async fn an_unknown_column_in_the_second_select_of_a_union_is_placed_there() {
    let from = "WHERE op = 'd'\n";
    let to = "WHERE oop = 'd'\n";
    let found = one("changes", from, to).await;
    let place = place("changes", from, to, "oop");
    assert!(found.starts_with(&format!("AI0109 changes.sql:{place} ")), "{found}");
}

#[tokio::test]
async fn what_cannot_be_compared_and_what_cannot_be_planned_is_placed_in_plain_words() {
    let from = "c.country IS NOT NULL AND l.code IS NULL";
    let to = "c._deleted = 'no'";
    let found = one("enriched", from, to).await;
    assert!(
        found.starts_with("AI0113 enriched.sql") && found.contains("Boolean can't be compared with Utf8"),
        "{found}"
    );
    let from = "l.region AS region";
    let to = "(SELECT o.name FROM countries o WHERE o.code = c.country ORDER BY o.name LIMIT 1) AS region";
    let found = one("enriched", from, to).await;
    let there = place("enriched", from, to, "SELECT o.name");
    assert!(found.starts_with(&format!("AI0113 enriched.sql:{there} this subquery can't be planned")), "{found}");
}
