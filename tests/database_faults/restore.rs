//! A database restored from a backup, with or without afterimage's own tables, under a service that is stopped or running.

use std::time::Duration;

use mysql_async::prelude::Queryable;

use super::{LONG, healed, small};
use crate::faults::harsh;
use crate::on_both_servers;
use crate::support::outcome;
use crate::support::process::Running;
use crate::support::rig::Rig;

const OURS: [&str; 5] = [
    "afterimage_positions",
    "afterimage_tombstones",
    "error_data_enrichment",
    "out_of_order_events",
    "user_cdc_pipeline_metrics",
];

/// Keeps a copy of the target and of our tables, as one consistent snapshot of an idle service.
async fn back_up(rig: &Rig) {
    for table in OURS.into_iter().chain(["enriched_user"]) {
        rig.database.execute(&format!("CREATE TABLE saved_{table} LIKE {table}")).await;
        rig.database.execute(&format!("INSERT INTO saved_{table} SELECT * FROM {table}")).await;
    }
}

/// Brings the copies back, all at once.
async fn restore(rig: &Rig, tables: &[&str]) {
    let mut connection = rig.database.connect().await;
    connection.query_drop("START TRANSACTION").await.unwrap();
    for table in tables {
        connection.query_drop(format!("DELETE FROM {table}")).await.unwrap();
        connection.query_drop(format!("INSERT INTO {table} SELECT * FROM saved_{table}")).await.unwrap();
    }
    connection.query_drop("COMMIT").await.unwrap();
    connection.disconnect().await.unwrap();
}

async fn drop_ours(rig: &Rig) {
    for table in OURS {
        rig.database.execute(&format!("DROP TABLE {table}")).await;
    }
}

/// The end where everything was read again while the rows were there: an event is then compared with rows that came after it.
async fn healed_but_for_evidence(rig: &Rig, mut running: Running) {
    rig.wait_until_applied(LONG).await;
    running.terminate();
    running.wait_for_code(0, LONG).await;
    let (mut expected, mut found) = (rig.expected(), outcome::read(&rig.database).await);
    expected.out_of_order.clear();
    found.out_of_order.clear();
    let found = afterimage::demo::outcome::Found { state: found, unbalanced: Vec::new() };
    let faults = afterimage::demo::outcome::faults(&expected, &found);
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Everything but the running numbers of the metrics.
fn all() -> Vec<&'static str> {
    OURS.into_iter().filter(|table| !table.ends_with("metrics")).chain(["enriched_user"]).collect()
}

on_both_servers! {
    // Proves: P1, P3, R58
    async fn a_backup_with_our_tables_restored_while_stopped_heals(server) {
        let mut rig = Rig::new(server, small()).await;
        let mut records = harsh(4_000, 200, 227).into_iter();
        rig.write(records.by_ref().take(2_000)).await;
        rig.catch_up("first", LONG).await;
        back_up(&rig).await;
        rig.write(records).await;
        rig.catch_up("second", LONG).await;
        rig.assert_as_folded().await;
        restore(&rig, &all()).await;
        rig.catch_up("third", LONG).await;
        rig.assert_as_folded().await;
    }

    // Proves: P1, P3, P6, R58
    async fn a_backup_restored_under_an_idle_service_is_noticed_by_it(server) {
        let mut rig = Rig::new(server, small()).await;
        let mut records = harsh(4_000, 200, 229).into_iter();
        let mut running = rig.start("run");
        rig.write(records.by_ref().take(2_000)).await;
        rig.wait_until_applied(LONG).await;
        back_up(&rig).await;
        rig.write(records.by_ref().take(1_500)).await;
        rig.wait_until_applied(LONG).await;
        restore(&rig, &all()).await;
        running.wait_for_line(0, &["the database stands at other positions"], Duration::from_secs(60)).await;
        rig.wait_until_applied(LONG).await;
        rig.assert_as_folded().await;
        rig.write(records).await;
        healed(&rig, running).await;
    }

    // Proves: P1, P6, R58
    async fn a_backup_without_our_tables_is_read_for_anew_and_said_aloud(server) {
        let mut rig = Rig::new(server, small()).await;
        let mut records = harsh(4_000, 200, 233).into_iter();
        rig.write(records.by_ref().take(2_000)).await;
        rig.catch_up("first", LONG).await;
        back_up(&rig).await;
        rig.write(records.by_ref().take(1_000)).await;
        rig.catch_up("second", LONG).await;
        restore(&rig, &["enriched_user"]).await;
        drop_ours(&rig).await;
        let mut refused = rig.start("refused");
        refused.wait_for_code(2, LONG).await;
        assert!(refused.log().contains("afterimage migrate"), "{}", refused.tail());
        assert_eq!(rig.workspace.run(&["migrate"]).code(), 0);
        let mut running = rig.start("run");
        running.wait_for_line(0, &["WARN", "enriched_user", "holds rows, but no position is stored"], LONG).await;
        rig.wait_until_applied(LONG).await;
        rig.write(records).await;
        healed_but_for_evidence(&rig, running).await;
    }

    // Proves: P1, P5, P6, R58
    async fn our_tables_dropped_under_a_running_service_are_waited_for_by_name(server) {
        let mut rig = Rig::new(server, small()).await;
        let mut records = harsh(4_000, 200, 239).into_iter();
        let mut running = rig.start("run");
        rig.write(records.by_ref().take(2_000)).await;
        rig.wait_until_applied(LONG).await;
        drop_ours(&rig).await;
        rig.write(records.by_ref().take(1_000)).await;
        running.wait_for_line(0, &["waiting", "afterimage migrate"], LONG).await;
        assert_eq!(rig.workspace.run(&["migrate"]).code(), 0);
        running.wait_for_line(0, &["WARN", "holds rows, but no position is stored"], LONG).await;
        rig.write(records).await;
        healed_but_for_evidence(&rig, running).await;
    }
}
