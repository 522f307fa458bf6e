//! `docs/sql-guide.md` as its reader follows it: every block is done, from top to bottom, in a playground of its own.
//!
//! - `console`: each line that begins with `$ ` is run by a shell in the playground; what follows is what it must show, where a line
//!   `...` stands for any lines and `[..]` for anything within a line. `console eventually` is tried again until that fits,
//!   `console fails` must end with an exit code other than 0.
//! - `sql FILE` (or `json`, `yaml`, `csv`): the file's whole new text.
//! - `diff FILE`: lines that begin with `-` give way to those that begin with `+`; the others must stand there.
//! - `sh`: how the playground is started, which the test does in its own way.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use afterimage::demo::process::{ServerCommand, words};

use crate::support::process::Running;
use crate::support::servers::scratch;

/// How long something may take that comes about by itself.
const EVENTUALLY: Duration = Duration::from_secs(120);

/// A fenced block: its info string, its text, and the line of its fence.
struct Block {
    info: String,
    text: String,
    line: usize,
}

fn blocks(guide: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (index, line) in guide.lines().enumerate() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(info)) => open = Some(Block { info: info.to_owned(), text: String::new(), line: index + 1 }),
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(block), None) => block.text.push_str(&format!("{line}\n")),
            (None, None) => assert!(!line.starts_with("    "), "line {}: a block without a fence isn't run", index + 1),
        }
    }
    assert!(open.is_none(), "the last block has no end");
    blocks
}

/// Commands of a `console` block, each with what it must show.
fn commands(text: &str) -> Vec<(String, Vec<String>)> {
    let mut commands: Vec<(String, Vec<String>)> = Vec::new();
    for line in text.lines() {
        match (line.strip_prefix("$ "), commands.last_mut()) {
            (Some(command), _) => commands.push((command.to_owned(), Vec::new())),
            (None, Some((_, shown))) => shown.push(line.to_owned()),
            (None, None) => panic!("a console block begins with a command, not with {line:?}"),
        }
    }
    commands
}

/// Whether `line` is `pattern`, in which `[..]` stands for anything.
fn line_fits(pattern: &str, line: &str) -> bool {
    let mut parts = pattern.split("[..]");
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = line.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        let Some((_, behind)) = rest.split_once(part) else { return false };
        rest = behind;
    }
    rest.ends_with(last)
}

/// Whether `lines` are `patterns`, in which a line `...` stands for any number of lines.
fn fits(patterns: &[String], lines: &[&str]) -> bool {
    match patterns.split_first() {
        None => lines.is_empty(),
        Some((pattern, rest)) if pattern == "..." => (0..=lines.len()).any(|skipped| fits(rest, &lines[skipped..])),
        Some((pattern, rest)) => match lines.split_first() {
            Some((line, others)) => line_fits(pattern, line) && fits(rest, others),
            None => false,
        },
    }
}

/// A service that runs beside a folder, as `make playground` leaves them.
struct Playground {
    folder: PathBuf,
    // Ends before its folder goes, so that a failed test can show its log.
    _service: Running,
    _home: tempfile::TempDir,
}

impl Playground {
    async fn start() -> Self {
        let home = scratch("guide-");
        let folder = home.path().join("playground");
        let log = home.path().join("demo.log");
        let program = env!("CARGO_BIN_EXE_afterimage");
        let command = words(&[program, "demo", "--events", "5000", "--folder", folder.to_str().unwrap()]);
        let started = ServerCommand {
            words: command,
            environment: Vec::new(),
            directory: home.path().to_owned(),
            log: log.clone(),
        };
        let mut service = Running::of("the playground", started.spawn().unwrap(), log);
        service.wait_for_log("the service runs on", Duration::from_secs(180)).await;
        Self { folder, _service: service, _home: home }
    }

    fn shell(&self, command: &str) -> (bool, String) {
        let programs = Path::new(env!("CARGO_BIN_EXE_afterimage")).parent().unwrap();
        let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
        let done = Command::new("sh")
            .args(["-c", &format!("{command} 2>&1")])
            .current_dir(&self.folder)
            .env("PATH", path)
            .env("NO_COLOR", "1")
            .env("COLUMNS", "120")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        (done.status.success(), String::from_utf8_lossy(&done.stdout).into_owned())
    }

    async fn console(&self, block: &Block, eventually: bool, fails: bool) {
        for (command, patterns) in commands(&block.text) {
            let until = Instant::now() + EVENTUALLY;
            loop {
                let (succeeded, shown) = self.shell(&command);
                let lines: Vec<&str> = shown.lines().map(str::trim_end).collect();
                if succeeded != fails && fits(&patterns, &lines) {
                    break;
                }
                let place = format!("docs/sql-guide.md, block at line {}: {command}", block.line);
                let patient = eventually && Instant::now() < until;
                assert!(
                    patient,
                    "{place}\nsucceeded: {succeeded}\n--- expected\n{}\n--- shown\n{shown}",
                    patterns.join("\n")
                );
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        }
    }

    fn write(&self, file: &str, text: &str) {
        let path = self.folder.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Replaces lines of a file as the block shows it.
    fn patch(&self, file: &str, block: &Block) {
        let path = self.folder.join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        let side = |sign: char| -> String {
            let lines = block.text.lines().filter(|line| line.starts_with([sign, ' ']) || line.is_empty());
            lines.map(|line| format!("{}\n", line.get(1..).unwrap_or_default())).collect()
        };
        let (old, new) = (side('-'), side('+'));
        assert_eq!(text.matches(&old).count(), 1, "{file} doesn't hold once what line {} shows:\n{old}", block.line);
        std::fs::write(path, text.replace(&old, &new)).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_guide_can_be_followed_word_by_word() {
    let guide = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/sql-guide.md")).unwrap();
    let playground = Playground::start().await;
    for block in blocks(&guide) {
        let words: Vec<&str> = block.info.split(' ').collect();
        match words.as_slice() {
            ["console"] => playground.console(&block, false, false).await,
            ["console", "eventually"] => playground.console(&block, true, false).await,
            ["console", "fails"] => playground.console(&block, false, true).await,
            ["sql" | "json" | "yaml" | "csv", file] => playground.write(file, &block.text),
            ["diff", file] => playground.patch(file, &block),
            ["sh"] => assert!(block.text.starts_with("make playground"), "line {}", block.line),
            _ => panic!("docs/sql-guide.md:{}: nobody runs a block of {:?}", block.line, block.info),
        }
    }
}

#[test]
fn what_is_shown_is_compared_line_by_line() {
    let fits = |pattern: &str, shown: &str| {
        let patterns: Vec<String> = pattern.lines().map(str::to_owned).collect();
        fits(&patterns, &shown.lines().collect::<Vec<_>>())
    };
    assert!(fits("a\n...\nb [..] c", "a\nx\ny\nb 1 c") && fits("...", "") && fits("", ""));
    assert!(fits("[..]ms", "12 ms") && fits("a[..]b[..]c", "a1b2c"));
    assert!(
        !fits("a", "a\nb") && !fits("a\nb", "a") && !fits("a [..] c", "a b") && !fits("", "x") && !fits("x[..]x", "x")
    );
}
