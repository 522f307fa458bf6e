//! One connection to the writer: opened with a session contract, thrown away at the first doubt.
//!
//! In: statements. Out: rows, or what the OK packet says (affected rows, warnings, the info line). Every call has a deadline;
//! one that is missed, cancelled or answered by an I/O error leaves the session unusable (not [`Session::alive`]), because the
//! protocol's state is unknown from then on. Nothing here retries.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use mysql_async::prelude::Queryable;
use mysql_async::{
    Conn, DriverError, IoError, Opts, OptsBuilder, Params, QueryResult, Row, SslOpts, TextProtocol, Value,
};
use tokio::time::error::Elapsed;
use tokio::time::timeout;

use super::server_error::{self, Class};
use crate::error::{Error, Kind, Result, without_values};

/// How to reach the server; asked anew at every connect, so that a rotated password is found.
#[derive(Clone)]
pub struct Connector {
    pub address: Arc<dyn Fn() -> Result<Address> + Send + Sync>,
    pub connect_timeout: Duration,
    pub statement_timeout: Duration,
}

/// Where the server is and who we are there.
#[derive(Clone)]
pub struct Address {
    pub host: String,
    pub port: u16,
    pub user: String,
    pub password: String,
    pub database: String,
    /// Certificate authority file; TLS is used where `tls` is set.
    pub tls: bool,
    pub ca_file: Option<std::path::PathBuf>,
}

/// What the server said about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFacts {
    pub version: String,
    pub mariadb: bool,
    pub local_infile: bool,
    pub max_allowed_packet: usize,
    pub read_only: bool,
    /// How many rows go in one request as values of a prepared statement; 0 where such requests were found not to get through.
    pub prepared_rows: usize,
}

impl ServerFacts {
    /// Whether a request can have a prepared statement executed for each of many rows, as MariaDB's can. MySQL's statement has to have
    /// the values of all of them as parameters.
    pub fn takes_rows_in_bulk(&self) -> bool {
        self.mariadb && self.prepared_rows > 0
    }

    /// Whether rows are better off in INSERTs than in `LOAD DATA LOCAL`, or can't go that way.
    pub fn prefers_insert(&self) -> bool {
        self.takes_rows_in_bulk() || !self.local_infile
    }
}

/// What a statement without a result set did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Done {
    pub affected: u64,
    pub warnings: u16,
    /// `Records` and `Duplicates` of the info line, where there is one.
    pub records: u64,
    pub duplicates: u64,
}

impl Done {
    /// Counts another statement in.
    pub fn add(&mut self, other: Self) {
        self.affected += other.affected;
        self.warnings = self.warnings.saturating_add(other.warnings);
        self.records += other.records;
        self.duplicates += other.duplicates;
    }
}

/// What one of several statements of a request answered.
#[derive(Debug, Default)]
pub struct Answer {
    pub done: Done,
    pub rows: Vec<Row>,
}

/// An error of one statement.
#[derive(Debug)]
pub struct StatementError {
    pub class: Class,
    /// The server's code, or 0 for a dead connection or a missed deadline.
    pub code: u16,
    pub message: String,
}

/// A connection under contract. See the module page.
pub struct Session {
    conn: Option<Conn>,
    timeout: Duration,
    /// When the server last answered.
    answered: Instant,
    pub facts: ServerFacts,
}

/// Stands between statements of one request. The tests' proxy tells them apart by it.
const STATEMENT_END: &str = ";\n";

/// 3,000 rows and 5,000 take a MariaDB as long per row. MySQL keeps a parsed statement of so many rows and walks all of it for each request:
/// presumably it has to fit into a core's own cache. 500 rows take it 7 to 13 % longer than 200 where that cache has 512 KiB; elsewhere 250
/// and 500 took as long.
const fn prepared_rows(mariadb: bool) -> usize {
    if mariadb { 1000 } else { 200 }
}
/// A session prepares its INSERTs once; it has no more than these.
const PREPARED: usize = 8;

