//! The server itself: killed, shut down, out of space, failed over.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use afterimage::demo::server::{Flavour, PrivateServer};
use mysql_async::prelude::Queryable;

use super::{LONG, QUARANTINED, healed, small};
use crate::faults::{behind_a_proxy, harsh};
use crate::on_both_servers;
use crate::support::mysql::{Database, connect, rows};
use crate::support::proxy::Proxy;
use crate::support::rig::Rig;
use crate::support::servers::{copy, scratch, start_private, start_private_in};

on_both_servers! {
    // Proves: P1, P2, P3, R16
    async fn killed_and_restarted_four_times_in_the_middle_of_traffic(server) {
        let mut private = start_private(server.flavour(), &[]).await;
        let mut rig = Rig::new(&private, small()).await;
        let mut running = rig.start("run");
        let mut records = harsh(12_000, 300, 191).into_iter();
        for pause in [300, 700, 150, 1_000] {
            rig.write(records.by_ref().take(2_000)).await;
            tokio::time::sleep(Duration::from_millis(pause)).await;
            private.kill();
            private.start_again().await.unwrap();
        }
        rig.write(records).await;
        assert!(running.is_running(), "{}", running.tail());
        healed(&rig, running).await;
    }

    // Proves: P2, R18
    async fn an_orderly_shutdown_in_the_middle_of_traffic(server) {
        let mut private = start_private(server.flavour(), &[]).await;
        let mut rig = Rig::new(&private, small()).await;
        let mut running = rig.start("run");
        let mut records = harsh(12_000, 300, 193).into_iter();
        for pause in [300, 900] {
            rig.write(records.by_ref().take(4_000)).await;
            tokio::time::sleep(Duration::from_millis(pause)).await;
            private.stop().await;
            private.start_again().await.unwrap();
        }
        rig.write(records).await;
        assert!(running.is_running(), "{}", running.tail());
        healed(&rig, running).await;
    }

    // Proves: P1, P3, R17
    async fn a_server_set_back_to_an_earlier_state_heals(server) {
        let mut private = start_private(server.flavour(), &[]).await;
        let mut rig = Rig::new(&private, small()).await;
        let mut running = rig.start("run");
        let mut records = harsh(12_000, 300, 197).into_iter();
        rig.write(records.by_ref().take(3_000)).await;
        rig.wait_until_applied(LONG).await;
        private.stop().await;
        let earlier = scratch("earlier-");
        copy(&private.home().join("data"), earlier.path());
        private.start_again().await.unwrap();
        rig.write(records.by_ref().take(3_000)).await;
        rig.wait_until_applied(LONG).await;
        let known = running.log().len();
        private.kill();
        set_back(&private, earlier.path());
        private.start_again().await.unwrap();
        // Nothing new arrives: it has to notice by itself.
        running.wait_for_line(known, &["the database stands at other positions"], Duration::from_secs(60)).await;
        rig.wait_until_applied(LONG).await;
        rig.assert_as_folded().await;

        // And again under load.
        rig.write(records.by_ref().take(1_000)).await;
        rig.wait_until_applied(LONG).await;
        private.kill();
        set_back(&private, earlier.path());
        private.start_again().await.unwrap();
        rig.write(records).await;
        assert!(running.is_running(), "{}", running.tail());
        healed(&rig, running).await;
    }

    // Proves: P5, R31
    async fn a_full_disk_is_waited_for_and_quarantines_nothing(server) {
        let disk = SmallDisk::mount("420m");
        let home = tempfile::Builder::new().prefix("home-").tempdir_in(&disk.0).unwrap();
        let mysql = server.flavour() == Flavour::MySql;
        let options: &[&str] = if mysql { &["--innodb-redo-log-capacity=16M", "--innodb-buffer-pool-size=16M"] } else { &["--innodb-buffer-pool-size=16M"] };
        let mut private = start_private_in(server.flavour(), home, options).await;
        let mut rig = Rig::new(&private, small()).await;
        let mut running = rig.start("run");
        let mut records = harsh(30_000, 20_000, 199).into_iter();
        rig.write(records.by_ref().take(1_000)).await;
        rig.wait_until_applied(LONG).await;
        let ballast = disk.0.join("ballast");
        disk.fill(&ballast);
        rig.write(records.by_ref().take(25_000)).await;
        running.wait_for_line(0, &["waiting"], LONG).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        std::fs::remove_file(&ballast).unwrap();
        // A server may have given up for want of space: somebody starts it again.
        if connection_fails(&private).await {
            private.start_again().await.unwrap();
        }
        rig.write(records).await;
        rig.wait_until_applied(LONG).await;
        let refused_by_server = rig.database.number(&format!("{QUARANTINED} WHERE stage = 'mysql'")).await;
        assert_eq!(refused_by_server, 0);
        assert!(running.is_running(), "{}", running.tail());
        healed(&rig, running).await;
        private.kill();
    }

    // Proves: P1, P3, P5, R20
    async fn a_failover_to_a_replica_that_lags_heals_and_a_read_only_replica_is_never_taken_for_the_writer(server) {
        let mysql = server.flavour() == Flavour::MySql;
        let options = |id: &str| -> Vec<String> {
            let mut options = vec![format!("--server-id={id}"), "--log-bin".to_owned()];
            options.extend(if mysql { vec!["--gtid-mode=ON".to_owned(), "--enforce-gtid-consistency=ON".to_owned()] } else { Vec::new() });
            options
        };
        let start = async |id: &str| {
            let options = options(id);
            start_private(server.flavour(), &options.iter().map(String::as_str).collect::<Vec<_>>()).await
        };
        let old = start("1").await;
        let new = start("2").await;
        replicate(&old, &new).await;
        let database = Database::create(&old).await;
        // One account on both: it is replicated with everything else.
        let url = database.account("ALL PRIVILEGES").await;
        let proxy = Proxy::start(old.port());
        let at = url.rfind('@').unwrap();
        let through = format!("{}@127.0.0.1:{}/{}", &url[..at], proxy.port(), database.name);
        let mut rig = Rig::behind(database, &through, small()).await;
        let mut running = rig.start("run");
        let mut records = harsh(12_000, 300, 211).into_iter();
        rig.write(records.by_ref().take(3_000)).await;
        rig.wait_until_applied(LONG).await;
        let name = rig.database.name.clone();
        let applied = |server: &PrivateServer| server.url(&name);
        wait_for_replica(&applied(&old), &applied(&new)).await;
        let mut replica = connect(&new.url("")).await;
        let word = if mysql { "REPLICA" } else { "SLAVE" };
        replica.query_drop(format!("STOP {word}")).await.unwrap();
        replica.query_drop("SET GLOBAL read_only = 1").await.unwrap();
        rig.write(records.by_ref().take(3_000)).await;
        rig.wait_until_applied(LONG).await;

        // The name leads to the replica, which is read-only still: it is not asked anything.
        proxy.retarget(new.port());
        proxy.cut_all();
        rig.write(records.by_ref().take(1_000)).await;
        running.wait_for_line(0, &["waiting", "read-only"], LONG).await;
        let behind = positions_at(&applied(&new)).await;
        assert!(behind < positions_at(&applied(&old)).await, "the replica does not lag");
        // Promoted: it lacks what was not replicated, rows and positions alike.
        replica.query_drop("SET GLOBAL read_only = 0").await.unwrap();
        rig.database.url = applied(&new);
        rig.wait_until_applied(LONG).await;
        rig.assert_as_folded().await;

        // The old one comes back as the writer, in a state of its own.
        proxy.retarget(old.port());
        proxy.cut_all();
        rig.database.url = applied(&old);
        rig.write(records).await;
        assert!(running.is_running(), "{}", running.tail());
        replica.disconnect().await.unwrap();
        healed(&rig, running).await;
    }

    // Proves: P3, R12, R16
    async fn a_server_that_stands_still_for_a_while_loses_nothing(server) {
        let private = start_private(server.flavour(), &[]).await;
        let (mut rig, _proxy) = behind_a_proxy(&private, small()).await;
        let mut running = rig.start("run");
        let mut records = harsh(6_000, 300, 223).into_iter();
        rig.write(records.by_ref().take(2_000)).await;
        tokio::time::sleep(Duration::from_millis(400)).await;
        crate::support::process::signal(private.pid().unwrap(), libc::SIGSTOP);
        rig.write(records.by_ref().take(2_000)).await;
        // Longer than a statement may take.
        running.wait_for_line(0, &["waiting", "no answer"], Duration::from_secs(60)).await;
        crate::support::process::signal(private.pid().unwrap(), libc::SIGCONT);
        rig.write(records).await;
        healed(&rig, running).await;
    }
}

