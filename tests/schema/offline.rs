//! `schema infer`, `diff` and `check`, run as a user runs them; no server.

use std::path::Path;

use crate::support::process::Workspace;

fn workspace() -> Workspace {
    let config = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/afterimage.toml")).unwrap();
    Workspace::new(&config.replace("${MYSQL_PASSWORD}", "planted-canary"))
}

const EVENTS: [&str; 3] = [
    r#"{"op":"c","before":null,"after":{"userId":"1","name":"Ann","email":null,"country":"DE","phone":"1","plan":{"name":"x"}},"timestamp":1}"#,
    r#"{"op":"d","before":{"userId":"1"},"after":null,"timestamp":2}"#,
    "no event",
];

#[test]
fn the_next_version_is_written_once_and_fits_behind_the_one_in_use() {
    let workspace = workspace();
    workspace.write("events.ndjson", &EVENTS.join("\n"));
    let shown = workspace.run(&["schema", "infer", "--events", "events.ndjson"]);
    assert_eq!(shown.code(), 0, "{shown:?}");
    let says = "2 events with rows, not read as events: 1\nunknown to version 1: phone, plan\n";
    assert!(shown.stderr.contains(says), "{}", shown.stderr);
    assert!(!workspace.path().join("schemas/users/2.json").exists());
    let written = workspace.run(&["schema", "infer", "--events", "events.ndjson", "--write"]);
    assert_eq!((written.code(), written.stdout.as_str()), (0, ""), "{written:?}");
    assert_eq!(std::fs::read_to_string(workspace.path().join("schemas/users/2.json")).unwrap(), shown.stdout);
    let again = workspace.run(&["schema", "infer", "--events", "events.ndjson", "--write"]);
    assert!(again.code() == 0 && again.stderr.contains("version 2 knows every field"), "{again:?}");
    for command in [&["schema", "check"][..], &["check"]] {
        let checked = workspace.run(command);
        assert_eq!(checked.code(), 0, "{checked:?}");
    }
    let diff = workspace.run(&["schema", "diff"]);
    assert_eq!(diff.code(), 1);
    let path = workspace.path().join("schemas/users").display().to_string();
    insta::assert_snapshot!(diff.stdout.replace(&path, "").replace("schemas/users", ""), @r"
    /1.json -> /2.json
      added  phone    fine
      added  plan     fine
    ");
}

#[test]
fn what_a_version_takes_away_refuses_it_until_it_says_so() {
    let workspace = workspace();
    let first = std::fs::read_to_string(workspace.path().join("schemas/users/1.json")).unwrap();
    let renamed = first.replace(
        r#""name": "email","#,
        r#""name": "mail",
      "metadata": { "aliases": "[\"email\"]" },"#,
    );
    let second = renamed.replacen(
        r#"      "metadata": { "doc": "Address for correspondence; not unique." }"#,
        r#"      "nullable": true"#,
        1,
    );
    assert_ne!(second, renamed);
    let second = second.replacen("      \"nullable\": true,\n      \"nullable\": true", "      \"nullable\": true", 1);
    let second = second.replace(
        r#""name": "name",
      "type": "utf8""#,
        r#""name": "name",
      "type": "json""#,
    );
    workspace.write("schemas/users/2.json", &second);
    let diff = workspace.run(&["schema", "diff", "1", "2"]);
    assert_eq!(diff.code(), 1, "{diff:?}");
    for text in [
        "retyped  name",
        "utf8 -> json",
        "REFUSED: values of older events are of another kind",
        "renamed  mail",
        "was email",
    ] {
        assert!(diff.stdout.contains(text), "{text} is missing in {}", diff.stdout);
    }
    let json = workspace.run(&["schema", "diff", "--format", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    let verdicts: Vec<&str> =
        json["differences"].as_array().unwrap().iter().map(|entry| entry["verdict"].as_str().unwrap()).collect();
    assert!(verdicts.contains(&"refused") && verdicts.contains(&"fine"), "{json:#}");
    let checked = workspace.run(&["schema", "check"]);
    assert_eq!(checked.code(), 1, "{checked:?}");
    assert!(checked.stderr.contains("AI0222") && checked.stderr.contains("\"retype name: <why>\""), "{checked:?}");
    let said = second.replacen("{", "{\n  \"breaking\": [\"retype name: it is a document now\"],", 1);
    workspace.write("schemas/users/2.json", &said);
    let checked = workspace.run(&["schema", "check"]);
    assert_eq!(
        (checked.code(), checked.stdout.as_str()),
        (0, "every version may follow the one before it\n"),
        "{checked:?}"
    );
}

#[test]
fn without_two_versions_there_is_no_answer() {
    let workspace = workspace();
    let one = workspace.run(&["schema", "diff"]);
    assert!(one.code() == 2 && one.stderr.contains("there is only one version"), "{one:?}");
    let none = workspace.run(&["schema", "diff", "1", "7"]);
    assert!(none.code() == 2 && none.stderr.contains("there is no version 7"), "{none:?}");
    assert_eq!(workspace.run(&["schema", "diff", "1", "1"]).code(), 0);
    let other = workspace.path().join("elsewhere.json").display().to_string();
    std::fs::copy(workspace.path().join("schemas/users/1.json"), &other).unwrap();
    assert_eq!(workspace.run(&["schema", "diff", "1", &other]).code(), 0);
    let empty = workspace.run(&["schema", "infer", "--events", "afterimage.toml"]);
    assert!(empty.code() == 2 && empty.stderr.contains("events look like"), "{empty:?}");
}
