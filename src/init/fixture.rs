//! The new pipeline's first case of `afterimage test`: some of the sample, and what it comes to.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use super::EDITOR_FOLDER;
use crate::config::Config;
use crate::editor::FileKind;
use crate::record::OwnedRecord;
use crate::workbench::test::{self, CaseReport, Options, update};

/// Events of the sample that are taken: enough to show how a case is written.
const EVENTS: usize = 8;

/// The case with nothing expected yet; `None` where no event of the sample can be written down.
pub(super) fn blank(records: &[OwnedRecord]) -> Option<String> {
    let texts = records.iter().filter_map(|record| String::from_utf8(record.value.clone()?).ok());
    let events: Vec<String> = texts.filter(|text| !text.trim().is_empty()).take(EVENTS).collect();
    if events.is_empty() {
        return None;
    }
    let mut text =
        format!("# yaml-language-server: $schema=../../../{EDITOR_FOLDER}/{}\n", FileKind::Fixture.file_name());
    text.push_str(
        "about: >-\n  The first events of the sample, and what they make of an empty table. After a change that is meant,\n  \
         `afterimage test --update` writes the new expectations.\n\ngiven:\n  events:\n",
    );
    for event in events {
        // Writing to a String can't fail.
        let _ = writeln!(text, "    - {}", scalar(event.trim()));
    }
    text.push_str("\nexpect:\n  table: []\n  tombstones: []\n  quarantine: []\n");
    Some(text)
}

/// The text as YAML writes it: in single quotes, in which nothing but they themselves means anything, where it can be seen.
fn scalar(text: &str) -> String {
    let unseen = |letter: char| {
        letter.is_control()
            || matches!(letter, '\u{85}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
    };
    if !text.chars().any(unseen) {
        return format!("'{}'", text.replace('\'', "''"));
    }
    let mut quoted = String::from("\"");
    for letter in text.chars() {
        let _ = match letter {
            '"' | '\\' => write!(quoted, "\\{letter}"),
            letter if unseen(letter) => write!(quoted, "\\u{:04x}", u32::from(letter)),
            letter => write!(quoted, "{letter}"),
        };
    }
    quoted.push('"');
    quoted
}

/// Fills in what the case at `file` comes to, with the pipeline of the config at `path`; `None` where that doesn't come to a case that
/// passes.
pub(super) async fn filled(path: &Path, file: &Path) -> Option<String> {
    let (config, _) = Config::load(path, &|_| None).ok()?;
    let pipeline = config.pipelines.values().next()?;
    let none = BTreeMap::new();
    let report = test::run(pipeline, &none, &Options::default()).await;
    let cases: Vec<&CaseReport> = report.cases.iter().collect();
    update::rewrite(file, &cases).ok()?;
    let again = test::run(pipeline, &none, &Options { rebatch: Some(1), ..Options::default() }).await;
    if again.cases.is_empty() || !again.good() {
        return None;
    }
    std::fs::read_to_string(file).ok()
}
