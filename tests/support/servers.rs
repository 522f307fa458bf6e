//! The servers that tests share, and private ones for tests that break them.
//!
//! Data lies under the cache directory (`run/<process>`), not in /tmp, which may be memory; what a killed run left there
//! is removed by the next one. Data directories are initialised once and copied from then on.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use afterimage::demo::server::{Flavour, PrivateServer, Program};
use tempfile::TempDir;
use tokio::sync::OnceCell;

use super::kafka::Broker;

/// Makes two tests of one: the same body on MySQL and on MariaDB, as `name::mysql` and `name::mariadb`.
///
/// ```ignore
/// on_both_servers! {
///     async fn a_row_arrives(server) { let database = Database::create(server).await; .. }
/// }
/// ```
#[macro_export]
macro_rules! on_both_servers {
    ($($(#[$attribute:meta])* async fn $name:ident($server:ident) $body:block)+) => {$(
        mod $name {
            #[allow(unused_imports, reason = "not every body names something")]
            use super::*;

            async fn body($server: &'static afterimage::demo::server::PrivateServer) $body

            $(#[$attribute])*
            #[tokio::test(flavor = "multi_thread")]
            async fn mysql() {
                body($crate::support::servers::mysql().await).await;
            }

            $(#[$attribute])*
            #[tokio::test(flavor = "multi_thread")]
            async fn mariadb() {
                body($crate::support::servers::mariadb().await).await;
            }
        }
    )+};
}

/// The same for what only MariaDB does: one test, `name::mariadb`.
#[macro_export]
macro_rules! on_mariadb {
    ($($(#[$attribute:meta])* async fn $name:ident($server:ident) $body:block)+) => {$(
        mod $name {
            use super::*;

            $(#[$attribute])*
            #[tokio::test(flavor = "multi_thread")]
            async fn mariadb() {
                let $server = $crate::support::servers::mariadb().await;
                $body
            }
        }
    )+};
}

/// The MySQL server that all tests share: binary log on, LOAD DATA LOCAL allowed.
pub async fn mysql() -> &'static PrivateServer {
    static SERVER: OnceCell<PrivateServer> = OnceCell::const_new();
    still_there(SERVER.get_or_init(|| start_private(Flavour::MySql, &[])).await)
}

/// The MariaDB server that all tests share.
pub async fn mariadb() -> &'static PrivateServer {
    static SERVER: OnceCell<PrivateServer> = OnceCell::const_new();
    still_there(SERVER.get_or_init(|| start_private(Flavour::MariaDb, &[])).await)
}

/// Nobody stops a shared server: one that ended by itself says why, in place of a hundred refused connections.
fn still_there(server: &'static PrivateServer) -> &'static PrivateServer {
    let process = server.pid().map(|pid| std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default());
    let ended = process.is_none_or(|status| status.is_empty() || status.contains("\nState:\tZ"));
    assert!(!ended, "the shared {:?} server has ended:\n{}", server.flavour(), server.log_tail(100));
    server
}

/// The shared server of a flavour.
pub async fn shared(flavour: Flavour) -> &'static PrivateServer {
    match flavour {
        Flavour::MySql => mysql().await,
        Flavour::MariaDb => mariadb().await,
    }
}

/// The Kafka broker that all tests share.
pub async fn kafka() -> &'static Broker {
    static BROKER: OnceCell<Broker> = OnceCell::const_new();
    // Retention, compaction and the end of dead producers' transactions come within a second where a test asks for them.
    let prompt = [
        "log.retention.check.interval.ms=1000",
        "log.cleaner.backoff.ms=500",
        "transaction.abort.timed.out.transaction.cleanup.interval.ms=1000",
    ];
    BROKER.get_or_init(|| start_private_kafka(&prompt)).await
}

/// A server for one test alone, to be stopped, killed, paused and started again. `arguments` are server options, such as
/// `--local-infile=0`.
pub async fn start_private(flavour: Flavour, arguments: &[&str]) -> PrivateServer {
    start_private_in(flavour, scratch(if flavour == Flavour::MySql { "mysql-" } else { "mariadb-" }), arguments).await
}

/// The same in a directory of one's choice.
pub async fn start_private_in(flavour: Flavour, home: TempDir, arguments: &[&str]) -> PrivateServer {
    let program = program(flavour);
    copy(&template(&program).await, &home.path().join("data"));
    // Copies of one directory are different servers: two of them may be made source and replica.
    let _ = std::fs::remove_file(home.path().join("data/auto.cnf"));
    match PrivateServer::start(&program, home, arguments).await {
        Ok(server) => server,
        Err(error) => panic!("{error}"),
    }
}

/// A broker for one test alone. `properties` are lines such as `group.min.session.timeout.ms=500`; they win over ours.
pub async fn start_private_kafka(properties: &[&str]) -> Broker {
    Broker::start(&cache().join("kafka/lib"), scratch("kafka-"), properties).await
}

/// A broker for one test alone that a [`super::rig::Rig`] can use; killed when the guard is dropped.
pub struct PrivateKafka(pub &'static Broker);

impl PrivateKafka {
    pub async fn start(properties: &[&str]) -> Self {
        // A rig borrows its broker for good, because the shared one is there for good. The process behind it ends with the guard.
        Self(Box::leak(Box::new(start_private_kafka(properties).await)))
    }
}

impl Drop for PrivateKafka {
    fn drop(&mut self) {
        self.0.kill();
    }
}

/// Where the servers' software lies; `scripts/setup test` puts it there.
pub fn cache() -> PathBuf {
    std::env::var_os("AFTERIMAGE_CACHE").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").expect("HOME is set")).join(".cache/afterimage"),
        PathBuf::from,
    )
}

/// A directory that goes with its value, or with the next run of the tests.
pub fn scratch(prefix: &str) -> TempDir {
    static RUN: OnceLock<PathBuf> = OnceLock::new();
    let run = RUN.get_or_init(|| {
        let runs = cache().join("run");
        remove_leftovers(&runs);
        let run = runs.join(std::process::id().to_string());
        std::fs::create_dir_all(&run).unwrap();
        run
    });
    tempfile::Builder::new().prefix(prefix).tempdir_in(run).unwrap()
}

fn remove_leftovers(runs: &Path) {
    for entry in std::fs::read_dir(runs).into_iter().flatten().flatten() {
        if !Path::new("/proc").join(entry.file_name()).exists() {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

fn program(flavour: Flavour) -> Program {
    let program = match flavour {
        Flavour::MySql => Program::in_root(&cache().join("mysql")),
        Flavour::MariaDb => Program::mariadb(),
    };
    match program {
        Ok(program) => program,
        Err(error) => panic!("{error}"),
    }
}

/// A data directory as the program initialises it, made once per version and kept in the cache.
async fn template(program: &Program) -> PathBuf {
    let name: String =
        program.version.chars().map(|letter| if letter.is_alphanumeric() { letter } else { '-' }).collect();
    let template = cache().join("templates").join(name);
    if template.exists() {
        return template;
    }
    let home = scratch("template-");
    let data = home.path().join("data");
    if let Err(error) = program.initialise(&data, &home.path().join("log")).await {
        panic!("{error}");
    }
    std::fs::create_dir_all(cache().join("templates")).unwrap();
    if let Err(error) = std::fs::rename(&data, &template) {
        // Another run of the tests may have been quicker.
        assert!(template.exists(), "cannot keep {}: {error}", template.display());
    }
    template
}

/// Copies what is in `from` into `to`, which may be there already.
pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    let status = Command::new("cp").args(["-a", "--reflink=auto"]).arg(from.join(".")).arg(to).status().unwrap();
    assert!(status.success(), "cannot copy {} to {}", from.display(), to.display());
}
