//! The commands that need no server, run as a user runs them.

use std::collections::BTreeMap;
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
        "writes that would follow, to an empty enriched_user: 1 insert, 1 absent",
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

/// The indented block of README that follows the line which begins with `head`, without its indentation.
fn readme_block(head: &str) -> String {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let (_, rest) = readme.split_once(head).unwrap_or_else(|| panic!("README has no {head}"));
    let lines = rest.lines().skip(1).skip_while(|line| !line.starts_with("    "));
    let block = lines.take_while(|line| line.is_empty() || line.starts_with("    "));
    block.map(|line| format!("{}\n", line.strip_prefix("    ").unwrap_or(line))).collect()
}

#[test]
fn neither_the_shipped_pipeline_nor_that_of_the_readme_raises_an_alarm() {
    let password = [("MYSQL_PASSWORD", "sesame")];
    let checked = Workspace::new(&shipped_config()).run_with(&["check"], &password);
    assert_eq!((checked.code(), checked.stdout.lines().next()), (0, Some("no faults")), "{checked:?}");
    let orders = Workspace::new(&readme_block("**1. Config**"));
    orders.write("schemas/orders/1.json", &readme_block("**2. Schema of the source's row**"));
    for model in ["changes", "enriched", "accepted", "latest"] {
        orders.write(&format!("queries/orders/{model}.sql"), &readme_block(&format!("`{model}.sql`,")));
    }
    let checked = orders.run_with(&["check"], &password);
    assert_eq!((checked.code(), checked.stdout.lines().next()), (0, Some("no faults")), "{checked:?}");
}

