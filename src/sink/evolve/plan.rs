//! Planning: the table is read, and every change is tried on an empty copy of it.

use super::{Change, Class, Plan, Statement, Wishes, changes};
use crate::error::{Error, Kind, Result};
use crate::sink::inspect;
use crate::sink::quoting::{identifier, text};
use crate::sink::session::{Connector, Session, StatementError, text_at};
use crate::sink::tables::column_ddl;
use crate::target::Target;

/// Begins the name of every copy that is made to try statements on.
const COPY: &str = "afterimage_plan_";

/// What the table of `wanted` lacks. [`Kind::SinkConfig`] where there is no table, or it can't be a target at all.
pub async fn plan(connector: &Connector, wanted: &Target, key: &[String], wishes: &Wishes) -> Result<Plan> {
    let mut session = connector.connect().await?;
    let actual = match inspect::target(&mut session, &wanted.table, key, None).await? {
        Ok(inspected) => inspected.target,
        Err(faults) => {
            let texts: Vec<String> = faults
                .iter()
                .map(|fault| match &fault.help {
                    Some(help) => format!("{} ({help})", fault.message),
                    None => fault.message.clone(),
                })
                .collect();
            return Err(Error::new(Kind::SinkConfig, texts.join("; ")));
        }
    };
    let (changes, conflicts, notes) = changes(wanted, &actual, wishes);
    let mut plan = Plan { table: wanted.table.clone(), conflicts, notes, statements: Vec::new() };
    if changes.is_empty() {
        return Ok(plan);
    }
    let definitions = definitions(&mut session, &wanted.table).await?;
    let mut clauses = Vec::with_capacity(changes.len());
    for change in changes {
        match clause(&change, &definitions, session.facts.mariadb) {
            Some(clause) => clauses.push((change, clause)),
            None => plan.conflicts.push(format!("what SHOW CREATE TABLE says of {} can't be read", change.column())),
        }
    }
    let tried = classes(connector, &mut session, &wanted.table, &clauses).await;
    let classes = match tried {
        Ok(classes) => classes,
        Err(error) => {
            let lacks = if matches!(error.code, 1142 | 1044 | 1227 | 1370) {
                "the account may not make a copy of the table (CREATE, ALTER, DROP)".to_owned()
            } else {
                format!("a copy of the table can't be made: {}", error.into_error().what)
            };
            plan.notes.push(format!("how the server would run them is unknown: {lacks}"));
            vec![Class::Unknown; clauses.len()]
        }
    };
    plan.statements = combined(&wanted.table, clauses, &classes);
    Ok(plan)
}

/// The columns' lines in `SHOW CREATE TABLE`, by name, each without its name.
async fn definitions(session: &mut Session, table: &str) -> Result<Vec<(String, String)>> {
    let shown = session.rows(&format!("SHOW CREATE TABLE {}", identifier(table))).await;
    let shown = shown.map_err(StatementError::into_error)?;
    let ddl = shown.first().map(|row| text_at(row, 1)).unwrap_or_default();
    Ok(ddl.lines().filter_map(definition).collect())
}

/// Name and definition of the column that a line of `SHOW CREATE TABLE` is about.
pub(super) fn definition(line: &str) -> Option<(String, String)> {
    let rest = line.trim().strip_prefix('`')?;
    let mut name = String::new();
    let mut characters = rest.char_indices().peekable();
    while let Some((index, character)) = characters.next() {
        if character != '`' {
            name.push(character);
        } else if characters.next_if(|(_, next)| *next == '`').is_some() {
            name.push('`');
        } else {
            let definition = rest.get(index + 1..)?.trim();
            return Some((name, definition.strip_suffix(',').unwrap_or(definition).to_owned()));
        }
    }
    None
}

/// What stands behind `ALTER TABLE t` for one change.
pub(super) fn clause(change: &Change, definitions: &[(String, String)], mariadb: bool) -> Option<String> {
    Some(match change {
        Change::Add(column) => format!("ADD COLUMN {} NULL", column_ddl(column, mariadb)),
        Change::Widen(column, to) => {
            // All else that the column has stays: character set, default, comment.
            let (_, definition) = definitions.iter().find(|(name, _)| *name == column.name)?;
            let rest = definition.get(super::wider::bare(column).len()..)?;
            format!("MODIFY COLUMN {} {to}{}", identifier(&column.name), kept(rest, to))
        }
        Change::Rename(from, to) => format!("RENAME COLUMN {} TO {}", identifier(from), identifier(to)),
        Change::Drop(name) => format!("DROP COLUMN {}", identifier(name)),
    })
}

