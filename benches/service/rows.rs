//! The table's rows: which load, how often, beside which reference.
//!
//! Every run of the service on a backlog stands between the two halves of a reference of the same load on the same server, while nothing
//! else runs; a row's figure is the median of its runs, its ratio the median of their ratios.

use std::time::Instant;

use afterimage::demo::server::PrivateServer;

use crate::figure::{Figure, median, short, spread};
use crate::kafka::Broker;
use crate::load::{Events, Load, Wanted};
use crate::reference::{Merged, Reference};
use crate::run::{Run, Service, Variant, knows_lanes};
use crate::shape::Shape;
use crate::usage::load_average;
use crate::{Bench, latency, produce, profile};

/// Batches of the reference where no run has told yet what the service makes of the load.
const BATCH: usize = 20_000;

/// A load, its topic, what must come of it.
struct Backlog {
    load: Load,
    topic: Option<String>,
    wanted: Wanted,
}

/// One run and its reference.
struct Pair {
    run: Run,
    reference: Merged,
}

/// What of a run is set against the reference's rows per second.
#[derive(Clone, Copy, PartialEq)]
enum Counted {
    /// What reaches the table.
    Rows,
    /// What is read, whether or not it reaches the table.
    Events,
}

impl Counted {
    fn of(self, run: &Run) -> f64 {
        if self == Self::Rows { run.rows_per_second() } else { run.events_per_second() }
    }
}

impl Backlog {
    /// Writes the load to a topic; one with a prelude is written as it is run, because nothing behind it may be there yet.
    async fn new(broker: &Broker, load: Load) -> Self {
        let began = Instant::now();
        let wanted = tokio::task::block_in_place(|| load.wanted());
        let mut backlog = Self { load, topic: None, wanted };
        if backlog.load.prelude == 0 {
            let topic = backlog.create_topic(broker).await;
            produce(broker, &topic, backlog.load.records());
            backlog.topic = Some(topic);
        }
        println!(
            "-- {}: {} events, ready in {:.0} s",
            backlog.load.name,
            backlog.load.events,
            began.elapsed().as_secs_f64()
        );
        backlog
    }

    async fn create_topic(&self, broker: &Broker) -> String {
        broker.create_topic(self.load.partitions, &[("retention.ms", "-1")]).await
    }

    /// One run from an empty table (or from the prelude's), compared with the fold.
    async fn run(&self, server: &PrivateServer, broker: &Broker, variant: &Variant) -> Run {
        let load = &self.load;
        let topic = match &self.topic {
            Some(topic) => topic.clone(),
            None => self.create_topic(broker).await,
        };
        let mut service = Service::prepare(server, broker, load, &topic, variant).await;
        if self.topic.is_none() {
            produce(broker, &topic, load.records().take(load.prelude as usize));
            service.run_until(load.prelude).await;
            produce(broker, &topic, load.records().skip(load.prelude as usize));
        }
        let run = service.run_until(load.prelude + load.events).await;
        service.verify(&self.wanted).await;
        run
    }

    /// One run between the halves of a reference.
    async fn pair(
        &self,
        server: &PrivateServer,
        broker: &Broker,
        reference: &mut Reference,
        variant: &Variant,
    ) -> Pair {
        reference.reset().await;
        let first = reference.half(false).await;
        let run = self.run(server, broker, variant).await;
        let second = reference.half(true).await;
        let pair = Pair { run, reference: first.and(second) };
        let (run, reference) = (&pair.run, &pair.reference);
        println!(
            "   {}: {}; reference {} rows/s ({} and {}), {:.1} us of processor per row",
            self.load.name,
            spent(run),
            short(reference.rate()),
            short(first.rate()),
            short(second.rate()),
            reference.server / reference.rows.max(1.0) * 1e6,
        );
        pair
    }
}

/// What a run did and took, in words.
fn spent(run: &Run) -> String {
    let us = |seconds: f64| seconds / run.events.max(1.0) * 1e6;
    format!(
        "{} events/s, {} rows/s in {:.1} s; us of processor per event: service {:.1}, broker {:.1}, server {:.1}; {:.0} events per \
         transaction; {:.0} MiB; adopted after {:.1} s; load {}",
        short(run.events_per_second()),
        short(run.rows_per_second()),
        run.seconds,
        us(run.usage.service),
        us(run.usage.broker),
        us(run.usage.server),
        run.events / run.transactions.max(1.0),
        run.peak_mib,
        run.starting,
        load_average(),
    )
}

