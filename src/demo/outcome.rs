//! What stands in the database after a pipeline `users` ran, in the fold's terms, and how it differs from what the fold says.
//!
//! Reads with plain queries of its own: nothing of the sink's code takes part in judging the sink.

use std::collections::{BTreeMap, BTreeSet};

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row as MySqlRow, Value};

use crate::oracle::{self, Expected, Late, Quarantined, Row, Settings, Sums};

/// The shipped countries.
pub const COUNTRIES: &str = include_str!("../../queries/users/lookups/countries.csv");

/// The shipped countries by code, as (name, region).
pub fn countries() -> BTreeMap<String, (String, String)> {
    let mut reader = csv::Reader::from_reader(COUNTRIES.as_bytes());
    let rows = reader.records().filter_map(Result::ok);
    let field = |row: &csv::StringRecord, index: usize| row.get(index).unwrap_or_default().to_owned();
    rows.map(|row| (field(&row, 0), (field(&row, 1), field(&row, 2)))).collect()
}

/// The fold's settings for the shipped pipeline.
pub fn settings() -> Settings {
    Settings::users(countries())
}

/// What was found, and which sums of it don't balance (P4).
#[derive(Debug, Clone, Default)]
pub struct Found {
    pub state: Expected,
    pub unbalanced: Vec<String>,
}

/// Reads everything that a pipeline `users` on `enriched_user` has left in the connection's database.
pub async fn read(conn: &mut Conn) -> mysql_async::Result<Found> {
    let mut found = Found::default();
    let state = &mut found.state;
    let sql = "SELECT user_id, name, email, country, country_name, region, cdc_ts, cdc_partition, cdc_offset FROM enriched_user";
    for row in rows(conn, sql).await? {
        let values = Row {
            name: optional(&row, 1),
            email: optional(&row, 2),
            country: optional(&row, 3),
            country_name: optional(&row, 4),
            region: optional(&row, 5),
            cdc_ts: number(&row, 6),
            cdc_partition: partition(&row, 7),
            cdc_offset: number(&row, 8),
        };
        state.rows.insert(text(&row, 0), values);
    }
    for row in rows(conn, "SELECT row_key, cdc_ts, cdc_partition, cdc_offset FROM afterimage_tombstones").await? {
        state.tombstones.insert(text(&row, 0), (number(&row, 1), partition(&row, 2), number(&row, 3)));
    }
    let sql = "SELECT kafka_partition, kafka_offset, state, stage, event_keys FROM error_data_enrichment WHERE state <> 'resolved'";
    for row in rows(conn, sql).await? {
        let keys: Vec<Vec<String>> = serde_json::from_str(&text(&row, 4)).unwrap_or_default();
        let users: BTreeSet<String> = keys.into_iter().flatten().collect();
        let quarantined = Quarantined { state: text(&row, 2), stage: optional(&row, 3), users };
        state.quarantine.insert((partition(&row, 0), number(&row, 1)), quarantined);
    }
    let sql = "SELECT kafka_partition, kafka_offset, event_key, event_ts_ns, newest_ts_ns FROM out_of_order_events";
    for row in rows(conn, sql).await? {
        let key: Vec<String> = serde_json::from_str(&text(&row, 2)).unwrap_or_default();
        let late = Late { ts_ns: number(&row, 3), known_ns: number(&row, 4) };
        state.out_of_order.insert((partition(&row, 0), number(&row, 1), key.concat()), late);
    }
    let sql = "SELECT kafka_partition, next_offset, n_read, n_ignored, n_refused, n_held, n_accepted, n_changes, n_upserted, n_deleted, \
               n_superseded FROM afterimage_positions";
    for row in rows(conn, sql).await? {
        let n: Vec<u64> = (2..11).map(|index| count(&row, index)).collect();
        let [read, ignored, refused, held, accepted, changes, upserted, deleted, superseded] = n[..] else { continue };
        let place = partition(&row, 0);
        if read != ignored + refused + held + accepted {
            found.unbalanced.push(format!("records of partition {place} don't balance: {n:?}"));
        }
        if changes != upserted + deleted + superseded {
            found.unbalanced.push(format!("changes of partition {place} don't balance: {n:?}"));
        }
        let sums = Sums { read, ignored, refused, held, accepted, changes };
        if sums != Sums::default() {
            state.sums.insert(place, sums);
        }
        state.next_offset.insert(place, number(&row, 1));
    }
    Ok(found)
}

/// Everything in which `found` is not what was `expected`, line by line; empty if nothing is.
pub fn faults(expected: &Expected, found: &Found) -> Vec<String> {
    let state = &found.state;
    let mut faults = oracle::differences("row", &expected.rows, &state.rows, 20);
    faults.extend(oracle::differences("quarantine", &expected.quarantine, &state.quarantine, 20));
    faults.extend(oracle::differences("out of order", &expected.out_of_order, &state.out_of_order, 20));
    faults.extend(oracle::differences("sums of partition", &expected.sums, &state.sums, 20));
    for (user, version) in &expected.standing_tombstones() {
        if state.tombstones.get(user) != Some(version) {
            faults.push(format!("tombstone {user:?}: expected {version:?}, found {:?}", state.tombstones.get(user)));
        }
    }
    faults.extend(found.unbalanced.iter().cloned());
    faults
}

async fn rows(conn: &mut Conn, sql: &str) -> mysql_async::Result<Vec<Vec<Option<String>>>> {
    let rows: Vec<MySqlRow> = conn.query(sql).await?;
    let text = |value: Value| match value {
        Value::NULL => None,
        Value::Bytes(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
        Value::Int(number) => Some(number.to_string()),
        Value::UInt(number) => Some(number.to_string()),
        other => Some(other.as_sql(true)),
    };
    Ok(rows.into_iter().map(|row| row.unwrap().into_iter().map(text).collect()).collect())
}

/// A column that is never NULL.
fn text(row: &[Option<String>], index: usize) -> String {
    row.get(index).cloned().flatten().unwrap_or_default()
}

/// A column that holds a number; 0 is as wrong as anything where it holds none, and the comparison will say so.
fn number(row: &[Option<String>], index: usize) -> i64 {
    text(row, index).parse().unwrap_or_default()
}

fn partition(row: &[Option<String>], index: usize) -> i32 {
    i32::try_from(number(row, index)).unwrap_or(-1)
}

fn count(row: &[Option<String>], index: usize) -> u64 {
    u64::try_from(number(row, index)).unwrap_or_default()
}

fn optional(row: &[Option<String>], index: usize) -> Option<String> {
    row.get(index).cloned().flatten()
}
