//! Faults for code scanners and CI: SARIF 2.1.0, and GitHub's workflow commands.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::{Component, Path};

use serde_json::{Value, json};

use super::render::{printable, sorted};
use super::{Diagnostic, Severity, codes};

/// What URIs in a report are relative to; the reader of the report says where that is.
const BASE: &str = "%SRCROOT%";

/// Writes `faults` as one SARIF log. Files beneath `root` are named relative to it.
pub fn render_sarif(faults: &[Diagnostic], root: &Path, out: &mut impl Write) -> io::Result<()> {
    let index: BTreeMap<&str, usize> = codes::all().enumerate().map(|(index, code)| (code.code, index)).collect();
    let results: Vec<Value> = sorted(faults).into_iter().map(|fault| result(fault, &index, root)).collect();
    let log = json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "afterimage",
                "semanticVersion": env!("CARGO_PKG_VERSION"),
                "rules": codes::all().map(rule).collect::<Vec<_>>(),
            } },
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    });
    serde_json::to_writer_pretty(&mut *out, &log)?;
    writeln!(out)
}

fn rule(code: &codes::Code) -> Value {
    let warning = code.title.starts_with("warning: ");
    json!({
        "id": code.code,
        "shortDescription": { "text": code.title },
        "fullDescription": { "text": code.why },
        "help": { "text": codes::page(code) },
        "defaultConfiguration": { "level": if warning { "warning" } else { "error" } },
    })
}

fn result(fault: &Diagnostic, index: &BTreeMap<&str, usize>, root: &Path) -> Value {
    let mut result = json!({
        "ruleId": fault.code,
        "level": level(fault.severity),
        "message": { "text": with_help(fault) },
    });
    if let Some(index) = index.get(fault.code) {
        result["ruleIndex"] = json!(index);
    }
    if let Some(file) = &fault.file {
        let mut location = json!({ "artifactLocation": artifact(file, root) });
        if let Some(span) = fault.span {
            location["region"] = json!({
                "startLine": span.line,
                "startColumn": span.column,
                "endLine": span.end_line,
                "endColumn": span.end_column,
            });
        }
        result["locations"] = json!([{ "physicalLocation": location }]);
    }
    result
}

fn level(severity: Severity) -> &'static str {
    match severity {
        Severity::Warning => "warning",
        Severity::Error => "error",
    }
}

fn with_help(fault: &Diagnostic) -> String {
    match &fault.help {
        Some(help) => format!("{}\n{help}", fault.message),
        None => fault.message.clone(),
    }
}

fn artifact(file: &Path, root: &Path) -> Value {
    match relative(file, root) {
        Some(path) => json!({ "uri": uri(&path), "uriBaseId": BASE }),
        None => json!({ "uri": format!("file://{}", uri(&file.to_string_lossy())) }),
    }
}

/// `file` as seen from `root`, with `.` and `..` worked out; `None` where it lies elsewhere.
fn relative(file: &Path, root: &Path) -> Option<String> {
    let inside = if file.is_absolute() { file.strip_prefix(root).ok()? } else { file };
    let mut parts: Vec<String> = Vec::new();
    for part in inside.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                parts.pop()?;
            }
            part => parts.push(part.as_os_str().to_string_lossy().into_owned()),
        }
    }
    Some(parts.join("/"))
}

/// A path as part of a URI.
fn uri(path: &str) -> String {
    let mut uri = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            uri.push(char::from(byte));
        } else {
            // Writing to a String can't fail.
            let _ = write!(uri, "%{byte:02X}");
        }
    }
    uri
}

/// Writes `faults` as commands that GitHub's runners show beside the lines they are about.
pub fn render_github(faults: &[Diagnostic], root: &Path, out: &mut impl Write) -> io::Result<()> {
    for fault in sorted(faults) {
        let mut properties = format!("title={}", fault.code);
        if let Some(file) = &fault.file {
            let path = relative(file, root).unwrap_or_else(|| file.display().to_string());
            let _ = write!(properties, ",file={}", escaped(&path).replace(',', "%2C").replace(':', "%3A"));
        }
        if let Some(span) = fault.span {
            let _ = write!(properties, ",line={},endLine={},col={}", span.line, span.end_line, span.column);
        }
        writeln!(out, "::{} {properties}::{}", level(fault.severity), escaped(&with_help(fault)))?;
    }
    Ok(())
}

fn escaped(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(|line| printable(line).replace('%', "%25")).collect();
    lines.join("%0A")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostic::Span;

    fn faults() -> Vec<Diagnostic> {
        let span = Some(Span { line: 2, column: 3, end_line: 2, end_column: 8 });
        vec![
            Diagnostic::error("AI0109", "100% unknown\ncolumn").file("./queries/a b/ü.sql").span(span).help("name it"),
            Diagnostic::warning("AI0125", "nobody reads it").file("/work/queries/x.sql"),
            Diagnostic::error("AI0401", "the brokers don't answer").file("/elsewhere/afterimage.toml"),
            Diagnostic::error("AI0403", "MySQL doesn't answer"),
        ]
    }

    #[test]
    fn a_log_has_what_sarif_asks_for() {
        let mut out = Vec::new();
        render_sarif(&faults(), Path::new("/work"), &mut out).unwrap();
        let log: Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(log["version"], "2.1.0");
        let run = &log["runs"][0];
        let rules = run["tool"]["driver"]["rules"].as_array().unwrap();
        assert_eq!(rules.len(), codes::all().count());
        assert_eq!(run["columnKind"], "unicodeCodePoints");
        let results = run["results"].as_array().unwrap();
        assert_eq!(results.len(), 4);
        for result in results {
            let rule = &rules[result["ruleIndex"].as_u64().unwrap() as usize];
            assert_eq!(rule["id"], result["ruleId"]);
            for text in [&rule["shortDescription"]["text"], &rule["help"]["text"], &result["message"]["text"]] {
                assert!(text.as_str().is_some_and(|text| !text.is_empty()), "{result}");
            }
            assert!(["error", "warning"].contains(&result["level"].as_str().unwrap()));
        }
        let named = |code: &str| results.iter().find(|result| result["ruleId"] == code).unwrap();
        let place = &named("AI0109")["locations"][0]["physicalLocation"];
        assert_eq!(place["artifactLocation"], json!({ "uri": "queries/a%20b/%C3%BC.sql", "uriBaseId": "%SRCROOT%" }));
        assert_eq!(place["region"], json!({ "startLine": 2, "startColumn": 3, "endLine": 2, "endColumn": 8 }));
        let place = |code: &str| named(code)["locations"][0]["physicalLocation"]["artifactLocation"].clone();
        assert_eq!(place("AI0125")["uri"], "queries/x.sql");
        assert_eq!(place("AI0401")["uri"], "file:///elsewhere/afterimage.toml");
        assert!(named("AI0403").get("locations").is_none());
    }

    #[test]
    fn a_workflow_command_is_one_line_whatever_the_text() {
        let mut out = Vec::new();
        render_github(&faults(), Path::new("/work"), &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let line =
            "::error title=AI0109,file=queries/a b/ü.sql,line=2,endLine=2,col=3::100%25 unknown%0Acolumn%0Aname it";
        assert!(text.lines().any(|found| found == line), "{text}");
        assert_eq!(text.lines().count(), 4);
    }
}
