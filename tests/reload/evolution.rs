//! From a field that events begin to carry to a column that is filled, and the other changes of a schema: by files, without a restart.

use super::*;
use crate::on_both_servers;

/// An event whose row has more fields than the shipped ones.
fn richer(user: usize, second: i64, fields: &Value) -> OwnedRecord {
    let name = format!("u{user} at {second}");
    let mut after = json!({ "userId": format!("u{user}"), "name": name, "email": null, "country": "DE" });
    after.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    let value = json!({ "op": "u", "before": null, "after": after, "timestamp": START_MS + second * 1000 });
    OwnedRecord { partition: (user % 2) as i32, ..record(&format!("u{user}"), &value, second) }
}

fn edit(root: &Path, file: &str, changes: &[(&str, &str)]) {
    let path = root.join(file);
    let mut text = std::fs::read_to_string(&path).unwrap();
    for (from, to) in changes {
        assert!(text.contains(from), "{file} lacks {from:?}:\n{text}");
        text = text.replacen(from, to, 1);
    }
    std::fs::write(path, text).unwrap();
}

/// Has the models pass a field of the row on, as a column of the same name.
fn select(root: &Path, column: &str) {
    let (yielded, gone) = (format!("after.{column} AS {column},\n    false"), format!("NULL AS {column},\n    true "));
    edit(root, "queries/users/changes.sql", &[("false ", &format!("{yielded} ")), ("true  ", &format!("{gone} "))]);
    edit(root, "queries/users/enriched.sql", &[("c.country,", &format!("c.country,\n    c.{column},"))]);
    edit(root, "queries/users/latest.sql", &[("region, ", &format!("region, {column}, "))]);
}

/// Files of the models and schemas, as a deployment brings them: all of them, unchanged ones too.
fn deploy(from: &Path, to: &Path) {
    for folder in ["schemas/users", "queries/users"] {
        for entry in std::fs::read_dir(from.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                std::fs::copy(&path, to.join(folder).join(path.file_name().unwrap())).unwrap();
            }
        }
    }
}

/// The newest schema file as the next version, with one change; with everything that stands before its fields.
fn next_schema(root: &Path, version: usize, change: impl FnOnce(&mut Value)) {
    let read = |version: usize| std::fs::read_to_string(root.join(format!("schemas/users/{version}.json"))).unwrap();
    let mut schema: Value = serde_json::from_str(&read(version - 1)).unwrap();
    schema.as_object_mut().unwrap().remove("breaking");
    change(&mut schema);
    std::fs::write(root.join(format!("schemas/users/{version}.json")), format!("{schema:#}\n")).unwrap();
}

fn field(schema: &mut Value, field: Value) {
    schema["fields"].as_array_mut().unwrap().push(field);
}

fn succeeds(files: &Workspace, arguments: &[&str]) -> String {
    let finished = files.run(arguments);
    assert_eq!(finished.code(), 0, "{arguments:?}: {finished:?}");
    finished.stdout
}

