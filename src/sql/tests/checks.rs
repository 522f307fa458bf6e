//! Faults in models: each with its code and place, all at once.

use super::*;
use crate::diagnostic::Severity;
use crate::target::{Column, Holds, Target};

/// A fault as `code file:line:column message [help]`.
pub(super) fn line(fault: &Diagnostic) -> String {
    let file = fault.file.as_ref().and_then(|file| file.file_name()).unwrap_or_default().to_string_lossy().into_owned();
    let place = fault.span.map(|span| format!(":{}:{}", span.line, span.column)).unwrap_or_default();
    let help = fault.help.as_ref().map(|help| format!(" [{help}]")).unwrap_or_default();
    format!("{} {file}{place} {}{help}", fault.code, fault.message)
}

pub(super) async fn faults(files: &[(&str, &str)]) -> Vec<String> {
    let (_dir, spec) = edited(files);
    match prepare(&spec).await {
        Ok((_, warnings)) => warnings.iter().map(line).collect(),
        Err(faults) => faults.iter().map(line).collect(),
    }
}

/// The one fault of the shipped models with `from` replaced by `to` in `model`.
pub(super) async fn one(model: &str, from: &str, to: &str) -> String {
    let text = sql(model);
    assert!(text.contains(from), "{model} has no {from}");
    let found = faults(&[(model, &text.replacen(from, to, 1))]).await;
    assert_eq!(found.len(), 1, "{found:#?}");
    found.into_iter().next().unwrap()
}

/// Where `what` stands in the shipped `model`, as `line:column`, once `from` is `to`.
pub(super) fn place(model: &str, from: &str, to: &str, what: &str) -> String {
    let text = sql(model).replacen(from, to, 1);
    let at = text.find(what).unwrap();
    let line = text[..at].lines().count() + usize::from(text[..at].ends_with('\n'));
    let column = text[..at].rsplit('\n').next().unwrap().chars().count() + 1;
    format!("{line}:{column}")
}

#[tokio::test]
async fn a_syntax_error_is_placed_at_its_token() {
    let found = one("latest", "WHERE newest = 1", "WHERE newest = = 1").await;
    let place = place("latest", "WHERE newest = 1", "WHERE newest = = 1", "= 1\n");
    assert!(found.starts_with(&format!("AI0104 latest.sql:{place} syntax error: ")), "{found}");
    let found = faults(&[("metrics", "SELECT (1")]).await;
    assert!(found[0].starts_with("AI0104 metrics.sql:1:"), "{found:?}");
    let found = faults(&[("metrics", "SELECT 'open")]).await;
    assert!(found[0].starts_with("AI0104 metrics.sql:1:8"), "{found:?}");
}

#[tokio::test]
async fn an_unknown_column_is_placed_and_the_one_meant_is_named() {
    let found = one("enriched", "c.email,", "c.emial,").await;
    let place = place("enriched", "c.email,", "c.emial,", "c.emial");
    assert!(found.starts_with(&format!("AI0109 enriched.sql:{place} ")), "{found}");
    assert!(found.contains("email"), "{found}");
}

#[tokio::test]
async fn an_unknown_struct_field_is_placed_and_the_one_meant_is_named() {
    let found = one("changes", "after.email", "after.emial").await;
    let place = place("changes", "after.email", "after.emial", "emial");
    assert_eq!(found, format!("AI0110 changes.sql:{place} no field \"emial\" in the struct [did you mean \"email\"?]"));
}

#[tokio::test]
async fn an_unknown_table_is_placed_and_the_one_meant_is_named() {
    let found = one("enriched", "JOIN countries", "JOIN countrys").await;
    let place = place("enriched", "JOIN countries", "JOIN countrys", "countrys l");
    assert_eq!(
        found,
        format!("AI0107 enriched.sql:{place} no table or model \"countrys\" [did you mean \"countries\"?]")
    );
    let found = one("changes", "FROM events\nWHERE op <>", "FROM EVENTS\nWHERE op <>").await;
    assert!(found.contains("did you mean \"events\"?"), "{found}");
}

#[tokio::test]
async fn an_unknown_function_is_placed_and_the_one_meant_is_named() {
    let found = one("enriched", "c.email,", "uper(c.email) AS email,").await;
    let place = place("enriched", "c.email,", "uper(c.email) AS email,", "uper");
    assert!(found.starts_with(&format!("AI0111 enriched.sql:{place} ")), "{found}");
    assert!(found.contains("upper"), "{found}");
}

