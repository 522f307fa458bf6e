//! A MySQL or MariaDB server of our own, for the demo and for the tests.
//!
//! In: a server program and an empty directory. Out: a running server that listens on 127.0.0.1 alone, on a free port, with
//! one account (`afterimage`, all privileges, a password of its own) that can be reached over TCP. Nothing of the machine's
//! own servers is read or touched. The server ends with this process (see [`super::process`]) and its directory with the
//! value; no configuration file is read, so that it is the same server everywhere.

use std::ffi::OsString;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder};
use tempfile::TempDir;

use super::process::{ServerCommand, find_program, tail, words};
use crate::error::{Error, Kind, Result};

const ACCOUNT: &str = "afterimage";
/// A loaded machine may need long for the first start; a server that ends early is noticed at once.
const START_DEADLINE: Duration = Duration::from_secs(120);
const STOP_DEADLINE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

/// Whose server it is; the two differ in dialect and in how a data directory is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Flavour {
    MySql,
    MariaDb,
}

/// A server program and how to call it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    pub flavour: Flavour,
    /// As the program names itself, e.g. `mysqld  Ver 9.7.4 for Linux on x86_64`.
    pub version: String,
    /// Starts the server, given its directories and port.
    serve: Vec<OsString>,
    /// Makes a data directory.
    initialise: Vec<OsString>,
}

impl Program {
    /// The first MySQL or MariaDB server on the PATH (or in Debian's sbin directories).
    ///
    /// # Errors
    /// None there, or none that runs.
    pub fn find() -> Result<Self> {
        let found: Vec<PathBuf> = ["mysqld", "mariadbd"].into_iter().filter_map(find_program).collect();
        if found.is_empty() {
            return Err(Error::new(Kind::Config, "no MySQL or MariaDB server program (mysqld, mariadbd) on the PATH")
                .remedy("install one, e.g. as root: apt-get install mariadb-server"));
        }
        let mut last = None;
        for program in found {
            match Self::of(words(&[program, "--no-defaults".into()]), find_program("mariadb-install-db")) {
                Ok(program) => return Ok(program),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| Error::new(Kind::Bug, "no program was tried")))
    }

    /// The MySQL server on the PATH.
    pub fn mysql() -> Result<Self> {
        let Some(program) = find_program("mysqld") else {
            return Err(
                Error::new(Kind::Config, "no mysqld on the PATH").remedy("install a MySQL server, or use MariaDB")
            );
        };
        Self::of(words(&[program, "--no-defaults".into()]), None)
    }

    /// The MariaDB server on the PATH.
    pub fn mariadb() -> Result<Self> {
        let Some(program) = find_program("mariadbd") else {
            return Err(Error::new(Kind::Config, "no mariadbd on the PATH").remedy("run scripts/setup test"));
        };
        Self::of(words(&[program, "--no-defaults".into()]), find_program("mariadb-install-db"))
    }

    /// The server inside a root directory that holds another Debian release, run with that release's own libraries.
    pub fn in_root(root: &Path) -> Result<Self> {
        let architecture = std::env::consts::ARCH;
        let libraries = root.join(format!("usr/lib/{architecture}-linux-gnu"));
        let loader = match architecture {
            "x86_64" => root.join("lib64/ld-linux-x86-64.so.2"),
            _ => root.join(format!("lib/ld-linux-{architecture}.so.1")),
        };
        if !loader.exists() {
            return Err(Error::new(Kind::Config, format!("no MySQL server in {}", root.display()))
                .remedy("run scripts/setup test"));
        }
        let mut base = OsString::from("--basedir=");
        base.push(root.join("usr"));
        let serve = words(&[
            loader.as_os_str(),
            "--library-path".as_ref(),
            libraries.as_os_str(),
            root.join("usr/sbin/mysqld").as_os_str(),
            "--no-defaults".as_ref(),
            base.as_os_str(),
        ]);
        Self::of(serve, None)
    }

    /// Asks the program who it is.
    fn of(mut serve: Vec<OsString>, install: Option<PathBuf>) -> Result<Self> {
        let name = PathBuf::from(&serve[0]).display().to_string();
        let refused = |what: String| {
            Error::new(Kind::Config, what)
                .remedy("install a MySQL or MariaDB server, e.g. apt-get install mariadb-server")
        };
        let answer = Command::new(&serve[0])
            .args(&serve[1..])
            .arg("--version")
            .output()
            .map_err(|error| refused(format!("{name} does not run")).source(error))?;
        if !answer.status.success() {
            return Err(refused(format!("{name} --version failed with {}", answer.status)));
        }
        let version = String::from_utf8_lossy(&answer.stdout).trim().to_owned();
        if is_root() {
            // Both servers refuse to run as root unless they are told to, and a directory of root's is closed to others.
            serve.push("--user=root".into());
        }
        let (flavour, initialise) = if version.contains("MariaDB") {
            let install = install
                .ok_or_else(|| refused(format!("{name} is a MariaDB server, but there is no mariadb-install-db")))?;
            let mut command = words(&[install]);
            command.extend(words(&["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"]));
            command.extend(is_root().then(|| "--user=root".into()));
            (Flavour::MariaDb, command)
        } else {
            let mut command = serve.clone();
            command.push("--initialize-insecure".into());
            (Flavour::MySql, command)
        };
        Ok(Self { flavour, version, serve, initialise })
    }