on_both_servers! {
    // Proves: P1, P3, P6, R57, R62
    async fn a_field_that_events_begin_to_carry_becomes_a_column_while_two_instances_run_and_one_is_killed(server) {
        let port = free_port().unwrap();
        let kafka = "\"session.timeout.ms\" = \"6000\"\n\"heartbeat.interval.ms\" = \"500\"\n".to_owned();
        let http = format!("listen = \"127.0.0.1:{port}\"");
        let mut rig = rig(server, Variant { kafka, http, ..Variant::default() }).await;
        let staying = files(&rig, 0);
        rig.variant.http = "enabled = false".to_owned();
        let (killed, desk) = (files(&rig, 0), files(&rig, 0));
        let mut first = staying.start("run", &["run"]);
        let mut second = killed.start("run", &["run"]);
        let mut second_at = 0;
        let mut round = |rig: &Rig, fields: &Value| {
            let _ = rig;
            second_at += 1;
            (0..30).map(|user| richer(user, second_at * 100 + user as i64, fields)).collect::<Vec<_>>()
        };
        let plain = round(&rig, &json!({}));
        rig.write(plain).await;
        rig.wait_until_applied(LONG).await;

        // Events begin to carry it: it is counted by name, and nothing else happens.
        let phone = json!({ "phone": "+49 30 1" });
        let carrying = round(&rig, &phone);
        std::fs::write(desk.path().join("samples.ndjson"), carrying.iter().fold(String::new(), |lines, record| {
            lines + &String::from_utf8_lossy(record.value.as_ref().unwrap()) + "\n"
        })).unwrap();
        rig.write(carrying).await;
        rig.wait_until_applied(LONG).await;
        second.kill();
        second = killed.start("run", &["run"]);
        let drift = round(&rig, &phone);
        rig.write(drift).await;
        wait_for_status(port, |status| status["unmapped"]["phone"].as_u64() > Some(0)).await;

        // The next schema file, from samples. It alone changes nothing in the table.
        succeeds(&desk, &["schema", "infer", "--events", "samples.ndjson", "--write"]);
        succeeds(&desk, &["schema", "check"]);
        let known = first.log().len();
        deploy(desk.path(), staying.path());
        deploy(desk.path(), killed.path());
        first.wait_for_line(known, &["changed files taken up"], LONG).await;
        second.kill();
        second = killed.start("run", &["run"]);
        let more = round(&rig, &phone);
        rig.write(more).await;

        // The table, while both go on; then the SQL.
        select(desk.path(), "phone");
        succeeds(&desk, &["check"]);
        let planned = desk.run(&["schema", "plan"]);
        assert!(planned.code() == 1 && planned.stdout.contains("ADD COLUMN `phone`"), "{planned:?}");
        succeeds(&desk, &["schema", "apply"]);
        succeeds(&desk, &["schema", "plan"]);
        let more = round(&rig, &phone);
        rig.write(more).await;
        second.kill();
        second = killed.start("run", &["run"]);
        let known = first.log().len();
        deploy(desk.path(), staying.path());
        first.wait_for_line(known, &["changed files taken up", "generation=3"], LONG).await;
        let last = round(&rig, &phone);
        rig.write(last).await;
        deploy(desk.path(), killed.path());
        rig.wait_until_applied(LONG).await;
        let live = round(&rig, &json!({ "phone": "+49 30 2" }));
        rig.write(live).await;
        rig.wait_until_applied(LONG).await;
        assert_eq!(rig.database.number("SELECT COUNT(*) FROM enriched_user WHERE phone = '+49 30 2'").await, 30);
        let now = status(port);
        assert_eq!((&now["generation"], &now["reload"]["state"]), (&json!(3), &json!("current")), "{now:#}");
        assert!(first.is_running(), "the one that stayed was never restarted");
        finish(first).await;
        finish(second).await;
        rig.assert_as_folded().await;
        assert_eq!(assert_written_in_turn(&rig).await.last(), Some(&3));
    }

    // Proves: P1, P3, P6
    async fn widening_a_default_a_new_name_and_a_drop_on_purpose_go_live_without_a_restart(server) {
        let port = free_port().unwrap();
        let mut rig = rig(server, with_status(port)).await;
        // Its form here: what the fold knows is not all that the table has.
        let desk = files(&rig, 0);
        let mut running = rig.start("run");
        // Or it would begin with the files that are about to come.
        running.wait_for_log("partition begun", LONG).await;
        let live = rig.workspace.path().to_owned();
        let row = |user: &str, columns: &str| format!("SELECT {columns} FROM enriched_user WHERE user_id = '{user}'");

        // A number of 32 bits.
        next_schema(desk.path(), 2, |schema| field(schema, json!({ "name": "points", "type": "int32" })));
        select(desk.path(), "points");
        succeeds(&desk, &["schema", "apply"]);
        deploy(desk.path(), &live);
        running.wait_for_line(0, &["changed files taken up", "generation=2"], LONG).await;
        rig.write([richer(0, 1, &json!({ "points": 7 })), richer(1, 1, &json!({ "points": 5_000_000_000_i64 }))]).await;
        rig.wait_until_applied(LONG).await;
        assert_eq!(rig.database.rows(&row("u0", "points")).await, [["7"]]);
        assert_eq!(rig.database.number("SELECT COUNT(*) FROM error_data_enrichment WHERE state = 'refused'").await, 1);

        // It becomes one of 64: the SQL is the same. The record that couldn't be read is run again and waits for the table to follow.
        next_schema(desk.path(), 3, |schema| schema["fields"][4]["type"] = json!("int64"));
        succeeds(&desk, &["schema", "check"]);
        deploy(desk.path(), &live);
        running.wait_for_line(0, &["changed files taken up", "generation=3"], LONG).await;
        rig.wait_for("SELECT COUNT(*) FROM error_data_enrichment WHERE stage = 'target'", 1, LONG).await;
        let planned = desk.run(&["schema", "plan"]);
        assert!(planned.code() == 1 && planned.stdout.contains("MODIFY COLUMN `points` bigint"), "{planned:?}");
        succeeds(&desk, &["schema", "apply", "--allow-blocking"]);
        succeeds(&rig.workspace, &["quarantine", "retry", "--key", "u1"]);
        rig.wait_for("SELECT COUNT(*) FROM error_data_enrichment WHERE state = 'resolved'", 1, LONG).await;
        assert_eq!(rig.database.rows(&row("u1", "points")).await, [["5000000000"]]);

        // A field with a default: for events that lack it, not for those where it is null.
        next_schema(desk.path(), 4, |schema| {
            field(schema, json!({ "name": "plan", "type": "utf8", "metadata": { "default": "free" } }));
        });
        select(desk.path(), "plan");
        succeeds(&desk, &["schema", "apply"]);
        deploy(desk.path(), &live);
        running.wait_for_line(0, &["changed files taken up", "generation=4"], LONG).await;
        rig.write([richer(2, 2, &json!({})), richer(3, 2, &json!({ "plan": null }))]).await;
        rig.wait_until_applied(LONG).await;
        assert_eq!(rig.database.rows(&row("u2", "plan")).await, [["free"]]);
        assert_eq!(rig.database.rows(&row("u3", "plan")).await, [["NULL"]]);

        // A new name in the source: older events go by the old one.
        next_schema(desk.path(), 5, |schema| {
            let renamed = json!({ "name": "fullName", "type": "utf8", "metadata": { "aliases": "[\"name\"]" } });
            schema["fields"][1] = renamed;
        });
        edit(desk.path(), "queries/users/changes.sql", &[("after.name ", "after.fullName ")]);
        succeeds(&desk, &["schema", "plan"]);
        deploy(desk.path(), &live);
        running.wait_for_line(0, &["changed files taken up", "generation=5"], LONG).await;
        let mut renamed = richer(4, 3, &json!({ "fullName": "Dora" }));
        let mut value: Value = serde_json::from_slice(renamed.value.as_ref().unwrap()).unwrap();
        value["after"].as_object_mut().unwrap().remove("name");
        renamed.value = Some(value.to_string().into_bytes());
        rig.write([renamed, richer(5, 3, &json!({}))]).await;
        rig.wait_until_applied(LONG).await;
        assert_eq!(rig.database.rows(&row("u4", "name")).await, [["Dora"]]);
        assert_eq!(rig.database.rows(&row("u5", "name")).await, [["u5 at 3"]]);

        // A field goes: not by itself, but on purpose; then its column.
        next_schema(desk.path(), 6, |schema| drop(schema["fields"].as_array_mut().unwrap().remove(2)));
        assert_eq!(desk.run(&["schema", "check"]).code(), 1, "nobody said so");
        deploy(desk.path(), &live);
        let refused = wait_for_status(port, |status| status["reload"]["state"] == "refused").await;
        assert!(refused["reload"]["faults"].to_string().contains("AI0220"), "{refused:#}");
        next_schema(desk.path(), 6, |schema| {
            schema["fields"].as_array_mut().unwrap().remove(2);
            schema["breaking"] = json!(["drop email: nobody may read it any more"]);
        });
        edit(desk.path(), "queries/users/changes.sql", &[("    after.email   AS email,\n", ""), ("    NULL          AS email,\n", "")]);
        edit(desk.path(), "queries/users/enriched.sql", &[("    c.email,\n", "")]);
        edit(desk.path(), "queries/users/latest.sql", &[("name, email,", "name,")]);
        succeeds(&desk, &["schema", "check"]);
        deploy(desk.path(), &live);
        running.wait_for_line(0, &["changed files taken up", "generation=6"], LONG).await;
        succeeds(&desk, &["schema", "apply", "--drop", "email", "--allow-blocking"]);
        rig.write([richer(6, 4, &json!({ "points": 1 }))]).await;
        rig.wait_until_applied(LONG).await;
        assert_eq!(rig.database.rows(&row("u6", "points, plan")).await, [["1", "free"]]);
        let now = status(port);
        assert_eq!((&now["state"], &now["reload"]["state"]), (&json!("running"), &json!("current")), "{now:#}");
        assert_eq!(count(&running, "partition begun"), 2, "{}", running.tail());
        finish(running).await;
        let read = rig.database.number("SELECT SUM(n_read) FROM afterimage_positions").await;
        assert_eq!(read, rig.written.len() as i64, "each event once");
        assert_written_in_turn(&rig).await;
    }
}
