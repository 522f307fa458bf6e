//! `diff` over a real repository of git.

use std::process::Command;

use serde_json::Value;

use super::{events, workspace};
use crate::support::process::Workspace;

/// Runs git in the workspace.
fn git(workspace: &Workspace, arguments: &[&str]) -> String {
    let output = Command::new("git")
        .args(["-c", "user.name=Ann", "-c", "user.email=ann@example.com", "-c", "init.defaultBranch=main"])
        .args(arguments)
        .current_dir(workspace.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "git {arguments:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A workspace whose shipped pipeline is committed, and events.
fn repository() -> Workspace {
    let workspace = workspace();
    git(&workspace, &["init", "-q", "."]);
    git(&workspace, &["add", "queries", "schemas", "afterimage.toml"]);
    git(&workspace, &["commit", "-q", "-m", "one"]);
    workspace.write("events.ndjson", &events());
    workspace
}

/// Replaces text in a file; it must be there.
fn edit(workspace: &Workspace, file: &str, from: &str, to: &str) {
    let text = std::fs::read_to_string(workspace.path().join(file)).unwrap();
    assert!(text.contains(from), "{file} has no {from:?}");
    workspace.write(file, &text.replace(from, to));
}

const ENRICHED: &str = "queries/users/enriched.sql";
const CHANGES: &str = "queries/users/changes.sql";
const DIFF: [&str; 5] = ["diff", "--rev", "HEAD", "--events", "events.ndjson"];

#[test]
fn what_is_committed_does_not_differ_from_itself() {
    let workspace = repository();
    let compared = workspace.run(&DIFF);
    assert_eq!((compared.code(), compared.stderr.as_str()), (0, ""), "{compared:?}");
    assert!(compared.stdout.ends_with("no difference\n"), "{}", compared.stdout);
    // Comments and line breaks make no difference.
    edit(&workspace, CHANGES, "SELECT\n", "SELECT -- all of it\n\n");
    assert_eq!(workspace.run(&DIFF).code(), 0);
}

#[test]
fn rows_columns_quarantine_and_sums_are_compared_and_the_checkout_is_not_touched() {
    let workspace = repository();
    edit(&workspace, CHANGES, "after.name    AS name", "upper(after.name) AS name");
    edit(&workspace, ENRICHED, "l.code IS NULL", "l.code IS NULL AND c.country <> 'XX'");
    let before = git(&workspace, &["status", "--porcelain", "--ignored"]);
    let index = std::fs::read(workspace.path().join(".git/index")).unwrap();
    let compared = workspace.run(&DIFF);
    assert_eq!((compared.code(), compared.stderr.as_str()), (1, ""), "{compared:?}");
    let (_, shown) = compared.stdout.split_once('\n').unwrap();
    insta::assert_snapshot!(shown, @r#"
    over 6 events of events.ndjson, from empty tables

    rows of enriched_user: 1 old, 2 new: 1 added, 0 gone, 1 changed, 0 the same
      name differs in 1 row

    added: 1 row
      user_id  name  email  country  country_name  region
      ───────  ────  ─────  ───────  ────────────  ──────
      3        BOB   NULL   DE       Germany       Europe

    changed: name in 1 row
      key    old            new
      ─────  ─────────────  ─────────────
      ["2"]  Ann\u{1b}[31m  ANN\u{1b}[31M

    quarantine: 3 old, 1 new; 2 events judged differently
      partition  offset  keys   old                                                                       new
      ─────────  ──────  ─────  ────────────────────────────────────────────────────────────────────────  ──────
              0       2  ["3"]  refused at model by enriched: the country is not in the lookup countries  passed
              0       3  ["3"]  held                                                                      passed

    sums
      partition 0: refused 2 → 1, held 1 → 0, accepted 3 → 5, changes 4 → 6, upserted 1 → 2, superseded 2 → 3
    "#);
    assert_eq!(git(&workspace, &["status", "--porcelain", "--ignored"]).replace("?? stderr\n?? stdout\n", ""), before);
    assert_eq!(std::fs::read(workspace.path().join(".git/index")).unwrap(), index);

    let summary = workspace.run(&[&DIFF as &[&str], &["--summary"]].concat());
    assert_eq!(summary.code(), 1);
    assert!(summary.stdout.contains("name differs in 1 row") && !summary.stdout.contains("ANN"), "{}", summary.stdout);

    let json = workspace.run(&[&DIFF as &[&str], &["--format", "json", "--limit", "1"]].concat());
    let document: Value = serde_json::from_str(&json.stdout).unwrap();
    let head = git(&workspace, &["rev-parse", "HEAD"]);
    assert_eq!((json.code(), &document["old"]["commit"]), (1, &head.trim().into()));
    assert_eq!((&document["rows"]["added"], &document["rows"]["changed"]), (&1.into(), &1.into()));
    assert_eq!(document["changed"][0]["column"], "name");
    assert_eq!(document["changed"][0]["samples"][0]["key"], serde_json::json!(["2"]));
    assert_eq!(document["added"][0]["row"]["name"], "BOB");
    assert_eq!(document["quarantine"]["different"], 2);
    assert_eq!(document["quarantine"]["samples"].as_array().unwrap().len(), 1, "--limit");
}

#[test]
fn columns_that_come_go_and_change_their_type_are_told() {
    let workspace = repository();
    edit(
        &workspace,
        "queries/users/latest.sql",
        "country, country_name, region, _deleted, ts, _partition, _offset\nFROM (",
        "country, region, length(name) AS letters, _deleted, ts, _partition, _offset\nFROM (",
    );
    let compared = workspace.run(&DIFF);
    assert_eq!(compared.code(), 1, "{compared:?}");
    for text in ["columns added: letters", "columns gone: country_name", "0 changed"] {
        assert!(compared.stdout.contains(text), "{text}: {}", compared.stdout);
    }
    // Against the folder that the revision has as well.
    git(&workspace, &["stash", "-q"]);
    let copied = Command::new("cp").args(["-r", "queries/users", "queries.old"]).current_dir(workspace.path()).status();
    assert!(copied.unwrap().success());
    git(&workspace, &["stash", "pop", "-q"]);
    let old = workspace.run(&["diff", "--old", "queries.old", "--events", "events.ndjson", "--format", "json"]);
    let document: Value = serde_json::from_str(&old.stdout).unwrap();
    assert_eq!((old.code(), &document["columns"]["gone"]), (1, &serde_json::json!(["country_name"])));
}

#[test]
fn a_row_that_another_event_wrote_differs_in_its_version_alone() {
    let workspace = repository();
    let lines = [super::event("c", "7", "Ann", "DE", 0), super::event("u", "7", "Ann", "DE", 1)];
    workspace.write("events.ndjson", &lines.join("\n"));
    edit(&workspace, ENRICHED, "    CASE\n", "    CASE WHEN c._offset = 1 THEN 'the second one'\n");
    let compared = workspace.run(&[&DIFF as &[&str], &["--format", "json"]].concat());
    let document: Value = serde_json::from_str(&compared.stdout).unwrap();
    let columns: Vec<&str> =
        document["changed"].as_array().unwrap().iter().map(|column| column["column"].as_str().unwrap()).collect();
    assert_eq!((compared.code(), columns), (1, vec!["cdc_ts", "cdc_offset"]));
    let cell = &document["changed"][1]["samples"][0];
    assert_eq!((&cell["old"], &cell["new"]), (&1.into(), &0.into()));
}

#[test]
fn the_old_schema_and_lookup_are_those_of_the_revision() {
    let workspace = repository();
    let countries = std::fs::read_to_string(workspace.path().join("queries/users/lookups/countries.csv")).unwrap();
    workspace.write("queries/users/lookups/countries.csv", &(countries + "XX,Exampleland,Europe\n"));
    let compared = workspace.run(&DIFF);
    assert_eq!(compared.code(), 1, "{compared:?}");
    assert!(compared.stdout.contains("1 added") && compared.stdout.contains("passed"), "{}", compared.stdout);
    // A schema that the revision hasn't is taken as it is now, and that is said.
    git(&workspace, &["rm", "-q", "-r", "--cached", "schemas"]);
    git(&workspace, &["commit", "-q", "-m", "two"]);
    let compared = workspace.run(&DIFF);
    assert_eq!(compared.code(), 1, "{compared:?}");
    assert!(compared.stderr.contains("there was no schemas/users at HEAD"), "{compared:?}");
}

#[test]
fn faults_are_shown_with_their_side() {
    let workspace = repository();
    edit(&workspace, CHANGES, "after.country", "after.contry");
    let compared = workspace.run(&DIFF);
    assert_eq!((compared.code(), compared.stdout.as_str()), (2, ""), "{compared:?}");
    assert!(compared.stderr.contains("faults of the new side"), "{}", compared.stderr);
    assert!(compared.stderr.contains("--> queries/users/changes.sql:"), "{}", compared.stderr);
    assert!(!compared.stderr.contains("old side"), "{}", compared.stderr);
    // The other way round.
    git(&workspace, &["commit", "-q", "-a", "-m", "broken"]);
    edit(&workspace, CHANGES, "after.contry", "after.country");
    let compared = workspace.run(&DIFF);
    assert_eq!(compared.code(), 2, "{compared:?}");
    assert!(compared.stderr.contains("faults of the old side, HEAD"), "{}", compared.stderr);
    assert!(compared.stderr.contains("--> HEAD:queries/users/changes.sql:"), "{}", compared.stderr);
    assert!(compared.stderr.contains("after.contry"), "the line is quoted: {}", compared.stderr);
}

#[test]
fn what_cannot_be_compared_is_an_error_and_no_difference() {
    let plain = workspace();
    plain.write("events.ndjson", &events());
    let compared = plain.run(&DIFF);
    assert!(compared.code() == 2 && compared.stderr.contains("is in no git repository"), "{compared:?}");

    let workspace = repository();
    workspace.write("empty.ndjson", "");
    for (arguments, text) in [
        (&["--rev", "nope", "--events", "events.ndjson"] as &[&str], "git knows no revision \"nope\""),
        (&["--rev", "--help", "--events", "events.ndjson"], "--rev"),
        (&["--rev=--help", "--events", "events.ndjson"], "git knows no revision \"--help\""),
        (&["--rev", "HEAD", "--events", "empty.ndjson"], "holds no events"),
        (&["--rev", "HEAD", "--events", "nowhere.ndjson"], "nowhere.ndjson"),
        (&["--rev", "HEAD"], "say which events"),
        (&["--old", "nowhere", "--events", "events.ndjson"], "nowhere"),
    ] {
        let compared = workspace.run(&[&["diff"], arguments].concat());
        assert!(compared.code() == 2 && compared.stderr.contains(text), "{arguments:?}: {compared:?}");
        assert!(compared.stdout.is_empty() && !compared.stderr.contains("panicked"), "{compared:?}");
    }
    // Models that did not exist then.
    git(&workspace, &["rm", "-q", "-r", "--cached", "queries"]);
    git(&workspace, &["commit", "-q", "-m", "without"]);
    let compared = workspace.run(&DIFF);
    assert!(compared.code() == 2 && compared.stderr.contains("there was no queries/users"), "{compared:?}");
}