/// Puts an earlier copy of its data in the place of a stopped server's.
fn set_back(server: &PrivateServer, earlier: &Path) {
    let data = server.home().join("data");
    std::fs::remove_dir_all(&data).unwrap();
    copy(earlier, &data);
}

async fn connection_fails(server: &PrivateServer) -> bool {
    !matches!(tokio::time::timeout(Duration::from_secs(10), server.connect()).await, Ok(Ok(_)))
}

/// Makes `new` an asynchronous replica of `old`; both are fresh.
async fn replicate(old: &PrivateServer, new: &PrivateServer) {
    let mysql = old.flavour() == Flavour::MySql;
    let mut replica = connect(&new.url("")).await;
    let (user, password, port) = (old.account(), old.password(), old.port());
    if mysql {
        replica
            .query_drop(format!(
                "CHANGE REPLICATION SOURCE TO SOURCE_HOST='127.0.0.1', SOURCE_PORT={port}, SOURCE_USER='{user}', \
                 SOURCE_PASSWORD='{password}', SOURCE_AUTO_POSITION=1, GET_SOURCE_PUBLIC_KEY=1, SOURCE_SSL=0"
            ))
            .await
            .unwrap();
        // Both made their own account at their first start: that is no news to the replica.
        let mut source = connect(&old.url("")).await;
        let done = rows(&mut source, "SELECT @@global.gtid_executed").await;
        replica.query_drop("RESET BINARY LOGS AND GTIDS").await.unwrap();
        replica.query_drop(format!("SET GLOBAL gtid_purged = '{}'", done[0][0])).await.unwrap();
        source.disconnect().await.unwrap();
        replica.query_drop("START REPLICA").await.unwrap();
    } else {
        let mut source = connect(&old.url("")).await;
        let at = rows(&mut source, "SHOW MASTER STATUS").await;
        source.disconnect().await.unwrap();
        replica
            .query_drop(format!(
                "CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={port}, MASTER_USER='{user}', MASTER_PASSWORD='{password}', \
                 MASTER_LOG_FILE='{}', MASTER_LOG_POS={}",
                at[0][0], at[0][1]
            ))
            .await
            .unwrap();
        replica.query_drop("START SLAVE").await.unwrap();
    }
    replica.disconnect().await.unwrap();
}

