//! A TCP proxy that understands where MySQL's packets begin, and breaks connections at a chosen statement.
//!
//! In: clients, on a port of 127.0.0.1. Out: the same bytes to and from the server, until a fault is armed. Statements are
//! recognised by how their text begins, in COM_QUERY and COM_STMT_PREPARE; where a prepared one is executed, by EXECUTE and then
//! its text. Connections must be neither encrypted nor compressed, and clients must not switch to the server's Unix socket.
//! Runs on a thread of its own, so that a test that blocks doesn't stop it.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

const COM_QUERY: u8 = 0x03;
const COM_STMT_PREPARE: u8 = 0x16;
const COM_STMT_EXECUTE: u8 = 0x17;
/// MariaDB's.
const COM_STMT_BULK_EXECUTE: u8 = 0xfa;

/// What happens to the statement that a fault waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The server never sees it; both sides find the connection closed.
    CutBefore,
    /// The server executes it and answers; the client finds the connection closed instead of the answer.
    CutAfter,
    /// The server gets it, and both sides find the connection closed at once, whatever the server is doing.
    CutDuring,
    /// Held back until [`Proxy::release`]; then as [`Fault::CutDuring`].
    CutDuringWhenReleased,
    /// The server gets it and its answer never arrives; both connections stay open, silent.
    LoseAnswer,
    /// It waits here, unseen by the server, until [`Proxy::release`].
    Hold,
    /// The server executes it at once; its answer waits here until [`Proxy::release`].
    HoldAnswer,
    /// The server never sees it; the client gets this error number for an answer and the connection stays.
    Refuse(u16),
}

/// A running proxy; ends with its value.
pub struct Proxy {
    port: u16,
    control: Arc<Control>,
    thread: Option<std::thread::JoinHandle<()>>,
}

#[derive(Default)]
struct Control {
    upstream: AtomicU16,
    /// Faults by how their statement begins (upper case); each fires once, those of the same beginning in order.
    armed: Mutex<VecDeque<Armed>>,
    fired: AtomicUsize,
    /// How each statement began, in order.
    statements: Mutex<Vec<String>>,
    connections: AtomicUsize,
    commits: AtomicUsize,
    state: watch::Sender<State>,
}

struct Armed {
    beginning: String,
    fault: Fault,
    /// So many statements of this beginning pass before it fires.
    pass: usize,
}

/// A slow line: so many bytes per second in each direction and connection, and each packet comes later by `delay`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Throttle {
    pub bytes_per_second: u32,
    pub delay: Duration,
}

/// What a test asks of all connections.
#[derive(Debug, Clone, Copy, Default)]
struct State {
    /// Nothing is forwarded, in either direction.
    blackhole: bool,
    /// Nobody listens on the port.
    refuse: bool,
    throttle: Option<Throttle>,
    /// Connections accepted under an older generation are closed.
    generation: u64,
    /// How often held statements and answers were let go.
    releases: u64,
    closed: bool,
}

