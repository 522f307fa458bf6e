//! What operators do to the server: rights, passwords, limits.

use std::time::Duration;

use afterimage::generate::{Mix, OwnedRecord, Workload};

use super::{LONG, healed, small};
use crate::faults::harsh;
use crate::on_both_servers;
use crate::support::mysql::Database;
use crate::support::proxy::Proxy;
use crate::support::rig::{Rig, Variant};
use crate::support::servers::start_private;

/// What docs/operations.md grants to the service and to `migrate`, in one.
const PRIVILEGES: &str = "SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, CREATE TEMPORARY TABLES";

/// The account in a URL, as GRANT names it.
fn account_in(url: &str) -> String {
    let user = url.trim_start_matches("mysql://").split(':').next().unwrap();
    format!("'{user}'@'127.0.0.1'")
}

/// Opens connections until the server has no more.
async fn take_all_connections(url: &str) -> Vec<mysql_async::Conn> {
    let mut taken = Vec::new();
    loop {
        let options =
            mysql_async::OptsBuilder::from_opts(mysql_async::Opts::from_url(url).unwrap()).prefer_socket(false);
        match mysql_async::Conn::new(options).await {
            Ok(connection) => taken.push(connection),
            Err(mysql_async::Error::Server(error)) if error.code == 1040 => return taken,
            Err(error) => panic!("{error}"),
        }
        assert!(taken.len() < 200);
    }
}

const REFUSED_BY_MYSQL: &str = "SELECT COUNT(*) FROM error_data_enrichment WHERE stage = 'mysql'";

