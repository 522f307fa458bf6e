//! Everything that fuzzing found worth keeping, and every input that once broke something, through the targets again.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::support::targets;
use crate::support::world::repository;

fn files(target: &str) -> Vec<PathBuf> {
    let folder = repository("tests/corpus").join(target);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// Runs a target over its corpus; the test's output names the last file that was begun.
fn replay(target: &str) {
    let run = targets::named(target).unwrap();
    let files = files(target);
    assert!(files.len() >= 5, "{target}: only {} files", files.len());
    for file in files {
        let data = std::fs::read(&file).unwrap();
        println!("{}", file.display());
        let started = Instant::now();
        run(&data);
        let took = started.elapsed();
        assert!(took < Duration::from_secs(20), "{} took {took:?}", file.display());
    }
}

// Proves: R62
#[test]
fn configs_are_read_or_refused_with_a_reason() {
    replay("config");
}

// Proves: P4, P5, R35
#[test]
fn decoder_and_fold_agree_about_every_payload() {
    replay("decode");
}

#[test]
fn files_of_events_survive_being_written_and_read() {
    replay("events");
}

#[test]
fn fixtures_run_or_are_refused_with_a_reason_and_update_makes_them_pass() {
    replay("fixture");
}

#[test]
fn lookup_files_are_read_or_refused_with_a_reason() {
    replay("lookup");
}

#[test]
fn models_run_or_are_refused_with_a_reason() {
    replay("models");
}

#[test]
fn records_of_lookups_are_taken_or_refused_and_harm_no_neighbour() {
    replay("records");
}

#[test]
fn schema_files_are_read_or_refused_with_a_reason() {
    replay("schema");
}

#[test]
fn every_target_has_a_test_and_the_corpus_stays_small() {
    let names: Vec<&str> = targets::ALL.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["config", "decode", "events", "fixture", "lookup", "models", "records", "schema"]);
    let sizes = names.iter().flat_map(|name| files(name)).map(|file| file.metadata().unwrap().len());
    let bytes: u64 = sizes.sum();
    assert!(bytes < 1 << 20, "{bytes} bytes");
}
