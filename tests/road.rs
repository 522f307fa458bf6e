//! The whole road on real servers: a topic goes in, the table must equal the fold.

use std::time::Duration;

use afterimage::generate::{Mix, Workload};

use crate::on_both_servers;
use crate::support::rig::{Rig, Variant};

on_both_servers! {
    async fn a_lively_workload_ends_as_the_fold_says(server) {
        let mut rig = Rig::new(server, Variant::default()).await;
        let workload = Workload { events: 20_000, users: 800, partitions: 2, seed: 7, ..Workload::default() };
        rig.write(workload.records()).await;
        rig.catch_up("run", Duration::from_secs(120)).await;
        rig.assert_as_folded().await;
    }

    async fn half_a_million_events_fit_into_400_mib(server) {
        let mut rig = Rig::new(server, Variant::default()).await;
        let workload = Workload { events: 500_000, users: 60_000, partitions: 2, seed: 17, ..Workload::default() };
        rig.write(workload.records()).await;
        let mut running = rig.workspace.start("run", &["run", "--until-caught-up"]);
        let mut peak = 0;
        while running.is_running() {
            peak = peak.max(running.peak_memory());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        running.wait_for_code(0, Duration::from_secs(1)).await;
        println!("{}: peak {} MiB", server.version(), peak >> 20);
        assert!(peak < 400 << 20, "{} MiB", peak >> 20);
        rig.assert_as_folded().await;
    }

    async fn trouble_everywhere_in_small_batches_ends_as_the_fold_says(server) {
        let pipeline = "batch = { max_events = 97, max_bytes = \"1MiB\", max_wait = \"1ms\" }".to_owned();
        let mut rig = Rig::new(server, Variant { pipeline, ..Variant::default() }).await;
        let workload = Workload { events: 3_000, users: 40, partitions: 2, seed: 11, mix: Mix::harsh(), ..Workload::default() };
        rig.write(workload.records()).await;
        rig.catch_up("run", Duration::from_secs(120)).await;
        rig.assert_as_folded().await;
    }
}