/// A session that was silent for so long is asked whether it still is one, well before the server ends it.
const SILENT: Duration = Duration::from_secs(8);

/// Each changes what a statement means; read back, because a server may refuse silently.
const CONTRACT: [(&str, &str); 8] = [
    ("sql_mode", "'STRICT_ALL_TABLES,NO_ZERO_DATE,NO_ZERO_IN_DATE,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION'"),
    // Notes count as warnings, and rounding a decimal is a note; real warnings stay.
    ("sql_notes", "0"),
    ("time_zone", "'+00:00'"),
    ("sql_safe_updates", "0"),
    ("innodb_lock_wait_timeout", "8"),
    // A foreign ALTER TABLE must not freeze us for a day.
    ("lock_wait_timeout", "8"),
    // A client that stands still or is cut off in the middle of a transaction holds locks: its session ends soon, so that the next
    // owner can go on. Between transactions a session may be silent for longer; see `Session::alive`.
    ("wait_timeout", "20"),
    ("foreign_key_checks", "1"),
];

impl Connector {
    /// Connects, applies the session contract and makes sure that this server takes writes.
    pub async fn connect(&self) -> Result<Session> {
        let session = self.connect_reader().await?;
        if session.facts.read_only {
            let Address { host, port, .. } = (self.address)()?;
            return Err(Error::new(Kind::SinkUnavailable, "the server is read-only")
                .remedy("waiting for the writer to come back; point [mysql] url at the writer if this is a replica")
                .at(format!("MySQL at {host}:{port}")));
        }
        Ok(session)
    }

    /// The same for who only reads: a replica will do.
    pub async fn connect_reader(&self) -> Result<Session> {
        let address = (self.address)()?;
        let place = format!("MySQL at {}:{}", address.host, address.port);
        let opening = Conn::new(options(&address));
        let conn = match timeout(self.connect_timeout, opening).await {
            Ok(Ok(conn)) => conn,
            Ok(Err(error)) => return Err(connect_error(error).at(place)),
            Err(_) => return Err(Error::new(Kind::SinkUnavailable, format!("{place}: no answer to connect"))),
        };
        let facts = ServerFacts {
            version: String::new(),
            mariadb: false,
            local_infile: false,
            max_allowed_packet: 0,
            read_only: false,
            prepared_rows: 0,
        };
        let mut session =
            Session { conn: Some(conn), timeout: self.statement_timeout, answered: Instant::now(), facts };
        session.agree().await.map_err(|error| error.at(place))?;
        Ok(session)
    }
}

/// Why there is no connection. What is wrong with its encryption is the operator's to mend; there is never one without instead.
fn connect_error(error: mysql_async::Error) -> Error {
    let words = innermost(&error);
    let encryption = match &error {
        mysql_async::Error::Driver(DriverError::NoClientSslFlagFromServer) => true,
        mysql_async::Error::Io(IoError::Tls(_)) => true,
        _ => words.contains("peer certificate") || words.contains("fatal alert"),
    };
    if !encryption {
        return StatementError::from(error).into_error();
    }
    Error::new(Kind::SinkConfig, format!("no encrypted connection: {words}")).remedy(encryption_remedy(&words))
}

/// The words of the error at the bottom: those above repeat that it is one.
fn innermost(error: &mysql_async::Error) -> String {
    let mut deepest: &dyn std::error::Error = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

fn encryption_remedy(words: &str) -> &'static str {
    let about = |part: &str| words.contains(part);
    if about("does not have this capability") {
        "switch TLS on at the server; plain text takes allow_insecure = true in [mysql], without ca_file"
    } else if about("expired") || about("not valid yet") {
        "renew the server's certificate, or set the clock right"
    } else if about("not valid for name") {
        "name the server in [mysql] url as its certificate does, or have one issued for this name"
    } else if about("UnknownIssuer") || about("BadSignature") {
        "the server's certificate must be signed by an authority in ca_file of [mysql] (without ca_file: by a public one)"
    } else {
        "look at ca_file in [mysql] and at the server's certificate"
    }
}

