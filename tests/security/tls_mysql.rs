//! TLS to MySQL and MariaDB, with an authority of the test's own: only a server that proves who it is gets to know who we are.

use std::path::Path;
use std::time::Duration;

use afterimage::demo::server::{Flavour, PrivateServer};
use afterimage::generate::Workload;
use mysql_async::prelude::Queryable;
use serde_json::json;

use super::{LONG, event, finish};
use crate::on_both_servers;
use crate::support::certificates::{Authority, Identity, self_signed};
use crate::support::mysql::Database;
use crate::support::rig::{Rig, Variant};
use crate::support::servers::{scratch, start_private};
use crate::support::tap::Tap;

const HERE: [&str; 2] = ["127.0.0.1", "localhost"];
/// Of a certificate that expires while the server has it.
const LIFETIME: Duration = Duration::from_secs(10);
const ALL: &str = "SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, CREATE TEMPORARY TABLES";

/// A URL of the database through `port`, and its user and password.
fn through(url: &str, port: u16) -> (String, String, String) {
    let (credentials, place) = url.trim_start_matches("mysql://").split_once('@').unwrap();
    let (user, password) = credentials.split_once(':').unwrap();
    let (_, database) = place.split_once('/').unwrap();
    (format!("mysql://{credentials}@127.0.0.1:{port}/{database}"), user.to_owned(), password.to_owned())
}

/// What a server is given to present. MySQL takes no certificate that it can't trace to an authority it knows: it knows them all.
fn install(folder: &Path, authorities: [&Authority; 2], identity: &Identity) {
    identity.install(folder);
    let known = authorities.map(|authority| std::fs::read_to_string(authority.file()).unwrap()).concat();
    std::fs::write(folder.join("authorities.pem"), known + &identity.certificate).unwrap();
}

