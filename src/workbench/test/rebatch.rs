//! Other cuts of a case's events: whatever they are, table, tombstones, quarantine, evidence and sums must come to the same (P1).

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use super::super::fixture::bind::Bound;
use super::super::fixture::columns;
use super::super::{Bench, Tables};
use super::go;
use crate::record::OwnedRecord;

/// Random cuts besides the two extreme ones.
const RANDOM: usize = 4;

/// A cut that comes to something else than the one that is written.
#[derive(Debug, Clone)]
pub struct CutDiff {
    /// e.g. `one event per batch`.
    pub cut: String,
    /// Offsets of the batches, for who wants to write it down.
    pub batches: String,
    /// What is different, a line each.
    pub lines: Vec<String>,
}

/// The first other cut that comes to something else.
pub(super) async fn other_cuts(bench: &mut Bench, bound: &Bound, written: &Tables, seed: u64) -> Option<CutDiff> {
    let expected = lines(written, bound);
    for (cut, batches) in cuts(&bound.batches, seed) {
        let ran = go(bench, bound, &batches).await;
        let mut different = match &ran.error {
            Some(error) => vec![format!("the pipeline stops: {error}")],
            None => differences(&expected, &lines(&ran.tables, bound)),
        };
        if !different.is_empty() {
            let more = different.len().saturating_sub(10);
            different.truncate(10);
            if more > 0 {
                different.push(format!("and {more} more differences"));
            }
            return Some(CutDiff { cut, batches: shown(&batches), lines: different });
        }
    }
    None
}

/// Other cuts of the same records, each with its name. The order within each partition is kept.
fn cuts(written: &[Vec<OwnedRecord>], seed: u64) -> Vec<(String, Vec<Vec<OwnedRecord>>)> {
    let records: Vec<OwnedRecord> = written.iter().flatten().cloned().collect();
    let mut cuts = vec![
        ("one event per batch".to_owned(), records.iter().map(|record| vec![record.clone()]).collect()),
        ("all events in one batch".to_owned(), vec![records.clone()]),
    ];
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    for number in 1..=RANDOM {
        let records = interleaved(&records, &mut rng);
        let most = rng.random_range(1..=records.len().max(1));
        let mut batches: Vec<Vec<OwnedRecord>> = Vec::new();
        let mut room = 0;
        for record in records {
            if room == 0 {
                batches.push(Vec::new());
                room = rng.random_range(1..=most);
            }
            room -= 1;
            if let Some(batch) = batches.last_mut() {
                batch.push(record);
            }
        }
        cuts.push((format!("random cut {number} of seed {seed}"), batches));
    }
    cuts.retain(|(_, batches)| batches.as_slice() != written);
    cuts
}

/// The records in another order, each partition's kept.
fn interleaved(records: &[OwnedRecord], rng: &mut Xoshiro256PlusPlus) -> Vec<OwnedRecord> {
    let mut partitions: Vec<Vec<OwnedRecord>> = Vec::new();
    for record in records.iter().rev() {
        let own =
            partitions.iter_mut().find(|own| own.first().is_some_and(|other| other.partition == record.partition));
        match own {
            Some(own) => own.push(record.clone()),
            None => partitions.push(vec![record.clone()]),
        }
    }
    let mut order = Vec::with_capacity(records.len());
    while !partitions.is_empty() {
        let chosen = rng.random_range(0..partitions.len());
        let Some(own) = partitions.get_mut(chosen) else { break };
        order.extend(own.pop());
        if own.is_empty() {
            partitions.remove(chosen);
        }
    }
    order
}

/// All that may not depend on the cut, as `what` and its text.
fn lines(tables: &Tables, bound: &Bound) -> Vec<(String, String)> {
    let target = columns::columns_of(tables);
    let mut lines = Vec::new();
    for (key, row) in &tables.rows {
        let cells = target.iter().zip(&row.cells);
        let cells: Vec<String> =
            cells.map(|(column, cell)| format!("{}: {}", column.name, column.show(cell, bound.unit))).collect();
        let version = row.version;
        let version =
            format!("cdc_ts: {}, cdc_partition: {}, cdc_offset: {}", version.ts_ns, version.partition, version.offset);
        lines.push((format!("row {key}"), format!("{}, {version}", cells.join(", "))));
    }
    for (key, at) in tables.standing_tombstones() {
        lines.push((
            format!("tombstone {key}"),
            format!("of {} ns, partition {}, offset {}", at.ts_ns, at.partition, at.offset),
        ));
    }
    for (position, record) in &tables.quarantine {
        let why = record.why.as_ref();
        let (stage, reason) = (why.map_or("", |why| why.stage.name()), why.map_or("", |why| why.reason.as_str()));
        let keys = columns::keys_text(&record.keys, tables.key_len());
        lines.push((format!("quarantine {position}"), format!("{} {stage} {keys} {reason}", record.state())));
    }
    for ((position, key), late) in &tables.out_of_order {
        let known = late.known;
        let known = format!("{} ns, partition {}, offset {}", known.ts_ns, known.partition, known.offset);
        lines.push((format!("out of order {position} {key}"), format!("{} ns, behind {known}", late.ts_ns)));
    }
    for (partition, sums) in &tables.sums {
        let steady = columns::SUMS.iter().zip(columns::counts(sums)).take(columns::STEADY_SUMS);
        let counts: Vec<String> = steady.map(|(name, count)| format!("{name} {count}")).collect();
        lines.push((format!("sums of partition {partition}"), counts.join(", ")));
    }
    for (field, count) in &tables.unmapped {
        lines.push((format!("unmapped field {field}"), format!("{count} events")));
    }
    lines
}

fn differences(expected: &[(String, String)], found: &[(String, String)]) -> Vec<String> {
    let text = |lines: &[(String, String)], what: &str| {
        lines.iter().find(|(other, _)| other == what).map(|(_, text)| text.clone())
    };
    let mut different = Vec::new();
    for (what, text_expected) in expected {
        match text(found, what) {
            None => different.push(format!("{what}: missing; as written there is {text_expected}")),
            Some(there) if there != *text_expected => {
                different.push(format!("{what}: {there}; as written {text_expected}"));
            }
            Some(_) => {}
        }
    }
    let extra = found.iter().filter(|(what, _)| text(expected, what).is_none());
    different.extend(extra.map(|(what, there)| format!("{what}: {there}; as written there is none")));
    different
}

/// `0@0 0@1 | 0@2`: partition and offset of each record, batch by batch.
fn shown(batches: &[Vec<OwnedRecord>]) -> String {
    let batch = |batch: &Vec<OwnedRecord>| {
        let places: Vec<String> =
            batch.iter().map(|record| format!("{}@{}", record.partition, record.offset)).collect();
        places.join(" ")
    };
    batches.iter().map(batch).collect::<Vec<_>>().join(" | ")
}
