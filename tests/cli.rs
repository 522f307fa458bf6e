//! The commands that need no server, run as a user runs them.

use std::path::Path;

use crate::support::process::Workspace;

fn shipped_config() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/afterimage.toml")).unwrap()
}

/// The shipped config with a password in it, so that no variable has to be set.
fn workspace() -> Workspace {
    Workspace::new(&shipped_config().replace("${MYSQL_PASSWORD}", "planted-canary"))
}

/// The same with the shipped cases.
fn with_cases() -> Workspace {
    Workspace::with_cases(&shipped_config().replace("${MYSQL_PASSWORD}", "planted-canary"))
}

#[test]
fn the_shipped_pipeline_has_no_faults() {
    let checked = with_cases().run(&["check"]);
    assert_eq!(checked.code(), 0, "{checked:?}");
    assert!(!checked.stdout.contains("error"), "{checked:?}");
}

#[test]
fn faults_of_models_are_all_shown_with_their_places() {
    let workspace = workspace();
    let changes = std::fs::read_to_string(workspace.path().join("queries/users/changes.sql")).unwrap();
    workspace.write("queries/users/changes.sql", &changes.replace("after.country", "after.contry"));
    workspace.write("queries/users/metrics.sql", "SELECT count(*) AS n FROM acepted");
    let checked = workspace.run(&["check"]);
    assert_eq!(checked.code(), 1, "{checked:?}");
    for text in ["queries/users/changes.sql:", "contry", "country", "queries/users/metrics.sql:1:", "accepted"] {
        assert!(checked.stdout.contains(text), "{text} is missing in {}", checked.stdout);
    }
    let json = workspace.run(&["check", "--format", "json"]);
    assert_eq!(json.code(), 1);
    assert!(
        json.stdout.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok())
            || serde_json::from_str::<serde_json::Value>(&json.stdout).is_ok(),
        "{}",
        json.stdout
    );
}

#[test]
fn a_preview_shows_rows_refusals_holds_and_writes() {
    let workspace = workspace();
    let events = [
        r#"{"op":"c","before":null,"after":{"userId":"1","name":"Ann","email":null,"country":"DE"},"timestamp":1700000000000}"#,
        r#"{"op":"u","before":{"userId":"1"},"after":{"userId":"2","name":"Ann","email":null,"country":"FR"},"timestamp":1700000001000}"#,
        r#"{"op":"c","before":null,"after":{"userId":"3","name":"Bob","email":null,"country":"XX"},"timestamp":1700000002000}"#,
        r#"{"op":"u","before":null,"after":{"userId":"3","name":"Bob","email":null,"country":"DE"},"timestamp":1700000003000}"#,
        "this is no event",
    ];
    workspace.write("events.ndjson", &(events.join("\n") + "\n"));
    let shown = workspace.run(&["preview", "--events", "events.ndjson"]);
    assert_eq!(shown.code(), 0, "{shown:?}");
    for text in [
        "model enriched",
        "refused at model by enriched: partition 0 offset 2",
        "held: partition 0 offset 3",
        "refused at decode: partition 0 offset 4",
        "writes that would follow: 1 upserts",
        "writes that would follow: 1 deletes",
        "read 5 = ignored 0 + refused 2 + held 1 + accepted 2; changes 3 = upserted 1 + deleted 1 + superseded 1",
    ] {
        assert!(shown.stdout.contains(text), "{text:?} is missing in {}", shown.stdout);
    }
    assert!(!(shown.stdout + &shown.stderr).contains("planted-canary"));
}

#[test]
fn what_does_not_exist_is_an_error_and_no_panic() {
    let workspace = workspace();
    let shown = workspace.run(&["preview", "--events", "nowhere.ndjson"]);
    assert_eq!(shown.code(), 2, "{shown:?}");
    assert!(shown.stderr.contains("nowhere.ndjson"), "{shown:?}");
    let checked = workspace.run(&["check", "--config", "nowhere.toml"]);
    assert_eq!(checked.code(), 1, "{checked:?}");
}

#[test]
fn a_fault_in_one_file_does_not_hide_those_of_others() {
    let workspace = workspace();
    let config = shipped_config().replace("${MYSQL_PASSWORD}", "planted-canary").replace("group =", "grup =");
    workspace.write("afterimage.toml", &config);
    workspace.write("schemas/users/1.json", "{ \"fields\": [ { \"name\": \"userId\", \"type\": \"string\" } ] }");
    workspace.write("queries/users/metrics.sql", "SELECT count(* AS n FROM enriched");
    workspace.write("queries/users/lookups/countries.csv", "code,name,region\nDE,Germany\n");
    let checked = workspace.run(&["check"]);
    assert_eq!(checked.code(), 1, "{checked:?}");
    for code in ["AI0003", "AI0104", "AI0205", "AI0302"] {
        assert!(checked.stdout.contains(&format!("error[{code}]")), "{code} is missing in {}", checked.stdout);
    }
    let skipped = "skipped: pipeline users: accepted, changes, enriched, latest, out_of_order beyond their syntax";
    assert!(checked.stdout.contains(skipped), "{}", checked.stdout);
    assert!(!checked.stdout.contains("no faults"), "{}", checked.stdout);
}

