//! One measured figure, what the project wants of it, and the table of all.
//!
//! Micro-benches write theirs as JSON lines to the file that `BENCH_JSON` names: `what`, `server`, `value`, `unit`, and where there is one
//! the `reference` (a figure in the same unit, or what it is), the `ratio` to it, the `spread` of that (smallest and largest) and a `note`.

use std::fmt::Write;

use serde_json::Value;

/// See the module page.
#[derive(Debug, Clone, Default)]
pub struct Figure {
    /// As in [`GOALS`].
    pub what: String,
    /// `MySQL` or `MariaDB` where one takes part.
    pub server: Option<String>,
    pub value: f64,
    pub unit: String,
    pub reference: Option<f64>,
    /// Where it isn't the figure's own.
    pub reference_unit: Option<&'static str>,
    pub ratio: Option<f64>,
    /// Smallest and largest of the repeated runs' ratios.
    pub spread: Option<(f64, f64)>,
    /// What else is worth knowing.
    pub note: Option<String>,
}

impl Figure {
    /// Reads a line of a micro-bench.
    pub fn read(line: &str) -> Self {
        let json: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        let text = |name: &str| json[name].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        let server = text("server").map(|server| match server.to_lowercase() {
            maria if maria.contains("maria") => "MariaDB".to_owned(),
            mysql if mysql.contains("mysql") => "MySQL".to_owned(),
            _ => server,
        });
        Self {
            what: text("what").unwrap_or_else(|| panic!("{line}: no \"what\"")),
            server,
            value: json["value"].as_f64().unwrap_or_else(|| panic!("{line}: no \"value\"")),
            unit: text("unit").unwrap_or_default(),
            reference: json["reference"].as_f64(),
            reference_unit: None,
            ratio: json["ratio"].as_f64(),
            spread: json["spread"][0].as_f64().zip(json["spread"][1].as_f64()),
            note: text("note").or_else(|| text("reference").map(|reference| format!("against {reference}"))),
        }
    }
}

/// What is judged, and which way is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judged {
    /// The ratio to the reference; more is better.
    Ratio,
    /// The ratio to the reference; less is better.
    SmallRatio,
    /// The figure itself; more is better.
    Value,
    /// The figure itself; less is better.
    SmallValue,
    /// Nothing: it is only reported.
    Report,
}

/// What must be reached, and what is aimed at.
pub struct Goal {
    pub what: &'static str,
    /// `None`: the same on every server, or none takes part.
    pub server: Option<&'static str>,
    pub judged: Judged,
    pub must: f64,
    pub aim: f64,
}

const fn goal(what: &'static str, server: Option<&'static str>, judged: Judged, must: f64, aim: f64) -> Goal {
    Goal { what, server, judged, must, aim }
}

const MYSQL: Option<&str> = Some("MySQL");
const MARIADB: Option<&str> = Some("MariaDB");

/// The goals, in the table's order. A figure belongs to the first whose `what` begins its own, or equals it where that ends in `$`.
pub const GOALS: [Goal; 32] = [
    goal("whole service, one lane", MYSQL, Judged::Ratio, 0.85, 1.0),
    goal("whole service, one lane", MARIADB, Judged::Ratio, 0.75, 0.95),
    goal("whole service, two lanes", MYSQL, Judged::Ratio, 0.85, 1.0),
    goal("whole service, two lanes", MARIADB, Judged::Ratio, 0.75, 0.95),
    goal("creates only, one lane", None, Judged::Ratio, 0.95, 1.5),
    goal("creates only, two lanes", None, Judged::Ratio, 0.95, 1.5),
    goal("c/u/d 10/80/10, one lane", None, Judged::Ratio, 1.5, 3.0),
    goal("c/u/d 10/80/10, two lanes", None, Judged::Ratio, 1.5, 3.0),
    goal("sink alone, double-buffered", MYSQL, Judged::Ratio, 0.95, 1.05),
    goal("sink alone, double-buffered", MARIADB, Judged::Ratio, 0.85, 1.05),
    goal("two lanes over one", MYSQL, Judged::Ratio, 1.5, 1.7),
    goal("two lanes over one", MARIADB, Judged::Ratio, 1.25, 1.7),
    goal("without local_infile", None, Judged::Ratio, 0.8, 0.95),
    goal("decode, 290-byte events", None, Judged::Value, 1.5e6, 2.5e6),
    goal("compute: ordinary: decode$", None, Judged::Value, 1.5e6, 2.5e6),
    goal("compute: ordinary$", None, Judged::Value, 500e3, 900e3),
    goal("compute: ordinary, 500 events: latency$", None, Judged::SmallValue, 1.5, 0.7),
    goal("the models, 500 events, 5000000 rows against 1,000, by index$", None, Judged::SmallRatio, 2.0, 1.3),
    goal("one event, p50", None, Judged::SmallValue, 8.0, 3.0),
    goal("one event, p99", None, Judged::SmallValue, 20.0, 10.0),
    goal("memory, peak at full backlog", None, Judged::SmallValue, 300.0, 200.0),
    goal("memory, growth", None, Judged::SmallValue, 20.0, 5.0),
    goal("50M rows stored", None, Judged::Report, 0.0, 0.0),
    goal("catching up, first second", None, Judged::Ratio, 0.8, 1.0),
    goal("256 partitions", None, Judged::Report, 0.0, 0.0),
    goal("four pipelines", None, Judged::Report, 0.0, 0.0),
    goal("200 columns", None, Judged::Report, 0.0, 0.0),
    goal("values of 10 kB", None, Judged::Report, 0.0, 0.0),
    goal("hot users", None, Judged::Report, 0.0, 0.0),
    goal("deletes only", None, Judged::Report, 0.0, 0.0),
    goal("late events only", None, Judged::Report, 0.0, 0.0),
    // Whatever else a micro-bench has to say.
    goal("", None, Judged::Report, 0.0, 0.0),
];

