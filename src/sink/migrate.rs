//! `migrate`: the statements that a database still lacks, and running them. DDL commits by itself, so it has a session of its own
//! and is never part of a data transaction; each statement can be repeated.

use super::inspect::column_names;
use super::session::{Session, StatementError};
use super::tables::{OWN_TABLES, create_target};
use crate::error::Result;
use crate::target::Target;

/// Statements that bring the database to what this version needs: our tables, missing columns, absent targets. Empty if nothing is.
pub async fn plan(session: &mut Session, targets: &[Target]) -> Result<Vec<String>> {
    let mut statements = Vec::new();
    for table in &OWN_TABLES {
        let present = column_names(session, table.name).await?;
        if present.is_empty() {
            statements.push(table.create());
        } else {
            statements.extend(table.upgrade(&present));
        }
    }
    for target in targets {
        if column_names(session, &target.table).await?.is_empty() {
            statements.push(create_target(target, session.facts.mariadb));
        }
    }
    Ok(statements)
}

/// Runs the statements in order.
pub async fn run(session: &mut Session, statements: &[String]) -> Result<()> {
    for statement in statements {
        session.run(statement).await.map_err(StatementError::into_error)?;
    }
    Ok(())
}
