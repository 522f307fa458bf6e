//! `explain`, for people and programs.

use serde_json::Value;

use super::{events, workspace};

#[test]
fn people_see_the_graph_and_what_the_rules_made_of_it() {
    let workspace = workspace();
    let shown = workspace.run(&["explain"]);
    assert_eq!((shown.code(), shown.stderr.as_str()), (0, ""), "{shown:?}");
    let (graph, _) = shown.stdout.split_once("\n\nenriched").unwrap();
    insta::assert_snapshot!(graph, @r"
    pipeline users: topic user_cdc to table enriched_user

      model         reads                                  goes to
      ────────────  ─────────────────────────────────────  ────────────────────
      changes       events                                 enriched
      enriched      changes, countries (lookup, 249 rows)  accepted, metrics
      accepted      enriched, held                         latest, out_of_order
      latest        accepted                               table enriched_user
      metrics       enriched                               figures
      out_of_order  accepted, known                        evidence
    ");
    assert!(shown.stdout.contains("newest row: yes"), "{}", shown.stdout);
    let plans = workspace.run(&["explain", "--model", "latest"]);
    for text in ["logical plan", "physical plan", "LatestExec"] {
        assert!(plans.stdout.contains(text), "{text}: {}", plans.stdout);
    }
    assert!(!plans.stdout.contains("\nenriched ("), "{}", plans.stdout);
}

#[test]
fn programs_get_rows_and_times_of_every_model() {
    let workspace = workspace();
    workspace.write("events.ndjson", &events());
    let arguments = ["explain", "--events", "events.ndjson", "--runs", "3", "--batch", "2", "--format", "json"];
    let shown = workspace.run(&arguments);
    assert_eq!((shown.code(), shown.stderr.as_str()), (0, ""), "{shown:?}");
    let document: Value = serde_json::from_str(&shown.stdout).unwrap();
    let measured = &document["measured"];
    assert_eq!((&measured["events"], &measured["batches"], &measured["runs"]), (&6.into(), &3.into(), &3.into()));
    let rows: Vec<(&str, i64)> = document["models"]
        .as_array()
        .unwrap()
        .iter()
        .map(|model| (model["name"].as_str().unwrap(), model["rows"].as_i64().unwrap()))
        .collect();
    let expected =
        [("changes", 6), ("enriched", 6), ("accepted", 4), ("latest", 3), ("metrics", 3), ("out_of_order", 1)];
    assert_eq!(rows, expected);
    assert!(document["models"].as_array().unwrap().iter().all(|model| model["ms"].as_f64().unwrap() > 0.0));
}

#[test]
fn the_graph_is_drawn_by_graphviz() {
    let workspace = workspace();
    let shown = workspace.run(&["explain", "--format", "dot"]);
    assert_eq!(shown.code(), 0, "{shown:?}");
    insta::assert_snapshot!(shown.stdout, @r#"
    digraph "users" {
      rankdir=LR;
      node [shape=box, style=rounded];
      "events" [shape=cylinder, style=solid, label="events"];
      "held" [shape=cylinder, style=solid, label="held"];
      "enriched" -> "held" [style=dashed];
      "known" [shape=cylinder, style=solid, label="known"];
      "accepted" -> "known" [style=dashed];
      "countries" [shape=cylinder, style=solid, label="countries\n249 rows"];
      "changes" [label="changes"];
      "enriched" [label="enriched"];
      "accepted" [label="accepted"];
      "latest" [label="latest"];
      "metrics" [label="metrics"];
      "out_of_order" [label="out_of_order"];
      "events" -> "changes";
      "changes" -> "enriched";
      "countries" -> "enriched";
      "enriched" -> "accepted";
      "held" -> "accepted";
      "accepted" -> "latest";
      "enriched" -> "metrics";
      "accepted" -> "out_of_order";
      "known" -> "out_of_order";
      "table enriched_user" [shape=cylinder, style=solid];
      "latest" -> "table enriched_user";
    }
    "#);
}

#[test]
fn what_cannot_be_explained_is_named() {
    let workspace = workspace();
    workspace.write("empty.ndjson", "");
    for (arguments, text) in [
        (&["--model", "latst"] as &[&str], "did you mean latest?"),
        (&["--events", "empty.ndjson"], "holds no events"),
        (&["--events", "nowhere.ndjson"], "nowhere.ndjson"),
        (&["--partition", "1"], "--topic-last"),
        (&["--runs", "0"], "--runs"),
    ] {
        let shown = workspace.run(&[&["explain"], arguments].concat());
        assert!(shown.code() == 2 && shown.stderr.contains(text), "{arguments:?}: {shown:?}");
    }
}