/// Gives the server another certificate while it runs.
async fn present(server: &PrivateServer, folder: &Path, authorities: [&Authority; 2], identity: &Identity) {
    install(folder, authorities, identity);
    let reload = if server.flavour() == Flavour::MySql { "ALTER INSTANCE RELOAD TLS" } else { "FLUSH SSL" };
    server.connect().await.unwrap().query_drop(reload).await.unwrap();
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

on_both_servers! {
    // Proves: P6, R61
    async fn only_a_server_that_proves_who_it_is_is_spoken_to(server) {
        let (authority, stranger) = (Authority::new("authority"), Authority::new("stranger"));
        let folder = scratch("tls-");
        let known = [&authority, &stranger];
        install(folder.path(), known, &authority.issue(&HERE));
        let option = |name: &str, file: &Path| format!("--{name}={}", file.display());
        let options = [
            option("ssl-ca", &folder.path().join("authorities.pem")),
            option("ssl-cert", &folder.path().join("certificate.pem")),
            option("ssl-key", &folder.path().join("key.pem")),
        ];
        let private = start_private(server.flavour(), &options.each_ref().map(String::as_str)).await;
        let database = Database::create(&private).await;
        let tap = Tap::start(private.port());
        let (url, user, password) = through(&database.account(ALL).await, tap.port());
        database.execute(&format!("ALTER USER '{user}'@'127.0.0.1' REQUIRE SSL")).await;
        let variant = Variant { mysql: format!("ca_file = {:?}", authority.file()), ..Variant::default() };
        let mut rig = Rig::behind(database, &url, variant).await;

        // Good: the whole road, also where the server takes nothing but TLS from anybody.
        let mut admin = rig.database.connect().await;
        admin.query_drop("SET GLOBAL require_secure_transport = ON").await.unwrap();
        rig.write(Workload { events: 2_000, users: 100, partitions: 2, seed: 61, ..Workload::default() }.records()).await;
        rig.write([event("canary-user", json!("canary-name"), "DE", 1)]).await;
        rig.catch_up("good", LONG).await;
        admin.query_drop("SET GLOBAL require_secure_transport = OFF").await.unwrap();
        rig.assert_as_folded().await;
        let sent = tap.take();
        assert!(!sent.is_empty(), "nothing went through the tap");
        for bytes in &sent {
            for secret in [&user, &password, &rig.database.name, "canary-name", "SELECT"] {
                assert!(!holds(bytes, secret), "{secret} crossed the wire in plain text");
            }
        }

        // Bad: refused, with cause and remedy, and nothing is said that tells who we are.
        for (identity, cause, remedy) in [
            (authority.issue(&["elsewhere.example"]), "not valid for name", "name the server in [mysql] url as its certificate does"),
            (stranger.issue(&HERE), "UnknownIssuer", "an authority in ca_file"),
            (self_signed(&HERE), "peer certificate", "ca_file"),
            (authority.issue_for(&HERE, LIFETIME), "certificate expired", "renew the server's certificate"),
        ] {
            present(&private, folder.path(), known, &identity).await;
            if cause == "certificate expired" {
                // MySQL takes none that is over already, but keeps the one it has.
                tokio::time::sleep(LIFETIME + Duration::from_secs(2)).await;
            }
            tap.take();
            let checked = rig.workspace.run(&["check", "--online"]);
            assert_eq!(checked.code(), 1, "{cause}: {checked:?}");
            for text in ["AI0403", "no encrypted connection", cause, remedy] {
                assert!(checked.stdout.contains(text), "{text:?} is missing in {}", checked.stdout);
            }
            let migrated = rig.workspace.run(&["migrate"]);
            assert!(migrated.code() != 0 && migrated.stderr.contains(cause), "{migrated:?}");
            let sent = tap.take();
            assert!(sent.len() >= 2, "{cause}: {} connections", sent.len());
            for bytes in &sent {
                // A request for TLS, which names nobody, then the handshake.
                assert_eq!((bytes[0], bytes[3]), (32, 1), "{cause}");
                assert!(bytes.len() > 36 && bytes[36] == 0x16, "{cause}: no handshake after the request");
                assert!(!holds(bytes, &user) && !holds(bytes, &rig.database.name), "{cause}: named in plain text");
            }
        }

        // The service waits by name, applies nothing meanwhile, and goes on by itself.
        rig.write([event("late", json!("comer"), "DE", 2)]).await;
        let mut running = rig.start("waiting");
        running.wait_for_log("certificate expired", LONG).await;
        assert!(running.is_running() && running.log().contains("waiting"), "{}", running.tail());
        assert_eq!(rig.database.number("SELECT COUNT(*) FROM enriched_user WHERE user_id = 'late'").await, 0);
        present(&private, folder.path(), known, &authority.issue(&HERE)).await;
        rig.wait_until_applied(LONG).await;
        rig.assert_as_folded().await;
        assert!(!running.log().contains(&password), "{}", running.tail());
        finish(running).await;
    }

    // Proves: P6, R61
    async fn a_server_without_tls_is_refused_where_tls_is_asked_for(server) {
        // MariaDB has none unless it is given a certificate; MySQL makes one of its own.
        let options: &[&str] = if server.flavour() == Flavour::MySql { &["--tls-version="] } else { &["--skip-ssl"] };
        let private = start_private(server.flavour(), options).await;
        let database = Database::create(&private).await;
        let authority = Authority::new("authority");
        let tap = Tap::start(private.port());
        let (url, ..) = through(&database.account(ALL).await, tap.port());
        // Created in plain text, which loopback allows.
        let rig = Rig::behind(database, &url, Variant::default()).await;
        let config = std::fs::read_to_string(rig.workspace.path().join("afterimage.toml")).unwrap();
        let asked = config.replace("[http]", &format!("ca_file = {:?}\n[http]", authority.file()));
        rig.workspace.write("afterimage.toml", &asked);
        tap.take();
        let checked = rig.workspace.run(&["check", "--online"]);
        assert_eq!(checked.code(), 1, "{checked:?}");
        for text in ["AI0403", "server does not have this capability", "switch TLS on at the server"] {
            assert!(checked.stdout.contains(text), "{text:?} is missing in {}", checked.stdout);
        }
        let mut running = rig.start("run");
        running.wait_for_log("switch TLS on at the server", LONG).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(running.is_running());
        let sent = tap.take();
        assert!(sent.is_empty(), "the client said something in plain text: {sent:?}");
        finish(running).await;
    }
}