/// A row's figure from its runs.
fn figure(what: &str, server: &str, counted: Counted, pairs: &[Pair]) -> Figure {
    let each = |of: &dyn Fn(&Pair) -> f64| pairs.iter().map(of).collect::<Vec<f64>>();
    let ratios = each(&|pair| counted.of(&pair.run) / pair.reference.rate());
    // The server's processor time per event or row read against that of its own merge: what a busy machine distorts least.
    let processor = median(&each(&|pair| {
        let own = pair.reference.server / pair.reference.rows;
        let count = if counted == Counted::Rows { pair.run.rows } else { pair.run.events };
        own / (pair.run.usage.server / count.max(1.0))
    }));
    let service = median(&each(&|pair| pair.run.usage.service / pair.run.events * 1e6));
    let note = format!(
        "server's processor time: {processor:.2} of the reference's pace; service {service:.1} us/event; {} events/s",
        short(median(&each(&|pair| pair.run.events_per_second())))
    );
    Figure {
        what: what.to_owned(),
        server: Some(server.to_owned()),
        value: median(&each(&|pair| counted.of(&pair.run))),
        unit: if counted == Counted::Rows { "rows/s" } else { "events/s" }.to_owned(),
        reference: Some(median(&each(&|pair| pair.reference.rate()))),
        // What the server merges is rows, whatever the service is counted in.
        reference_unit: Some("rows/s"),
        ratio: Some(median(&ratios)),
        spread: spread(&ratios),
        note: Some(note),
    }
}

/// One lane, and two where the config knows them.
fn lanes() -> Vec<(&'static str, Variant)> {
    let of = |lanes| Variant { lanes: Some(lanes), ..Variant::default() };
    if knows_lanes() { vec![("one lane", of(1)), ("two lanes", of(2))] } else { vec![("one lane", Variant::default())] }
}

/// Runs everything that was asked for.
pub async fn measure(bench: &mut Bench) {
    if bench.wish.wants("backlog") {
        backlog(bench).await;
    }
    if bench.wish.wants("creates") {
        let load = Load::users("creates only", Events::Creates, bench.wish.events(500_000));
        short_runs(bench, load).await;
    }
    if bench.wish.wants("mixed") {
        let what = Events::Changes { users: 50_000, delete: 0.1, late: 0.1 };
        let load = Load::users("c/u/d 10/80/10", what, bench.wish.events(500_000));
        short_runs(bench, load).await;
    }
    if bench.wish.wants("infile") {
        without_infile(bench).await;
    }
    if bench.wish.wants("latency") {
        for index in 0..bench.servers.len() {
            let (name, server) = &bench.servers[index];
            let rounds = bench.wish.events(300).min(300) as usize;
            for figure in latency::measure(server, &bench.broker, name, rounds).await {
                bench.add(figure);
            }
        }
    }
    if bench.wish.wants("resume") {
        resume(bench).await;
    }
    if bench.wish.wants("cliffs") {
        cliffs(bench).await;
    }
    if bench.wish.wants("growth") {
        growth(bench).await;
    }
    if bench.wish.wants("stored") {
        stored(bench).await;
    }
    if bench.wish.wants("profile") {
        profile::measure(bench).await;
    }
}

/// 2M changes of 600k users from an empty table, on each server with one lane and with two; and what memory that takes.
async fn backlog(bench: &mut Bench) {
    let events = bench.wish.events(2_000_000);
    let what = Events::Changes { users: events * 3 / 10, delete: 0.05, late: 0.01 };
    let backlog = Backlog::new(&bench.broker, Load::users("whole service", what, events)).await;
    for index in 0..bench.servers.len() {
        let (name, server) = &bench.servers[index];
        let name = name.clone();
        let mut reference = Reference::fill(server, &backlog.load, BATCH).await;
        let mut found = Vec::new();
        for (lanes, variant) in lanes() {
            let pair = backlog.pair(server, &bench.broker, &mut reference, &variant).await;
            found.push((lanes, [pair]));
        }
        drop(reference);
        for (lanes, pairs) in &found {
            let what = format!("whole service, {lanes}");
            bench.add(figure(&what, &name, Counted::Rows, pairs));
            let share = |ms: f64| 100.0 * ms / 1e3 / pairs[0].run.seconds;
            let (run, key) = (&pairs[0].run, format!("{what}, {name}"));
            bench.stations.push((
                key,
                [share(run.decode_ms), share(run.sql_ms), share(run.sink_ms)],
                run.usage,
                run.seconds,
            ));
            bench.add(Figure {
                what: format!("memory, peak at full backlog, {lanes}"),
                server: Some(name.clone()),
                value: run.peak_mib,
                unit: "MiB".into(),
                ..Figure::default()
            });
        }
        if let [(_, one), (_, two)] = &found[..] {
            let ratio = |pair: &Pair| pair.run.rows_per_second() / pair.reference.rate();
            bench.add(Figure {
                what: "two lanes over one".into(),
                server: Some(name.clone()),
                value: two[0].run.rows_per_second(),
                unit: "rows/s".into(),
                reference: Some(one[0].run.rows_per_second()),
                ratio: Some(two[0].run.rows_per_second() / one[0].run.rows_per_second()),
                note: Some(format!(
                    "each against its own reference: {:.2}; two lanes, the server and the broker used {:.1} cores",
                    ratio(&two[0]) / ratio(&one[0]),
                    two[0].run.usage.sum() / two[0].run.seconds
                )),
                ..Figure::default()
            });
        }
    }
}

