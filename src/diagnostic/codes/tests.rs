//! The table of codes against the source, the docs and itself: its examples are run.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::*;
use crate::diagnostic::{Diagnostic, Severity};

/// Codes whose fault needs a server, a running service, a process without threads or two files; the tests of those places yield them.
const NOT_OFFLINE: [&str; 9] =
    ["AI0121", "AI0123", "AI0126", "AI0221", "AI0224", "AI0225", "AI0306", "AI0400", "AI0517"];

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every code in the source outside of tests and of this table.
fn emitted(dir: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let shown = path.display().to_string();
        if shown.contains("/tests") || shown.contains("diagnostic/codes") {
            continue;
        }
        if path.is_dir() {
            emitted(&path, found);
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        for (at, _) in code.match_indices("\"AI") {
            let name = &code[at + 1..code.len().min(at + 7)];
            let ends = code[at + 1 + name.len()..].starts_with('"');
            if ends && name.len() == 6 && name[2..].bytes().all(|byte| byte.is_ascii_digit()) {
                found.insert(name.to_owned());
            }
        }
    }
}

#[test]
fn each_code_of_the_source_is_explained_and_no_other() {
    let mut source = BTreeSet::new();
    emitted(&repository().join("src"), &mut source);
    assert!(source.len() > 50, "{source:?}");
    let table: BTreeSet<String> = all().map(|code| code.code.to_owned()).collect();
    let unexplained: Vec<_> = source.difference(&table).collect();
    let gone: Vec<_> = table.difference(&source).collect();
    assert!(unexplained.is_empty(), "add these to src/diagnostic/codes/: {unexplained:?}");
    assert!(gone.is_empty(), "nothing yields these any more: {gone:?}");
}

#[test]
fn codes_are_in_order_each_once_and_say_something() {
    let codes: Vec<&str> = all().map(|code| code.code).collect();
    assert!(codes.is_sorted() && codes.windows(2).all(|pair| pair[0] != pair[1]), "{codes:?}");
    for code in all() {
        assert!(!code.title.is_empty() && !code.why.is_empty() && !code.fix.is_empty(), "{code:?}");
        assert!(!code.title.contains('|') && !code.fix.contains('|'), "{code:?}: a bar breaks the table in the docs");
        assert!(code.why.ends_with('.') && !code.title.ends_with('.') && !code.fix.ends_with('.'), "{code:?}");
    }
}

#[test]
fn a_code_is_found_in_any_spelling_or_the_one_meant_is_named() {
    assert_eq!(find("ai0118").unwrap().code, "AI0118");
    assert_eq!(find(" AI0118 ").unwrap().code, "AI0118");
    assert_eq!(find("118").unwrap_err(), Some("AI0118"));
    assert_eq!(find("AL0118").unwrap_err(), Some("AI0118"));
    assert_eq!(find("everything").unwrap_err(), None);
}

#[test]
fn pages_fit_a_terminal() {
    for code in all() {
        let page = page(code);
        let prose = page.lines().skip(1).filter(|line| !line.starts_with("    "));
        assert!(prose.clone().all(|line| line.chars().count() <= WIDTH), "{page}");
        assert!(page.contains(code.code) && page.contains("What to do: "), "{page}");
    }
    assert_eq!(list().lines().filter(|line| line.contains("AI")).count(), all().count());
}

/// A copy of the shipped pipeline with `text` for `file`; an empty text takes the file away.
fn workspace(file: &str, text: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for part in ["queries/users", "queries/users/lookups", "schemas/users"] {
        std::fs::create_dir_all(dir.path().join(part)).unwrap();
        for entry in std::fs::read_dir(repository().join(part)).unwrap() {
            let from = entry.unwrap().path();
            if from.is_file() {
                std::fs::copy(&from, dir.path().join(part).join(from.file_name().unwrap())).unwrap();
            }
        }
    }
    let shipped = std::fs::read_to_string(repository().join("docs/afterimage.toml")).unwrap();
    let shipped = shipped.replace("app:${MYSQL_PASSWORD}", "app");
    let config = if file == CONFIG { with_sections(&shipped, text) } else { shipped };
    std::fs::write(dir.path().join(CONFIG), config).unwrap();
    let path = dir.path().join(file);
    match text {
        "" if path.exists() => std::fs::remove_file(path).unwrap(),
        "" => {}
        _ if file == CONFIG => {}
        _ => {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
    }
    dir
}

/// `config` with those of its sections replaced that `sections` has, and its others added.
fn with_sections(config: &str, sections: &str) -> String {
    let heads: Vec<&str> = sections.lines().filter(|line| line.starts_with('[')).collect();
    let mut kept = String::new();
    let mut replaced = false;
    for line in config.lines() {
        if line.starts_with('[') {
            replaced = heads.iter().any(|head| line.trim_end_matches(']') == head.trim_end_matches(']'));
        }
        if !replaced {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    format!("{kept}\n{sections}")
}

async fn faults(file: &str, text: &str) -> Vec<Diagnostic> {
    let dir = workspace(file, text);
    let report = crate::check::files(&dir.path().join(CONFIG), &|_| None).await;
    report.faults
}

#[tokio::test]
async fn an_example_yields_its_code_and_the_mended_one_has_no_fault() {
    let mut wrong_examples = Vec::new();
    let offline = all().filter(|code| !code.code.starts_with("AI04"));
    for code in offline.filter(|code| !NOT_OFFLINE.contains(&code.code)) {
        let Example { file, wrong, right } = code.example;
        let found = faults(file, wrong).await;
        let severities: Vec<Severity> =
            found.iter().filter(|fault| fault.code == code.code).map(|fault| fault.severity).collect();
        let warns = code.title.starts_with("warning: ");
        if severities.is_empty() || (warns && severities.contains(&Severity::Error)) {
            wrong_examples.push(format!("{}: {found:#?}", code.code));
        }
        let found = faults(file, right).await;
        if (!right.is_empty() || ![CONFIG, "queries/users/enriched.sql"].contains(&file)) && !found.is_empty() {
            wrong_examples.push(format!("{}, mended: {found:#?}", code.code));
        }
    }
    assert!(wrong_examples.is_empty(), "{}", wrong_examples.join("\n"));
}

const BEGIN: &str = "<!-- begin: from src/diagnostic/codes -->\n";
const END: &str = "<!-- end -->";

#[test]
fn the_docs_list_every_code() {
    let pages: [(&str, &[&str]); 3] = [
        ("docs/config.md", &["AI00"]),
        ("docs/sql-reference.md", &["AI01", "AI02", "AI03", "AI05"]),
        ("docs/operations.md", &["AI04"]),
    ];
    for (name, hundreds) in pages {
        let path = repository().join(name);
        let page = std::fs::read_to_string(&path).unwrap();
        let (before, rest) = page.split_once(BEGIN).unwrap_or_else(|| panic!("{name} has no {BEGIN}"));
        let (_, after) = rest.split_once(END).unwrap();
        let table = markdown(|code| hundreds.iter().any(|hundred| code.code.starts_with(hundred)));
        let expected = format!("{before}{BEGIN}\n{table}\n{END}{after}");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(&path, &expected).unwrap();
        } else {
            assert!(page == expected, "{name}: run this test with UPDATE_DOCS=1");
        }
    }
    let listed = pages.iter().flat_map(|(_, hundreds)| hundreds.iter());
    assert!(all().all(|code| listed.clone().any(|hundred| code.code.starts_with(hundred))));
}
