//! What the service's account must be allowed to do, and whether it is: the grants that docs/operations.md names.
//!
//! The server itself is asked, by EXPLAIN, which wants the privileges of the statement and runs nothing: roles, patterns and grants by
//! column count as the server counts them.

use super::quoting::identifier;
use super::session::{Connector, Session, StatementError, text_at};
use super::tables::{GENERATIONS, METRICS, OUT_OF_ORDER, OWN_TABLES, POSITIONS, QUARANTINE, TOMBSTONES};
use crate::error::Result;
use crate::target::VERSION_COLUMNS;

/// Of each table of ours. The target needs all four.
pub const OWN: [(&str, &[&str]); 6] = [
    (POSITIONS, &["SELECT", "INSERT", "UPDATE"]),
    (GENERATIONS, &["SELECT", "INSERT", "UPDATE"]),
    (TOMBSTONES, &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    (QUARANTINE, &["SELECT", "INSERT", "UPDATE"]),
    (OUT_OF_ORDER, &["SELECT", "INSERT", "UPDATE"]),
    (METRICS, &["SELECT", "INSERT"]),
];
pub const TARGET: [&str; 4] = ["SELECT", "INSERT", "UPDATE", "DELETE"];

/// Access denied: to a database, a table, a column.
const DENIED: [u16; 3] = [1044, 1142, 1143];

/// A privilege that is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// `None`: in the whole database.
    pub table: Option<String>,
    pub privileges: Vec<&'static str>,
    /// The statement that grants it.
    pub grant: String,
}

/// What the account of `connector` lacks to run a pipeline that writes `target`. Tables that aren't there are left out.
pub async fn missing(connector: &Connector, target: &str) -> Result<Vec<Missing>> {
    let mut asked = Asked { connector, session: connector.connect().await? };
    let account = asked.session.rows("SELECT CURRENT_USER(), DATABASE()").await.map_err(StatementError::into_error)?;
    let (user, database) = account.first().map(|row| (text_at(row, 0), text_at(row, 1))).unwrap_or_default();
    let grantee = grantee(&user);
    let grant = |privileges: &[&str], on: &str| {
        format!("GRANT {} ON {}.{on} TO {grantee}", privileges.join(", "), identifier(&database))
    };
    let mut found = Vec::new();
    let own = OWN_TABLES.iter().filter_map(|table| {
        let column = table.columns.first()?.0;
        let wanted = OWN.iter().find(|(name, _)| *name == table.name)?.1;
        Some((table.name, column, wanted))
    });
    let tables = std::iter::once((target, VERSION_COLUMNS[0], &TARGET[..])).chain(own);
    for (table, column, wanted) in tables {
        let mut privileges = Vec::new();
        for privilege in wanted {
            if asked.denied(&probe(privilege, table, column)).await? {
                privileges.push(*privilege);
            }
        }
        if !privileges.is_empty() {
            let grant = grant(&privileges, &identifier(table));
            found.push(Missing { table: Some(table.to_owned()), privileges, grant });
        }
    }
    // Gone with the session.
    let temporary = "CREATE TEMPORARY TABLES";
    if asked.denied("CREATE TEMPORARY TABLE afterimage_probe (a INT)").await? {
        found.push(Missing { table: None, privileges: vec![temporary], grant: grant(&[temporary], "*") });
    }
    Ok(found)
}

/// A session that is replaced after each refusal: one that met with one is given up.
struct Asked<'c> {
    connector: &'c Connector,
    session: Session,
}

impl Asked<'_> {
    async fn denied(&mut self, statement: &str) -> Result<bool> {
        let Err(error) = self.session.rows(statement).await else { return Ok(false) };
        // A dead connection says nothing about privileges.
        if error.code == 0 {
            return Err(error.into_error());
        }
        self.session = self.connector.connect().await?;
        // Any other refusal, say of a table that isn't there, says that they suffice.
        Ok(DENIED.contains(&error.code))
    }
}

fn probe(privilege: &str, table: &str, column: &str) -> String {
    let (table, column) = (identifier(table), identifier(column));
    match privilege {
        "INSERT" => format!("EXPLAIN INSERT INTO {table} ({column}) VALUES (0)"),
        "UPDATE" => format!("EXPLAIN UPDATE {table} SET {column} = 0 WHERE 1 = 0"),
        "DELETE" => format!("EXPLAIN DELETE FROM {table} WHERE 1 = 0"),
        _ => format!("SELECT {column} FROM {table} LIMIT 0"),
    }
}

/// `name@host` as it is written in GRANT.
fn grantee(user: &str) -> String {
    let (name, host) = user.rsplit_once('@').unwrap_or((user, "%"));
    let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
    format!("{}@{}", quoted(name), quoted(host))
}

/// Settings of the server that go against the promises: what is set, why it matters, and whether nothing would work.
pub async fn settings(session: &mut Session) -> Result<Vec<(String, &'static str, bool)>> {
    let wanted: [(&str, &str, fn(&str) -> bool, &str, bool); 3] = [
        (
            "binlog_format",
            "ROW",
            |value| value.eq_ignore_ascii_case("STATEMENT"),
            "READ COMMITTED is refused with it",
            true,
        ),
        (
            "innodb_flush_log_at_trx_commit",
            "1",
            |value| value != "1",
            "a crash of the machine loses what was acknowledged",
            false,
        ),
        ("sync_binlog", "1", |value| value != "1", "a crash of the machine loses what was acknowledged", false),
    ];
    let mut found = Vec::new();
    for (name, good, bad, why, refused) in wanted {
        // One that a server doesn't know can't be wrong there.
        let Ok(rows) = session.rows(&format!("SELECT @@global.{name}")).await else { continue };
        let value = rows.first().map(|row| text_at(row, 0)).unwrap_or_default();
        if bad(&value) {
            found.push((format!("{name} is {value}, it should be {good}"), why, refused));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_grants_what_is_asked_for() {
        let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md");
        let page = std::fs::read_to_string(page).unwrap();
        let (_, by_table) = page.split_once("Or table by table").unwrap();
        for (table, privileges) in OWN.iter().copied().chain([("enriched_user", &TARGET[..])]) {
            let line = format!("    GRANT {} ON shop.{table} TO 'afterimage'@'%';", privileges.join(", "));
            assert!(by_table.lines().any(|found| found == line), "docs/operations.md lacks {line}");
        }
        assert!(OWN_TABLES.iter().all(|table| OWN.iter().any(|(name, _)| *name == table.name)));
    }

    #[test]
    fn an_account_is_quoted() {
        assert_eq!(grantee("app@%"), "'app'@'%'");
        assert_eq!(grantee("o'x@10.0.0.%"), "'o''x'@'10.0.0.%'");
    }
}
