//! The analysts' commands, run as an analyst runs them: `preview`, `diff`, `explain`.

mod diff;
mod explain;
mod online;
mod preview;
mod topic;

use std::path::Path;

use crate::support::process::Workspace;

/// The shipped pipeline, with a password in its config so that no variable has to be set and no warning comes.
fn workspace() -> Workspace {
    let config = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/afterimage.toml")).unwrap();
    Workspace::new(&config.replace(":${MYSQL_PASSWORD}@", "@"))
}

/// A change of a user, at so many seconds after a fixed time.
fn event(op: &str, user: &str, name: &str, country: &str, second: i64) -> String {
    let image = format!(r#"{{"userId":"{user}","name":"{name}","email":null,"country":"{country}"}}"#);
    let (before, after) = if op == "d" { (image.as_str(), "null") } else { ("null", image.as_str()) };
    let at = 1_700_000_000_000 + second * 1000;
    format!(r#"{{"op":"{op}","before":{before},"after":{after},"timestamp":{at}}}"#)
}

/// Six events: one user who moves, one who fails and waits, bytes that are no event, and a latecomer.
fn events() -> String {
    [
        event("c", "1", "Ann", "DE", 0),
        r#"{"op":"u","before":{"userId":"1"},"after":{"userId":"2","name":"Ann\u001b[31m","email":null,"country":"FR","zip":1},"timestamp":1700000001000}"#.to_owned(),
        event("c", "3", "Bob", "XX", 2),
        event("u", "3", "Bob", "DE", 3),
        "this is no event".to_owned(),
        r#"{"op":"u","before":null,"after":{"userId":"2","name":"Anna","email":null,"country":"FR"},"timestamp":1700000000500}"#.to_owned(),
    ]
    .join("\n")
        + "\n"
}

/// Output without the times that it took, which differ from run to run.
fn without_times(text: &str) -> String {
    let line = |line: &str| match line.strip_suffix(" ms").and_then(|line| line.rsplit_once(" in ")) {
        Some((line, _)) if line.starts_with("model ") => line.to_owned(),
        _ => line.to_owned(),
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// Every line as JSON.
fn json_lines(text: &str) -> Vec<serde_json::Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}