impl Proxy {
    /// Listens on a free port of 127.0.0.1 and forwards to `upstream`, another port there.
    pub fn start(upstream: u16) -> Self {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        listener.set_nonblocking(true).unwrap();
        let control = Arc::new(Control { upstream: upstream.into(), ..Control::default() });
        let seen = Arc::clone(&control);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(accept(listener, seen));
        });
        Self { port, control, thread: Some(thread) }
    }

    /// The port for clients.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Arms a fault for the next statement that begins with `statement`, in any case of letters.
    pub fn arm(&self, statement: &str, fault: Fault) {
        self.arm_after(statement, 0, fault);
    }

    /// The same, for the statement after the next `pass` ones.
    pub fn arm_after(&self, statement: &str, pass: usize, fault: Fault) {
        let beginning = statement.to_ascii_uppercase();
        self.control.armed.lock().unwrap().push_back(Armed { beginning, fault, pass });
    }

    /// The next COMMIT is lost on its way to the server: nothing is committed.
    pub fn cut_next_commit_before(&self) {
        self.arm("COMMIT", Fault::CutBefore);
    }

    /// The next COMMIT is done and its answer lost: the client can't know.
    pub fn cut_next_commit_after(&self) {
        self.arm("COMMIT", Fault::CutAfter);
    }

    /// Forgets armed faults that have not fired.
    pub fn disarm(&self) {
        self.control.armed.lock().unwrap().clear();
    }

    /// Stops forwarding without closing anything, as a firewall that drops packets does; `false` goes on where it stopped.
    pub fn blackhole(&self, on: bool) {
        self.control.state.send_modify(|state| state.blackhole = on);
    }

    /// Refuses new connections (nobody listens); those that are open stay.
    pub fn refuse(&self, on: bool) {
        self.control.state.send_modify(|state| state.refuse = on);
    }

    /// Makes the line slow; `None` makes it fast again.
    pub fn throttle(&self, throttle: Option<Throttle>) {
        self.control.state.send_modify(|state| state.throttle = throttle);
    }

    /// Connections from now on lead to another port of 127.0.0.1, as after a failover; those that are open stay.
    pub fn retarget(&self, upstream: u16) {
        self.control.upstream.store(upstream, Ordering::SeqCst);
    }

    /// Closes every open connection on both sides.
    pub fn cut_all(&self) {
        self.control.state.send_modify(|state| state.generation += 1);
    }

    /// Lets go what [`Fault::Hold`] and [`Fault::HoldAnswer`] hold back at present.
    pub fn release(&self) {
        self.control.state.send_modify(|state| state.releases += 1);
    }

    /// How many connections were accepted so far.
    pub fn connections(&self) -> usize {
        self.control.connections.load(Ordering::SeqCst)
    }

    /// How many COMMITs arrived from clients, those that were cut included.
    pub fn commits(&self) -> usize {
        self.control.commits.load(Ordering::SeqCst)
    }

    /// How many statements that begin with `beginning` (any case) arrived from clients, those that were cut included.
    pub fn count(&self, beginning: &str) -> usize {
        let beginning = beginning.to_ascii_uppercase();
        self.control.statements.lock().unwrap().iter().filter(|statement| statement.starts_with(&beginning)).count()
    }

    /// How many faults have fired.
    pub fn fired(&self) -> usize {
        self.control.fired.load(Ordering::SeqCst)
    }

    /// Waits until `count` faults have fired in all.
    pub async fn wait_until_fired(&self, count: usize, deadline: Duration) {
        let until = Instant::now() + deadline;
        while self.fired() < count {
            assert!(Instant::now() < until, "{} of {count} faults fired in {deadline:?}", self.fired());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.control.state.send_modify(|state| state.closed = true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Control {
    /// The fault for this request, if one is armed for one of its statements; it will not fire again.
    fn fault_for(&self, request: &[String]) -> Option<Fault> {
        self.statements.lock().unwrap().extend(request.iter().map(|statement| statement.chars().take(60).collect()));
        let mut armed = self.armed.lock().unwrap();
        let is_meant = |armed: &Armed| request.iter().any(|statement| statement.starts_with(armed.beginning.as_str()));
        let place = armed.iter().position(is_meant)?;
        if armed[place].pass > 0 {
            armed[place].pass -= 1;
            return None;
        }
        let Armed { fault, .. } = armed.remove(place)?;
        self.fired.fetch_add(1, Ordering::SeqCst);
        Some(fault)
    }

    /// Waits for the next release.
    async fn released(&self) {
        let mut changes = self.state.subscribe();
        let releases = changes.borrow().releases;
        // An error means that the sender is gone, and it is ours.
        let _ = changes.wait_for(|state| state.releases > releases).await;
    }

    /// Waits as long as `bytes` need on this line.
    async fn carried(&self, bytes: usize) {
        let throttle = self.state.borrow().throttle;
        if let Some(Throttle { bytes_per_second, delay }) = throttle {
            tokio::time::sleep(delay + Duration::from_secs_f64(bytes as f64 / f64::from(bytes_per_second))).await;
        }
    }

    /// Waits while the proxy is a black hole.
    async fn passable(&self) {
        // An error means that the sender is gone, and it is ours.
        let _ = self.state.subscribe().wait_for(|state| !state.blackhole).await;
    }
}

async fn accept(listener: std::net::TcpListener, control: Arc<Control>) {
    let address = listener.local_addr().unwrap();
    let mut listener = Some(TcpListener::from_std(listener).unwrap());
    let mut changes = control.state.subscribe();
    loop {
        let state = *changes.borrow_and_update();
        if state.closed {
            return;
        }
        if state.refuse {
            listener = None;
        } else if listener.is_none() {
            listener = Some(TcpListener::bind(address).await.unwrap());
        }
        tokio::select! {
            _ = changes.changed() => {}
            client = next(listener.as_ref()) => {
                control.connections.fetch_add(1, Ordering::SeqCst);
                let upstream = SocketAddr::from(([127, 0, 0, 1], control.upstream.load(Ordering::SeqCst)));
                tokio::spawn(serve(client, upstream, Arc::clone(&control)));
            }
        }
    }
}

/// The next client; never, where nobody listens.
async fn next(listener: Option<&TcpListener>) -> TcpStream {
    match listener {
        Some(listener) => listener.accept().await.unwrap().0,
        None => std::future::pending().await,
    }
}

async fn serve(client: TcpStream, upstream: SocketAddr, control: Arc<Control>) {
    let mut changes = control.state.subscribe();
    let generation = changes.borrow().generation;
    let Ok(server) = TcpStream::connect(upstream).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let link =
        Link { control: &control, to_client: to_client.into(), answer: Mutex::default(), prepared: Mutex::default() };
    // Whoever ends first takes the other along: both sockets close when their halves are dropped.
    tokio::select! {
        _ = link.requests(from_client, to_server) => {}
        _ = link.answers(from_server) => {}
        _ = changes.wait_for(|state| state.closed || state.generation != generation) => {}
    }
}

/// One client and its connection to the server.
struct Link<'a> {
    control: &'a Control,
    to_client: tokio::sync::Mutex<OwnedWriteHalf>,
    /// What is to become of the next answer.
    answer: Mutex<Option<Fault>>,
    prepared: Mutex<Prepared>,
}

/// A connection's prepared statements.
#[derive(Default)]
struct Prepared {
    /// The one that the server is about to give a number.
    asked: Option<String>,
    texts: HashMap<u32, String>,
}

impl Link<'_> {
    async fn requests(&self, mut client: OwnedReadHalf, mut server: OwnedWriteHalf) -> io::Result<()> {
        loop {
            let packet = read_packet(&mut client).await?;
            self.control.carried(packet.len()).await;
            self.control.passable().await;
            match self.judge(&self.statements(&packet)) {
                None => server.write_all(&packet).await?,
                Some(Fault::Hold) => {
                    self.control.released().await;
                    server.write_all(&packet).await?;
                }
                Some(Fault::CutBefore) => return Ok(()),
                Some(Fault::CutDuring) => return server.write_all(&packet).await,
                Some(Fault::CutDuringWhenReleased) => {
                    self.control.released().await;
                    server.write_all(&packet).await?;
                    // The server must have begun with it: one that finds its client gone first may not begin at all.
                    tokio::time::sleep(Duration::from_millis(300)).await;
                    return Ok(());
                }
                Some(Fault::Refuse(code)) => self.to_client.lock().await.write_all(&error_packet(code)).await?,
                Some(fault @ (Fault::CutAfter | Fault::LoseAnswer | Fault::HoldAnswer)) => {
                    *self.answer.lock().unwrap() = Some(fault);
                    server.write_all(&packet).await?;
                }
            }
        }
    }

    async fn answers(&self, mut server: OwnedReadHalf) -> io::Result<()> {
        loop {
            let packet = read_packet(&mut server).await;
            // Not even that the server has hung up comes out of a black hole.
            self.control.passable().await;
            let packet = packet?;
            self.prepared.lock().unwrap().answered(&packet);
            self.control.carried(packet.len()).await;
            let fault = *self.answer.lock().unwrap();
            match fault {
                Some(Fault::CutAfter) => return Ok(()),
                Some(Fault::HoldAnswer) => {
                    self.control.released().await;
                    *self.answer.lock().unwrap() = None;
                    self.to_client.lock().await.write_all(&packet).await?;
                }
                Some(_) => std::future::pending().await,
                None => self.to_client.lock().await.write_all(&packet).await?,
            }
        }
    }

    /// The beginnings of the statements that a packet of the client carries, in upper case. Only the first packet of an exchange
    /// (number 0) is a command: the others are answers to the server, such as the rows of LOAD DATA LOCAL.
    fn statements(&self, packet: &[u8]) -> Vec<String> {
        let [_, _, _, 0, command, rest @ ..] = packet else { return Vec::new() };
        let beginning = |text: &str| text.trim_start().chars().take(200).collect::<String>().to_ascii_uppercase();
        let text = || String::from_utf8_lossy(rest);
        let mut prepared = self.prepared.lock().unwrap();
        match *command {
            COM_QUERY => text().split(";\n").map(beginning).collect(),
            COM_STMT_PREPARE => {
                let text = beginning(&text());
                prepared.asked = Some(text.clone());
                vec![text]
            }
            COM_STMT_EXECUTE | COM_STMT_BULK_EXECUTE => {
                let number = rest.first_chunk().map_or(0, |number| u32::from_le_bytes(*number));
                vec![format!("EXECUTE {}", prepared.texts.get(&number).map_or("", String::as_str))]
            }
            _ => Vec::new(),
        }
    }

    fn judge(&self, request: &[String]) -> Option<Fault> {
        let commits = request.iter().filter(|statement| statement.starts_with("COMMIT")).count();
        self.control.commits.fetch_add(commits, Ordering::SeqCst);
        self.control.fault_for(request)
    }
}

/// A whole packet: three bytes of length, a number in its exchange, the payload.
async fn read_packet(from: &mut OwnedReadHalf) -> io::Result<Vec<u8>> {
    let mut packet = vec![0; 4];
    from.read_exact(&mut packet).await?;
    let length = u32::from_le_bytes([packet[0], packet[1], packet[2], 0]) as usize;
    packet.resize(4 + length, 0);
    from.read_exact(&mut packet[4..]).await?;
    Ok(packet)
}

impl Prepared {
    /// Learns a statement's number from the server's answer.
    fn answered(&mut self, packet: &[u8]) {
        if let Some(text) = self.asked.take()
            && let [_, _, _, _, 0, number @ ..] = packet
            && let Some(number) = number.first_chunk()
        {
            self.texts.insert(u32::from_le_bytes(*number), text);
        }
    }
}

/// An error as the server would send it, the first packet of an answer.
fn error_packet(code: u16) -> Vec<u8> {
    let mut payload = vec![0xff];
    payload.extend(code.to_le_bytes());
    payload.extend(b"#HY000refused by the proxy");
    let mut packet = u32::try_from(payload.len()).unwrap().to_le_bytes().to_vec();
    packet[3] = 1;
    packet.extend(payload);
    packet
}
