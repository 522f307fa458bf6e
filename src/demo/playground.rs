//! A folder to work in beside a service that runs on it: what an analyst has, without anybody's real data.
//!
//! The folder gets everything that stands beside a config, and `events.ndjson`, a recording of what was streamed. Changes go on
//! trickling in, and half of them now carry a field that no schema knows.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use tokio::signal::unix::{SignalKind, signal};

use super::broker::EmbeddedBroker;
use super::{TOPIC, outcome, trouble};
use crate::config::{Config, Log, LogFormat, LogLevel};
use crate::error::{Error, Kind, Result};
use crate::generate::{Mix, Records, write_ndjson};
use crate::pipeline::health::Health;
use crate::record::OwnedRecord;
use crate::{http, telemetry};

/// Files that a user would have beside the config.
pub(super) const SHIPPED: &[(&str, &str)] = &[
    ("queries/users/changes.sql", include_str!("../../queries/users/changes.sql")),
    ("queries/users/enriched.sql", include_str!("../../queries/users/enriched.sql")),
    ("queries/users/accepted.sql", include_str!("../../queries/users/accepted.sql")),
    ("queries/users/latest.sql", include_str!("../../queries/users/latest.sql")),
    ("queries/users/out_of_order.sql", include_str!("../../queries/users/out_of_order.sql")),
    ("queries/users/metrics.sql", include_str!("../../queries/users/metrics.sql")),
    ("queries/users/lookups/countries.csv", outcome::COUNTRIES),
    ("queries/users/tests/awkward_texts.yaml", include_str!("../../queries/users/tests/awkward_texts.yaml")),
    ("queries/users/tests/bad_records.yaml", include_str!("../../queries/users/tests/bad_records.yaml")),
    (
        "queries/users/tests/bad_records_hold_users.yaml",
        include_str!("../../queries/users/tests/bad_records_hold_users.yaml"),
    ),
    ("queries/users/tests/create.yaml", include_str!("../../queries/users/tests/create.yaml")),
    ("queries/users/tests/create_delete.yaml", include_str!("../../queries/users/tests/create_delete.yaml")),
    ("queries/users/tests/create_update.yaml", include_str!("../../queries/users/tests/create_update.yaml")),
    (
        "queries/users/tests/create_update_delete.yaml",
        include_str!("../../queries/users/tests/create_update_delete.yaml"),
    ),
    ("queries/users/tests/duplicates.yaml", include_str!("../../queries/users/tests/duplicates.yaml")),
    ("queries/users/tests/enrichment_failure.yaml", include_str!("../../queries/users/tests/enrichment_failure.yaml")),
    ("queries/users/tests/equal_timestamps.yaml", include_str!("../../queries/users/tests/equal_timestamps.yaml")),
    ("queries/users/tests/future_events.yaml", include_str!("../../queries/users/tests/future_events.yaml")),
    ("queries/users/tests/key_change.yaml", include_str!("../../queries/users/tests/key_change.yaml")),
    ("queries/users/tests/key_change_on_hold.yaml", include_str!("../../queries/users/tests/key_change_on_hold.yaml")),
    (
        "queries/users/tests/late_update_after_delete.yaml",
        include_str!("../../queries/users/tests/late_update_after_delete.yaml"),
    ),
    ("queries/users/tests/mix.yaml", include_str!("../../queries/users/tests/mix.yaml")),
    ("queries/users/tests/models.yaml", include_str!("../../queries/users/tests/models.yaml")),
    ("queries/users/tests/null_values.yaml", include_str!("../../queries/users/tests/null_values.yaml")),
    (
        "queries/users/tests/out_of_order_across_batches.yaml",
        include_str!("../../queries/users/tests/out_of_order_across_batches.yaml"),
    ),
    (
        "queries/users/tests/out_of_order_in_batch.yaml",
        include_str!("../../queries/users/tests/out_of_order_in_batch.yaml"),
    ),
    ("queries/users/tests/schema_drift.yaml", include_str!("../../queries/users/tests/schema_drift.yaml")),
    ("queries/users/tests/skip_event.yaml", include_str!("../../queries/users/tests/skip_event.yaml")),
    (
        "queries/users/tests/value_does_not_fit_target.yaml",
        include_str!("../../queries/users/tests/value_does_not_fit_target.yaml"),
    ),
    ("queries/users/tests/what_stands.yaml", include_str!("../../queries/users/tests/what_stands.yaml")),
    ("schemas/users/1.json", include_str!("../../schemas/users/1.json")),
    // Named in the files above: editors complete and check by them.
    ("docs/json-schema/config.json", include_str!("../../docs/json-schema/config.json")),
    ("docs/json-schema/fixture.json", include_str!("../../docs/json-schema/fixture.json")),
    ("docs/json-schema/schema.json", include_str!("../../docs/json-schema/schema.json")),
];

