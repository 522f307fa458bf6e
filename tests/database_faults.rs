//! One readable test per fault of the database: what is broken, what a user sees meanwhile, and that it heals by itself.
//!
//! Every test ends the same way (`healed`): the fault is gone, everything is applied within a bound, and table, quarantine,
//! evidence and sums are what the fold says. Nothing is ever quarantined for a fault of the database (P5).

use std::time::Duration;

use crate::support::process::Running;
use crate::support::rig::{Rig, Variant};

mod commit;
mod locks;
mod operator;
mod process;
mod restore;
mod server;
mod target;

/// Far beyond what anything here takes, for machines that are busy with something else.
const LONG: Duration = Duration::from_secs(150);
const POSITIONS: &str = "SELECT COALESCE(SUM(next_offset), 0) FROM afterimage_positions";

fn small() -> Variant {
    Variant { pipeline: crate::faults::small_batches(), ..Variant::default() }
}

/// The same with one transaction at a time, for tests that follow it.
fn one_lane() -> Variant {
    Variant { pipeline: format!("lanes = 1\n{}", crate::faults::small_batches()), ..Variant::default() }
}

const QUARANTINED: &str = "SELECT COUNT(*) FROM error_data_enrichment";

/// A member of the group that is missed after six seconds.
fn short_session() -> String {
    "\"session.timeout.ms\" = \"6000\"\n\"heartbeat.interval.ms\" = \"1000\"".to_owned()
}

/// The end of every test.
async fn healed(rig: &Rig, mut running: Running) {
    rig.wait_until_applied(LONG).await;
    running.terminate();
    running.wait_for_code(0, Duration::from_secs(60)).await;
    rig.assert_as_folded().await;
}

/// Waits until `query` yields `wanted`.
async fn until(rig: &Rig, query: &str, wanted: i64, deadline: Duration) {
    let started = std::time::Instant::now();
    loop {
        let found = rig.database.number(query).await;
        if found == wanted {
            return;
        }
        assert!(started.elapsed() < deadline, "{query} yields {found}, not {wanted}, after {deadline:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// What the database says right now; compared to see that nothing moved.
async fn standing(rig: &Rig) -> Vec<Vec<String>> {
    let counts = "SELECT (SELECT SUM(next_offset) FROM afterimage_positions), (SELECT COUNT(*) FROM afterimage_tombstones), \
                  (SELECT COUNT(*) FROM error_data_enrichment), (SELECT COUNT(*) FROM out_of_order_events), \
                  (SELECT COUNT(*) FROM enriched_user), (SELECT MAX(CONCAT(cdc_ts, user_id)) FROM enriched_user)";
    rig.database.rows(counts).await
}
