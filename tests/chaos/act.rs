//! Faults, carried out on a world.

use std::process::Command;
use std::time::Duration;

use mysql_async::prelude::Queryable;

use super::plan::Act;
use super::watch::connect;
use super::world::{Heal, Instance, World};
use crate::support::process::signal;

/// Does what `act` says; what lasts is left to [`World::tend`] to heal.
pub async fn carry_out(world: &mut World, act: Act) {
    world.faults += 1;
    match act {
        Act::Kill(number) => kill(world, number),
        Act::DieAt { instance, place, after, then } => {
            let lives = std::iter::once(at(place, after, "kill")).chain(then.map(|place| at(place, 0, "kill")));
            world.instances[instance].failpoints.extend(lives);
            kill(world, instance);
        }
        Act::StopAt { instance, place, after, time } => {
            world.instances[instance].failpoints.push_back(at(place, after, "stop"));
            kill(world, instance);
            // The life that stands still is the next one: it is started here, so that its number is known.
            world.start(instance);
            wake_after(world, instance, time + Duration::from_secs(1));
        }
        Act::Pause(number, time) => {
            if let Some(running) = world.instances[number].running.as_mut().and_then(|running| running.alive()) {
                running.pause();
                wake_after(world, number, time);
            }
        }
        Act::Terminate(number) => {
            let instance = &mut world.instances[number];
            instance.may_end = true;
            instance
                .running
                .as_mut()
                .and_then(|running| running.alive())
                .into_iter()
                .for_each(|running| running.terminate());
        }
        Act::Guest(time) => {
            let name = format!("guest-{}", world.lives);
            world.heal_now(&[Heal::Server, Heal::WakeServer, Heal::ReadOnly]).await;
            let guest = Instance::new(name.clone(), true, &world.database).await;
            world.instances.push(guest);
            world.start(world.instances.len() - 1);
            world.heal_after(time, Heal::EndGuest(name));
        }
        Act::Break { statement, how, again } => {
            world.proxy.arm(statement, how);
            again.into_iter().for_each(|(statement, how)| world.proxy.arm(statement, how));
        }
        Act::Blackhole(time) => {
            world.proxy.blackhole(true);
            world.heal_after(time, Heal::Blackhole);
        }
        Act::Away(time) => {
            world.proxy.refuse(true);
            world.proxy.cut_all();
            world.heal_after(time, Heal::Away);
        }
        Act::KillSessions if database_answers(world) => drop(world.database.kill_connections().await),
        Act::LockRows(time) => {
            hold_locks(world, "SELECT user_id FROM enriched_user ORDER BY user_id DESC LIMIT 30 FOR UPDATE", time);
        }
        Act::LockPositions(time) => hold_locks(world, "SELECT next_offset FROM afterimage_positions FOR UPDATE", time),
        Act::AlterTable => {
            let statement = format!("ALTER TABLE enriched_user COMMENT = 'changed {} times'", world.faults);
            on_the_side(world, vec!["SET lock_wait_timeout = 3".to_owned(), statement], Duration::ZERO);
        }
        Act::Retry => {
            let mark = "UPDATE error_data_enrichment SET state = 'retry' WHERE state = 'refused'";
            on_the_side(world, vec![mark.to_owned()], Duration::ZERO);
        }
        Act::Aborted(count) => world.write_aborted(count).await,
        Act::Grow => world.grow().await,
        Act::KillSessions => {}
        act => break_server(world, act).await,
    }
}

async fn break_server(world: &mut World, act: Act) {
    // One trouble of a server at a time: a stopped one can't be asked for the next.
    world.heal_now(&[Heal::Server, Heal::WakeServer, Heal::ReadOnly, Heal::Broker, Heal::WakeBroker]).await;
    match act {
        Act::ServerKill(time) => {
            world.server.own().kill();
            world.heal_after(time, Heal::Server);
        }
        Act::ServerStop(time) => {
            world.server.own().stop().await;
            world.heal_after(time, Heal::Server);
        }
        Act::ServerPause(time) => {
            signal(world.server.pid().unwrap(), libc::SIGSTOP);
            world.heal_after(time, Heal::WakeServer);
        }
        Act::ReadOnly(time) => {
            world.database.execute("SET GLOBAL read_only = 1").await;
            world.heal_after(time, Heal::ReadOnly);
        }
        Act::BrokerKill(time) => {
            world.broker.own().kill();
            world.heal_after(time, Heal::Broker);
        }
        Act::BrokerPause(time) => {
            world.broker.pause();
            world.heal_after(time, Heal::WakeBroker);
        }
        Act::SetBack => set_back(world).await,
        _ => {}
    }
}

/// Takes a copy of the database, or sets it back to the copy of the last call. Rows, positions and side tables go back together.
async fn set_back(world: &mut World) {
    let server = world.server.own();
    server.stop().await;
    let data = server.data();
    let copy = tempfile::Builder::new().prefix("earlier-").tempdir_in(data.parent().unwrap()).unwrap();
    if let Some(earlier) = world.earlier.take() {
        std::fs::remove_dir_all(&data).unwrap();
        copy_directory(&earlier.path().join("data"), &data);
    } else {
        copy_directory(&data, &copy.path().join("data"));
        world.earlier = Some(copy);
    }
    server.start_again().await.unwrap();
}

fn copy_directory(from: &std::path::Path, to: &std::path::Path) {
    let status = Command::new("cp").args(["-a", "--reflink=auto"]).arg(from).arg(to).status().unwrap();
    assert!(status.success(), "cannot copy {} to {}", from.display(), to.display());
}

/// `FAILPOINTS` for one place: pass `after` times, then act once.
fn at(place: &str, after: u32, act: &str) -> String {
    if after == 0 { format!("{place}=1*return({act})") } else { format!("{place}={after}*off->1*return({act})") }
}

fn kill(world: &mut World, number: usize) {
    let instance = &mut world.instances[number];
    if let Some(running) = &mut instance.running {
        running.kill();
        instance.may_end = true;
        instance.running = None;
    }
}

fn wake_after(world: &mut World, number: usize, time: Duration) {
    if let Some(running) = &world.instances[number].running {
        world.heal_after(time, Heal::Wake(running.pid()));
    }
}

fn database_answers(world: &World) -> bool {
    !world.suffers(&[Heal::Server, Heal::WakeServer])
}

fn hold_locks(world: &mut World, select: &str, time: Duration) {
    on_the_side(world, vec!["START TRANSACTION".to_owned(), select.to_owned()], time);
}

/// Somebody else's statements on a connection of their own, which stays open for a time. What fails is their trouble.
fn on_the_side(world: &mut World, statements: Vec<String>, time: Duration) {
    let url = world.database.url.clone();
    world.others.spawn(async move {
        let acting = async {
            let mut conn = connect(&url).await?;
            for statement in statements {
                conn.query_drop(statement).await?;
            }
            tokio::time::sleep(time).await;
            conn.disconnect().await
        };
        let _ = tokio::time::timeout(time + Duration::from_secs(20), acting).await;
    });
}
