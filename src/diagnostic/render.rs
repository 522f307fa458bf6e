//! Faults as people and programs read them.
//!
//! Lines of the faulty files are quoted, but never a secret in them: passwords in URLs and values of keys that look like
//! secrets are starred out, as is everything inside a TOML text of several lines.

use std::collections::HashMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{Diagnostic, Severity, Span, did_you_mean};

/// Writes `faults` by file and line, each with the line it is about, then a line that counts them. Nothing for none.
pub fn render(faults: &[Diagnostic], out: &mut impl Write, color: bool) -> io::Result<()> {
    if faults.is_empty() {
        return Ok(());
    }
    let mut sources = Sources::default();
    for fault in sorted(faults) {
        render_one(fault, sources.lines(fault.file.as_deref()), out, Paint(color))?;
        writeln!(out)?;
    }
    writeln!(out, "{}", summary(faults))
}

/// Writes `faults` as one JSON object: `faults`, ordered as in [`render`], and how many `errors` and `warnings` there are.
pub fn render_json(faults: &[Diagnostic], out: &mut impl Write) -> io::Result<()> {
    report_json(faults, &[], out)
}

/// As [`render_json`], with what was `skipped`.
pub fn report_json(faults: &[Diagnostic], skipped: &[String], out: &mut impl Write) -> io::Result<()> {
    let (errors, warnings) = counts(faults);
    let faults: Vec<Value> = sorted(faults).into_iter().map(to_json).collect();
    let document = json!({ "faults": faults, "errors": errors, "warnings": warnings, "skipped": skipped });
    serde_json::to_writer_pretty(&mut *out, &document)?;
    writeln!(out)
}

/// `3 errors, 1 warning`.
pub fn summary(faults: &[Diagnostic]) -> String {
    let (errors, warnings) = counts(faults);
    let counted = |count: usize, noun: &str| match count {
        0 => None,
        1 => Some(format!("1 {noun}")),
        _ => Some(format!("{count} {noun}s")),
    };
    let parts: Vec<String> = [counted(errors, "error"), counted(warnings, "warning")].into_iter().flatten().collect();
    if parts.is_empty() { "no faults".to_owned() } else { parts.join(", ") }
}

fn counts(faults: &[Diagnostic]) -> (usize, usize) {
    let errors = faults.iter().filter(|fault| fault.severity == Severity::Error).count();
    (errors, faults.len() - errors)
}

/// By file, line and column; errors before warnings of the same place.
pub(super) fn sorted(faults: &[Diagnostic]) -> Vec<&Diagnostic> {
    let mut sorted: Vec<&Diagnostic> = faults.iter().collect();
    sorted.sort_by(|left, right| {
        let place = |fault: &Diagnostic| (fault.file.clone(), fault.span);
        place(left).cmp(&place(right)).then(right.severity.cmp(&left.severity))
    });
    sorted
}

fn to_json(fault: &Diagnostic) -> Value {
    json!({
        "code": fault.code,
        "severity": severity_name(fault.severity),
        "message": fault.message,
        "help": fault.help,
        "file": fault.file.as_ref().map(|file| file.display().to_string()),
        "line": fault.span.map(|span| span.line),
        "column": fault.span.map(|span| span.column),
        "end_line": fault.span.map(|span| span.end_line),
        "end_column": fault.span.map(|span| span.end_column),
    })
}

fn severity_name(severity: Severity) -> &'static str {
    match severity {
        Severity::Warning => "warning",
        Severity::Error => "error",
    }
}

fn render_one(fault: &Diagnostic, lines: &[String], out: &mut impl Write, paint: Paint) -> io::Result<()> {
    let color = match fault.severity {
        Severity::Error => RED,
        Severity::Warning => YELLOW,
    };
    let title = paint.with(color, &format!("{}[{}]", severity_name(fault.severity), fault.code));
    writeln!(out, "{title}{}", paint.with(BOLD, &format!(": {}", printable(&fault.message))))?;
    let quoted = fault.span.and_then(|span| Some((span, lines.get(span.line.checked_sub(1)?)?)));
    let margin = " ".repeat(fault.span.map_or(1, |span| span.line.max(span.end_line).to_string().len()));
    if let Some(file) = &fault.file {
        let place = fault.span.map_or_else(String::new, |span| format!(":{}:{}", span.line, span.column));
        writeln!(out, "{margin}{} {}{place}", paint.with(BLUE, "-->"), printable(&file.display().to_string()))?;
    }
    let bar = paint.with(BLUE, "|");
    if let Some((span, line)) = quoted {
        let number = paint.with(BLUE, &format!("{:>width$}", span.line, width = margin.len()));
        let (shown, carets) = underlined(line, span);
        writeln!(out, "{margin} {bar}")?;
        writeln!(out, "{number} {bar} {shown}")?;
        writeln!(out, "{margin} {bar} {}", paint.with(color, &carets))?;
        last_line(span, lines, &margin, out, paint, color)?;
    }
    if let Some(help) = &fault.help {
        if quoted.is_some() {
            writeln!(out, "{margin} {bar}")?;
        }
        for (index, line) in help.lines().enumerate() {
            let lead = if index == 0 { format!("{} help:", paint.with(BLUE, "=")) } else { "       ".to_owned() };
            writeln!(out, "{margin} {lead} {}", printable(line))?;
        }
    }
    Ok(())
}

