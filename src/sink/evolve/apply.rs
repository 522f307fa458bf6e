//! Running a plan: one statement after the other, each within bounds, and none that is done already.
//!
//! An `ALTER TABLE` waits for everybody who uses the table, and everybody who comes later waits for it. So it waits a moment only, makes
//! room, and tries again, until its time is up: then it gives up by name, and nothing is left behind. Killed in the middle it is run
//! again: what was done is not planned any more.

use std::time::{Duration, Instant};

use super::plan::cannot;
use super::{Class, Plan, Statement, Wishes, plan};
use crate::error::{Error, Kind, Result};
use crate::failpoint::failpoint;
use crate::sink::quoting::text;
use crate::sink::session::{Connector, Session, StatementError, int_at, text_at};
use crate::target::Target;

/// Bounds of applying.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// How long a statement tries to get the table for itself, all attempts together.
    pub lock_timeout: Duration,
    /// Whether statements that keep writers out, or of which that isn't known, are run.
    pub allow_blocking: bool,
}

/// How long one attempt waits for the table; nobody else waits longer than that behind it.
const ATTEMPT: Duration = Duration::from_secs(1);
/// Between two attempts, so that those who waited get through.
const ROOM: Duration = Duration::from_millis(1500);
/// A copy of a large table takes hours.
const STATEMENT: Duration = Duration::from_secs(7 * 24 * 3600);

/// What applying tells while it goes on.
pub trait Progress {
    fn begins(&mut self, statement: &Statement);
    /// The table wasn't free in time; another attempt follows.
    fn waits(&mut self, statement: &Statement, so_far: Duration);
    fn done(&mut self, statement: &Statement, took: Duration);
    /// Somebody else had done it meanwhile.
    fn was_done(&mut self, statement: &Statement);
}

/// Runs what the table lacks, and says what can't be mended ([`Plan::conflicts`]). [`Kind::SinkContention`] where the table wasn't free
/// in time, [`Kind::SinkConfig`] where a statement may not be run.
pub async fn apply(
    connector: &Connector,
    wanted: &Target,
    key: &[String],
    wishes: &Wishes,
    bounds: Bounds,
    progress: &mut impl Progress,
) -> Result<Plan> {
    let mut owner = connector.connect().await?;
    claim(&mut owner, &wanted.table).await?;
    let planned = plan::plan(connector, wanted, key, wishes).await?;
    refuse_blocking(&planned, bounds)?;
    let mut long = connector.clone();
    long.statement_timeout = STATEMENT;
    let mut session = long.connect().await?;
    for statement in &planned.statements {
        failpoint!("before_alter");
        run(&long, &mut session, &planned.table, statement, bounds, progress).await?;
        // Keeps the claim: a session that is silent is ended.
        claim(&mut owner, &wanted.table).await?;
    }
    Ok(planned)
}

/// Makes sure that nobody else applies to this table at the same time. The server may take a moment to see that a session which had the
/// claim is gone.
async fn claim(session: &mut Session, table: &str) -> Result<()> {
    let sql = format!("SELECT GET_LOCK(SHA2(CONCAT('afterimage_apply.', DATABASE(), '.', {}), 224), 3)", text(table));
    let rows = session.rows("SET SESSION wait_timeout = 604800").await;
    rows.map_err(StatementError::into_error)?;
    let rows = session.rows(&sql).await.map_err(StatementError::into_error)?;
    match rows.first().and_then(|row| int_at(row, 0)) {
        Some(1) => Ok(()),
        _ => Err(Error::new(Kind::SinkContention, format!("somebody else applies a plan to {table} right now"))
            .remedy("wait until they are done, and run `afterimage schema plan` again")),
    }
}

fn refuse_blocking(plan: &Plan, bounds: Bounds) -> Result<()> {
    let blocks = |statement: &&Statement| statement.class == Class::Blocking;
    match plan.statements.iter().find(blocks) {
        Some(statement) if !bounds.allow_blocking => {
            let what =
                format!("nothing was run: nobody could write to {} while this runs: {}", plan.table, statement.sql);
            Err(Error::new(Kind::SinkConfig, what).remedy("--allow-blocking runs it all the same, in a quiet hour"))
        }
        _ => Ok(()),
    }
}

async fn run(
    connector: &Connector,
    session: &mut Session,
    table: &str,
    statement: &Statement,
    bounds: Bounds,
    progress: &mut impl Progress,
) -> Result<()> {
    progress.begins(statement);
    let begun = Instant::now();
    loop {
        if !session.alive().await {
            *session = connector.connect().await?;
        }
        let wait = format!("SET SESSION lock_wait_timeout = {}", ATTEMPT.as_secs());
        session.run(&wait).await.map_err(StatementError::into_error)?;
        let attempt = Instant::now();
        let error = match gently(session, statement, bounds).await {
            Ok(()) => {
                progress.done(statement, attempt.elapsed());
                return Ok(());
            }
            Err(error) => error,
        };
        match error.code {
            LOCK_WAIT if begun.elapsed() < bounds.lock_timeout => {
                progress.waits(statement, begun.elapsed());
                tokio::time::sleep(ROOM).await;
            }
            LOCK_WAIT => {
                let users = users(connector).await;
                let what =
                    format!("{table} was not free for {:.0?}, given up: {}{users}", begun.elapsed(), statement.sql);
                return Err(Error::new(Kind::SinkContention, what).remedy(
                    "nothing of it was done: end the transaction that uses the table, or take a longer --lock-timeout",
                ));
            }
            // A column that is there already, or gone already.
            1060 | 1091 => {
                progress.was_done(statement);
                return Ok(());
            }
            _ => return Err(error.into_error().at(statement.sql.clone())),
        }
    }
}

const LOCK_WAIT: u16 = 1205;

/// Runs the statement as it was planned; one that couldn't be tried before, in the gentlest way that the server takes.
async fn gently(
    session: &mut Session,
    statement: &Statement,
    bounds: Bounds,
) -> std::result::Result<(), StatementError> {
    if statement.class != Class::Unknown {
        return session.run(&statement.sql).await.map(drop);
    }
    for class in [Class::Instant, Class::Online] {
        match session.run(&format!("{}{}", statement.sql, class.clause())).await {
            Ok(_) => return Ok(()),
            Err(error) if cannot(error.code) => {}
            Err(error) => return Err(error),
        }
    }
    if bounds.allow_blocking {
        return session.run(&statement.sql).await.map(drop);
    }
    Err(StatementError {
        class: crate::sink::server_error::Class::Operator,
        code: 1846,
        message: "the server runs it as a copy only, which keeps writers out; --allow-blocking runs it all the same"
            .to_owned(),
    })
}

/// Who holds transactions open, as far as the account may know.
async fn users(connector: &Connector) -> String {
    let Ok(mut session) = connector.connect().await else { return String::new() };
    let sql = "SELECT trx_mysql_thread_id, trx_started FROM information_schema.innodb_trx \
               WHERE trx_mysql_thread_id <> CONNECTION_ID() ORDER BY trx_started LIMIT 3";
    let Ok(rows) = session.rows(sql).await else {
        return "; who uses it shows only with the privilege PROCESS".to_owned();
    };
    let shown: Vec<String> = rows
        .iter()
        .map(|row| format!("connection {} since {} UTC", int_at(row, 0).unwrap_or_default(), text_at(row, 1)))
        .collect();
    if shown.is_empty() { String::new() } else { format!("; open transactions: {}", shown.join(", ")) }
}