#[tokio::test]
async fn a_function_without_a_form_for_its_arguments_is_placed_in_plain_words() {
    let found = one("metrics", "COUNT(DISTINCT country)", "SUM(country)").await;
    let place = place("metrics", "COUNT(DISTINCT country)", "SUM(country)", "SUM");
    assert!(
        found.starts_with(&format!("AI0113 metrics.sql:{place} there is no sum(Utf8) [there is sum(Decimal), ")),
        "{found}"
    );
    let found = one("enriched", "c.email,", "upper(c.email, 1) AS email,").await;
    assert!(found.contains("there is no upper(Utf8, Int64) [there is upper(String)]"), "{found}");
}

#[tokio::test]
async fn an_ambiguous_column_is_placed() {
    let found = one("enriched", "    c.name,", "    name,").await;
    let place = place("enriched", "    c.name,", "    name,", "name,\n    c.email");
    assert!(found.starts_with(&format!("AI0112 enriched.sql:{place} ")), "{found}");
}

#[tokio::test]
async fn a_constant_that_cannot_be_cast_is_found_before_any_event() {
    let found = one("changes", "WHERE op <> 'd'", "WHERE op <> 'd' AND ts > 'yesterday'").await;
    assert!(found.starts_with("AI0114 changes.sql"), "{found}");
    let found = one("changes", "false         AS _deleted", "CAST('maybe' AS BOOLEAN) AS _deleted").await;
    assert!(found.starts_with("AI0114 changes.sql"), "{found}");
}

#[tokio::test]
async fn only_one_select_per_file() {
    let found = faults(&[("metrics", "SELECT 1 AS a;\nSELECT 2 AS b")]).await;
    assert!(found[0].starts_with("AI0105 metrics.sql:2:1 the file holds more than one statement"), "{found:?}");
    assert!(faults(&[("metrics", "SELECT 1 AS a;\n")]).await.is_empty());
    let found = faults(&[("metrics", "-- nothing yet\n")]).await;
    assert!(found[0].starts_with("AI0105 metrics.sql the file holds no statement"), "{found:?}");
    for refused in [
        "DROP TABLE events",
        "CREATE TABLE t AS SELECT 1 AS a",
        "INSERT INTO events SELECT * FROM events",
        "SET datafusion.execution.batch_size = 1",
        "COPY events TO 'file.csv'",
        "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/etc/passwd'",
        "EXPLAIN SELECT 1",
        "WITH RECURSIVE t AS (SELECT 1 AS a UNION ALL SELECT a + 1 FROM t WHERE a < 9) SELECT * FROM t",
        "DELETE FROM events",
    ] {
        let found = faults(&[("metrics", refused)]).await;
        assert!(found.len() == 1 && found[0].starts_with("AI0106 metrics.sql"), "{refused}: {found:?}");
    }
}

#[tokio::test]
async fn a_missing_role_is_named_with_what_it_is_for() {
    let (dir, spec) = edited(&[]);
    std::fs::rename(dir.path().join("latest.sql"), dir.path().join("lastest.sql")).unwrap();
    let found: Vec<String> = prepare(&spec).await.unwrap_err().iter().map(line).collect();
    assert!(
        found.iter().any(|fault| fault.contains("AI0102") && fault.contains("is lastest.sql meant to be it?")),
        "{found:?}"
    );
    let empty = tempfile::tempdir().unwrap();
    let spec = ModelSpec { queries: empty.path().to_owned(), ..spec };
    let found: Vec<String> = prepare(&spec).await.unwrap_err().iter().map(line).collect();
    assert!(found.len() == 1 && found[0].contains("AI0101"), "{found:?}");
}

#[tokio::test]
async fn a_ring_is_named_in_full() {
    let found = faults(&[
        ("one", "SELECT * FROM two"),
        ("two", "SELECT * FROM three"),
        ("three", "SELECT 1 AS a FROM one"),
        ("metrics", "SELECT COUNT(*) AS n FROM one"),
    ])
    .await;
    assert_eq!(
        found,
        [
            "AI0108 one.sql:1:15 models read each other in a ring: one reads two reads three reads one [move what they share into a model that both read]"
        ]
    );
    let found = one("enriched", "FROM changes c", "FROM changes c CROSS JOIN held").await;
    assert!(found.contains("enriched reads held, which is made from enriched"), "{found}");
}