/// Of a place that spans several lines, the last one; what lies between is left out.
fn last_line(
    span: Span,
    lines: &[String],
    margin: &str,
    out: &mut impl Write,
    paint: Paint,
    color: &str,
) -> io::Result<()> {
    let Some(line) = lines.get(span.end_line.saturating_sub(1)).filter(|_| span.end_line > span.line) else {
        return Ok(());
    };
    let bar = paint.with(BLUE, "|");
    if span.end_line > span.line + 1 {
        writeln!(out, "{margin} {}", paint.with(BLUE, "..."))?;
    }
    let start = line.chars().take_while(|c| c.is_whitespace()).count() + 1;
    let (shown, carets) = underlined(line, Span { line: span.end_line, column: start, ..span });
    let number = format!("{:>width$}", span.end_line, width = margin.len());
    writeln!(out, "{} {bar} {shown}", paint.with(BLUE, &number))?;
    writeln!(out, "{margin} {bar} {}", paint.with(color, &carets))
}

/// The line fit for a terminal, and the carets below what `span` covers of it.
fn underlined(line: &str, span: Span) -> (String, String) {
    let width = |c: char| if c == '\t' { 4 } else { 1 };
    let length = line.chars().count();
    let start = (span.column - 1).min(length);
    let end = if span.end_line > span.line { length } else { (span.end_column - 1).min(length) };
    let indent: usize = line.chars().take(start).map(width).sum();
    let under: usize = line.chars().take(end).skip(start).map(width).sum();
    (printable(line), format!("{}{}", " ".repeat(indent), "^".repeat(under.max(1))))
}

/// No control characters reach the terminal; a tab becomes four blanks.
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\t' => shown.push_str("    "),
            c if c.is_control() => shown.push('\u{fffd}'),
            c => shown.push(c),
        }
    }
    shown
}

const BOLD: &str = "1";
const RED: &str = "1;31";
const YELLOW: &str = "1;33";
const BLUE: &str = "1;34";

#[derive(Clone, Copy)]
struct Paint(bool);