/// Repeated runs of one load, lanes in turn.
async fn short_runs(bench: &mut Bench, load: Load) {
    let backlog = Backlog::new(&bench.broker, load).await;
    for index in 0..bench.servers.len() {
        let (name, server) = &bench.servers[index];
        let name = name.clone();
        let mut reference = Reference::fill(server, &backlog.load, BATCH).await;
        let mut found: Vec<(&str, Vec<Pair>)> = Vec::new();
        for _ in 0..bench.wish.repeat {
            for (at, (lanes, variant)) in lanes().into_iter().enumerate() {
                let pair = backlog.pair(server, &bench.broker, &mut reference, &variant).await;
                match found.get_mut(at) {
                    Some((_, pairs)) => pairs.push(pair),
                    None => found.push((lanes, vec![pair])),
                }
            }
        }
        drop(reference);
        for (lanes, pairs) in &found {
            bench.add(figure(&format!("{}, {lanes}", backlog.load.name), &name, Counted::Events, pairs));
        }
    }
}

/// Creates on a server that allows LOAD DATA LOCAL and on the same one when it doesn't, in turn; every second time it begins with the
/// latter, so that whichever comes second has no advantage.
async fn without_infile(bench: &mut Bench) {
    let load = Load::users("without local_infile", Events::Creates, bench.wish.events(500_000));
    let backlog = Backlog::new(&bench.broker, load).await;
    for index in 0..bench.servers.len() {
        let (name, server) = &bench.servers[index];
        let name = name.clone();
        let admin = server.url("");
        let (mut with, mut without) = (Vec::new(), Vec::new());
        for turn in 0..bench.wish.repeat {
            for allowed in [turn % 2 == 0, turn % 2 == 1] {
                crate::mysql::execute(&admin, &format!("SET GLOBAL local_infile = {}", u8::from(allowed))).await;
                let run = backlog.run(server, &bench.broker, &Variant::default()).await;
                println!("   {}: local_infile {allowed}: {}", backlog.load.name, spent(&run));
                if allowed { &mut with } else { &mut without }.push(run);
            }
        }
        crate::mysql::execute(&admin, "SET GLOBAL local_infile = 1").await;
        let rates = |runs: &[Run]| runs.iter().map(Run::rows_per_second).collect::<Vec<f64>>();
        let us_per_event = |run: &Run| run.usage.server / run.events * 1e6;
        let spent_by_server = |runs: &[Run]| median(&runs.iter().map(us_per_event).collect::<Vec<f64>>());
        let note = format!(
            "server's processor time: {:.1} us/event beside {:.1}",
            spent_by_server(&without),
            spent_by_server(&with)
        );
        let (with, without) = (rates(&with), rates(&without));
        let ratios: Vec<f64> = without.iter().zip(&with).map(|(without, with)| without / with).collect();
        bench.add(Figure {
            what: backlog.load.name.to_owned(),
            server: Some(name),
            value: median(&without),
            unit: "rows/s".into(),
            reference: Some(median(&with)),
            ratio: Some(median(&ratios)),
            spread: spread(&ratios),
            note: Some(note),
            ..Figure::default()
        });
    }
}

/// A service that is stopped in the middle of a backlog and started again: its first second beside its steady state, which has to be long:
/// what is read and prepared in the first second is committed after it, and at the end nothing is read any more.
async fn resume(bench: &mut Bench) {
    let load = Load::users("catching up", Events::Creates, bench.wish.events(2_000_000));
    let backlog = Backlog::new(&bench.broker, load).await;
    let topic = backlog.topic.clone().unwrap();
    for index in 0..bench.servers.len() {
        let (name, server) = &bench.servers[index];
        let name = name.clone();
        let mut service = Service::prepare(server, &bench.broker, &backlog.load, &topic, &Variant::default()).await;
        service.run_until(backlog.load.events / 10).await;
        let run = service.run_until(backlog.load.events).await;
        service.verify(&backlog.wanted).await;
        let first = run.events_until(1.0);
        let steady = (run.events - first) / (run.seconds - 1.0).max(0.001);
        bench.add(Figure {
            what: "catching up, first second".into(),
            server: Some(name),
            value: first,
            unit: "events/s".into(),
            reference: Some(steady),
            ratio: Some(first / steady),
            note: Some(format!("partitions adopted {:.1} s after the start of the process", run.starting)),
            ..Figure::default()
        });
    }
}