    /// Makes the data directory `data`, which must not exist; takes some seconds. Output goes to `log`.
    pub async fn initialise(&self, data: &Path, log: &Path) -> Result<()> {
        let mut words = self.initialise.clone();
        words.push(option("--datadir", data));
        let directory = data.parent().unwrap_or(data).to_owned();
        let command = ServerCommand { words, environment: Vec::new(), directory, log: log.to_owned() };
        let mut child =
            command.spawn().map_err(|error| trouble("the database server cannot be started").source(error))?;
        let deadline = Instant::now() + START_DEADLINE;
        let status = loop {
            match child.try_wait() {
                Ok(Some(status)) => break status.to_string(),
                Ok(None) if Instant::now() < deadline => tokio::time::sleep(POLL).await,
                Ok(None) => {
                    let _ = child.kill();
                    break "no end".to_owned();
                }
                Err(error) => return Err(trouble("the database server cannot be watched").source(error)),
            }
        };
        if status == "exit status: 0" {
            return Ok(());
        }
        Err(trouble(format!("making a data directory in {} failed ({status})\n{}", data.display(), tail(log, 20)))
            .remedy("is there space, and may this user write there?"))
    }
}

/// A running (or stopped, or killed) server with a directory of its own.
#[derive(Debug)]
pub struct PrivateServer {
    program: Program,
    /// Options beyond the usual ones.
    arguments: Vec<String>,
    port: u16,
    password: String,
    child: Option<Child>,
    home: TempDir,
}

impl PrivateServer {
    /// Starts a server with a free port in `home`, whose `data` directory is made unless it is there, and waits until it
    /// answers. `arguments` are server options such as `--local-infile=0`; they win over ours.
    pub async fn start(program: &Program, home: TempDir, arguments: &[&str]) -> Result<Self> {
        let data = home.path().join("data");
        if !data.exists() {
            program.initialise(&data, &home.path().join("log")).await?;
        }
        let mut server = Self {
            program: program.clone(),
            arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
            port: 0,
            password: format!("{:032x}", rand::random::<u128>()),
            child: None,
            home,
        };
        server.write_accounts()?;
        let mut attempt = 1;
        loop {
            server.port = free_port()?;
            match server.launch(true).await {
                // Somebody else took the port between our look and the server's.
                Err(_) if attempt < 3 && server.log_tail(20).contains("ddress already in use") => attempt += 1,
                outcome => return outcome.map(|()| server),
            }
        }
    }

    pub fn flavour(&self) -> Flavour {
        self.program.flavour
    }

    /// As the program names itself.
    pub fn version(&self) -> &str {
        &self.program.version
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where its data lies; to be touched only while it is stopped.
    pub fn data(&self) -> PathBuf {
        self.home.path().join("data")
    }

    /// Process number, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Where its `data` directory lies.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    pub fn account(&self) -> &'static str {
        ACCOUNT
    }

    pub fn password(&self) -> &str {
        &self.password
    }

    /// Address of a database (empty: of none) as the config's `mysql.url` has it. Stays the same over restarts.
    pub fn url(&self, database: &str) -> String {
        self.url_through(self.port, database)
    }

    /// The same by way of something else that listens on 127.0.0.1, such as a proxy.
    pub fn url_through(&self, port: u16, database: &str) -> String {
        format!("mysql://{ACCOUNT}:{}@127.0.0.1:{port}/{database}", self.password)
    }

    /// A connection of the account that may do everything.
    pub async fn connect(&self) -> Result<Conn> {
        let options = OptsBuilder::default()
            .ip_or_hostname("127.0.0.1")
            .tcp_port(self.port)
            .user(Some(ACCOUNT))
            .pass(Some(&self.password))
            .prefer_socket(false);
        Conn::new(options).await.map_err(|error| trouble("the database server does not answer").source(error))
    }

    /// The last `lines` lines that the server wrote.
    pub fn log_tail(&self, lines: usize) -> String {
        tail(&self.log(), lines)
    }

    /// Shuts the server down in order and waits until it is gone; one that doesn't go is killed.
    pub async fn stop(&mut self) {
        let Some(child) = &mut self.child else { return };
        let _ = child.try_wait();
        if let Ok(mut connection) = self.connect().await {
            // The server may hang up before it answers.
            let _ = connection.query_drop("SHUTDOWN").await;
            let deadline = Instant::now() + STOP_DEADLINE;
            while Instant::now() < deadline
                && self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
            {
                tokio::time::sleep(POLL).await;
            }
        }
        self.kill();
    }

