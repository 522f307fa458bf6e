//! What the model found, on real servers: a database that was set back to just before a re-run, which moves no position.

use std::time::Duration;

use afterimage::generate::OwnedRecord;
use serde_json::json;

use crate::on_both_servers;
use crate::support::rig::{Rig, Variant};

const LONG: Duration = Duration::from_secs(100);
const START_MS: i64 = 1_700_000_000_000;
const TABLES: [&str; 5] =
    ["afterimage_positions", "afterimage_tombstones", "error_data_enrichment", "out_of_order_events", "enriched_user"];

fn event(user: &str, country: &str, second: i64) -> OwnedRecord {
    let after = json!({ "userId": user, "name": format!("{user} at {second}"), "email": null, "country": country });
    let value = json!({ "op": "u", "before": null, "after": after, "timestamp": START_MS + second * 1000 });
    OwnedRecord {
        partition: 0,
        offset: 0,
        timestamp_ms: Some(START_MS + second * 1000),
        key: Some(user.as_bytes().to_vec()),
        value: Some(value.to_string().into_bytes()),
    }
}

async fn wait_for(rig: &Rig, query: &str, wanted: i64) {
    let started = std::time::Instant::now();
    loop {
        let found = rig.database.number(query).await;
        if found == wanted {
            return;
        }
        assert!(started.elapsed() < LONG, "{query} yields {found}, not {wanted}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// All at once, as a restore or the promotion of a replica would do it.
async fn set_back(rig: &Rig) {
    let mut connection = rig.database.connect().await;
    let mut statements = vec!["START TRANSACTION".to_owned()];
    for table in TABLES {
        statements.push(format!("DELETE FROM {table}"));
        statements.push(format!("INSERT INTO {table} SELECT * FROM backup_{table}"));
    }
    statements.push("COMMIT".to_owned());
    for statement in statements {
        mysql_async::prelude::Queryable::query_drop(&mut connection, statement).await.unwrap();
    }
    connection.disconnect().await.unwrap();
}

on_both_servers! {
    // Proves: P2, R58
    async fn a_memory_that_is_ahead_of_a_database_set_back_is_noticed_though_no_position_moved(server) {
        let mut rig = Rig::new(server, Variant::default()).await;
        let mut running = rig.start("run");
        rig.write([event("ann", "XX", 1), event("ann", "DE", 2)]).await;
        rig.wait_until_applied(LONG).await;
        for table in TABLES {
            rig.database.execute(&format!("CREATE TABLE backup_{table} AS SELECT * FROM {table}")).await;
        }
        // The country becomes known: both records are run again, at the same position.
        let path = rig.workspace.path().join("queries/users/lookups/countries.csv");
        let countries = std::fs::read_to_string(&path).unwrap() + "XX,Exampleland,Europe\n";
        std::fs::write(&path, countries).unwrap();
        rig.variant.settings.countries.insert("XX".into(), ("Exampleland".into(), "Europe".into()));
        wait_for(&rig, "SELECT COUNT(*) FROM error_data_enrichment WHERE state = 'resolved'", 2).await;
        set_back(&rig).await;
        // Now ann is on hold again, whatever the instance remembers.
        rig.write([event("ann", "DE", 3)]).await;
        rig.wait_until_applied(LONG).await;
        assert_eq!(rig.database.number("SELECT COUNT(*) FROM error_data_enrichment WHERE state = 'held'").await, 2);
        assert_eq!(rig.database.number("SELECT COUNT(*) FROM enriched_user").await, 0);
        assert_eq!(rig.workspace.run(&["quarantine", "retry", "--key", "ann"]).code(), 0);
        wait_for(&rig, "SELECT COUNT(*) FROM error_data_enrichment WHERE state = 'resolved'", 3).await;
        running.terminate();
        running.wait_for_code(0, Duration::from_secs(30)).await;
        assert!(running.log().contains("the database stands at other positions"), "{}", running.tail());
        rig.assert_as_folded().await;
    }
}
