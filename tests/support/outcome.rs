//! What stands in a test's database, compared with the fold.

use afterimage::demo::outcome;
pub use afterimage::demo::outcome::settings;
use afterimage::oracle::Expected;

use super::mysql::Database;

/// Everything that a pipeline `users` has left in `database`; panics where sums don't balance (P4).
pub async fn read(database: &Database) -> Expected {
    let mut connection = database.connect().await;
    let found = outcome::read(&mut connection).await.unwrap();
    connection.disconnect().await.unwrap();
    assert!(found.unbalanced.is_empty(), "P4: {:?}", found.unbalanced);
    found.state
}

/// Panics with every difference between the fold and the database.
pub async fn assert_as_folded(database: &Database, expected: &Expected) {
    let state = read(database).await;
    let faults = outcome::faults(expected, &outcome::Found { state, unbalanced: Vec::new() });
    assert!(faults.is_empty(), "{} differences:\n{}", faults.len(), faults.join("\n"));
}