    /// Ends the server at once, as a power failure of the process would (SIGKILL); what it said is durable stays.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts a stopped or killed server again, on the same port and data, and waits until it answers.
    pub async fn start_again(&mut self) -> Result<()> {
        if self.child.is_some() {
            self.kill();
        }
        self.launch(false).await
    }

    async fn launch(&mut self, with_accounts: bool) -> Result<()> {
        let home = self.home.path();
        // Of its own: a MariaDB server that starts removes the temporary tables of all others that share its directory for them.
        let temporary = home.join("tmp");
        std::fs::create_dir_all(&temporary)
            .map_err(|error| trouble(format!("cannot write into {}", home.display())).source(error))?;
        let mut words = self.program.serve.clone();
        words.extend([
            option("--datadir", &home.join("data")),
            option("--socket", &home.join("socket")),
            option("--pid-file", &home.join("pid")),
            option("--tmpdir", &temporary),
            format!("--port={}", self.port).into(),
        ]);
        words.extend(
            ["--bind-address=127.0.0.1", "--skip-name-resolve", "--local-infile=1", "--innodb-buffer-pool-size=256M"]
                .map(OsString::from),
        );
        if self.program.flavour == Flavour::MySql {
            // MySQL's packages name a directory for files that a private server has no use for.
            words.extend(["--mysqlx=OFF", "--secure-file-priv=NULL"].map(OsString::from));
        } else {
            words.push(option("--secure-file-priv", &home.join("data")));
        }
        if with_accounts {
            words.push(option("--init-file", &self.accounts()));
        }
        words.extend(self.arguments.iter().map(OsString::from));
        let command =
            ServerCommand { words, environment: Vec::new(), directory: home.to_owned(), log: home.join("log") };
        let child = command.spawn().map_err(|error| trouble("the database server cannot be started").source(error))?;
        self.child = Some(child);
        self.wait_until_it_answers().await
    }

    async fn wait_until_it_answers(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_DEADLINE;
        loop {
            if let Ok(Ok(mut connection)) = tokio::time::timeout(Duration::from_secs(10), self.connect()).await
                && connection.ping().await.is_ok()
            {
                let _ = connection.disconnect().await;
                return Ok(());
            }
            let ended = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            if ended.is_some() || Instant::now() > deadline {
                self.kill();
                let how = ended.map_or_else(|| "does not answer".to_owned(), |status| format!("ended with {status}"));
                return Err(trouble(format!("the private database server {how}\n{}", self.log_tail(20))));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Statements that run before the server listens: no account without a password can be reached over TCP.
    fn write_accounts(&self) -> Result<()> {
        let statements = format!(
            "CREATE USER IF NOT EXISTS '{ACCOUNT}'@'127.0.0.1' IDENTIFIED BY '{0}';\n\
             ALTER USER '{ACCOUNT}'@'127.0.0.1' IDENTIFIED BY '{0}';\n\
             GRANT ALL ON *.* TO '{ACCOUNT}'@'127.0.0.1' WITH GRANT OPTION;\n\
             DROP USER IF EXISTS 'root'@'127.0.0.1';\n",
            self.password
        );
        std::fs::write(self.accounts(), statements)
            .map_err(|error| trouble(format!("cannot write into {}", self.home.path().display())).source(error))
    }

    fn accounts(&self) -> PathBuf {
        self.home.path().join("accounts.sql")
    }

    fn log(&self) -> PathBuf {
        self.home.path().join("log")
    }
}

impl Drop for PrivateServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Ports below those that Linux hands out by itself, to listeners that ask for any and to every client that connects.
const PORTS: std::ops::Range<u32> = 20_000..32_000;

/// A port of 127.0.0.1 that nobody listens on at this moment. Who asked for it may need seconds until it does: so it is none that the
/// system gives to others meanwhile, and no other call in this process gets it soon.
pub fn free_port() -> Result<u16> {
    static CALLS: AtomicU32 = AtomicU32::new(0);
    // Other processes begin elsewhere: neighbouring numbers of processes are far apart.
    let first = std::process::id().wrapping_mul(7_919);
    for _ in PORTS {
        let nth = first.wrapping_add(CALLS.fetch_add(1, Ordering::Relaxed)) % (PORTS.end - PORTS.start);
        let Ok(port) = u16::try_from(PORTS.start + nth) else { continue };
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    Err(trouble(format!("no free port on 127.0.0.1 from {} to {}", PORTS.start, PORTS.end - 1)))
}

fn option(name: &str, path: &Path) -> OsString {
    let mut option = OsString::from(name);
    option.push("=");
    option.push(path);
    option
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

fn trouble(what: impl Into<String>) -> Error {
    Error::new(Kind::SinkUnavailable, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_call_has_a_port_of_its_own_below_those_that_the_system_hands_out() {
        let ports: std::collections::BTreeSet<u16> = (0..200).map(|_| free_port().unwrap()).collect();
        assert_eq!(ports.len(), 200);
        assert!(ports.iter().all(|port| PORTS.contains(&u32::from(*port))), "{ports:?}");
    }
}