impl Figure {
    fn place(&self) -> (usize, &'static Goal) {
        let named = |goal: &Goal| match goal.what.strip_suffix('$') {
            Some(exactly) => self.what == exactly,
            None => self.what.starts_with(goal.what),
        };
        let here = |goal: &Goal| goal.server.is_none_or(|server| self.server.as_deref() == Some(server));
        let index = GOALS.iter().position(|goal| named(goal) && here(goal)).unwrap_or(GOALS.len() - 1);
        (index, &GOALS[index])
    }

    /// Whether it is of the end-to-end runs, or a micro-bench's that answers to a goal.
    pub fn is_of_the_table(&self) -> bool {
        self.place().0 < GOALS.len() - 1
    }

    fn verdict(&self) -> &'static str {
        let (_, goal) = self.place();
        let judged = match goal.judged {
            Judged::Report => return "–",
            Judged::Value | Judged::SmallValue => self.value,
            Judged::Ratio | Judged::SmallRatio => match self.ratio {
                Some(ratio) => ratio,
                None => return "–",
            },
        };
        let less = matches!(goal.judged, Judged::SmallRatio | Judged::SmallValue);
        let reaches = |limit: f64| if less { judged <= limit } else { judged >= limit };
        match (reaches(goal.must), reaches(goal.aim)) {
            (_, true) => "aim",
            (true, false) => "reached",
            (false, false) => "**missed**",
        }
    }

    /// Prints it as it comes in.
    pub fn say(&self) {
        let server = self.server.as_deref().unwrap_or("");
        let ratio = self.ratio.map_or_else(String::new, |ratio| format!("  ratio {ratio:.2}"));
        let reference = self.reference.map_or_else(String::new, |of| format!("  reference {}", short(of)));
        let note = self.note.as_deref().unwrap_or("");
        println!("{:<34} {server:<8} {:>9} {}{reference}{ratio}  {note}", self.what, short(self.value), self.unit);
    }
}

/// The figures as a table in Markdown, in the order of the goals.
pub fn table(figures: &[&Figure]) -> String {
    let mut sorted: Vec<&Figure> = figures.to_vec();
    sorted.sort_by_key(|figure| figure.place().0);
    let head = ["what", "server", "must", "aim", "measured", "reference", "ratio", "spread", "verdict", "beside it"];
    let mut rows = vec![head.map(str::to_owned)];
    for figure in sorted {
        let (_, goal) = figure.place();
        let limit = |limit: f64| if goal.judged == Judged::Report { String::new() } else { short(limit) };
        let unit = &figure.unit;
        rows.push([
            figure.what.clone(),
            figure.server.clone().unwrap_or_default(),
            limit(goal.must),
            limit(goal.aim),
            format!("{} {unit}", short(figure.value)),
            figure
                .reference
                .map_or_else(String::new, |of| format!("{} {}", short(of), figure.reference_unit.unwrap_or(unit))),
            figure.ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}")),
            figure.spread.map_or_else(String::new, |(low, high)| format!("{low:.2}..{high:.2}")),
            figure.verdict().to_owned(),
            figure.note.clone().unwrap_or_default(),
        ]);
    }
    let widths: Vec<usize> =
        (0..head.len()).map(|at| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!(" {cell:width$} ")).collect::<Vec<_>>();
        let _ = writeln!(text, "|{}|", cells.join("|"));
        if number == 0 {
            let rules = widths.iter().map(|width| "-".repeat(width + 2)).collect::<Vec<_>>();
            let _ = writeln!(text, "|{}|", rules.join("|"));
        }
    }
    text
}

/// Three digits that matter: `1.23`, `45.6`, `789`, `12.3k`, `4.56M`.
pub fn short(value: f64) -> String {
    let (value, unit) = match value.abs() {
        size if size >= 1e6 => (value / 1e6, "M"),
        size if size >= 1e4 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}{unit}"),
        size if size >= 10.0 => format!("{value:.1}{unit}"),
        _ => format!("{value:.2}{unit}"),
    }
}

/// The middle one; of an even number the upper of the two.
pub fn median(values: &[f64]) -> f64 {
    percentile(values, 50.0)
}

/// By the nearest rank; 0 where there is nothing.
pub fn percentile(values: &[f64], percent: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() as f64 * percent / 100.0) as usize;
    sorted.get(rank.min(sorted.len().saturating_sub(1))).copied().unwrap_or(0.0)
}

pub fn spread(values: &[f64]) -> Option<(f64, f64)> {
    let low = values.iter().copied().min_by(f64::total_cmp)?;
    let high = values.iter().copied().max_by(f64::total_cmp)?;
    (values.len() > 1).then_some((low, high))
}
