//! Reads the target and our own tables from the server's catalogue and refuses what would break a promise.
//!
//! In: a session, the table's name and its key columns. Out: the [`Target`], or every fault at once, each with its remedy:
//! no InnoDB, a key whose collation calls different strings equal, a second unique key or missing version columns.

use mysql_async::Row;

use super::quoting::{identifier, text};
use super::session::{Session, StatementError, int_at, text_at};
use super::tables::{OWN_TABLES, key_collation};
use crate::diagnostic::Diagnostic;
use crate::error::Result;
use crate::target::{Column, Holds, Target, VERSION_COLUMNS};

/// Names of those of our tables that are missing or lack a column: `migrate` has to run.
pub async fn unmigrated(session: &mut Session) -> Result<Vec<&'static str>> {
    let mut missing = Vec::new();
    for table in &OWN_TABLES {
        let present = column_names(session, table.name).await?;
        if present.is_empty() || table.upgrade(&present).is_some() {
            missing.push(table.name);
        }
    }
    Ok(missing)
}

/// Columns of a table of the current database; empty if there is no such table.
pub async fn column_names(session: &mut Session, table: &str) -> Result<Vec<String>> {
    let sql = format!(
        "SELECT column_name FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name = {}",
        text(table)
    );
    let rows = session.rows(&sql).await.map_err(StatementError::into_error)?;
    Ok(rows.iter().map(|row| text_at(row, 0)).collect())
}

/// A target that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspected {
    pub target: Target,
    /// Columns that were left out: nobody yields them, and they need no value.
    pub spare: Vec<String>,
}

/// The target as it is, or its faults. `Ok(Err(faults))` where the server answered and the table can't be used. Columns that `wanted`,
/// what the models yield, hasn't and that need no value are left out: who adds one for models to come disturbs nobody.
pub async fn target(
    session: &mut Session,
    table: &str,
    key: &[String],
    wanted: Option<&Target>,
) -> Result<std::result::Result<Inspected, Vec<Diagnostic>>> {
    let named = text(table);
    let engine = query(
        session,
        &format!("SELECT engine, table_type FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = {named}"),
    )
    .await?;
    let Some(engine) = engine.first() else {
        let fault = Diagnostic::error("AI0410", format!("there is no table `{table}` in this database"));
        return Ok(Err(vec![
            fault.help("run `afterimage migrate`, which creates it from what the model `latest` yields"),
        ]));
    };
    let mut faults = Vec::new();
    if text_at(engine, 1) != "BASE TABLE" || !text_at(engine, 0).eq_ignore_ascii_case("InnoDB") {
        let what =
            format!("`{table}` is {} with engine {}: it has no transactions", text_at(engine, 1), text_at(engine, 0));
        faults.push(Diagnostic::error("AI0411", what).help(format!("ALTER TABLE `{table}` ENGINE=InnoDB")));
    }
    let columns = query(
        session,
        &format!(
            "SELECT c.column_name, c.column_type, c.data_type, c.is_nullable, c.character_maximum_length, c.character_octet_length, \
             c.numeric_precision, c.numeric_scale, c.datetime_precision, c.character_set_name, c.collation_name, c.extra, c.column_default \
             FROM information_schema.columns c WHERE c.table_schema = DATABASE() AND c.table_name = {named} ORDER BY c.ordinal_position"
        ),
    )
    .await?;
    let json = json_columns(session, table).await?;
    let mut found: Vec<Column> = Vec::new();
    let mut spare = Vec::new();
    let mut version_columns = 0;
    let unwanted = |name: &str| {
        wanted.is_some_and(|wanted| !wanted.columns.iter().any(|column| column.name.eq_ignore_ascii_case(name)))
    };
    for row in &columns {
        let name = text_at(row, 0);
        if VERSION_COLUMNS.contains(&name.as_str()) {
            version_columns += 1;
            faults.extend(version_fault(table, &name, row));
        } else if is_generated(row) {
            // The server fills it.
        } else if unwanted(&name) && needs_no_value(row) {
            spare.push(name);
        } else {
            let mut column = column(row);
            if json.contains(&column.name) {
                column.holds = Holds::JsonText;
            }
            found.push(column);
        }
    }
    if version_columns < VERSION_COLUMNS.len() {
        let what = format!("`{table}` lacks the version columns cdc_ts, cdc_partition, cdc_offset");
        faults.push(Diagnostic::error("AI0412", what).help(format!(
            "ALTER TABLE `{table}` ADD COLUMN cdc_ts BIGINT NOT NULL DEFAULT 0, ADD COLUMN cdc_partition INT NOT NULL DEFAULT 0, \
             ADD COLUMN cdc_offset BIGINT NOT NULL DEFAULT 0"
        )));
    }
    faults.extend(key_faults(session, table, key, &columns).await?);
    let mut ordered = Vec::with_capacity(found.len());
    for name in key {
        match found.iter().position(|column| column.name == *name) {
            Some(index) => ordered.push(found.remove(index)),
            None => faults.push(Diagnostic::error(
                "AI0413",
                format!("`{table}` has no column `{name}`, which the config names as key"),
            )),
        }
    }
    ordered.append(&mut found);
    if faults.is_empty() {
        Ok(Ok(Inspected { target: Target { table: table.to_owned(), columns: ordered, key_len: key.len() }, spare }))
    } else {
        Ok(Err(faults))
    }
}