#[test]
fn faults_come_in_every_format_that_programs_ask_for() {
    let workspace = workspace();
    workspace.write("queries/users/metrics.sql", "SELECT count(*) AS n FROM acepted");
    let sarif = workspace.run(&["check", "--format", "sarif"]);
    assert_eq!(sarif.code(), 1, "{sarif:?}");
    let log: serde_json::Value = serde_json::from_str(&sarif.stdout).unwrap();
    let results = log["runs"][0]["results"].as_array().unwrap();
    let found = results.iter().find(|result| result["ruleId"] == "AI0107").unwrap();
    let place = &found["locations"][0]["physicalLocation"];
    assert_eq!(place["artifactLocation"]["uri"], "queries/users/metrics.sql");
    assert_eq!((&place["region"]["startLine"], &place["region"]["startColumn"]), (&1.into(), &27.into()));
    let github = workspace.run(&["check", "--format", "github"]);
    let line = "::error title=AI0107,file=queries/users/metrics.sql,line=1,endLine=1,col=27::";
    assert!(github.stdout.contains(line), "{}", github.stdout);
    let json = workspace.run(&["check", "--format", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert!(json["skipped"].as_array().is_some_and(|skipped| !skipped.is_empty()), "{json}");
}

#[test]
fn a_watched_pipeline_is_checked_again_when_a_file_changes() {
    let workspace = workspace();
    let mut watching = workspace.start("watch", &["check", "--watch"]);
    let until = |what: &str| {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        loop {
            let shown = std::fs::read_to_string(workspace.path().join("watch.log")).unwrap_or_default();
            if shown.contains(what) {
                return;
            }
            assert!(std::time::Instant::now() < deadline, "{what} is missing in {shown}");
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    };
    until("nothing that refuses the start");
    workspace.write("queries/users/metrics.sql", "SELECT count(*) AS n FROM acepted");
    until("error[AI0107]");
    workspace.write("queries/users/new.sql", "SELEC 1");
    until("error[AI0104]");
    crate::support::process::signal(watching.pid(), libc::SIGINT);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while watching.is_running() && std::time::Instant::now() < deadline {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert_eq!(watching.ended().and_then(|status| status.code()), Some(0));
}

#[test]
fn a_new_pipeline_is_written_from_sample_events_and_has_no_faults() {
    let workspace = workspace();
    let before = std::fs::read(workspace.path().join("afterimage.toml")).unwrap();
    let sample =
        r#"{"op":"c","before":null,"after":{"orderId":7,"userId":"123","amount":"19.90"},"timestamp":1700000000000}"#;
    workspace.write("sample.ndjson", sample);
    let made = workspace.run(&["init", "orders", "--events", "sample.ndjson", "--topic", "order_cdc"]);
    assert_eq!(made.code(), 0, "{made:?}");
    assert!(made.stdout.contains("key      orderId (guessed; --key says otherwise)"), "{}", made.stdout);
    let after = std::fs::read(workspace.path().join("afterimage.toml")).unwrap();
    assert!(after.starts_with(&before) && after.len() > before.len());
    let checked = workspace.run(&["check"]);
    assert_eq!(checked.code(), 0, "{checked:?}");
    let tested = workspace.run(&["test", "--pipeline", "orders"]);
    assert_eq!(tested.code(), 0, "{tested:?}");
    let preview = workspace.run(&["preview", "--pipeline", "orders", "--events", "sample.ndjson"]);
    assert!(preview.stdout.contains("order_id"), "{preview:?}");
    let again = workspace.run(&["init", "orders", "--events", "sample.ndjson"]);
    assert_eq!(again.code(), 2, "{again:?}");
    assert!(again.stderr.contains("has a pipeline orders already"), "{}", again.stderr);
}

#[test]
fn shells_and_editors_are_taught() {
    let workspace = workspace();
    for (shell, text) in [("bash", "_afterimage()"), ("zsh", "#compdef afterimage"), ("fish", "complete -c afterimage")]
    {
        let script = workspace.run(&["completions", shell]);
        assert!(script.code() == 0 && script.stdout.contains(text), "{shell}: {script:?}");
        assert!(script.stdout.contains("quarantine"), "{shell}");
    }
    for (file, key) in [("config", "brokers"), ("schema", "nullable"), ("fixture", "quarantine")] {
        let schema = workspace.run(&["json-schema", file]);
        assert_eq!(schema.code(), 0, "{schema:?}");
        let parsed: serde_json::Value = serde_json::from_str(&schema.stdout).unwrap();
        assert_eq!(parsed["$schema"], "https://json-schema.org/draft/2020-12/schema");
        assert!(schema.stdout.contains(key), "{file}");
    }
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
fn a_column_that_is_gone_leaves_the_cases_with_an_update_and_takes_nothing_along() {
    let workspace = with_cases();
    let folder = workspace.path().join("queries/users/tests");
    let files = || -> BTreeMap<String, String> {
        let entries = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap());
        entries
            .map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read_to_string(entry.path()).unwrap()))
            .collect()
    };
    let before = files();
    let latest = std::fs::read_to_string(workspace.path().join("queries/users/latest.sql")).unwrap();
    workspace.write("queries/users/latest.sql", &latest.replace("country_name, region,", "country_name,"));
    let tested = workspace.run(&["test"]);
    assert_eq!((tested.code(), files() == before), (1, true), "{tested:?}");
    assert!(
        tested.stderr.contains("more rows: `table` has no column `region`") && tested.stderr.contains("--update"),
        "{tested:?}"
    );
    let odd = before["create.yaml"].replacen("{user_id: \"1\", name:", "{user_id: \"1\", nmae:", 1);
    workspace.write("queries/users/tests/create.yaml", &odd);
    let updated = workspace.run(&["test", "--update"]);
    assert_eq!(updated.code(), 1, "{updated:?}");
    assert!(updated.stderr.contains("did you mean `name`?"), "{updated:?}");
    assert_eq!(files()["create.yaml"], odd);
    workspace.write("queries/users/tests/create.yaml", &before["create.yaml"]);
    let updated = workspace.run(&["test", "--update"]);
    assert_eq!(updated.code(), 0, "{updated:?}");
    assert!(updated.stdout.contains("removed column region from 3 rows\n"), "{updated:?}");
    assert_eq!(workspace.run(&["test"]).code(), 0);
    let mut removed = 0;
    for (name, text) in files() {
        assert_eq!(text.lines().count(), before[&name].lines().count(), "{name}");
        for (old, new) in before[&name].lines().zip(text.lines()).filter(|(old, new)| old != new) {
            let (start, rest) = old.split_once(", region: ").unwrap_or_else(|| panic!("{name}: {old}"));
            let end = &rest[rest.find([',', '}']).unwrap()..];
            assert_eq!(new, format!("{start}{end}"), "{name}");
            removed += 1;
        }
    }
    assert!(removed >= 40, "{removed}");
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

#[test]
fn a_reader_that_goes_away_is_no_reason_to_panic() {
    let workspace = workspace();
    let program = env!("CARGO_BIN_EXE_afterimage");
    // The reader is gone before the first line is written.
    for command in ["check --explain", "test --list", "status", "schema check"] {
        let line = format!("(sleep 0.5; {program} {command}) | true");
        let shell =
            std::process::Command::new("sh").args(["-c", &line]).current_dir(workspace.path()).output().unwrap();
        let said = String::from_utf8_lossy(&shell.stderr);
        assert!(!said.contains("panic"), "{command}: {said}");
    }
}
