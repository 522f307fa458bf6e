//! What stands in the database, in the oracle's terms, and how it differs from what the fold says.

use std::collections::{BTreeMap, BTreeSet};

use afterimage::oracle::{self, Expected, Late, Quarantined, Row, Settings, Sums};

use super::mysql::Database;

/// The shipped countries.
pub fn countries() -> BTreeMap<String, (String, String)> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("queries/users/lookups/countries.csv");
    oracle::read_countries(&path).unwrap()
}

pub fn settings() -> Settings {
    Settings::users(countries())
}

/// Reads everything that a pipeline `users` on `enriched_user` has left in `database`.
pub async fn read(database: &Database) -> Expected {
    // Texts come behind a mark, so that the word NULL is told from none.
    let optional = |text: &str| text.strip_prefix('=').map(str::to_owned);
    let number = |text: &str| text.parse::<i64>().unwrap_or_else(|_| panic!("{text:?} is no number"));
    let count = |text: &str| u64::try_from(number(text)).unwrap();
    let part = |text: &str| i32::try_from(number(text)).unwrap();
    let mut found = Expected::default();
    for row in database
        .rows(
            "SELECT user_id, CONCAT('=', name), CONCAT('=', email), CONCAT('=', country), CONCAT('=', country_name), \
             CONCAT('=', region), cdc_ts, cdc_partition, cdc_offset FROM enriched_user",
        )
        .await
    {
        let values = Row {
            name: optional(&row[1]),
            email: optional(&row[2]),
            country: optional(&row[3]),
            country_name: optional(&row[4]),
            region: optional(&row[5]),
            cdc_ts: number(&row[6]),
            cdc_partition: part(&row[7]),
            cdc_offset: number(&row[8]),
        };
        found.rows.insert(row[0].clone(), values);
    }
    for row in database.rows("SELECT row_key, cdc_ts, cdc_partition, cdc_offset FROM afterimage_tombstones").await {
        found.tombstones.insert(row[0].clone(), (number(&row[1]), part(&row[2]), number(&row[3])));
    }
    let pending = "SELECT kafka_partition, kafka_offset, state, CONCAT('=', stage), event_keys FROM error_data_enrichment \
                   WHERE state NOT IN ('resolved')";
    for row in database.rows(pending).await {
        let keys: Vec<Vec<String>> = serde_json::from_str(&row[4]).unwrap();
        let users: BTreeSet<String> = keys.into_iter().flatten().collect();
        let quarantined = Quarantined { state: row[2].clone(), stage: optional(&row[3]), users };
        found.quarantine.insert((part(&row[0]), number(&row[1])), quarantined);
    }
    let late = "SELECT kafka_partition, kafka_offset, event_key, event_ts_ns, newest_ts_ns FROM out_of_order_events";
    for row in database.rows(late).await {
        let key: Vec<String> = serde_json::from_str(&row[2]).unwrap();
        let late = Late { ts_ns: number(&row[3]), known_ns: number(&row[4]) };
        found.out_of_order.insert((part(&row[0]), number(&row[1]), key.concat()), late);
    }
    let sums = "SELECT kafka_partition, next_offset, n_read, n_ignored, n_refused, n_held, n_accepted, n_changes, n_upserted, n_deleted, \
                n_superseded FROM afterimage_positions";
    for row in database.rows(sums).await {
        let n: Vec<u64> = row[2..].iter().map(|text| count(text)).collect();
        let sums = Sums { read: n[0], ignored: n[1], refused: n[2], held: n[3], accepted: n[4], changes: n[5] };
        assert_eq!(n[0], n[1] + n[2] + n[3] + n[4], "P4: records of partition {}", row[0]);
        assert_eq!(n[5], n[6] + n[7] + n[8], "P4: changes of partition {}", row[0]);
        if sums != Sums::default() {
            found.sums.insert(part(&row[0]), sums);
        }
        found.next_offset.insert(part(&row[0]), number(&row[1]));
    }
    found
}

/// Everything in which `found` is not what was `expected`, line by line; empty if nothing is.
pub fn faults(expected: &Expected, found: &Expected) -> Vec<String> {
    let mut faults = oracle::differences("row", &expected.rows, &found.rows, 20);
    faults.extend(oracle::differences("quarantine", &expected.quarantine, &found.quarantine, 20));
    faults.extend(oracle::differences("out of order", &expected.out_of_order, &found.out_of_order, 20));
    faults.extend(oracle::differences("sums of partition", &expected.sums, &found.sums, 20));
    for (user, version) in &expected.standing_tombstones() {
        if found.tombstones.get(user) != Some(version) {
            faults.push(format!("tombstone {user:?}: expected {version:?}, found {:?}", found.tombstones.get(user)));
        }
    }
    faults
}

/// Panics with every difference between the fold and the database.
pub async fn assert_as_folded(database: &Database, expected: &Expected) {
    let faults = faults(expected, &read(database).await);
    assert!(faults.is_empty(), "{} differences:\n{}", faults.len(), faults.join("\n"));
}