/// Columns that MariaDB keeps as text and checks to be JSON, which is its type JSON.
async fn json_columns(session: &mut Session, table: &str) -> Result<Vec<String>> {
    if !session.facts.mariadb {
        return Ok(Vec::new());
    }
    let checks = query(
        session,
        &format!(
            "SELECT check_clause FROM information_schema.check_constraints WHERE constraint_schema = DATABASE() AND table_name = {}",
            text(table)
        ),
    )
    .await?;
    let checked = |row: &Row| {
        let clause = text_at(row, 0);
        let name = clause.strip_prefix("json_valid(`")?.strip_suffix("`)")?;
        Some(name.replace("``", "`"))
    };
    Ok(checks.iter().filter_map(checked).collect())
}

/// Whether the server computes the column. MySQL calls a column with an expression for a default DEFAULT_GENERATED, which isn't that.
fn is_generated(row: &Row) -> bool {
    text_at(row, 11).to_uppercase().replace("DEFAULT_GENERATED", "").contains("GENERATED")
}

/// Whether a row can be inserted without a value for the column.
fn needs_no_value(row: &Row) -> bool {
    let has_default = !matches!(row.as_ref(12), None | Some(mysql_async::Value::NULL));
    text_at(row, 3) == "YES" || has_default || text_at(row, 11).to_uppercase().contains("AUTO_INCREMENT")
}

/// Whether the table holds any row.
pub async fn holds_rows(session: &mut Session, table: &str) -> Result<bool> {
    Ok(!query(session, &format!("SELECT 1 FROM {} LIMIT 1", identifier(table))).await?.is_empty())
}

async fn query(session: &mut Session, sql: &str) -> Result<Vec<Row>> {
    session.rows(sql).await.map_err(StatementError::into_error)
}

fn version_fault(table: &str, name: &str, row: &Row) -> Option<Diagnostic> {
    let wanted = if name == "cdc_partition" { "int" } else { "bigint" };
    let kind = text_at(row, 2).to_lowercase();
    if (kind != wanted && kind != "bigint")
        || text_at(row, 3) == "YES"
        || text_at(row, 1).to_lowercase().contains("unsigned")
    {
        let what = format!(
            "`{table}`.`{name}` must be {} NOT NULL: a NULL version would never be replaced",
            wanted.to_uppercase()
        );
        let help = format!("ALTER TABLE `{table}` MODIFY `{name}` {} NOT NULL DEFAULT 0", wanted.to_uppercase());
        return Some(Diagnostic::error("AI0412", what).help(help));
    }
    None
}

