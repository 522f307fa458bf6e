//! Every code of a fault: what it means, why it is one, an example, and what to do. `check --explain` and the tables in docs/
//! are made from here.
//!
//! Tests hold the table to the source (no code without an entry, no entry without a code) and run the examples: a faulty one yields
//! its code, a mended one doesn't.

use std::fmt::Write;

mod config;
mod fixtures;
mod lookups;
mod models;
mod schemas;
mod servers;

#[cfg(test)]
mod tests;

/// What is to be known of one code.
#[derive(Debug)]
pub struct Code {
    /// Such as `AI0103`; never given again.
    pub code: &'static str,
    /// What is wrong, as a row of a table says it.
    pub title: &'static str,
    /// What would happen if it weren't refused.
    pub why: &'static str,
    pub example: Example,
    /// What to do, as a row of a table says it.
    pub fix: &'static str,
}

/// A file with the fault in it, and the same without. Files are those of the shipped pipeline; of `afterimage.toml` only the
/// sections that matter are shown. An empty text stands for a file that isn't there.
#[derive(Debug)]
pub struct Example {
    pub file: &'static str,
    pub wrong: &'static str,
    pub right: &'static str,
}

const fn code(
    code: &'static str,
    title: &'static str,
    why: &'static str,
    file: &'static str,
    [wrong, right]: [&'static str; 2],
    fix: &'static str,
) -> Code {
    Code { code, title, why, example: Example { file, wrong, right }, fix }
}

const CONFIG: &str = "afterimage.toml";

/// Groups of codes with their headings.
pub static GROUPS: [(&str, &[Code]); 6] = [
    ("config", config::CODES),
    ("models", models::CODES),
    ("schema files", schemas::CODES),
    ("lookups", lookups::CODES),
    ("servers", servers::CODES),
    ("test cases", fixtures::CODES),
];

/// All codes in order.
pub fn all() -> impl Iterator<Item = &'static Code> {
    GROUPS.iter().flat_map(|(_, codes)| codes.iter())
}

/// The code that `name` means: in any case, and with or without what stands before the number. Otherwise the one that may be meant.
pub fn find(name: &str) -> Result<&'static Code, Option<&'static str>> {
    let name = name.trim();
    if let Some(found) = all().find(|code| code.code.eq_ignore_ascii_case(name)) {
        return Ok(found);
    }
    let digits: String = name.chars().filter(char::is_ascii_digit).collect();
    let padded = format!("AI{digits:0>4}");
    let same_number = all().map(|code| code.code).find(|code| *code == padded);
    Err(same_number.or_else(|| super::did_you_mean(name, all().map(|code| code.code))))
}

/// The page that `check --explain AI0103` shows.
pub fn page(code: &Code) -> String {
    let mut page = format!("{}: {}\n\n{}\n", code.code, code.title, wrapped(code.why));
    let Example { file, wrong, right } = code.example;
    // Writing to a String can't fail.
    let _ = match wrong {
        "" => writeln!(page, "\nFor example, {file} isn't there."),
        _ => writeln!(page, "\nFor example, {file}:\n\n{}", indented(wrong)),
    };
    if !right.is_empty() {
        let _ = writeln!(page, "\nRight would be:\n\n{}", indented(right));
    }
    let _ = writeln!(page, "\n{}", wrapped(&format!("What to do: {}", code.fix)));
    page
}

/// One line per code, by group: what `check --explain` shows without a code.
pub fn list() -> String {
    let mut list = String::new();
    for (group, codes) in GROUPS {
        let _ = writeln!(list, "{group}");
        for code in codes {
            let _ = writeln!(list, "  {}  {}", code.code, code.title);
        }
    }
    list
}

/// Rows of a table in Markdown, for the codes that `wanted` says.
pub fn markdown(wanted: impl Fn(&Code) -> bool) -> String {
    let mut table = "| Code | What | What to do |\n| --- | --- | --- |\n".to_owned();
    for code in all().filter(|code| wanted(code)) {
        let _ = writeln!(table, "| {} | {} | {} |", code.code, code.title, code.fix);
    }
    table
}

/// Where lines of `--explain` end.
const WIDTH: usize = 100;

fn wrapped(text: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.chars().count() + 1 + word.chars().count() <= WIDTH => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines.join("\n")
}

fn indented(text: &str) -> String {
    let lines = text.trim_end().lines();
    lines.map(|line| format!("    {line}").trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}
