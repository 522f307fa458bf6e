//! `preview` without any server.

use std::fs::File;

use afterimage::generate::{Workload, write_ndjson};
use arrow::array::AsArray;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::{event, events, json_lines, without_times, workspace};

#[test]
fn people_see_rows_refusals_holds_and_writes() {
    let workspace = workspace();
    workspace.write("events.ndjson", &events());
    let shown = workspace.run(&["preview", "--events", "events.ndjson", "--model", "latest", "--limit", "1"]);
    assert_eq!((shown.code(), shown.stderr.as_str()), (0, ""), "{shown:?}");
    insta::assert_snapshot!(without_times(&shown.stdout), @r#"
    events.ndjson: 6 events in 1 batch

    model latest: 2 rows
      user_id  name           email  country  country_name  region  _deleted  ts                    _partition  _offset
      ───────  ─────────────  ─────  ───────  ────────────  ──────  ────────  ────────────────────  ──────────  ───────
      2        Ann\u{1b}[31m  NULL   FR       France        Europe  false     2023-11-14T22:13:21Z           0        1
      and 1 more

    refused at model by enriched: partition 0 offset 2: the country is not in the lookup countries
      and 1 more
    held: partition 0 offset 3 waits for ["3"]
    out of order: partition 0 offset 5 of ["2"] is of 2023-11-14T22:13:20.5Z; partition 0 offset 1 before it is of 2023-11-14T22:13:21Z
    no schema knows the field zip, which 1 event had
    writes that would follow, to an empty enriched_user: 1 insert, 1 absent
      write   user_id  name  email  country  country_name  region
      ──────  ───────  ────  ─────  ───────  ────────────  ──────
      absent  1        NULL  NULL   NULL     NULL          NULL
      and 1 more
    partition 0: read 6 = ignored 0 + refused 2 + held 1 + accepted 3; changes 4 = upserted 1 + deleted 1 + superseded 2
    "#);
    assert!(!shown.stdout.contains('\u{1b}'), "an event speaks to the terminal");
}

#[test]
fn batches_show_what_changes_from_one_to_the_next() {
    let workspace = workspace();
    let lines = [
        event("c", "1", "Ann", "DE", 0),
        event("u", "1", "Anna", "DE", 1),
        event("u", "1", "Anna", "DE", 2),
        event("u", "1", "Late", "DE", 1),
        event("d", "1", "", "DE", 4),
        event("d", "1", "", "DE", 5),
    ];
    workspace.write("events.ndjson", &lines.join("\n"));
    let arguments =
        ["preview", "--events", "events.ndjson", "--format", "ndjson", "--batch", "1", "--model", "metrics"];
    let shown = workspace.run(&arguments);
    assert_eq!(shown.code(), 0, "{shown:?}");
    let lines = json_lines(&shown.stdout);
    let writes: Vec<_> = lines.iter().filter(|line| line["kind"] == "write").collect();
    let what: Vec<_> =
        writes.iter().map(|write| (write["batch"].as_i64().unwrap(), write["write"].as_str().unwrap())).collect();
    let expected = [(1, "insert"), (2, "update"), (3, "unchanged"), (4, "superseded"), (5, "delete"), (6, "absent")];
    assert_eq!(what, expected);
    assert_eq!(writes[1]["changed"], serde_json::json!(["name"]));
    assert_eq!((&writes[1]["before"]["name"], &writes[1]["row"]["name"]), (&"Ann".into(), &"Anna".into()));
    assert_eq!((&writes[4]["before"]["name"], &writes[4]["row"]), (&"Anna".into(), &serde_json::Value::Null));
    let rows: Vec<_> = lines.iter().filter(|line| line["kind"] == "row").collect();
    assert!(rows.len() == 6 && rows.iter().all(|row| row["model"] == "metrics"), "{rows:?}");
    let sums = lines.iter().find(|line| line["kind"] == "sums").unwrap();
    assert_eq!((&sums["sums"]["accepted"], &sums["sums"]["superseded"]), (&6.into(), &1.into()));
}

#[test]
fn programs_get_every_row_of_a_generated_workload_as_lines_and_as_files() {
    let workspace = workspace();
    let workload = Workload { events: 3_000, users: 200, ..Workload::default() };
    let file = File::create(workspace.path().join("events.ndjson")).unwrap();
    write_ndjson(file, workload.records()).unwrap();
    let shown = workspace.run(&["preview", "--events", "events.ndjson", "--format", "ndjson"]);
    assert_eq!(shown.code(), 0, "{:?}", shown.stderr);
    let lines = json_lines(&shown.stdout);
    let count = |kind: &str| lines.iter().filter(|line| line["kind"] == kind).count();
    let sum = |name: &str| -> u64 {
        let sums = lines.iter().filter(|line| line["kind"] == "sums");
        sums.map(|line| line["sums"][name].as_u64().unwrap()).sum()
    };
    assert_eq!(sum("read"), 3_000);
    assert_eq!((count("refused") as u64, count("held") as u64), (sum("refused"), sum("held")));
    assert!(count("refused") > 0 && count("held") > 0 && count("out_of_order") > 0 && count("unmapped") > 0);

    for format in ["parquet", "arrow"] {
        let shown = workspace.run(&["preview", "--events", "events.ndjson", "--format", format, "--out", "files"]);
        assert_eq!((shown.code(), shown.stdout.as_str()), (0, ""), "{shown:?}");
    }
    let read = |name: &str| {
        let file = File::open(workspace.path().join(format!("files/{name}.parquet"))).unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().with_batch_size(1 << 20).build().unwrap();
        let batches: Vec<_> = reader.map(Result::unwrap).collect();
        batches.into_iter().next()
    };
    let rows = |name: &str| read(name).map_or(0, |rows| rows.num_rows());
    let of_model = |name: &str| lines.iter().filter(|line| line["kind"] == "row" && line["model"] == name).count();
    for model in ["changes", "enriched", "accepted", "latest", "metrics", "out_of_order"] {
        assert_eq!(rows(model), of_model(model), "{model}");
    }
    assert_eq!((rows("writes"), rows("quarantine")), (count("write"), count("refused") + count("held")));
    let writes = read("writes").unwrap();
    let (kinds, images) =
        (writes.column_by_name("write").unwrap().as_string::<i32>(), writes.column_by_name("row").unwrap().as_struct());
    for row in 0..writes.num_rows() {
        assert_eq!(
            arrow::array::Array::is_null(images, row),
            ["delete", "absent"].contains(&kinds.value(row)),
            "{row}"
        );
    }
    let arrow_files = std::fs::read_dir(workspace.path().join("files")).unwrap();
    assert_eq!(arrow_files.count(), 16, "eight tables in two formats");
}

#[test]
fn a_pipeline_that_stops_at_the_first_refusal_is_shown_to_its_end() {
    let workspace = workspace();
    let config = std::fs::read_to_string(workspace.path().join("afterimage.toml")).unwrap();
    workspace.write("afterimage.toml", &config.replace("\"hold_key\"", "\"stop\""));
    workspace.write("events.ndjson", &events());
    let shown = workspace.run(&["preview", "--events", "events.ndjson"]);
    assert_eq!(shown.code(), 0, "{shown:?}");
    assert!(shown.stdout.contains("the service would stop at the first of these"), "{}", shown.stdout);
    assert!(shown.stdout.contains("accepted 4"), "nobody waits where everything stops: {}", shown.stdout);
}

#[test]
fn what_cannot_be_previewed_is_named() {
    let workspace = workspace();
    workspace.write("empty.ndjson", "\n");
    workspace.write("events.ndjson", &events());
    workspace.write(
        "bad.ndjson",
        "{\"partition\":0,\"offset\":1,\"value\":{}}\n{\"partition\":0,\"offset\":\"x\",\"value\":{}}\n",
    );
    workspace.write("a-file", "");
    for (arguments, code, text) in [
        (&["--events", "nowhere.ndjson"] as &[&str], 2, "nowhere.ndjson"),
        (&["--events", "bad.ndjson"], 2, "bad.ndjson:2"),
        (&["--events", "empty.ndjson"], 0, "warning: empty.ndjson holds no events"),
        (&[], 2, "say which events"),
        (&["--events", "events.ndjson", "--model", "latst"], 2, "did you mean latest?"),
        (&["--events", "events.ndjson", "--pipeline", "orders"], 2, "there is no pipeline orders"),
        (&["--events", "events.ndjson", "--format", "parquet"], 2, "--out FOLDER"),
        (&["--events", "events.ndjson", "--out", "x"], 2, "--format parquet"),
        (&["--events", "events.ndjson", "--out", "a-file", "--format", "arrow"], 2, "a-file"),
    ] {
        let shown = workspace.run(&[&["preview"], arguments].concat());
        assert!(shown.code() == code && shown.stderr.contains(text), "{arguments:?}: {shown:?}");
        assert!(!shown.stderr.contains("panicked"), "{shown:?}");
    }
    let changes = std::fs::read_to_string(workspace.path().join("queries/users/changes.sql")).unwrap();
    workspace.write("queries/users/changes.sql", &changes.replace("after.country", "after.contry"));
    let shown = workspace.run(&["preview", "--events", "events.ndjson"]);
    assert!(shown.code() == 2 && shown.stderr.contains("queries/users/changes.sql:"), "{shown:?}");
}