/// Changes per second once the stream is over.
const TRICKLE: u64 = 20;
/// Records in the recording.
const RECORDED: usize = 2_000;

/// The folder, made if it isn't there; somebody's work is never written over.
pub(super) fn empty_folder(folder: &Path) -> Result<PathBuf> {
    std::fs::create_dir_all(folder).map_err(|error| unusable(folder).source(error))?;
    let mut entries = std::fs::read_dir(folder).map_err(|error| unusable(folder).source(error))?;
    if entries.next().is_some() {
        return Err(unusable(folder).remedy("it isn't empty: name another folder, or delete this one"));
    }
    folder.canonicalize().map_err(|error| unusable(folder).source(error))
}

fn unusable(folder: &Path) -> Error {
    Error::new(Kind::Config, format!("the folder {} can't be used", folder.display()))
}

/// A file that nobody else may read.
pub(super) fn write_secret(path: &Path, secret: &str) -> Result<()> {
    let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    written
        .and_then(|mut file| file.write_all(secret.as_bytes()))
        .map_err(|error| trouble(format!("cannot write {}", path.display())).source(error))
}

/// Records what was streamed, serves HTTP, and lets `more` trickle in until somebody ends it.
pub(super) async fn stay(
    folder: &Path,
    config: &Config,
    broker: &EmbeddedBroker,
    health: Vec<Health>,
    (streamed, more): (&[OwnedRecord], Records),
) -> Result<()> {
    let recording = folder.join("events.ndjson");
    let recorded = streamed.iter().take(RECORDED).cloned();
    File::create(&recording)
        .and_then(|file| write_ndjson(BufWriter::new(file), recorded))
        .map_err(|error| trouble(format!("cannot write {}", recording.display())).source(error))?;
    // What the service finds wrong with an edit is to be seen; a line per batch is not.
    telemetry::start(&Log { format: LogFormat::Text, level: LogLevel::Warn })?;
    let listener = tokio::net::TcpListener::bind(config.http.listen).await;
    let listener = listener.map_err(|error| trouble("no HTTP for the playground").source(error))?;
    let serving = tokio::spawn(http::serve(listener, health));
    say!("\nthe service runs on {} until Ctrl-C, {TRICKLE} changes a second. In another terminal:", folder.display());
    say!("  cd {} && afterimage status", folder.display());
    let more = more.mixed(Mix { unknown_field: 0.5, ..Mix::default() });
    tokio::select! {
        sent = broker.produce(TOPIC, more, TRICKLE) => drop(sent?),
        () = interrupted() => {}
    }
    serving.abort();
    Ok(())
}

/// Waits for Ctrl-C or SIGTERM. Where there are no signals, there is nothing to wait for either.
pub(super) async fn interrupted() {
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_is_shipped_is_in_the_folder() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut found = Vec::new();
        let mut open = ["queries", "schemas", "docs/json-schema"].map(|folder| root.join(folder)).to_vec();
        while let Some(folder) = open.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    open.push(path);
                } else {
                    found.push(path.strip_prefix(root).unwrap().to_string_lossy().into_owned());
                }
            }
        }
        found.sort();
        let mut shipped: Vec<&str> = SHIPPED.iter().map(|(file, _)| *file).collect();
        shipped.sort_unstable();
        assert_eq!(shipped, found);
    }

    #[test]
    fn somebodys_work_is_never_written_over() {
        let home = tempfile::tempdir().unwrap();
        assert!(empty_folder(&home.path().join("new")).is_ok());
        std::fs::write(home.path().join("mine"), "work").unwrap();
        assert_eq!(empty_folder(home.path()).unwrap_err().kind, Kind::Config);
    }
}