/// The primary key must be exactly the configured key, be compared byte by byte, and be the only unique key.
async fn key_faults(session: &mut Session, table: &str, key: &[String], columns: &[Row]) -> Result<Vec<Diagnostic>> {
    let mut faults = Vec::new();
    let named = text(table);
    let indexes = query(
        session,
        &format!(
            "SELECT index_name, GROUP_CONCAT(column_name ORDER BY seq_in_index SEPARATOR ','), MAX(sub_part IS NOT NULL) FROM \
             information_schema.statistics WHERE table_schema = DATABASE() AND table_name = {named} AND non_unique = 0 GROUP BY index_name"
        ),
    )
    .await?;
    let mut primary = String::new();
    for row in &indexes {
        let (name, parts) = (text_at(row, 0), text_at(row, 1));
        if name == "PRIMARY" {
            primary = parts;
        } else {
            let what = format!(
                "`{table}` has a second unique key `{name}` ({parts}): an upsert would overwrite the row it belongs to"
            );
            faults.push(
                Diagnostic::error("AI0414", what)
                    .help(format!("ALTER TABLE `{table}` DROP INDEX `{name}`, ADD INDEX `{name}` ({parts})")),
            );
        }
    }
    let mut have: Vec<&str> = primary.split(',').collect();
    let mut want: Vec<&str> = key.iter().map(String::as_str).collect();
    have.sort_unstable();
    want.sort_unstable();
    if have != want {
        let what = format!("the primary key of `{table}` is ({primary}), the config says key = {key:?}");
        faults.push(Diagnostic::error("AI0415", what).help("make both the same"));
    }
    let collations = query(
        session,
        "SELECT collation_name FROM information_schema.collations WHERE collation_name LIKE '%nopad%bin' OR collation_name LIKE '%0900_bin' \
         OR collation_name = 'binary'",
    )
    .await?;
    let exact: Vec<String> = collations.iter().map(|row| text_at(row, 0)).collect();
    for row in columns.iter().filter(|row| key.contains(&text_at(row, 0))) {
        let (name, collation, kind) = (text_at(row, 0), text_at(row, 10), text_at(row, 2).to_lowercase());
        if !collation.is_empty() && !exact.contains(&collation) {
            let what =
                format!("key column `{table}`.`{name}` has collation {collation}, which calls different strings equal");
            let exact = key_collation(session.facts.mariadb);
            let help = format!(
                "ALTER TABLE `{table}` MODIFY `{name}` {} CHARACTER SET utf8mb4 COLLATE {exact} NOT NULL",
                text_at(row, 1)
            );
            faults.push(Diagnostic::error("AI0416", what).help(help));
        }
        if matches!(kind.as_str(), "float" | "double" | "char" | "binary" | "enum" | "set" | "bit") {
            let what = format!("key column `{table}`.`{name}` is {kind}, which doesn't keep keys exactly as they are");
            faults.push(
                Diagnostic::error("AI0417", what).help("use VARCHAR, VARBINARY, an integer, DECIMAL or DATETIME"),
            );
        }
    }
    Ok(faults)
}

/// One row of `information_schema.columns` as a [`Column`].
fn column(row: &Row) -> Column {
    let column_type = text_at(row, 1);
    let collate = match (text_at(row, 9), text_at(row, 10)) {
        (charset, collation) if !charset.is_empty() => format!(" CHARACTER SET {charset} COLLATE {collation}"),
        _ => String::new(),
    };
    Column {
        name: text_at(row, 0),
        holds: holds(&text_at(row, 2).to_lowercase(), &column_type.to_lowercase(), row),
        ddl_type: format!("{column_type}{collate}"),
        nullable: text_at(row, 3) == "YES",
    }
}

fn holds(data_type: &str, column_type: &str, row: &Row) -> Holds {
    let number = |index: usize| int_at(row, index).or_else(|| text_at(row, index).parse().ok());
    let unsigned = column_type.contains("unsigned");
    let int = |bits: u32| {
        if unsigned {
            Holds::Int { min: 0, max: (1_i128 << bits) - 1 }
        } else {
            Holds::Int { min: -(1_i128 << (bits - 1)), max: (1_i128 << (bits - 1)) - 1 }
        }
    };
    let digits = u8::try_from(number(8).unwrap_or(0)).unwrap_or(0);
    match data_type {
        "tinyint" if column_type.starts_with("tinyint(1)") && !unsigned => Holds::Bool,
        "tinyint" => int(8),
        "smallint" => int(16),
        "mediumint" => int(24),
        "int" => int(32),
        "bigint" => int(64),
        "bit" => Holds::Int { min: 0, max: (1_i128 << number(6).unwrap_or(1).clamp(1, 64)) - 1 },
        "decimal" => Holds::Decimal {
            precision: u8::try_from(number(6).unwrap_or(10)).unwrap_or(10),
            scale: u8::try_from(number(7).unwrap_or(0)).unwrap_or(0),
        },
        "float" => Holds::Float,
        "double" => Holds::Double,
        "char" | "varchar" | "tinytext" | "text" | "mediumtext" | "longtext" => {
            let bytes = u64::try_from(number(5).unwrap_or(i64::MAX)).unwrap_or(u64::MAX);
            let chars = u64::try_from(number(4).unwrap_or(i64::MAX)).unwrap_or(u64::MAX);
            // For TEXT types the catalogue gives bytes in both places.
            let max_chars = if data_type.ends_with("text") { u64::MAX } else { chars };
            Holds::Text { max_chars, max_bytes: bytes }
        }
        "binary" | "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob" => {
            Holds::Bytes { max_bytes: u64::try_from(number(5).unwrap_or(i64::MAX)).unwrap_or(u64::MAX) }
        }
        "date" => Holds::Date,
        "datetime" | "timestamp" => Holds::DateTime { digits },
        "time" => Holds::Time { digits },
        "json" => Holds::Json,
        _ => Holds::Other,
    }
}