fn options(address: &Address) -> Opts {
    let mut options = OptsBuilder::default()
        .ip_or_hostname(address.host.clone())
        .tcp_port(address.port)
        .user(Some(address.user.clone()))
        .pass(Some(address.password.clone()))
        .db_name(Some(address.database.clone()))
        // Or the driver would reconnect over the Unix socket behind a proxy's back.
        .prefer_socket(false)
        .tcp_keepalive(Some(Duration::from_secs(20)))
        .stmt_cache_size(PREPARED);
    if address.tls {
        let mut tls = SslOpts::default();
        if let Some(file) = &address.ca_file {
            tls = tls.with_root_certs(vec![file.clone().into()]).with_disable_built_in_roots(true);
        }
        options = options.ssl_opts(Some(tls));
    }
    options.into()
}

impl Session {
    async fn agree(&mut self) -> Result<()> {
        self.run("SET NAMES utf8mb4").await.map_err(StatementError::into_error)?;
        self.run("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED").await.map_err(StatementError::into_error)?;
        for (variable, value) in CONTRACT {
            let set = format!("SET SESSION {variable} = {value}");
            self.run(&set).await.map_err(StatementError::into_error)?;
        }
        let sql = "SELECT @@version, @@local_infile, @@max_allowed_packet, @@global.read_only, @@sql_mode, @@time_zone, \
                   @@innodb_read_only";
        let rows = self.rows(sql).await.map_err(StatementError::into_error)?;
        let row = rows.first().ok_or_else(|| Error::new(Kind::Bug, "the server's variables came back empty"))?;
        let text = |index: usize| text_at(row, index);
        let switch = |index: usize| matches!(text(index).as_str(), "1" | "ON");
        let mariadb = text(0).to_lowercase().contains("mariadb");
        self.facts = ServerFacts {
            mariadb,
            version: text(0),
            local_infile: switch(1),
            max_allowed_packet: text(2).parse().unwrap_or(4 << 20),
            read_only: switch(3) || switch(6),
            prepared_rows: prepared_rows(mariadb),
        };
        if !text(4).contains("STRICT_ALL_TABLES") || text(5) != "+00:00" {
            return Err(Error::new(
                Kind::SinkConfig,
                "the server does not accept strict sql_mode and time_zone '+00:00' for this session",
            )
            .remedy("a proxy between may swallow SET SESSION: connect to the server itself"));
        }
        Ok(())
    }

    /// Whether the session can be used; one that was silent for long may have been ended by the server, and is asked.
    pub async fn alive(&mut self) -> bool {
        if self.conn.is_some() && self.answered.elapsed() > SILENT {
            let _ = self.ping().await;
        }
        self.conn.is_some()
    }

    async fn ping(&mut self) -> Result<(), StatementError> {
        let mut conn = self.take()?;
        let answer = timeout(self.timeout, conn.ping()).await;
        self.answer(conn, answer)
    }

    /// Gives the connection up; what it had open is rolled back by the server (or, if a COMMIT is under way, decided there).
    pub fn abandon(&mut self) {
        self.conn = None;
    }

    /// Runs a statement that yields no rows.
    pub async fn run(&mut self, sql: &str) -> Result<Done, StatementError> {
        let mut conn = self.take()?;
        let answer = timeout(self.timeout, execute(&mut conn, sql)).await;
        self.answer(conn, answer)
    }

    /// Runs a statement and collects its rows.
    pub async fn rows(&mut self, sql: &str) -> Result<Vec<Row>, StatementError> {
        let mut conn = self.take()?;
        let answer = timeout(self.timeout, conn.query(sql)).await;
        self.answer(conn, answer)
    }