/// What might be a cliff: each beside its own reference, on the first server unless all is asked for.
async fn cliffs(bench: &mut Bench) {
    let events = |count| bench.wish.events(count);
    let changes = |users| Events::Changes { users, delete: 0.05, late: 0.01 };
    let plain = |name, what| (Load::users(name, what, events(200_000)), Variant::default());
    let mut many = plain("256 partitions", changes(100_000));
    many.0.partitions = 256;
    let mut four = plain("four pipelines", changes(100_000));
    four.1.pipelines = 4;
    let mut wide = plain("200 columns", changes(10_000));
    (wide.0.shape, wide.0.events) = (Shape::Wide, events(20_000));
    let mut long = plain("values of 10 kB", changes(10_000));
    (long.0.shape, long.0.events) = (Shape::Long, events(20_000));
    let loads = [
        many,
        four,
        wide,
        long,
        plain("hot users", Events::HotUsers { users: 100_000 }),
        plain("deletes only", Events::Deletes),
        plain("late events only", Events::Late),
    ];
    let servers = if bench.wish.full { bench.servers.len() } else { bench.servers.len().min(1) };
    let wanted = std::env::var("CLIFFS").unwrap_or_default();
    for (mut load, variant) in
        loads.into_iter().filter(|(load, _)| wanted.split(',').any(|word| load.name.contains(word)))
    {
        if load.shape != Shape::Users {
            load.what = Events::Changes { users: load.events / 2, delete: 0.05, late: 0.0 };
        }
        let backlog = Backlog::new(&bench.broker, load).await;
        for index in 0..servers {
            let (name, server) = &bench.servers[index];
            let name = name.clone();
            let mut reference = Reference::fill(server, &backlog.load, BATCH).await;
            let pair = backlog.pair(server, &bench.broker, &mut reference, &variant).await;
            drop(reference);
            bench.add(figure(backlog.load.name, &name, Counted::Events, &[pair]));
        }
    }
}

/// Memory after 2M events and after 10M, on the last server.
async fn growth(bench: &mut Bench) {
    let (early, all) = (bench.wish.events(2_000_000), bench.wish.events(10_000_000));
    let what = Events::Changes { users: 50_000, delete: 0.1, late: 0.0 };
    let backlog = Backlog::new(&bench.broker, Load::users("memory, growth", what, all)).await;
    let Some((name, server)) = bench.servers.last() else { return };
    let name = name.clone();
    let run = backlog.run(server, &bench.broker, &Variant::default()).await;
    let (before, after) = (run.resident_after(early as f64), run.resident_after(all as f64));
    bench.add(Figure {
        what: "memory, growth".into(),
        server: Some(name),
        value: after - before,
        unit: "MiB".into(),
        note: Some(format!(
            "resident {before:.0} MiB after {} events, {after:.0} after {}, {:.0} at the peak",
            short(early as f64),
            short(all as f64),
            run.peak_mib
        )),
        ..Figure::default()
    });
}

/// Updates and creates on a table of 50M rows beside one of 1M; the former doesn't fit into the buffer pool.
async fn stored(bench: &mut Bench) {
    let load = Load::users("50M rows stored", Events::Creates, bench.wish.events(500_000));
    let backlog = Backlog::new(&bench.broker, load).await;
    let topic = backlog.topic.clone().unwrap();
    for index in 0..bench.servers.len() {
        let (name, server) = &bench.servers[index];
        let name = name.clone();
        let mut rates = Vec::new();
        let mut sizes = Vec::new();
        for rows in [bench.wish.events(1_000_000), bench.wish.events(50_000_000)] {
            let began = Instant::now();
            let mut service = Service::prepare(server, &bench.broker, &backlog.load, &topic, &Variant::default()).await;
            service.preload(rows).await;
            sizes.push(service.table_mib().await);
            println!("-- {rows} rows preloaded in {:.0} s", began.elapsed().as_secs_f64());
            let run = service.run_until(backlog.load.events).await;
            service.verify_among_preloaded(&backlog.wanted, rows).await;
            rates.push(run.rows_per_second());
        }
        bench.add(Figure {
            what: "50M rows stored, against 1M".into(),
            server: Some(name),
            value: rates[1],
            unit: "rows/s".into(),
            reference: Some(rates[0]),
            ratio: Some(rates[1] / rates[0]),
            note: Some(format!("tables of {:.0} and {:.0} MiB, a buffer pool of 2048", sizes[1], sizes[0])),
            ..Figure::default()
        });
    }
}