/// The sum of the positions in a database, or -1 where there are none yet.
async fn positions_at(url: &str) -> i64 {
    let options = mysql_async::OptsBuilder::from_opts(mysql_async::Opts::from_url(url).unwrap()).prefer_socket(false);
    let Ok(mut connection) = mysql_async::Conn::new(options).await else { return -1 };
    let sum: Option<i64> = connection
        .query_first("SELECT CAST(SUM(next_offset) AS SIGNED) FROM afterimage_positions")
        .await
        .unwrap_or(Some(-1));
    connection.disconnect().await.unwrap();
    sum.unwrap_or(-1)
}

async fn wait_for_replica(old: &str, new: &str) {
    let until = std::time::Instant::now() + LONG;
    loop {
        let (there, here) = (positions_at(old).await, positions_at(new).await);
        if there == here {
            return;
        }
        assert!(std::time::Instant::now() < until, "the replica stands at {here}, the source at {there}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A file system of its own in memory; needs root, like everything that can be full.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn mount(size: &str) -> Self {
        let place = scratch("disk-").keep();
        let options = format!("size={size}");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&place).status().unwrap();
        assert!(mounted.success(), "cannot mount a small file system at {}: root is needed", place.display());
        Self(place)
    }

    /// Takes all the space that is left.
    fn fill(&self, ballast: &Path) {
        let mut file = std::fs::File::create(ballast).unwrap();
        let piece = vec![0_u8; 1 << 16];
        while std::io::Write::write_all(&mut file, &piece).is_ok() {}
        while std::io::Write::write_all(&mut file, &piece[..512]).is_ok() {}
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
        let _ = std::fs::remove_dir(&self.0);
    }
}