    /// Runs statements one after the other in one request, so that they cost one round trip, under one deadline. The first that fails
    /// ends it, and what was done before it stays: only for inside a transaction, or where that is no harm. One answer per statement.
    pub async fn run_several(&mut self, statements: &[&str]) -> Result<Vec<Answer>, StatementError> {
        if statements.is_empty() {
            return Ok(Vec::new());
        }
        let request = statements.join(STATEMENT_END);
        let mut conn = self.take()?;
        let answer = timeout(self.timeout, execute_several(&mut conn, &request, statements.len())).await;
        self.answer(conn, answer)
    }

    /// Runs a statement and hands over each row as it comes, until `take` says that it is enough. `patience` is for each wait.
    pub async fn each_row(
        &mut self,
        sql: &str,
        patience: Duration,
        mut take: impl FnMut(Row) -> bool,
    ) -> Result<(), StatementError> {
        let silent = || StatementError::dead(format!("no answer within {patience:?}"));
        let mut conn = self.take()?;
        let mut result = timeout(patience, conn.query_iter(sql)).await.map_err(|_| silent())??;
        while let Some(row) = timeout(patience, result.next()).await.map_err(|_| silent())?? {
            if !take(row) {
                // What else would come is left with the connection.
                return Ok(());
            }
        }
        drop(result);
        self.answered = Instant::now();
        self.conn = Some(conn);
        Ok(())
    }

    /// Runs `LOAD DATA LOCAL INFILE`, serving `rows` from memory whatever file name the server asks for.
    pub async fn load(&mut self, sql: &str, rows: Bytes) -> Result<Done, StatementError> {
        // One stream element is one packet; between 64 and 256 KiB nothing changes in speed.
        let length = self.facts.max_allowed_packet.div_ceil(2).clamp(512, 128 << 10);
        let chunks = (0..rows.len()).step_by(length);
        let chunks: Vec<_> = chunks.map(|start| Ok(rows.slice(start..rows.len().min(start + length)))).collect();
        let mut conn = self.take()?;
        conn.set_infile_handler(async move { Ok(futures::stream::iter(chunks).boxed()) });
        let answer = timeout(self.timeout, execute(&mut conn, sql)).await;
        self.answer(conn, answer)
    }

    /// Runs a prepared statement once for each of `rows` of values, all in one request where the server is a MariaDB (unless a proxy hides
    /// that it can, and the packet limit allows it); [`Done::records`] tells. Else one by one, and then the answer is the last one's.
    pub async fn run_for_each(&mut self, sql: &str, rows: Vec<Vec<Value>>) -> Result<Done, StatementError> {
        let mut conn = self.take()?;
        let running = async {
            conn.exec_batch(sql, rows.into_iter().map(Params::Positional)).await?;
            Ok(last_done(&conn))
        };
        let answer = timeout(self.timeout, running).await;
        self.answer(conn, answer)
    }

    /// Rolls back; a session on which even that fails is given up.
    pub async fn rollback(&mut self) {
        if self.conn.is_some() && self.run("ROLLBACK").await.is_err() {
            self.abandon();
        }
    }

    /// The connection, taken out while a call runs: a dropped future leaves no connection behind.
    fn take(&mut self) -> Result<Conn, StatementError> {
        self.conn.take().ok_or_else(|| StatementError::dead("the connection was given up"))
    }

    /// One call's answer within the deadline; puts the connection back where it is as good as before.
    fn answer<T>(
        &mut self,
        conn: Conn,
        answer: Result<Result<T, mysql_async::Error>, Elapsed>,
    ) -> Result<T, StatementError> {
        match answer {
            Ok(Ok(value)) => {
                self.answered = Instant::now();
                self.conn = Some(conn);
                Ok(value)
            }
            Ok(Err(error)) => {
                let error = StatementError::from(error);
                if error.keeps_connection() {
                    self.conn = Some(conn);
                }
                Err(error)
            }
            Err(_) => Err(StatementError::dead(format!("no answer within {:?}", self.timeout))),
        }
    }
}

