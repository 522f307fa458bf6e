//! Random faults against the whole service on real servers, all from one seed, with checks that run while they happen.
//!
//! In: a seed. Out: nothing, or what was violated, the seed, and the logs. [`plan`] makes of the seed a workload and faults with their
//! order and timing; [`world`] owns the servers and the instances; [`watch`] compares consistent snapshots with the fold at exactly their
//! offsets, all the time; [`audit`] counts in the database what idempotent writes hide. When all is healed it must catch up within a
//! bound and end as the fold says.
//!
//! `make test` runs a few seeds. `make chaos RUNS=1000 SEED=7 JOBS=6` runs many, `make soak MINUTES=60 SEED=7` one long one on each server;
//! `make chaos RUNS=1 SEED=<the seed that failed>` runs one again.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use afterimage::demo::server::Flavour;
use tokio::task::JoinSet;

mod act;
mod audit;
mod ledger;
mod plan;
mod run;
mod watch;
mod world;

use plan::Plan;
use run::Report;

const PACE: Duration = Duration::from_millis(120);

/// Seeds that once found something (a standby that never took over, partitions that nobody read, a stop in the first moment), and some
/// that never did. New ones are run by `make chaos`.
const SEEDS: [u64; 10] = [1017, 1053, 1059, 2010, 1, 2, 3, 4, 5, 6];

// Proves: P1, P2, P3, P4, P5, R1, R2, R4, R5, R6, R7, R8, R9, R10, R11, R12, R13, R21, R22, R23, R46
#[tokio::test(flavor = "multi_thread")]
async fn some_seeds_of_faults_cost_nothing() {
    campaign(SEEDS.into(), 3).await;
}

/// Many seeds: `RUNS`, `SEED` of the first, `JOBS` at a time; `SHARED=1` leaves out those that have servers of their own.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "make chaos"]
async fn many_seeds_of_faults_cost_nothing() {
    let (runs, first, jobs) = (number("RUNS", 50), number("SEED", rand::random::<u32>().into()), number("JOBS", 4));
    // Servers of a run's own take longer to start than the run takes.
    let shared_only = number("SHARED", 0) != 0;
    let seeds = (first..).filter(|seed| !shared_only || !Plan::short(*seed).own_servers);
    campaign(seeds.take(usize::try_from(runs).unwrap()).collect(), usize::try_from(jobs).unwrap()).await;
}

/// One long run on each server, both at the same time: `MINUTES`, `SEED`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "make soak"]
async fn an_hour_of_faults_costs_nothing() {
    let (minutes, seed) = (number("MINUTES", 10), number("SEED", rand::random::<u32>().into()));
    println!("soak: seed {seed}, {minutes} minutes");
    let mut running = JoinSet::new();
    for (number, flavour) in [(0, Flavour::MySql), (1, Flavour::MariaDb)] {
        running.spawn(run::run(Plan::long(seed + number, flavour, minutes), Duration::from_secs(2)));
    }
    let mut violations = Vec::new();
    while let Some(ended) = running.join_next().await {
        let report = ended.unwrap();
        println!("{}", line(&report));
        violations.extend(report.violations);
    }
    assert!(violations.is_empty(), "{}", violations.join("\n"));
}

/// Runs the seeds, some at a time; all of them, whatever one finds.
async fn campaign(seeds: VecDeque<u64>, jobs: usize) {
    let started = Instant::now();
    let (mut waiting, mut running) = (seeds, JoinSet::new());
    let mut totals = [0; 6];
    let mut slowest = Duration::ZERO;
    let mut failed = Vec::new();
    loop {
        while running.len() < jobs
            && let Some(seed) = waiting.pop_front()
        {
            running.spawn(async move { (seed, tokio::spawn(run::run(Plan::short(seed), PACE)).await) });
        }
        let Some(ended) = running.join_next().await else { break };
        match ended.unwrap() {
            (_, Ok(report)) => {
                println!("{}", line(&report));
                let counts = [1, report.events, report.faults, report.broken, report.lives, report.distinct];
                totals.iter_mut().zip(counts).for_each(|(total, count)| *total += count);
                slowest = slowest.max(report.catch_up);
                if !report.violations.is_empty() {
                    failed.push(format!("seed {}:\n{}", report.seed, report.violations.join("\n")));
                }
            }
            (seed, Err(error)) => failed.push(format!("seed {seed}: the run itself failed: {error}")),
        }
    }
    let [runs, events, faults, broken, lives, snapshots] = totals;
    println!(
        "{runs} runs in {:.0?}: {events} events, {faults} faults, {broken} statements broken, {lives} lives, {snapshots} positions compared \
         while it ran, slowest catching up {slowest:.1?}, {} failed",
        started.elapsed(),
        failed.len()
    );
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
}

fn line(report: &Report) -> String {
    let Report { seed, events, faults, broken, lives, snapshots, distinct, catch_up, violations } = report;
    let verdict = if violations.is_empty() { "fine".to_owned() } else { format!("VIOLATED: {}", violations[0]) };
    format!(
        "seed {seed}: {events} events, {faults} faults, {broken} statements broken, {lives} lives, {snapshots} snapshots ({distinct} positions), \
         caught up in {catch_up:.1?}: {verdict}"
    )
}

fn number(variable: &str, default: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) if !text.is_empty() => text.parse().unwrap_or_else(|_| panic!("{variable} is no number: {text:?}")),
        _ => default,
    }
}