on_both_servers! {
    // Proves: P5, R27
    async fn a_right_that_is_taken_and_given_back_takes_no_restart(server) {
        let database = Database::create(server).await;
        let url = database.account(PRIVILEGES).await;
        let account = account_in(&url);
        let mut rig = Rig::behind(database, &url, Variant::default()).await;
        let mut running = rig.start("run");
        let mut records = harsh(12_000, 8_000, 107).into_iter();
        rig.write(records.by_ref().take(500)).await;
        rig.wait_until_applied(LONG).await;
        // The last is missed by batches that are staged: more than some hundred rows.
        for (right, count) in [("INSERT", 400), ("UPDATE", 400), ("SELECT", 400), ("CREATE TEMPORARY TABLES", 8_000)] {
            let known = running.log().len();
            rig.database.execute(&format!("REVOKE {right} ON {}.* FROM {account}", rig.database.name)).await;
            // A session keeps what it was granted for its database until it connects again.
            rig.database.kill_connections().await;
            // All of them wait when it goes on, so that batches are of some size.
            running.pause();
            rig.write(records.by_ref().take(count)).await;
            running.resume();
            running.wait_for_line(known, &["waiting", "grant"], LONG).await;
            assert_eq!(rig.database.number(REFUSED_BY_MYSQL).await, 0, "without {right}");
            rig.database.execute(&format!("GRANT {right} ON {}.* TO {account}", rig.database.name)).await;
            rig.wait_until_applied(Duration::from_secs(60)).await;
        }
        rig.write(records).await;
        healed(&rig, running).await;
    }

    // Proves: P5, R28
    async fn a_rotated_password_is_read_from_its_file(server) {
        let database = Database::create(server).await;
        let url = database.account(PRIVILEGES).await;
        let account = account_in(&url);
        let mut rig = Rig::behind(database, &url, small()).await;
        let (user, rest) = url.trim_start_matches("mysql://").split_once(':').unwrap();
        let (password, place) = rest.split_once('@').unwrap();
        let config = std::fs::read_to_string(rig.workspace.path().join("afterimage.toml")).unwrap();
        let config = config.replace(&format!("url = \"{url}\""), &format!("url = \"mysql://{user}@{place}\"\npassword_file = \"password\""));
        rig.workspace.write("afterimage.toml", &config);
        rig.workspace.write("password", &format!("{password}\n"));
        let mut running = rig.start("run");
        let mut records = harsh(3_000, 200, 109).into_iter();
        rig.write(records.by_ref().take(1_000)).await;
        rig.wait_until_applied(LONG).await;
        rig.database.execute(&format!("ALTER USER {account} IDENTIFIED BY 'new-and-secret'")).await;
        // What is connected goes on.
        rig.write(records.by_ref().take(500)).await;
        rig.wait_until_applied(LONG).await;
        assert!(!running.log().contains("waiting"), "{}", running.tail());
        rig.database.kill_connections().await;
        running.wait_for_line(0, &["waiting", "password"], LONG).await;
        rig.workspace.write("password", "new-and-secret\n");
        rig.write(records).await;
        rig.wait_until_applied(Duration::from_secs(60)).await;
        assert!(!running.log().contains("new-and-secret"));
        healed(&rig, running).await;
    }

    // Proves: P5, R29
    async fn a_server_without_free_connections_is_waited_for(server) {
        let private = start_private(server.flavour(), &["--max-connections=15"]).await;
        let database = Database::create(&private).await;
        let url = database.account(PRIVILEGES).await;
        let proxy = Proxy::start(private.port());
        let at = url.rfind('@').unwrap();
        let through = format!("{}@127.0.0.1:{}/{}", &url[..at], proxy.port(), database.name);
        let mut rig = Rig::behind(database, &through, small()).await;
        let mut running = rig.start("run");
        let mut records = harsh(3_000, 200, 113).into_iter();
        rig.write(records.by_ref().take(1_000)).await;
        rig.wait_until_applied(LONG).await;
        proxy.refuse(true);
        proxy.cut_all();
        let taken = take_all_connections(&url).await;
        proxy.refuse(false);
        rig.write(records.by_ref().take(1_000)).await;
        running.wait_for_line(0, &["waiting", "1040"], LONG).await;
        drop(taken);
        rig.write(records).await;
        healed(&rig, running).await;
    }

    // Proves: P1, P5, R30
    async fn a_packet_limit_of_64_kib_makes_smaller_pieces(server) {
        let private = start_private(server.flavour(), &[]).await;
        for (round, local_infile) in [1, 0].into_iter().enumerate() {
            // Batches as large as they come, so that every statement would be too large for one packet.
            let mut rig = Rig::new(&private, Variant::default()).await;
            let mut running = rig.start("run");
            running.wait_for_log("partition begun", LONG).await;
            rig.database.execute("SET GLOBAL max_allowed_packet = 65536").await;
            rig.database.execute(&format!("SET GLOBAL local_infile = {local_infile}")).await;
            rig.database.kill_connections().await;
            // Nothing that is larger than a packet by itself.
            let mix = Mix { malformed: 0.0, unknown_country: 0.04, ..Mix::harsh() };
            let seed = 127 + round as u64;
            let workload = Workload { events: 20_000, users: 2_000, partitions: 2, seed, mix, ..Workload::default() };
            rig.write(workload.records()).await;
            rig.wait_until_applied(Duration::from_secs(60)).await;
            let waiting = running.log().lines().filter(|line| line.contains("waiting") && line.contains("packet")).count();
            assert_eq!(waiting, 0, "{}", running.tail());
            healed(&rig, running).await;
            rig.database.execute("SET GLOBAL max_allowed_packet = 67108864").await;
        }
    }

    // Proves: P5, P6, R30
    async fn a_record_above_the_packet_limit_is_waited_for_by_name(server) {
        let private = start_private(server.flavour(), &[]).await;
        let mut rig = Rig::new(&private, small()).await;
        let mut running = rig.start("run");
        running.wait_for_log("partition begun", LONG).await;
        rig.database.execute("SET GLOBAL max_allowed_packet = 65536").await;
        rig.database.kill_connections().await;
        let mut records = harsh(1_500, 100, 131).into_iter();
        rig.write(records.by_ref().take(500)).await;
        // Too long for its column: its bytes go into quarantine, and there it is too large for a packet.
        let after = serde_json::json!({ "userId": "huge", "name": "n".repeat(100_000), "email": null, "country": "DE" });
        let value = serde_json::json!({ "op": "u", "before": null, "after": after, "timestamp": 1_700_000_000_000_i64 });
        let key = Some(b"huge".to_vec());
        let (timestamp_ms, value) = (Some(1_700_000_000_000), Some(value.to_string().into_bytes()));
        rig.write([OwnedRecord { partition: 0, offset: 0, timestamp_ms, key, value }]).await;
        let place = format!("partition 0 offset {}", rig.written.last().unwrap().offset);
        running.wait_for_line(0, &["waiting", "max_allowed_packet", &place], LONG).await;
        rig.database.execute("SET GLOBAL max_allowed_packet = 67108864").await;
        rig.wait_until_applied(Duration::from_secs(60)).await;
        rig.write(records).await;
        healed(&rig, running).await;
    }

    // Proves: P2, P3, R21
    async fn sessions_and_statements_killed_at_random_cost_nothing(server) {
        let mut rig = Rig::new(server, small()).await;
        let mut running = rig.start("run");
        let mut records = harsh(16_000, 300, 137).into_iter();
        for round in 0..40_u64 {
            rig.write(records.by_ref().take(400)).await;
            tokio::time::sleep(Duration::from_millis(20 + round * 7 % 60)).await;
            if round % 2 == 0 {
                rig.database.kill_connections().await;
            } else {
                rig.database.kill_queries().await;
            }
        }
        rig.write(records).await;
        assert!(running.is_running(), "{}", running.tail());
        healed(&rig, running).await;
    }

    // Proves: P2, P5, R19
    async fn read_only_in_both_spellings_on_and_off(server) {
        let private = start_private(server.flavour(), &[]).await;
        let mysql = server.flavour() == afterimage::demo::server::Flavour::MySql;
        let database = Database::create(&private).await;
        // With all rights: on MySQL only super_read_only binds such an account.
        let url = database.url.clone();
        let mut rig = Rig::behind(database, &url, small()).await;
        let mut running = rig.start("run");
        let mut records = harsh(8_000, 200, 139).into_iter();
        for variable in if mysql { ["super_read_only", "read_only"] } else { ["read_only", "read_only"] } {
            rig.write(records.by_ref().take(1_000)).await;
            rig.wait_until_applied(LONG).await;
            let known = running.log().len();
            rig.database.execute(&format!("SET GLOBAL {variable} = 1")).await;
            rig.database.kill_connections().await;
            rig.write(records.by_ref().take(1_000)).await;
            running.wait_for_line(known, &["waiting", "read-only"], LONG).await;
            rig.database.execute("SET GLOBAL read_only = 0").await;
        }
        rig.write(records).await;
        healed(&rig, running).await;
    }
}