/// What a column keeps of its definition behind the type. A number that was an integer may be `zerofill` no more.
fn kept(rest: &str, to: &str) -> String {
    let rest = if to.starts_with("decimal") { rest.replace(" unsigned", "") } else { rest.to_owned() };
    rest.replace(" zerofill", "")
}

/// How the server would run each change, one after the other.
async fn classes(
    connector: &Connector,
    session: &mut Session,
    table: &str,
    clauses: &[(Change, String)],
) -> std::result::Result<Vec<Class>, StatementError> {
    sweep(session).await?;
    let copy = format!("{COPY}{:016x}", rand::random::<u64>());
    session.run(&format!("CREATE TABLE {} LIKE {}", identifier(&copy), identifier(table))).await?;
    let tried = try_all(session, &copy, clauses).await;
    // Whatever came of it, the copy goes; the connection may have gone before.
    let gone = session.run(&format!("DROP TABLE IF EXISTS {}", identifier(&copy))).await;
    if gone.is_err()
        && let Ok(mut other) = connector.connect().await
    {
        let _ = other.run(&format!("DROP TABLE IF EXISTS {}", identifier(&copy))).await;
    }
    tried
}

async fn try_all(
    session: &mut Session,
    copy: &str,
    clauses: &[(Change, String)],
) -> std::result::Result<Vec<Class>, StatementError> {
    let mut classes = Vec::with_capacity(clauses.len());
    for (_, clause) in clauses {
        classes.push(class_of(session, copy, clause).await?);
    }
    Ok(classes)
}

/// The gentlest way in which the server runs `ALTER TABLE <table> <clause>`, which is done by then.
async fn class_of(session: &mut Session, table: &str, clause: &str) -> std::result::Result<Class, StatementError> {
    for class in [Class::Instant, Class::Online] {
        match session.run(&alter(table, clause, class)).await {
            Ok(_) => return Ok(class),
            Err(error) if cannot(error.code) => {}
            Err(error) => return Err(error),
        }
    }
    session.run(&alter(table, clause, Class::Blocking)).await.map(|_| Class::Blocking)
}

/// Whether the code says that the statement can't be run with this algorithm or lock.
pub(super) fn cannot(code: u16) -> bool {
    crate::sink::server_error::refuses_algorithm(code)
}

pub(super) fn alter(table: &str, clause: &str, class: Class) -> String {
    format!("ALTER TABLE {} {clause}{}", identifier(table), class.clause())
}

/// Removes copies that a planner which was killed left behind: none lives for an hour.
async fn sweep(session: &mut Session) -> std::result::Result<(), StatementError> {
    let sql = format!(
        "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name LIKE {} \
         AND create_time < NOW() - INTERVAL 1 HOUR",
        text(&format!("{}%", COPY.replace('_', "\\_")))
    );
    for row in session.rows(&sql).await? {
        session.run(&format!("DROP TABLE IF EXISTS {}", identifier(&text_at(&row, 0)))).await?;
    }
    Ok(())
}

/// Statements for the changes: those of one phase and class that leave rows alone go together.
pub(super) fn combined(table: &str, clauses: Vec<(Change, String)>, classes: &[Class]) -> Vec<Statement> {
    let mut statements: Vec<(Vec<Change>, Vec<String>, Class)> = Vec::new();
    for ((change, clause), class) in clauses.into_iter().zip(classes) {
        let mergeable = |changes: &Vec<Change>| {
            let same = |other: &Change| std::mem::discriminant(other) == std::mem::discriminant(&change);
            matches!(change, Change::Add(_) | Change::Drop(_)) && changes.iter().all(same)
        };
        match statements.last_mut() {
            Some((changes, others, known)) if known == class && mergeable(changes) => {
                changes.push(change);
                others.push(clause);
            }
            _ => statements.push((vec![change], vec![clause], *class)),
        }
    }
    let statement = |(changes, clauses, class): (Vec<Change>, Vec<String>, Class)| Statement {
        phase: changes.first().map_or(super::Phase::Before, Change::phase),
        sql: alter(table, &clauses.join(", "), class),
        changes,
        class,
    };
    statements.into_iter().map(statement).collect()
}
