//! Decoder and models together, without any server, against the independent fold: table, quarantine with its users, evidence and sums
//! are the same for every workload and however it is cut into batches.

use afterimage::generate::{Mix, OwnedRecord, Workload};

use crate::support::world::{self, Instance, Tables, differences};

async fn compare(mix: fn() -> Mix, hold: bool) {
    let settings = world::settings(hold);
    for (seed, events, cut) in [(1, 400, 1), (2, 3000, 13), (3, 3000, 500), (4, 3000, 3000), (5, 20_000, 9000)] {
        let workload = Workload { events, users: 60, partitions: 3, seed, mix: mix(), ..Workload::default() };
        let records: Vec<OwnedRecord> = workload.records().collect();
        let expected = world::fold(&settings, &records);
        let (mut instance, mut tables) = (Instance::new(hold).await, Tables::default());
        for batch in records.chunks(cut) {
            instance.run(&mut tables, batch).await;
        }
        let lines = differences(&expected, &tables.found());
        assert!(lines.is_empty(), "seed {seed}, batches of {cut}:\n{}", lines.join("\n"));
        assert!(events < 3000 || !expected.rows.is_empty(), "the workload proves nothing");
    }
}

// Proves: P1, P4, P5
#[tokio::test]
async fn a_lively_workload_comes_to_the_fold() {
    compare(Mix::default, true).await;
}

// Proves: P1, P4, P5
#[tokio::test]
async fn trouble_everywhere_comes_to_the_fold() {
    compare(Mix::harsh, true).await;
}

// Proves: P1, P4
#[tokio::test]
async fn an_orderly_stream_comes_to_the_fold() {
    compare(Mix::orderly, true).await;
}

// Proves: P1, P4, P5
#[tokio::test]
async fn trouble_everywhere_comes_to_the_fold_when_nobody_waits() {
    compare(Mix::harsh, false).await;
}