#[test]
fn what_was_not_checked_is_named() {
    let checked = workspace().run(&["check"]);
    let skipped = "skipped: brokers, topics, privileges and the tables in MySQL: `check --online` asks the servers";
    assert!(checked.stdout.contains(skipped), "{}", checked.stdout);
}

#[test]
fn a_code_is_explained_and_an_unknown_one_is_not_guessed() {
    let workspace = workspace();
    let explained = workspace.run(&["check", "--explain", "ai0118"]);
    assert_eq!(explained.code(), 0, "{explained:?}");
    for text in
        ["AI0118: ", "now()", "For example, queries/users/enriched.sql:", "What to do: take the event's own time"]
    {
        assert!(explained.stdout.contains(text), "{text} is missing in {}", explained.stdout);
    }
    let all = workspace.run(&["check", "--explain"]);
    assert_eq!(all.code(), 0, "{all:?}");
    assert!(all.stdout.contains("AI0001  ") && all.stdout.contains("AI0417  "), "{all:?}");
    let unknown = workspace.run(&["check", "--explain", "118"]);
    assert_eq!(unknown.code(), 2, "{unknown:?}");
    assert!(unknown.stdout.is_empty() && unknown.stderr.contains("did you mean AI0118?"), "{unknown:?}");
}

const CASE: &str = r#"# kept
given:
  events:
    - {op: c, after: {userId: "1", name: Ada, country: DE}, timestamp: 1700000001000}
expect:
  table:
    - {user_id: "1", name: Eve}   # kept, too
"#;

#[test]
fn cases_run_and_a_failing_one_shows_the_cell() {
    let workspace = with_cases();
    let tested = workspace.run(&["test"]);
    assert_eq!(tested.code(), 0, "{tested:?}");
    assert!(tested.stdout.contains("ok   users/key_change (") && tested.stdout.contains(" passed in "), "{tested:?}");
    workspace.write("queries/users/tests/case.yaml", CASE);
    let tested = workspace.run(&["test", "users/case"]);
    assert_eq!(tested.code(), 1, "{tested:?}");
    let expected = [
        "FAIL users/case",
        "different row, queries/users/tests/case.yaml:7:28",
        "      user_id | name",
        "    - \"1\"     | Eve",
        "    + \"1\"     | Ada",
        "                ^^^",
        "0 passed, 1 failed, ",
    ];
    let mut rest = tested.stdout.as_str();
    for line in expected {
        let at = rest.find(line).unwrap_or_else(|| panic!("{line:?} is missing, or not in order: {}", tested.stdout));
        rest = &rest[at..];
    }
    let json = workspace.run(&["test", "case", "--exact", "--format", "json"]);
    let report: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!((json.code(), &report["failed"]), (1, &serde_json::json!(1)));
    assert_eq!(report["cases"][0]["failures"][0]["rows"][0]["found"]["name"], "Ada");
}

#[test]
fn reports_for_ci_and_updates_and_lists_of_cases() {
    let workspace = with_cases();
    workspace.write("queries/users/tests/case.yaml", CASE);
    let tested = workspace.run(&["test", "users/c", "--junit", "report.xml", "--rebatch", "--seed", "3"]);
    assert_eq!(tested.code(), 1, "{tested:?}");
    assert!(tested.stdout.contains("--seed 3"), "{tested:?}");
    let xml = std::fs::read_to_string(workspace.path().join("report.xml")).unwrap();
    let mut reader = quick_xml::Reader::from_str(&xml);
    let (mut cases, mut failures) = (0, 0);
    loop {
        use quick_xml::events::Event;
        match reader.read_event().unwrap_or_else(|error| panic!("{error}: {xml}")) {
            Event::Start(tag) | Event::Empty(tag) => {
                cases += usize::from(tag.name().as_ref() == b"testcase");
                failures += usize::from(tag.name().as_ref() == b"failure");
            }
            Event::Eof => break,
            _ => {}
        }
    }
    assert!(cases >= 4 && failures == 1, "{cases} cases, {failures} failures: {xml}");
    let listed = workspace.run(&["test", "--list", "users/case"]);
    assert_eq!((listed.code(), listed.stdout.as_str()), (0, "users/case\n"));
    let updated = workspace.run(&["test", "users/case", "--update"]);
    assert_eq!(updated.code(), 0, "{updated:?}");
    let text = std::fs::read_to_string(workspace.path().join("queries/users/tests/case.yaml")).unwrap();
    assert_eq!(text, CASE.replace("Eve", "Ada"));
    assert_eq!(workspace.run(&["test", "users/case"]).code(), 0);
}

#[test]
fn a_faulty_case_is_a_fault_for_check_and_for_test() {
    let workspace = workspace();
    workspace.write("queries/users/tests/case.yaml", &CASE.replace("name: Eve", "nmae: Eve"));
    let checked = workspace.run(&["check"]);
    assert_eq!(checked.code(), 1, "{checked:?}");
    assert!(checked.stdout.contains("AI0510") && checked.stdout.contains("did you mean `name`?"), "{checked:?}");
    let tested = workspace.run(&["test", "users/case"]);
    assert_eq!(tested.code(), 1, "{tested:?}");
    assert!(tested.stderr.contains("AI0510"), "{tested:?}");
}
