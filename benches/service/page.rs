//! docs/performance.md: the part between its two marks is written anew, the prose around it stays.

use std::fmt::Write;
use std::process::Command;
use std::time::Duration;

use crate::figure::{Figure, median, percentile, short, table};
use crate::{Bench, measured_servers};

const BEGIN: &str = "<!-- figures: written by make bench -->\n";
const END: &str = "<!-- end of figures -->";

pub fn write(bench: &Bench, took: Duration) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/performance.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(BEGIN).expect("docs/performance.md has the mark where figures begin");
    let (_, after) = rest.split_once(END).expect("docs/performance.md has the mark where figures end");
    let figures = figures(bench, took);
    std::fs::write(&path, format!("{before}{BEGIN}\n{figures}\n{END}{after}")).unwrap();
    println!("written: {}", path.display());
}

fn figures(bench: &Bench, took: Duration) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "{}", machine(bench, took));
    let (of_the_table, rest): (Vec<&Figure>, Vec<&Figure>) =
        bench.figures.iter().partition(|figure| figure.is_of_the_table());
    let _ = writeln!(text, "### The table\n\n{}", table(&of_the_table));
    if !rest.is_empty() {
        let _ = writeln!(text, "### Micro-benches\n\n{}", table(&rest));
    }
    let _ = writeln!(text, "### Time per station\n");
    let _ = writeln!(
        text,
        "As the service itself counts it, in percent of the run's time: with several lanes, or while one batch is staged beside another, they \
         sum up to more than 100. Beside it the processor seconds of the three processes per second of the run.\n"
    );
    let _ = writeln!(text, "| run | decode | sql | sink | service | server | broker |");
    let _ = writeln!(text, "|-----|--------|-----|------|---------|--------|--------|");
    for (what, [decode, sql, sink], usage, seconds) in &bench.stations {
        let per_second = |used: f64| format!("{:.2}", used / seconds);
        let _ = writeln!(
            text,
            "| {what} | {decode:.0} % | {sql:.0} % | {sink:.0} % | {} | {} | {} |",
            per_second(usage.service),
            per_second(usage.server),
            per_second(usage.broker)
        );
    }
    for profile in &bench.profiles {
        let _ = writeln!(
            text,
            "\nProcessor time of the service by station, {} samples of {}:\n",
            profile.samples, profile.what
        );
        let _ = writeln!(text, "| station | share |\n|---------|-------|");
        for (station, share) in &profile.stations {
            let _ = writeln!(text, "| {station} | {share:.1} % |");
        }
        let _ = writeln!(text, "\nThe hottest functions, with the station that called them:\n");
        for (name, share) in &profile.hottest {
            let _ = writeln!(text, "- {share:.1} %  `{name}`");
        }
    }
    text
}

fn machine(bench: &Bench, took: Duration) -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let line = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map_or("", |(_, value)| value).trim().to_owned()
    };
    let said = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output();
        output.map_or_else(|_| "unknown".into(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kib: f64 = line(&read("/proc/meminfo"), "MemTotal").trim_end_matches(" kB").trim().parse().unwrap_or(0.0);
    let servers: Vec<String> = bench.servers.iter().map(|(_, server)| version(server.version())).collect();
    let day = said("date", &["-u", "+%Y-%m-%d"]);
    let revision = said("git", &["rev-parse", "--short=12", "HEAD"]);
    let changed = if said("git", &["status", "--porcelain"]).is_empty() { "" } else { " with changes" };
    format!(
        "Measured on {day} in {:.0} minutes at revision {revision}{changed}.\n\n\
         - machine: {} cores ({}), {} GiB, Linux {}; broker, database, service and measurement share it\n\
         - servers: {}; Apache Kafka 4.1.0, one node, `-Xmx1g`\n\
         - settings: `{}`, redo log of 2 GiB, data on disk, TCP over loopback without TLS; the service as shipped\n\
         - {}, this crate at opt-level 3, allocator mimalloc\n\
         - median of {} runs where there is a spread, else one run; load average {:.1} (up to {:.1}), the measurement's own load included\n",
        took.as_secs_f64() / 60.0,
        cores,
        line(&read("/proc/cpuinfo"), "model name"),
        short(kib / 1_048_576.0),
        read("/proc/sys/kernel/osrelease").trim(),
        servers.join("; "),
        measured_servers::OPTIONS.join(" "),
        said("rustc", &["--version"]),
        bench.wish.repeat,
        median(&bench.loads),
        percentile(&bench.loads, 100.0),
    )
}

/// Without the path of the program.
fn version(text: &str) -> String {
    let text = text.rsplit('/').next().unwrap_or(text);
    text.split(" (").next().unwrap_or(text).to_owned()
}