impl Paint {
    fn with(self, color: &str, text: &str) -> String {
        if self.0 { format!("\u{1b}[{color}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

/// Lines of the files that faults are about, secrets starred out. A file that can't be read has none.
#[derive(Default)]
struct Sources(HashMap<PathBuf, Vec<String>>);

impl Sources {
    fn lines(&mut self, file: Option<&Path>) -> &[String] {
        let Some(file) = file else { return &[] };
        self.0.entry(file.to_owned()).or_insert_with(|| {
            let bytes = std::fs::read(file).unwrap_or_default();
            let text = String::from_utf8_lossy(&bytes);
            if file.extension().is_some_and(|extension| extension == "toml") {
                without_secrets(&text)
            } else {
                text.lines().map(str::to_owned).collect()
            }
        })
    }
}

/// Words in a TOML key that announce a secret.
const SECRET_WORDS: [&str; 9] =
    ["password", "passwd", "pwd", "secret", "token", "credential", "jaas", "pem", "passphrase"];
/// What makes such a key harmless: it names where the secret is.
const HARMLESS_ENDINGS: [&str; 3] = ["_file", ".location", "_url"];

/// The lines of a TOML `text`, every secret replaced by as many stars.
fn without_secrets(text: &str) -> Vec<String> {
    let mut inside_text = false;
    let mut value_expected = false;
    let lines = text.lines().map(|line| {
        let fences = line.matches("\"\"\"").count() + line.matches("'''").count();
        let hide_all = inside_text || value_expected;
        inside_text ^= fences % 2 == 1;
        if hide_all {
            value_expected = false;
            return starred(line);
        }
        let line = without_url_password(line);
        match secret_value(&line) {
            Some(at) => {
                let (key, value) = line.split_at(at);
                value_expected = value.trim().is_empty();
                format!("{key}{}", starred(value))
            }
            None => line,
        }
    });
    lines.collect()
}

/// Where in `line` the value of a key that looks like a secret starts.
fn secret_value(line: &str) -> Option<usize> {
    let lower = line.to_ascii_lowercase();
    let words = SECRET_WORDS.iter().flat_map(|word| lower.match_indices(word));
    let values = words.filter_map(|(at, word)| {
        let after = at + word.len();
        let rest = lower.get(after..)?;
        let equals = rest.find('=')?;
        let end_of_key = rest.get(..equals)?.trim_end_matches([' ', '\t', '"', '\'']);
        let harmless = HARMLESS_ENDINGS.iter().any(|ending| end_of_key.ends_with(ending));
        (!harmless).then_some(after + equals + 1)
    });
    values.chain(shapeless_url(&lower)).chain(misspelt_secret(&lower)).min()
}

/// Where the value of a key starts that is nearly called like a secret: somebody has mistyped it.
fn misspelt_secret(line: &str) -> Option<usize> {
    line.match_indices('=').find_map(|(at, _)| {
        let key = line.get(..at)?.rsplit([',', '{', '.', '=']).next()?.trim_matches([' ', '\t', '"', '\'']);
        let harmless = HARMLESS_ENDINGS.iter().any(|ending| key.ends_with(ending));
        (!harmless && did_you_mean(key, SECRET_WORDS).is_some()).then_some(at + 1)
    })
}

/// Where the value of a key `url` starts that is no URL, so that nobody can tell what in it is the password.
fn shapeless_url(line: &str) -> Option<usize> {
    let at = line.match_indices("url").find_map(|(at, word)| {
        let after = at + word.len();
        let rest = line.get(after..)?.trim_start_matches([' ', '\t', '"', '\'']);
        rest.strip_prefix('=').map(|value| line.len() - value.len())
    })?;
    let value = line.get(at..)?;
    let start = value.split('@').next().unwrap_or_default();
    (!start.contains("://")).then_some(at)
}

/// `line` with the password between `://user:` and `@` starred out; without an `@`, everything after the colon.
fn without_url_password(line: &str) -> String {
    let Some(scheme) = line.find("://") else { return line.to_owned() };
    let (before, authority) = line.split_at(scheme + 3);
    let Some(colon) = authority.find(':') else { return line.to_owned() };
    let end = authority.rfind('@').unwrap_or(authority.len());
    match (authority.get(..=colon), authority.get(colon + 1..end), authority.get(end..)) {
        (Some(user), Some(password), Some(rest)) => format!("{before}{user}{}{rest}", starred(password)),
        _ => line.to_owned(),
    }
}

/// Every character but blanks and quotes a star; a bare `${NAME}` is no secret and stays.
fn starred(text: &str) -> String {
    let bare = text.trim().trim_matches(['"', '\'']);
    let name = bare.strip_prefix("${").and_then(|bare| bare.strip_suffix('}'));
    if name.is_some_and(|name| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')) {
        return text.to_owned();
    }
    text.chars().map(|c| if c.is_whitespace() || matches!(c, '"' | '\'') { c } else { '*' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(faults: &[Diagnostic]) -> String {
        let mut out = Vec::new();
        render(faults, &mut out, false).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn span(line: usize, column: usize, end_column: usize) -> Option<Span> {
        Some(Span { line, column, end_line: line, end_column })
    }

    #[test]
    fn a_fault_is_shown_with_its_line_and_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.sql");
        std::fs::write(&file, "SELECT\n\tü.nme\nFROM events\n").unwrap();
        let faults = [
            Diagnostic::warning("AI0199", "nobody reads this model").file(&file),
            Diagnostic::error("AI0101", "unknown column \"nme\"")
                .file(&file)
                .span(span(2, 4, 7))
                .help("did you mean \"name\"?"),
            Diagnostic::error("AI0001", "no file at all").help("one\ntwo"),
        ];
        let expected = "\
error[AI0001]: no file at all
  = help: one
          two

warning[AI0199]: nobody reads this model
 --> FILE

error[AI0101]: unknown column \"nme\"
 --> FILE:2:4
  |
2 |     ü.nme
  |       ^^^
  |
  = help: did you mean \"name\"?

2 errors, 1 warning
";
        assert_eq!(rendered(&faults).replace(&file.display().to_string(), "FILE"), expected);
    }

    #[test]
    fn a_place_of_several_lines_is_shown_by_its_first_and_last() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.sql");
        std::fs::write(&file, "SELECT CASE\n  WHEN a\n  THEN b\n  END\n").unwrap();
        let place = Some(Span { line: 1, column: 8, end_line: 4, end_column: 6 });
        let shown = rendered(&[Diagnostic::error("AI0116", "wrong").file(&file).span(place)]);
        let expected = "  |\n1 | SELECT CASE\n  |        ^^^^\n  ...\n4 |   END\n  |   ^^^\n";
        assert!(shown.contains(expected), "{shown}");
    }

    #[test]
    fn faults_come_by_file_then_line() {
        let at =
            |file: &str, line| Diagnostic::error("AI0001", format!("{file}{line}")).file(file).span(span(line, 1, 2));
        let text = rendered(&[at("b", 1), at("a", 10), at("a", 9)]);
        let order: Vec<usize> = ["a9", "a10", "b1"].iter().map(|title| text.find(title).unwrap()).collect();
        assert!(order.is_sorted(), "{text}");
        assert!(text.ends_with("3 errors\n"));
    }

    #[test]
    fn spans_beyond_the_file_do_no_harm() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.sql");
        std::fs::write(&file, "x\n").unwrap();
        let far = Some(Span { line: 1, column: 40, end_line: 3, end_column: 1 });
        let beyond = Some(Span { line: 7, column: 1, end_line: 7, end_column: 2 });
        let fault = Diagnostic::error("AI0001", "x").file(&file);
        let text = rendered(&[fault.clone().span(far), fault.span(beyond)]);
        assert!(text.contains("1 | x\n  |  ^\n"), "{text}");
        assert!(text.contains(":7:1\n\n"), "{text}");
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let text = rendered(&[Diagnostic::error("AI0001", "\u{1b}[2Jgone")]);
        assert!(!text.contains('\u{1b}'), "{text:?}");
    }

    #[test]
    fn color_is_only_added() {
        let faults = [Diagnostic::error("AI0001", "x").help("y")];
        let mut colored = Vec::new();
        render(&faults, &mut colored, true).unwrap();
        let mut plain = String::from_utf8(colored).unwrap();
        assert!(plain.contains("\u{1b}["));
        for code in ["\u{1b}[0m", "\u{1b}[1m", "\u{1b}[1;31m", "\u{1b}[1;34m"] {
            plain = plain.replace(code, "");
        }
        assert_eq!(plain, rendered(&faults));
    }

    #[test]
    fn json_carries_every_part() {
        let mut out = Vec::new();
        render_json(&[Diagnostic::error("AI0101", "x").file("a.sql").span(span(2, 4, 7)).help("y")], &mut out).unwrap();
        let found: Value = serde_json::from_slice(&out).unwrap();
        let expected = json!({
            "faults": [{
                "code": "AI0101", "severity": "error", "message": "x", "help": "y", "file": "a.sql",
                "line": 2, "column": 4, "end_line": 2, "end_column": 7,
            }],
            "errors": 1,
            "warnings": 0, "skipped": [],
        });
        assert_eq!(found, expected);
    }

    // Proves: P6, R61
    #[test]
    fn secrets_in_quoted_lines_are_starred_out() {
        for line in [
            "url = \"mysql://app:hunter2@db/app\"",
            "url = \"mysql://app:hunter2:@hunter2@db/app\" # x",
            "url = mysql://app:hunter2",
            "url = \"mysql:/app:hunter2@db/app\" # https://example.org",
            "mysql = { \"url\" = \"app:hunter2@db/app\" }",
            "url = 'hunter2'",
            "mysql = { url = \"mysql://app:${X:-hunter2}@db/app\" }",
            "\"sasl.password\" = \"hunter2\"",
            "sasl.password = 'hunter2",
            "pasword = \"hunter2\"",
            "mysql = { url = \"x\", Passwrd = \"hunter2\" }",
            "sasl.pasword = 'hunter2'",
            "properties = { a = 1, \"sasl.password\" = \"hunter2\", b = 2 }",
            "sasl.password =\n  \"hunter2\"",
            "\"ssl.key.pem\" = \"\"\"\nhunter2\n\"\"\"",
            "pem = \"hunter2",
            "\"sasl.jaas.config\" = \"x password=hunter2\"",
        ] {
            let shown = without_secrets(line).join("\n");
            assert!(!shown.contains("hunter2"), "{shown}");
            assert_eq!(shown.chars().count(), line.chars().count(), "carets would not fit: {shown}");
        }
    }

    #[test]
    fn what_is_no_secret_is_shown() {
        for line in [
            "url = \"mysql://app:${MYSQL_PASSWORD}@db/app\"",
            "url = \"${MYSQL_URL}\"",
            "password_file = \"secrets/mysql\"",
            "\"ssl.key.location\" = \"key\"",
            "topic = \"user_cdc\"",
        ] {
            assert_eq!(without_secrets(line), [line]);
        }
    }
}