/// Runs one statement and says what its OK packet says.
async fn execute(conn: &mut Conn, sql: &str) -> Result<Done, mysql_async::Error> {
    let result = conn.query_iter(sql).await?;
    let done = done(&result);
    result.drop_result().await?;
    Ok(done)
}

/// What the OK packet says that `result` stands at.
fn done(result: &QueryResult<'_, 'static, TextProtocol>) -> Done {
    let (records, duplicates) = info_counts(&result.info());
    Done { affected: result.affected_rows(), warnings: result.warnings(), records, duplicates }
}

/// What the last OK packet of a connection says.
fn last_done(conn: &Conn) -> Done {
    let (records, duplicates) = info_counts(&conn.info());
    Done { affected: conn.affected_rows(), warnings: conn.get_warnings(), records, duplicates }
}

/// Runs `count` statements in one request.
async fn execute_several(conn: &mut Conn, request: &str, count: usize) -> Result<Vec<Answer>, mysql_async::Error> {
    let mut answers = Vec::with_capacity(count);
    let mut result = conn.query_iter(request).await?;
    for _ in 0..count {
        let done = done(&result);
        // Goes on to the next statement's answer.
        answers.push(Answer { done, rows: result.collect().await? });
    }
    result.drop_result().await?;
    Ok(answers)
}

/// The text of a column, or empty for NULL.
pub fn text_at(row: &Row, index: usize) -> String {
    match row.as_ref(index) {
        Some(Value::Bytes(bytes)) => String::from_utf8_lossy(bytes).into_owned(),
        Some(Value::NULL) | None => String::new(),
        Some(other) => other.as_sql(true).trim_matches('\'').to_owned(),
    }
}

/// The whole number in a column, or `None` for NULL.
pub fn int_at(row: &Row, index: usize) -> Option<i64> {
    match row.as_ref(index) {
        Some(Value::Bytes(bytes)) => std::str::from_utf8(bytes).ok()?.parse().ok(),
        Some(Value::Int(value)) => Some(*value),
        Some(Value::UInt(value)) => i64::try_from(*value).ok(),
        _ => None,
    }
}

/// The bytes of a column, or `None` for NULL.
pub fn bytes_at(row: &Row, index: usize) -> Option<Vec<u8>> {
    match row.as_ref(index) {
        Some(Value::Bytes(bytes)) => Some(bytes.clone()),
        _ => None,
    }
}

/// `Records: 3  Duplicates: 1  Warnings: 0` as (3, 1); the same on both servers.
fn info_counts(info: &str) -> (u64, u64) {
    let number_after = |label: &str| {
        let rest = info.split_once(label).map_or("", |(_, rest)| rest).trim_start();
        rest.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default().parse().unwrap_or(0)
    };
    (number_after("Records:"), number_after("Duplicates:"))
}

impl StatementError {
    /// Whether the connection is as good as before. Not after what an operator has to mend: a session keeps the rights and limits
    /// that it began with, so that a grant or a raised limit would never be seen.
    fn keeps_connection(&self) -> bool {
        match self.class {
            Class::Disconnect => false,
            Class::Operator => {
                server_error::refuses_local_infile(self.code) || server_error::refuses_algorithm(self.code)
            }
            Class::Contention | Class::Exhausted | Class::Row => self.code != 0,
        }
    }

    pub fn dead(message: impl Into<String>) -> Self {
        Self { class: Class::Disconnect, code: 0, message: message.into() }
    }

    /// The error for the loop, of a statement that carries rows of events. The server's words are kept as far as they are known to be
    /// about names and settings: others may quote values.
    pub fn into_error_about_rows(self) -> Error {
        let quotes = self.class == Class::Operator && !server_error::is_about_names(self.code);
        let message = if quotes { without_values(&self.message) } else { self.message };
        Self { message, ..self }.into_error()
    }

