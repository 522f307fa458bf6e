//! Where the service's processor time goes: `perf` samples of the running process, folded into the stations of the road.
//!
//! A sample belongs to the innermost function on its stack that says what it is for: the allocator, a client library, or a station. Copying,
//! comparing and the kernel count for whoever called them.

use std::collections::BTreeMap;
use std::process::Command;

use crate::Bench;
use crate::load::{Events, Load};
use crate::process::Running;
use crate::run::{Service, Variant};

/// Samples per second and thread. No multiple of anything that happens regularly.
const FREQUENCY: &str = "499";
/// Bytes of stack that a sample carries along.
const STACK: &str = "dwarf,16384";

/// Shares of the samples, largest first; they sum up to 100.
pub struct Profile {
    pub what: String,
    pub stations: Vec<(String, f64)>,
    /// The hottest functions, with the station that they were called from.
    pub hottest: Vec<(String, f64)>,
    pub samples: usize,
}

/// Station, and how the names of its functions begin; the first rule that fits a function decides.
type Rules = [(&'static str, &'static [&'static str])];

/// Of the innermost function: whoever allocates, it is the allocator's time.
const ALLOCATOR: &Rules =
    &[("allocator", &["mi_", "_mi_", "malloc", "realloc", "calloc", "cfree", "__rust_alloc", "__rust_dealloc"])];

/// Of the innermost function that is ours or of a client library: what libraries do is done for whoever called them.
const OURS: &Rules = &[
    ("kafka client", &["rd_kafka", "rdkafka", "rd_buf", "rd_slice", "rd_crc32", "ZSTD", "HUF_", "inflate", "LZ4"]),
    ("source", &["afterimage::source", "afterimage::record"]),
    ("decode", &["afterimage::decode", "afterimage::json", "afterimage::schema"]),
    ("sink: encoding", &["afterimage::sink::encode", "afterimage::sink::stage"]),
    ("mysql client", &["mysql_async", "mysql_common", "afterimage::sink::session"]),
    ("sink: rest", &["afterimage::sink"]),
    ("sql", &["afterimage::sql"]),
    ("loop", &["afterimage::pipeline", "afterimage::hold", "afterimage::work"]),
];

/// Where no function of ours is on the stack.
const LIBRARIES: &Rules = &[("sql", &["datafusion", "arrow"]), ("log", &["tracing"]), ("runtime", &["tokio", "mio"])];

/// A backlog of changes on each server, profiled from adoption to the end.
pub async fn measure(bench: &mut Bench) {
    if Command::new("perf").arg("--version").output().is_err() {
        println!("-- no profile: there is no perf (Debian: apt-get install linux-perf)");
        return;
    }
    let events = bench.wish.events(1_000_000);
    let what = Events::Changes { users: events * 3 / 10, delete: 0.05, late: 0.01 };
    let load = Load::users("profile", what, events);
    let topic = bench.broker.create_topic(load.partitions, &[("retention.ms", "-1")]).await;
    crate::produce(&bench.broker, &topic, load.records());
    for index in 0..bench.servers.len() {
        let (name, server) = &bench.servers[index];
        let mut service = Service::prepare(server, &bench.broker, &load, &topic, &Variant::default()).await;
        let (mut running, _) = service.start().await;
        let file = service.workspace.path().join("perf.data");
        let mut perf = record(&running, &file);
        service.wait_for(load.events, &mut running).await;
        running.terminate();
        running.wait_for_code(0, std::time::Duration::from_secs(60)).await;
        // It ends by itself with the process that it looks at.
        let recorded = perf.wait().unwrap();
        let profile = fold(&file, format!("{} events into {name}", load.events));
        match profile {
            Some(profile) => {
                profile.say();
                bench.profiles.push(profile);
            }
            None => println!("-- no profile: perf ended with {recorded}"),
        }
    }
}

fn record(running: &Running, file: &std::path::Path) -> std::process::Child {
    let pid = running.pid().to_string();
    let log = std::fs::File::create(file.with_extension("log")).unwrap();
    Command::new("perf")
        .args(["record", "-q", "-F", FREQUENCY, "--call-graph", STACK, "-p", &pid, "-o"])
        .arg(file)
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// Reads a recording; `None` where it holds nothing.
fn fold(file: &std::path::Path, what: String) -> Option<Profile> {
    let script =
        Command::new("perf").args(["script", "--no-inline", "-F", "comm,ip,sym", "-i"]).arg(file).output().unwrap();
    let text = String::from_utf8_lossy(&script.stdout);
    let (mut stations, mut hottest) = (BTreeMap::<&str, usize>::new(), BTreeMap::<String, usize>::new());
    let mut samples = 0;
    for sample in text.split("\n\n") {
        let mut lines = sample.lines();
        let Some(thread) = lines.next().map(str::trim) else { continue };
        let stack: Vec<&str> = lines.filter_map(|line| line.trim().split_once(' ').map(|(_, name)| name)).collect();
        if stack.is_empty() {
            continue;
        }
        let station = station(thread, &stack);
        *stations.entry(station).or_default() += 1;
        *hottest.entry(format!("{} ({station})", plain(stack[0]))).or_default() += 1;
        samples += 1;
    }
    if samples == 0 {
        return None;
    }
    let share = |count: usize| 100.0 * count as f64 / samples as f64;
    let mut stations: Vec<(String, f64)> =
        stations.into_iter().map(|(station, count)| (station.to_owned(), share(count))).collect();
    let mut hottest: Vec<(String, f64)> = hottest.into_iter().map(|(name, count)| (name, share(count))).collect();
    for list in [&mut stations, &mut hottest] {
        list.sort_by(|left, right| right.1.total_cmp(&left.1));
    }
    hottest.truncate(15);
    Some(Profile { what, stations, hottest, samples })
}

fn station(thread: &str, stack: &[&str]) -> &'static str {
    let by = |rules: &'static Rules, stack: &[&str]| {
        let of = |name: &&str| {
            // `<afterimage::sql::engine::Engine as ..>::evaluate`
            let name = name.trim_start_matches(['<', '&', '(']);
            rules
                .iter()
                .find(|(_, begins)| begins.iter().any(|begin| name.starts_with(begin)))
                .map(|(station, _)| *station)
        };
        stack.iter().find_map(of)
    };
    by(ALLOCATOR, &stack[..1])
        .or_else(|| by(OURS, stack))
        .or_else(|| thread.starts_with("rdk").then_some("kafka client"))
        .or_else(|| by(LIBRARIES, stack))
        .unwrap_or("other")
}

/// Without hash and type parameters.
fn plain(name: &str) -> String {
    let name = name.rsplit_once("::h").filter(|(_, hash)| hash.len() == 16).map_or(name, |(name, _)| name);
    if name.chars().count() > 90 { name.chars().take(90).chain("..".chars()).collect() } else { name.to_owned() }
}

impl Profile {
    fn say(&self) {
        println!("-- where the service's processor time goes: {}, {} samples", self.what, self.samples);
        for (name, share) in self.stations.iter().chain(&self.hottest) {
            println!("   {share:>5.1} %  {name}");
        }
    }
}
