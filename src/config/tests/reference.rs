//! docs/config.md and the table of keys say the same. `UPDATE_DOCS=1` rewrites the page's tables.

use std::fmt::Write;
use std::path::Path;

use crate::config::kafka::REFUSED;
use crate::config::keys::{Absent, Key, Kind, SECTIONS};

const BEGIN: &str = "<!-- begin: from src/config/keys.rs -->\n";
const END: &str = "<!-- end -->";

#[test]
fn the_docs_list_every_key() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/config.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(BEGIN).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    let expected = format!("{before}{BEGIN}{}{END}{after}", reference());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &expected).unwrap();
    }
    assert!(page == expected || std::env::var_os("UPDATE_DOCS").is_some(), "run this test with UPDATE_DOCS=1");
}

fn reference() -> String {
    let mut page = String::new();
    for section in SECTIONS {
        let path = section.path.replacen('*', "<name>", 1).replacen('*', "<lookup>", 1);
        writeln!(page, "\n### `[{path}]`\n\n{}", section.doc).unwrap();
        if !section.keys.is_empty() {
            writeln!(page, "\n| Key | Value | Default | Meaning |\n| --- | --- | --- | --- |").unwrap();
        }
        for key in section.keys {
            writeln!(page, "| `{}` | {} | {} | {} |", key.name, value(key), default(key), key.doc).unwrap();
        }
    }
    writeln!(page, "\n### Kafka properties that cannot be set\n\n| Property | Reason |\n| --- | --- |").unwrap();
    for (name, reason) in REFUSED {
        writeln!(page, "| `{name}` | {reason} |").unwrap();
    }
    writeln!(page, "| `group.protocol` | only `classic` is supported for now |").unwrap();
    page.push('\n');
    page
}

fn value(key: &Key) -> String {
    match key.kind {
        Kind::Text => "text".to_owned(),
        Kind::Path => "path".to_owned(),
        Kind::Flag => "`true` or `false`".to_owned(),
        Kind::Count { min, max } => format!("whole number, {min} to {max}"),
        Kind::Duration { min, max } => format!("duration, {min} to {max}"),
        Kind::Size { min, max } => format!("size, {min} to {max}"),
        Kind::Share => "share, 0% to 100%".to_owned(),
        Kind::Choice(choices) => {
            let choices: Vec<String> = choices.iter().map(|choice| format!("`{choice}`")).collect();
            choices.join(", ")
        }
        Kind::Columns => "list of columns".to_owned(),
    }
}

fn default(key: &Key) -> String {
    match (key.absent, key.kind) {
        (Absent::Refused, _) => "required".to_owned(),
        (Absent::Means(text), _) => text.to_owned(),
        (Absent::Default(text), Kind::Flag | Kind::Count { .. }) => format!("`{text}`"),
        (Absent::Default(text), _) => format!("`\"{text}\"`"),
    }
}