#[tokio::test]
async fn all_faults_come_at_once_without_echoes() {
    let found = faults(&[
        ("changes", &sql("changes").replace("after.email", "after.mail")),
        ("metrics", "SELEC 1"),
        ("spare", "SELECT lowr(code) AS code FROM countries"),
    ])
    .await;
    // The models behind `changes` can't be planned either, which is no fault of theirs.
    let codes: Vec<&str> = found.iter().map(|fault| &fault[..6]).collect();
    assert_eq!(codes, ["AI0104", "AI0110", "AI0111", "AI0125"], "{found:#?}");
}

#[tokio::test]
async fn the_roles_columns_are_checked() {
    let text = "ts, _partition, CAST(_offset AS VARCHAR) AS _offset\nFROM events";
    let found = faults(&[("changes", &sql("changes").replace("ts, _partition, _offset\nFROM events", text))]).await;
    assert!(
        found[0].starts_with("AI0116 changes.sql") && found[0].contains("_offset is Utf8, it must be Int64"),
        "{found:?}"
    );
    // The models that pass it on aren't blamed; the one that makes another column of it is.
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(found[1].contains("out_of_order.sql") && found[1].contains("_known_offset"), "{found:#?}");
    let found = faults(&[("enriched", &sql("enriched").replace("AS _error", "AS _eror"))]).await;
    assert!(
        found.iter().any(|fault| fault.starts_with("AI0115 enriched.sql enriched doesn't yield the column _error")),
        "{found:?}"
    );
    let found = faults(&[("latest", &sql("latest").replace("SELECT user_id,", "SELECT user_id AS userid,"))]).await;
    assert!(
        found.iter().any(|fault| fault.contains("AI0115")
            && fault.contains("is \"userid\" meant to be it? name it \"user_id\" with AS")),
        "{found:?}"
    );
    let found = one("latest", "SELECT user_id, name,", "SELECT user_id, name, before_it,").await;
    assert!(found.starts_with("AI0109 latest.sql"), "{found}");
}

#[tokio::test]
async fn a_column_that_comes_twice_is_named() {
    let found = one("enriched", "    c.name,", "    c.*,").await;
    assert!(found.starts_with("AI0113") || found.starts_with("AI0117"), "{found}");
}

#[tokio::test]
async fn functions_of_the_clock_and_of_chance_are_refused_on_the_way_to_the_target() {
    for (call, name) in
        [("now()", "now"), ("current_date()", "current_date"), ("RANDOM()", "RANDOM"), ("uuid()", "uuid")]
    {
        let to = format!("CAST({call} AS VARCHAR) AS name,");
        let found = one("enriched", "c.name,", &to).await;
        let place = place("enriched", "c.name,", &to, call);
        assert!(found.starts_with(&format!("AI0118 enriched.sql:{place} {name} ")), "{found}");
    }
    assert!(faults(&[("metrics", "SELECT now() AS at")]).await.is_empty());
}

#[tokio::test]
async fn what_depends_on_where_a_batch_is_cut_is_refused_on_the_way_to_the_target() {
    for (model, from, to) in [
        (
            "accepted",
            "SELECT e.* EXCEPT (_error)",
            "SELECT e.* EXCEPT (_error, region), CAST(COUNT(*) OVER () AS VARCHAR) AS region",
        ),
        ("accepted", "e._offset < h._since)", "e._offset < h._since)\nLIMIT 100"),
        (
            "latest",
            "country_name, region,",
            "country_name, CAST(COUNT(*) OVER (PARTITION BY user_id) AS VARCHAR) AS region,",
        ),
        ("enriched", "l.region AS region", "(SELECT MAX(o.name) FROM changes o) AS region"),
    ] {
        let found = one(model, from, to).await;
        assert!(found.starts_with(&format!("AI0119 {model}.sql:")), "{found}");
    }
    // Per event, and over a lookup alone, sums are fine.
    let per_event = "(SELECT MAX(o.name) FROM countries o) AS region";
    assert!(faults(&[("enriched", &sql("enriched").replace("l.region AS region", per_event))]).await.is_empty());
    let grouped = "SELECT user_id, MAX(name) AS name, MAX(email) AS email, MAX(country) AS country, bool_or(_deleted) AS _deleted, \
                   MAX(ts) AS ts, _partition, _offset FROM raw GROUP BY user_id, _partition, _offset";
    assert_eq!(faults(&[("raw", &sql("changes")), ("changes", grouped)]).await, Vec::<String>::new());
}

