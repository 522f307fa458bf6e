//! One plan from its beginning to its verdict.

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};

use afterimage::demo::outcome;

use super::plan::{Plan, Step};
use super::watch::{Seen, Watcher, snapshot};
use super::world::World;
use super::{act, audit};
use crate::support::servers;

/// How long catching up may take once everything is healed. Locks of a session that nobody told about the end of its client, session
/// timeouts and waiting times add up to half a minute; the rest is for machines under load.
const CATCH_UP: Duration = Duration::from_secs(150);

/// What a run did and what it found.
#[derive(Debug)]
pub struct Report {
    pub seed: u64,
    pub events: usize,
    pub faults: usize,
    pub broken: usize,
    pub lives: usize,
    pub snapshots: usize,
    pub distinct: usize,
    pub catch_up: Duration,
    pub violations: Vec<String>,
}

/// Carries out a plan; whatever goes wrong is in the report. `pace` is how often snapshots are taken.
pub async fn run(plan: Plan, pace: Duration) -> Report {
    let seed = plan.seed;
    let steps = plan.steps.clone();
    let limit = plan.limit.unwrap_or(Duration::MAX);
    let mut world = World::new(plan).await;
    let watcher = Watcher::start(&world.database.url, Arc::clone(&world.ledger), pace);
    let begun = Instant::now();
    for step in steps {
        if begun.elapsed() > limit {
            break;
        }
        if watcher.has_ended() || !world.violations.is_empty() {
            break;
        }
        world.tend().await;
        match step {
            Step::Write(count) => world.write(count).await,
            Step::Wait(time) => wait(&mut world, time).await,
            Step::Fault(fault) => act::carry_out(&mut world, fault).await,
        }
    }
    let started = Instant::now();
    if !watcher.has_ended() && world.violations.is_empty() {
        finish(&mut world).await;
    }
    let catch_up = started.elapsed();
    let seen = watcher.stop().await;
    judge(&mut world, &seen).await;
    let events = world.ledger.lock().await.events();
    if !world.violations.is_empty() {
        let kept = keep_logs(&world);
        world.violations.push(format!("logs are in {}", kept.display()));
    }
    Report {
        seed,
        events,
        faults: world.faults,
        broken: world.proxy.fired(),
        lives: world.lives,
        snapshots: seen.snapshots,
        distinct: seen.distinct,
        catch_up,
        violations: world.violations,
    }
}

async fn wait(world: &mut World, time: Duration) {
    let until = Instant::now() + time;
    while Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(20).min(time)).await;
        world.tend().await;
    }
}

/// Heals everything, waits until all is applied, and ends the instances in order.
async fn finish(world: &mut World) {
    if world.partitions < world.plan.workload.partitions {
        world.grow().await;
    }
    world.heal_all().await;
    let until = Instant::now() + CATCH_UP;
    let end = world.ledger.lock().await.end();
    loop {
        world.heal_all().await;
        world.tend().await;
        let behind = behind(world, &end).await;
        if behind.is_empty() || !world.violations.is_empty() {
            break;
        }
        if Instant::now() > until {
            let tails: Vec<String> = world
                .instances
                .iter()
                .filter_map(|instance| Some(format!("{}:\n{}", instance.name, instance.running.as_ref()?.tail())))
                .collect();
            world
                .violations
                .push(format!("not caught up {CATCH_UP:?} after all was healed: {behind:?}\n{}", tails.join("\n")));
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    while world.others.join_next().await.is_some() {}
    for instance in &mut world.instances {
        let Some(running) = instance.running.as_mut().and_then(|running| running.alive()) else { continue };
        running.resume();
        running.terminate();
        let until = Instant::now() + Duration::from_secs(60);
        while running.is_running() && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let ended = running.ended();
        // One that has only just begun does not listen for SIGTERM yet.
        let in_order =
            |status: ExitStatus| matches!(status.code(), Some(0 | 130)) || status.signal() == Some(libc::SIGTERM);
        if ended.is_none_or(|status| !in_order(status) && !instance.may_end) {
            let tail = running.tail();
            world.violations.push(format!("{} did not stop in order: {ended:?}\n{tail}", instance.name));
        }
    }
}

/// Partitions that don't stand where they must in the end, with where they stand.
async fn behind(world: &World, end: &super::ledger::Cut) -> Vec<(i32, i64, i64)> {
    let Ok(mut conn) = super::watch::connect(&world.database.url).await else { return vec![(-1, 0, 0)] };
    let rows: Vec<(i32, i64)> = mysql_async::prelude::Queryable::query(
        &mut conn,
        "SELECT kafka_partition, next_offset FROM afterimage_positions",
    )
    .await
    .unwrap_or_default();
    let at = |partition: i32| rows.iter().find(|row| row.0 == partition).map_or(0, |row| row.1);
    end.iter().map(|(partition, end)| (*partition, at(*partition), *end)).filter(|(_, at, end)| at < end).collect()
}

/// The last look, with everything that the run itself can't see.
async fn judge(world: &mut World, seen: &Seen) {
    world.violations.extend(seen.violations.iter().cloned());
    if !world.violations.is_empty() {
        return;
    }
    let mut conn = world.database.connect().await;
    let found = snapshot(&mut conn).await.unwrap();
    let mut ledger = world.ledger.lock().await;
    let end = ledger.end();
    let expected = ledger.expected_at(&end);
    world.violations.extend(outcome::faults(expected, &found).into_iter().map(|fault| format!("P1: {fault}")));
    world.violations.extend(audit::violations(&mut conn).await.unwrap());
    if seen.snapshots == 0 {
        world.violations.push("no snapshot was taken: nothing was proved".to_owned());
    }
}

/// The instances' logs and the config, kept for whoever looks into it.
fn keep_logs(world: &World) -> PathBuf {
    let kept = servers::cache().join("chaos").join(world.plan.seed.to_string());
    std::fs::create_dir_all(&kept).unwrap();
    for entry in std::fs::read_dir(world.workspace.path()).unwrap().flatten() {
        if entry.path().is_file() {
            std::fs::copy(entry.path(), kept.join(entry.file_name())).unwrap();
        }
    }
    std::fs::write(kept.join("plan"), format!("{:#?}", world.plan)).unwrap();
    kept
}