    /// The error for the loop. Row errors keep the server's words out: they quote values.
    pub fn into_error(self) -> Error {
        let kind = self.class.kind();
        let what = match self.code {
            0 => self.message,
            code if self.class == Class::Row => format!("MySQL refused a row with error {code}"),
            code => format!("MySQL error {code}: {}", self.message),
        };
        let error = Error::new(kind, what);
        // Without a code it is the packet limit that the driver itself keeps.
        let code = if self.code == 0 { server_error::PACKET_TOO_LARGE } else { self.code };
        if kind == Kind::SinkConfig { error.remedy(server_error::remedy(code)) } else { error }
    }
}

/// The driver's own limit; most often it comes as an error of its connection.
fn is_packet_too_large(error: &mysql_async::Error) -> bool {
    matches!(error, mysql_async::Error::Driver(DriverError::PacketTooLarge))
        || innermost(error).contains("larger than max_allowed_packet")
}

impl From<mysql_async::Error> for StatementError {
    fn from(error: mysql_async::Error) -> Self {
        match error {
            mysql_async::Error::Server(error) => {
                Self { class: server_error::classify(error.code), code: error.code, message: error.message }
            }
            // A statement above the server's packet limit: the driver closes the connection, waiting would not help.
            error if is_packet_too_large(&error) => Self {
                class: Class::Operator,
                code: server_error::PACKET_TOO_LARGE,
                message: "a statement is larger than max_allowed_packet".to_owned(),
            },
            error => Self::dead(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Proves: P6
    #[test]
    fn a_message_about_rows_keeps_names_and_loses_values() {
        let shown = |code: u16, message: &str| {
            let class = server_error::classify(code);
            StatementError { class, code, message: message.to_owned() }.into_error_about_rows().to_string()
        };
        let denied = shown(1142, "UPDATE command denied to user 'app'@'h' for table 'afterimage_positions'");
        assert!(denied.contains("'afterimage_positions'"), "{denied}");
        for (code, message) in [
            (1064, "You have an error in your SQL syntax near 'canary')' at line 1"),
            (1526, "Table has no partition for value 4711"),
            (1406, "Data too long for column 'canary' at row 4711"),
            (9999, "something new about 'can'ary' and 4711"),
        ] {
            let shown = shown(code, message);
            assert!(!shown.contains("ary") && !shown.contains("4711"), "{shown}");
            assert!(shown.contains(&code.to_string()), "{shown}");
        }
    }

    #[test]
    fn a_fault_of_the_encryption_names_what_to_do() {
        let refused = |words: &str| {
            let inner = std::io::Error::new(std::io::ErrorKind::InvalidData, words.to_owned());
            connect_error(mysql_async::Error::Io(IoError::Io(inner)))
        };
        for (words, remedy) in [
            ("invalid peer certificate: certificate expired: verification time 1", "renew"),
            ("invalid peer certificate: certificate not valid for name \"a\"; certificate is only valid for b", "url"),
            ("invalid peer certificate: UnknownIssuer", "ca_file"),
            ("received fatal alert: HandshakeFailure", "ca_file"),
        ] {
            let error = refused(words);
            assert_eq!(error.kind, Kind::SinkConfig);
            assert!(error.what.contains(words) && error.remedy.contains(remedy), "{error}");
        }
        let plain = connect_error(mysql_async::Error::Driver(DriverError::NoClientSslFlagFromServer));
        assert!(plain.remedy.contains("switch TLS on"), "{plain}");
        assert_eq!(refused("connection refused").kind, Kind::SinkUnavailable);
    }

    #[test]
    fn the_info_line_yields_records_and_duplicates() {
        assert_eq!(info_counts("Records: 31  Duplicates: 7  Warnings: 0"), (31, 7));
        assert_eq!(info_counts(""), (0, 0));
    }
}