#[tokio::test]
async fn roads_that_bypass_the_hold_are_refused() {
    let found = faults(&[("accepted", "SELECT * EXCEPT (_error) FROM enriched WHERE _error IS NULL")]).await;
    assert_eq!(found, ["AI0124 accepted.sql accepted doesn't read held: rows of users on hold must be left out"]);
    let found = one("latest", "FROM accepted", "FROM enriched").await;
    assert!(found.starts_with("AI0124 latest.sql latest doesn't read accepted"), "{found}");
    let found = one("metrics", "FROM enriched", "FROM enriched JOIN known USING (user_id)").await;
    assert!(found.starts_with("AI0124 metrics.sql") && found.contains("known"), "{found}");
}

#[tokio::test]
async fn a_model_that_nobody_reads_is_a_warning() {
    let (_dir, spec) = edited(&[("out_of_orders", "SELECT user_id FROM accepted")]);
    let (_, warnings) = prepare(&spec).await.unwrap();
    assert_eq!(warnings.iter().map(|fault| fault.severity).collect::<Vec<_>>(), [Severity::Warning]);
    assert!(
        line(&warnings[0]).contains("AI0125") && line(&warnings[0]).contains("is it meant to be out_of_order.sql?")
    );
}

#[tokio::test]
async fn names_that_cannot_be_models_are_refused() {
    let found = faults(&[("events", "SELECT 1 AS a"), ("my-model", "SELECT 1 AS a")]).await;
    assert_eq!(found.iter().map(|fault| &fault[..6]).collect::<Vec<_>>(), ["AI0103", "AI0103"], "{found:?}");
    let found = faults(&[("countries", "SELECT 1 AS code, 2 AS name, 3 AS region")]).await;
    assert!(found[0].starts_with("AI0307"), "{found:?}");
}

#[tokio::test]
async fn types_that_mysql_does_not_have_are_refused() {
    let found = one("latest", "country_name, region,", "country_name, NULL AS region,").await;
    assert!(found.starts_with("AI0120 latest.sql:") && found.contains("CAST(NULL AS VARCHAR)"), "{found}");
    let found = one("latest", "country_name, region,", "country_name, INTERVAL '1 day' AS region,").await;
    assert!(found.starts_with("AI0120 latest.sql:"), "{found}");
    let found = one("latest", "country_name, region,", "country_name, region, newest AS _rank,").await;
    assert!(found.starts_with("AI0122 latest.sql:"), "{found}");
}

#[tokio::test]
async fn latest_and_the_target_must_have_the_same_columns() {
    let (mut engine, _) = prepare(&spec()).await.unwrap();
    let target = engine.derive_target("enriched_user");
    let with = |change: fn(&mut Vec<Column>)| {
        let mut changed: Target = target.clone();
        change(&mut changed.columns);
        changed
    };
    let codes = |faults: Result<(), Vec<Diagnostic>>| -> Vec<String> {
        faults.err().into_iter().flatten().map(|fault| line(&fault)).collect()
    };
    let renamed = codes(engine.set_target(with(|columns| columns[4].name = "countryname".into())));
    assert_eq!(renamed.len(), 2, "{renamed:?}");
    assert!(
        renamed[0].starts_with("AI0121") && renamed[0].contains("is \"country_name\" meant to be it?"),
        "{renamed:?}"
    );
    assert!(renamed[1].starts_with("AI0122") && renamed[1].contains("did you mean \"countryname\"?"), "{renamed:?}");
    let retyped = codes(engine.set_target(with(|columns| columns[1].holds = Holds::Int { min: 0, max: 9 })));
    assert!(retyped.len() == 1 && retyped[0].starts_with("AI0123"), "{retyped:?}");
    assert!(engine.set_target(target).is_ok());
    let other_key = Target { key_len: 2, ..engine.derive_target("t") };
    assert!(codes(engine.set_target(other_key))[0].starts_with("AI0126"));
}
