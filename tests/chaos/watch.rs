//! The reader that never sleeps: while faults happen it takes consistent snapshots of everything and compares them with the fold at
//! exactly the offsets that stand in the same snapshot (P2, P4).
//!
//! A database that is away is not a violation; a snapshot that could be taken and is not the fold is one.

use std::sync::Arc;
use std::time::Duration;

use afterimage::demo::outcome::{self, Found};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts, OptsBuilder};
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;

use super::ledger::Ledger;

/// Snapshots that were compared, and what was wrong with them.
#[derive(Debug, Default)]
pub struct Seen {
    pub snapshots: usize,
    /// Snapshots at positions that no earlier one had.
    pub distinct: usize,
    pub violations: Vec<String>,
}

pub struct Watcher {
    stop: watch::Sender<bool>,
    task: JoinHandle<Seen>,
}

impl Watcher {
    /// Reads `url` every `interval` until it is stopped. `ledger` is locked by whoever writes to the topic until what was written is
    /// in it, so that whatever a snapshot shows is known here.
    pub fn start(url: &str, ledger: Arc<Mutex<Ledger>>, interval: Duration) -> Self {
        let (stop, mut stopped) = watch::channel(false);
        let url = url.to_owned();
        let task = tokio::spawn(async move {
            let mut seen = Seen::default();
            let mut conn: Option<Conn> = None;
            let mut last = None;
            while !*stopped.borrow() && seen.violations.is_empty() {
                if let Some(found) = look(&url, &mut conn).await {
                    let cut = found.state.next_offset.clone();
                    let faults = {
                        let mut ledger = ledger.lock().await;
                        outcome::faults(ledger.expected_at(&cut), &found)
                    };
                    seen.snapshots += 1;
                    seen.distinct += usize::from(last.as_ref() != Some(&cut));
                    if !faults.is_empty() {
                        seen.violations
                            .push(format!("P2: the snapshot at {cut:?} is not the fold:\n{}", faults.join("\n")));
                    }
                    last = Some(cut);
                }
                let _ = tokio::time::timeout(interval, stopped.changed()).await;
            }
            seen
        });
        Self { stop, task }
    }

    /// Whether it has found something; then it looks no further.
    pub fn has_ended(&self) -> bool {
        self.task.is_finished()
    }

    pub async fn stop(self) -> Seen {
        let _ = self.stop.send(true);
        match self.task.await {
            Ok(seen) => seen,
            Err(error) => Seen { violations: vec![format!("the watcher has panicked: {error}")], ..Seen::default() },
        }
    }
}

/// One snapshot, or none where the server is away.
async fn look(url: &str, conn: &mut Option<Conn>) -> Option<Found> {
    let looking = async {
        let mut open = match conn.take() {
            Some(open) => open,
            None => connect(url).await?,
        };
        let found = snapshot(&mut open).await?;
        *conn = Some(open);
        Ok::<_, mysql_async::Error>(found)
    };
    // A server that stands still is away, too; the dropped connection goes with the attempt.
    tokio::time::timeout(Duration::from_secs(20), looking).await.ok()?.ok()
}

/// Everything in one read view. A mark for a retry is an operator's and no state of the fold's.
pub async fn snapshot(conn: &mut Conn) -> mysql_async::Result<Found> {
    conn.query_drop("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ").await?;
    conn.query_drop("START TRANSACTION WITH CONSISTENT SNAPSHOT").await?;
    let mut found = outcome::read(conn).await?;
    conn.query_drop("COMMIT").await?;
    for record in found.state.quarantine.values_mut().filter(|record| record.state == "retry") {
        "refused".clone_into(&mut record.state);
    }
    Ok(found)
}

pub async fn connect(url: &str) -> mysql_async::Result<Conn> {
    let options = OptsBuilder::from_opts(Opts::from_url(url)?).prefer_socket(false);
    tokio::time::timeout(Duration::from_secs(10), Conn::new(options))
        .await
        .unwrap_or_else(|_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()))
}
