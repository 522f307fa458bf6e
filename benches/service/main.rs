//! The proof of speed: the program itself, on a real Kafka broker and real MySQL and MariaDB servers, beside the server's own merge.
//!
//! `make bench` runs all of it and writes docs/performance.md. `ONLY=backlog,creates,..` picks rows, `SERVERS=mysql` a server,
//! `CLIFFS=columns,hot` some of the cliffs, `SETTINGS='batch = { .. }'` adds lines to the pipeline's config, `SCALE=0.1` makes every load smaller, `REPEAT=5` sets the number of runs of the short ones, `FULL=1` adds the long ones. Nothing is
//! written unless all rows ran at full size. `BENCH_JSON` names a file with figures of the micro-benches that are merged into the table.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a bench fails by panicking")]
#![allow(
    dead_code,
    unused_macros,
    unreachable_pub,
    reason = "servers are those of the tests, which have more than this needs"
)]

// Servers as the tests have them.
#[path = "../../tests/support/kafka.rs"]
mod kafka;
#[path = "../measured_servers.rs"]
mod measured_servers;
#[path = "../../tests/support/mysql.rs"]
mod mysql;
#[path = "../../tests/support/process.rs"]
mod process;
#[path = "../../tests/support/servers.rs"]
mod servers;

mod figure;
mod latency;
mod load;
mod page;
mod profile;
mod reference;
mod rows;
mod run;
mod shape;
mod usage;

use std::time::Instant;

use afterimage::demo::server::{Flavour, PrivateServer};
use afterimage::record::OwnedRecord;
use figure::Figure;
use kafka::Broker;

/// As in the program itself.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The rows that can be picked, in the order in which they run.
const ROWS: [&str; 9] = ["backlog", "creates", "mixed", "infile", "latency", "resume", "cliffs", "growth", "profile"];

/// What was asked for.
pub struct Wish {
    pub scale: f64,
    pub repeat: usize,
    pub full: bool,
    rows: Vec<String>,
}

/// A variable of the environment; make hands on those that nobody set as empty ones.
pub fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

impl Wish {
    fn read() -> Self {
        let number = |name: &str| setting(name).and_then(|text| text.parse::<f64>().ok());
        let full = number("FULL") == Some(1.0);
        let all = || ROWS.iter().map(|row| (*row).to_owned()).chain(full.then(|| "stored".to_owned())).collect();
        let only = setting("ONLY");
        let rows: Vec<String> = only.map_or_else(all, |only| only.split(',').map(str::to_owned).collect());
        for row in &rows {
            assert!(ROWS.contains(&row.as_str()) || row == "stored", "no row {row}: there are {ROWS:?} and stored");
        }
        let repeat = number("REPEAT").map_or(3, |repeat| repeat as usize).max(1);
        Self { scale: number("SCALE").unwrap_or(1.0), repeat, full, rows }
    }

    pub fn wants(&self, row: &str) -> bool {
        self.rows.iter().any(|wanted| wanted == row)
    }

    /// Whether nothing was left out.
    fn is_whole(&self) -> bool {
        ROWS.iter().all(|row| self.wants(row))
            && self.scale >= 1.0
            && ["SERVERS", "CLIFFS", "SETTINGS"].iter().all(|name| setting(name).is_none())
    }

    /// `events` at full size.
    pub fn events(&self, events: u64) -> u64 {
        ((events as f64 * self.scale) as u64).max(1000)
    }
}

/// Servers and everything that was found.
pub struct Bench {
    pub wish: Wish,
    pub broker: Broker,
    pub servers: Vec<(String, PrivateServer)>,
    pub figures: Vec<Figure>,
    pub stations: Vec<(String, [f64; 3], usage::Usage, f64)>,
    pub profiles: Vec<profile::Profile>,
    /// Load averages when figures came in.
    pub loads: Vec<f64>,
}

impl Bench {
    pub fn add(&mut self, figure: Figure) {
        figure.say();
        self.loads.push(usage::load_average());
        self.figures.push(figure);
    }
}

fn main() {
    let began = Instant::now();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let wish = Wish::read();
        let mut bench = Bench {
            broker: servers::start_private_kafka(&[]).await,
            servers: start_servers().await,
            figures: Vec::new(),
            stations: Vec::new(),
            profiles: Vec::new(),
            loads: Vec::new(),
            wish,
        };
        rows::measure(&mut bench).await;
        bench.figures.extend(micro_benches());
        println!("\n{}", figure::table(&bench.figures.iter().collect::<Vec<_>>()));
        println!("{:.1} minutes", began.elapsed().as_secs_f64() / 60.0);
        if bench.wish.is_whole() {
            page::write(&bench, began.elapsed());
        } else {
            println!("docs/performance.md is left as it is: not all rows were measured at full size");
        }
    });
}

async fn start_servers() -> Vec<(String, PrivateServer)> {
    let mut started = Vec::new();
    for (word, name, flavour) in [("mysql", "MySQL", Flavour::MySql), ("mariadb", "MariaDB", Flavour::MariaDb)] {
        if measured_servers::is_wanted(flavour) {
            let options = measured_servers::options(flavour);
            started.push((name.to_owned(), servers::start_private_in(flavour, servers::scratch(word), &options).await));
        }
    }
    started
}

/// Sends records in large batches, as many as there are.
pub fn produce(broker: &Broker, topic: &str, records: impl Iterator<Item = OwnedRecord>) {
    let properties = [("batch.size", "1000000"), ("linger.ms", "20"), ("message.max.bytes", "100000000")];
    let properties = properties.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    tokio::task::block_in_place(|| {
        afterimage::generate::produce(&broker.brokers(), topic, &properties, records, None, |_| {}).unwrap();
    });
}

/// What the micro-benches have written.
fn micro_benches() -> Vec<Figure> {
    let Some(path) = std::env::var_os("BENCH_JSON") else { return Vec::new() };
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    text.lines().map(Figure::read).collect()
}
