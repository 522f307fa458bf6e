//! A database per test, a look into it, and how the program connects to it.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use afterimage::demo::server::PrivateServer;
use afterimage::sink::session::{Address, Connector};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts, Row, Value};

/// A database with a name of its own, dropped with its value.
pub struct Database {
    pub name: String,
    /// As `mysql.url` of the config has it, with all privileges.
    pub url: String,
    admin: String,
}

impl Database {
    pub async fn create(server: &PrivateServer) -> Self {
        let name = format!("test_{:016x}", rand::random::<u64>());
        let database = Self { url: server.url(&name), admin: server.url(""), name };
        execute(&database.admin, &format!("CREATE DATABASE {}", database.name)).await;
        database
    }

    /// A connection straight to the server, whatever `url` a test gives to the program.
    pub async fn connect(&self) -> Conn {
        connect(&self.url).await
    }

    /// Runs one statement on a connection of its own.
    pub async fn execute(&self, statement: &str) {
        execute(&self.url, statement).await;
    }

    /// The rows of a query, each column as text (see [`rows`]).
    pub async fn rows(&self, query: &str) -> Vec<Vec<String>> {
        let mut connection = self.connect().await;
        let rows = rows(&mut connection, query).await;
        connection.disconnect().await.unwrap();
        rows
    }

    /// The one number that a query yields.
    pub async fn number(&self, query: &str) -> i64 {
        let rows = self.rows(query).await;
        assert_eq!((rows.len(), rows[0].len()), (1, 1), "{query} yields {rows:?}");
        rows[0][0].parse().unwrap_or_else(|_| panic!("{query} yields {:?}, no number", rows[0][0]))
    }

    /// An account that may do on this database what `privileges` name (such as `SELECT, INSERT`), and nothing else; its URL.
    pub async fn account(&self, privileges: &str) -> String {
        let (user, password) = (format!("u_{:016x}", rand::random::<u64>()), format!("{:016x}", rand::random::<u64>()));
        self.execute(&format!("CREATE USER '{user}'@'127.0.0.1' IDENTIFIED BY '{password}'")).await;
        self.execute(&format!("GRANT {privileges} ON {}.* TO '{user}'@'127.0.0.1'", self.name)).await;
        let at = self.url.rfind('@').unwrap();
        format!("mysql://{user}:{password}{}", &self.url[at..])
    }

    /// Ends all other connections that use this database, as an operator's KILL would; says how many there were.
    pub async fn kill_connections(&self) -> usize {
        self.kill("CONNECTION").await
    }

    /// KILL QUERY for whatever the other connections of this database are doing.
    pub async fn kill_queries(&self) -> usize {
        self.kill("QUERY").await
    }

    async fn kill(&self, what: &str) -> usize {
        let mut connection = self.connect().await;
        let own = connection.id().to_string();
        // Not information_schema.processlist: its statements are utf8mb3, and on MySQL one with a literal beyond that, which
        // a batch of few rows is, fails every query of that table while it runs (ERROR 3854).
        let listed = rows(&mut connection, "SHOW PROCESSLIST").await;
        let victims: Vec<String> = listed
            .into_iter()
            .filter_map(|row| <[String; 4]>::try_from(row.into_iter().take(4).collect::<Vec<_>>()).ok())
            .filter_map(|[id, _user, _host, database]| (database == self.name && id != own).then_some(id))
            .collect();
        for victim in &victims {
            // It may have gone by itself.
            let _ = connection.query_drop(format!("KILL {what} {victim}")).await;
        }
        connection.disconnect().await.unwrap();
        victims.len()
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let (admin, statement) = (self.admin.clone(), format!("DROP DATABASE IF EXISTS {}", self.name));
        // Dropping can't wait for the test's own runtime; a server that is gone by now takes its databases along.
        let cleaner = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let dropping = async {
                let mut connection = Conn::from_url(&admin).await?;
                // A transaction that a killed program left open holds metadata locks until the server notices.
                connection.query_drop("SET lock_wait_timeout = 10").await?;
                connection.query_drop(statement).await?;
                connection.disconnect().await
            };
            let _ = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(20), dropping).await });
        });
        let _ = cleaner.join();
    }
}

pub async fn connect(url: &str) -> Conn {
    let options = Opts::from_url(url).unwrap();
    let options = mysql_async::OptsBuilder::from_opts(options).prefer_socket(false);
    Conn::new(options).await.unwrap_or_else(|error| panic!("no connection: {error}"))
}

/// Opens sessions as the program does, by a URL as the config has it.
pub fn connector(url: &str) -> Connector {
    let options = Opts::from_url(url).unwrap();
    let address = Address {
        host: options.ip_or_hostname().to_owned(),
        port: options.tcp_port(),
        user: options.user().unwrap_or_default().to_owned(),
        password: options.pass().unwrap_or_default().to_owned(),
        database: options.db_name().unwrap_or_default().to_owned(),
        tls: false,
        ca_file: None,
    };
    Connector {
        address: Arc::new(move || Ok(address.clone())),
        connect_timeout: Duration::from_secs(60),
        statement_timeout: Duration::from_secs(120),
    }
}

/// Runs one statement on a connection of its own.
pub async fn execute(url: &str, statement: &str) {
    let mut connection = connect(url).await;
    connection.query_drop(statement).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
    connection.disconnect().await.unwrap();
}

/// The rows of a query, each column as text: NULL is `NULL`, bytes that aren't UTF-8 are `0x..`.
pub async fn rows(connection: &mut Conn, query: &str) -> Vec<Vec<String>> {
    let rows: Vec<Row> = connection.query(query).await.unwrap_or_else(|error| panic!("{query}: {error}"));
    rows.into_iter().map(|row| row.unwrap().iter().map(text).collect()).collect()
}

fn text(value: &Value) -> String {
    match value {
        Value::NULL => "NULL".to_owned(),
        Value::Bytes(bytes) => String::from_utf8(bytes.clone()).unwrap_or_else(|_| {
            bytes.iter().fold("0x".to_owned(), |mut hex, byte| {
                let _ = write!(hex, "{byte:02x}");
                hex
            })
        }),
        other => other.as_sql(true).trim_matches('\'').to_owned(),
    }
}
