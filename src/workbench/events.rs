//! Where events to try come from: a file, standard input, or what stands in the pipeline's topic.
//!
//! In: what the command line names. Out: records with their places, in the order in which they are to be worked on. A topic is only
//! read: no group is joined and nothing is committed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::units;
use crate::config::{Config, Pipeline, TimestampUnit};
use crate::error::Result;
use crate::generate::read_placed_events;
use crate::position::Partition;
use crate::record::OwnedRecord;
use crate::source::window::{self, Place, Span, Window};

/// Which events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Events {
    /// One JSON object per line; `-` is standard input.
    File(PathBuf),
    /// The pipeline's topic; all partitions where none is named.
    Topic { span: Span, partitions: Vec<Partition> },
}

/// Events, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    pub records: Vec<OwnedRecord>,
    /// Partitions of which no record came with an offset: those that it has were made up, and count from 0.
    pub unplaced: BTreeSet<Partition>,
}

impl Read {
    /// Puts the records that have no place of their own behind what was read of their partition.
    pub fn place_behind(&mut self, next_offset: impl Fn(Partition) -> i64) {
        for record in self.records.iter_mut().filter(|record| self.unplaced.contains(&record.partition)) {
            record.offset = record.offset.saturating_add(next_offset(record.partition));
        }
    }
}

impl Events {
    /// Reads them.
    ///
    /// # Errors
    /// For a file that can't be read, with the line, and for a topic that can't be read or has no such place.
    pub async fn read(&self, config: &Config, pipeline: &Pipeline) -> Result<Read> {
        match self {
            Self::File(path) => {
                let standard_input = path.as_path() == Path::new("-");
                let path = if standard_input { Path::new("/dev/stdin") } else { path };
                let read = read_placed_events(path, ticks_per_second(pipeline.timestamp_unit))?;
                let mut unplaced: BTreeSet<Partition> = read.iter().map(|(record, _)| record.partition).collect();
                for (record, _) in read.iter().filter(|(_, placed)| *placed) {
                    unplaced.remove(&record.partition);
                }
                Ok(Read { records: read.into_iter().map(|(record, _)| record).collect(), unplaced })
            }
            Self::Topic { span, partitions } => {
                let window = Window {
                    brokers: config.kafka.brokers.clone(),
                    properties: config.kafka.properties.expose().clone(),
                    group: pipeline.group.clone(),
                    topic: pipeline.topic.clone(),
                    partitions: partitions.clone(),
                    span: *span,
                };
                Ok(Read { records: window::read(window).await?, unplaced: BTreeSet::new() })
            }
        }
    }

    /// As people call them.
    pub fn describe(&self, pipeline: &Pipeline) -> String {
        match self {
            Self::File(path) if path.as_path() == Path::new("-") => "standard input".to_owned(),
            Self::File(path) => path.display().to_string(),
            Self::Topic { .. } => format!("topic {}", pipeline.topic),
        }
    }
}

fn ticks_per_second(unit: TimestampUnit) -> i64 {
    match unit {
        TimestampUnit::Second => 1,
        TimestampUnit::Millisecond => 1_000,
        TimestampUnit::Microsecond => 1_000_000,
        TimestampUnit::Nanosecond => 1_000_000_000,
    }
}

/// A place in a topic as people write it: an offset (`1200`), a time (`2024-05-01T12:00:00Z`), or how long ago (`90m`).
///
/// # Errors
/// A sentence that says which forms there are.
pub fn place(text: &str) -> Result<Place, String> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().map(Place::Offset).map_err(|_| format!("{text} is too large for an offset"));
    }
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Ok(Place::Time(time.as_millisecond()));
    }
    match units::duration(text) {
        Ok(ago) => Ok(Place::Time(before_now(ago))),
        Err(_) => Err("write an offset (1200), a time (2024-05-01T12:00:00Z) or how long ago (90m)".to_owned()),
    }
}

fn before_now(ago: Duration) -> i64 {
    let now = jiff::Timestamp::now().as_millisecond();
    now.saturating_sub(i64::try_from(ago.as_millis()).unwrap_or(i64::MAX)).max(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_without_a_place_go_behind_what_was_read() {
        let record = |partition, offset| OwnedRecord { partition, offset, timestamp_ms: None, key: None, value: None };
        let mut read = Read { records: vec![record(0, 0), record(1, 5), record(0, 1)], unplaced: [0].into() };
        read.place_behind(|_| 100);
        let offsets: Vec<i64> = read.records.iter().map(|record| record.offset).collect();
        assert_eq!(offsets, [100, 5, 101]);
    }

    #[test]
    fn a_place_is_an_offset_a_time_or_how_long_ago() {
        assert_eq!(place("1200"), Ok(Place::Offset(1200)));
        assert_eq!(place("2023-11-14T22:13:20Z"), Ok(Place::Time(1_700_000_000_000)));
        let Ok(Place::Time(ago)) = place("90m") else { panic!("90m is a time") };
        let now = jiff::Timestamp::now().as_millisecond();
        assert!((now - ago - 90 * 60_000).abs() < 60_000, "{ago}");
        for text in ["", "yesterday", "-1", "2024-05-01", "99999999999999999999", "5"] {
            assert_eq!(place(text).is_ok(), text == "5", "{text}");
        }
    }
}
