//! `docs/correctness.md` says what proves each promise and each row of the fault matrix; here it is made and compared.
//!
//! In: `// Proves: P1, R5` in front of tests, and `correctness/matrix.toml`. Out: the page, so that it can't go stale: a test that goes
//! away, or a row that nobody proves and nobody explains, fails here. To write the page anew: `UPDATE_DOCS=1 cargo test --test integration
//! correctness`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde::Deserialize;

const PAGE: &str = "docs/correctness.md";

const PROMISES: [&str; 6] = [
    "State: when the topic is drained, the table equals the fold of all events",
    "Atomicity: at every instant, the table equals the fold of exactly the offsets recorded as done",
    "Once: no offset range is applied twice, none is skipped",
    "Accounting: every record in one class, every change with one outcome, sums that balance",
    "Isolation: a bad record, user or pipeline never stops another; a sick database is never a bad record",
    "Nothing silent: what can't be kept is named, and stops what it must",
];

#[derive(Deserialize)]
struct Matrix {
    row: Vec<Row>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    fault: String,
    follows: String,
    /// Why no test proves it.
    untested: Option<String>,
    /// What of it no test proves.
    partly: Option<String>,
}

/// `P1` or `R5` to the tests that prove it, as `file: name`.
type Proofs = BTreeMap<(char, usize), Vec<String>>;

#[test]
fn the_page_says_what_the_tests_prove() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let matrix: Matrix = toml::from_str(include_str!("correctness/matrix.toml")).unwrap();
    let proofs = proofs(root);
    let mut faults: Vec<String> = Vec::new();
    for (number, row) in (1..).zip(&matrix.row) {
        match (proofs.contains_key(&('R', number)), &row.untested) {
            (false, None) => faults.push(format!("row {number} has no test and no reason: {}", row.fault)),
            (true, Some(_)) => faults.push(format!("row {number} has a test and a reason why it has none")),
            _ => {}
        }
    }
    faults.extend(proofs.keys().filter_map(|&(kind, number)| {
        let known = if kind == 'P' { PROMISES.len() } else { matrix.row.len() };
        (number == 0 || number > known).then(|| format!("{kind}{number} is proved, but there is no such thing"))
    }));
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    let page = page(&matrix, &proofs);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(root.join(PAGE), &page).unwrap();
    }
    let there = std::fs::read_to_string(root.join(PAGE)).unwrap_or_default();
    assert!(there == page, "{PAGE} is stale: UPDATE_DOCS=1 cargo test --test integration correctness");
}

fn page(matrix: &Matrix, proofs: &Proofs) -> String {
    let mut page = include_str!("correctness/head.md").to_owned();
    page.push_str("\n## Promises\n");
    for (number, promise) in (1..).zip(PROMISES) {
        let _ = writeln!(page, "\n**P{number} {promise}.**\n");
        for test in proofs.get(&('P', number)).into_iter().flatten() {
            let _ = writeln!(page, "- {test}");
        }
    }
    let proved = (1..=matrix.row.len()).filter(|number| proofs.contains_key(&('R', *number))).count();
    let _ = writeln!(
        page,
        "\n## Faults\n\n{} kinds of fault; {proved} are proved by tests, the others say why not.\n\n\
         | | What goes wrong | What must follow | Proved by |\n| --- | --- | --- | --- |",
        matrix.row.len()
    );
    for (number, row) in (1..).zip(&matrix.row) {
        let mut proof = proofs.get(&('R', number)).map(|tests| tests.join("<br>")).unwrap_or_default();
        if let Some(partly) = &row.partly {
            let _ = write!(proof, "<br>*Not proved: {partly}*");
        }
        if let Some(untested) = &row.untested {
            let _ = write!(proof, "*Not tested: {untested}*");
        }
        let _ = writeln!(page, "| {number} | {} | {} | {proof} |", row.fault, row.follows);
    }
    page
}

/// All markers of all tests.
fn proofs(root: &Path) -> Proofs {
    let mut proofs = Proofs::new();
    let mut files = Vec::new();
    sources(&root.join("src"), &mut files);
    sources(&root.join("tests"), &mut files);
    files.sort();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let place = file.strip_prefix(root).unwrap().display().to_string();
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        for (number, line) in lines.iter().enumerate() {
            let Some(tokens) = line.strip_prefix("// Proves: ") else { continue };
            let name = lines[number..].iter().find_map(|line| function(line));
            let name = name.unwrap_or_else(|| panic!("{place}:{}: a proof without a test", number + 1));
            for token in tokens.split(", ") {
                let (kind, index) = token.split_at(1);
                let index = index.parse().unwrap_or_else(|_| panic!("{place}:{}: {token:?} is no P or R", number + 1));
                let kind = kind.chars().next().filter(|kind| "PR".contains(*kind));
                let kind = kind.unwrap_or_else(|| panic!("{place}:{}: {token:?} is no P or R", number + 1));
                proofs.entry((kind, index)).or_default().push(format!("`{place}`: {}", name.replace('_', " ")));
            }
        }
    }
    proofs
}

/// The name of the function that a line begins, if it begins one.
fn function(line: &str) -> Option<&str> {
    let line = line.strip_prefix("pub ").unwrap_or(line);
    let line = line.strip_prefix("async ").unwrap_or(line);
    line.strip_prefix("fn ")?.split(['(', '<']).next()
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}
