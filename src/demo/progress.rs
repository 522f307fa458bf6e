//! How far the demo is: a bar with rates on a terminal, a line a second elsewhere.

use std::cell::Cell;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::pipeline::health::Snapshot;

pub(super) struct Progress {
    bar: Option<ProgressBar>,
    total: u64,
    started: Instant,
    last_line: Cell<Option<Instant>>,
}

impl Progress {
    pub(super) fn new(total: u64) -> Self {
        let bar = std::io::stdout().is_terminal().then(|| {
            let bar = ProgressBar::new(total);
            if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} events  {msg}") {
                bar.set_style(style);
            }
            bar
        });
        Self { bar, total, started: Instant::now(), last_line: Cell::new(None) }
    }

    /// `read` records are applied, `rows` stand in the table.
    pub(super) fn show(&self, read: u64, rows: u64, snapshot: &Snapshot) {
        let rate = read as f64 / self.started.elapsed().as_secs_f64().max(0.1);
        let totals = &snapshot.totals;
        let text = format!(
            "{rate:.0}/s  rows {rows}  upserted {}  deleted {}  refused {}  held {}  out of order {}",
            totals.upserted, totals.deleted, totals.refused, totals.held, snapshot.out_of_order
        );
        match &self.bar {
            Some(bar) => {
                bar.set_position(read);
                bar.set_message(text);
            }
            None if self.last_line.get().is_none_or(|last| last.elapsed() > Duration::from_secs(1)) => {
                self.last_line.set(Some(Instant::now()));
                say!("{read}/{} events  {text}", self.total);
            }
            None => {}
        }
    }

    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish();
        }
    }
}
