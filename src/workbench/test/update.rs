//! `--update`: what was found becomes what is expected, in the file itself.
//!
//! Only what differs is rewritten: a cell, a row that is gone, a row that is new, in the sections that are there. Everything else of the
//! file stays as it is, byte for byte, comments included. A row keeps the columns that it names, but those that exist no more ([`gone`]).

mod gone;

use std::ops::Range;
use std::path::Path;

use super::compare::{self, FoundRow};
use super::{CaseReport, Failure, Outcome};
use crate::decode::TimestampUnit;
use crate::diagnostic::Severity;
use crate::workbench::fixture::bind::{Check, Gone, What, Wish};
use crate::workbench::fixture::{self, Content, Node};

/// A piece of the file and what stands there from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    pub bytes: Range<usize>,
    pub text: String,
}

/// The edits that make the cases of one file pass; an error where a column can only be taken out by hand.
pub fn edits(text: &str, cases: &[&CaseReport]) -> std::io::Result<Vec<Edit>> {
    let mut edits = Vec::new();
    // What a pipeline that stopped unexpectedly didn't come to is no news; one that should stop has expectations like any other.
    let ends_well = |case: &&&CaseReport| !case.failures.iter().any(|failure| matches!(failure, Failure::Error { .. }));
    for outcome in cases.iter().filter(ends_well).filter_map(|case| case.outcome.as_ref()) {
        of_outcome(text, outcome, &mut edits);
        // A row of which nothing is left is rewritten whole.
        for row in outcome.gone.iter().filter(|row| !row.is_all()) {
            let Some(cells) = gone::edits(text, row) else {
                let what = format!("line {}: take {} out by hand", row.row.span.line, row.columns.join(", "));
                return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, what));
            };
            edits.extend(cells);
        }
    }
    edits.sort_by_key(|edit| (edit.bytes.start, edit.bytes.end));
    edits.dedup();
    Ok(edits)
}

/// `text` with `edits`, which don't overlap.
pub fn apply(text: &str, edits: &[Edit]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    for edit in edits {
        if edit.bytes.start < at {
            continue;
        }
        out.push_str(text.get(at..edit.bytes.start).unwrap_or_default());
        out.push_str(&edit.text);
        at = edit.bytes.end;
    }
    out.push_str(text.get(at..).unwrap_or_default());
    out
}

/// Rewrites the expectations in `file`; yields whether anything had to be. What stands there is replaced as a whole, by renaming.
pub fn rewrite(file: &Path, cases: &[&CaseReport]) -> std::io::Result<bool> {
    let bytes = std::fs::read(file)?;
    let whole = String::from_utf8(bytes).map_err(std::io::Error::other)?;
    // The places of the cases count from behind a byte order mark.
    let (mark, text) = match whole.strip_prefix('\u{feff}') {
        Some(text) => ("\u{feff}", text),
        None => ("", whole.as_str()),
    };
    let edits = edits(text, cases)?;
    if edits.is_empty() {
        return Ok(false);
    }
    let updated = apply(text, &edits);
    if errors(file, &updated) > errors(file, text) {
        // However odd the file was written: what can't be read again never takes its place.
        return Err(std::io::Error::new(
            std::io::ErrorKind::InvalidData,
            "it is written in a way that only a hand can update",
        ));
    }
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut beside = tempfile::NamedTempFile::new_in(folder)?;
    std::io::Write::write_all(&mut beside, format!("{mark}{updated}").as_bytes())?;
    std::fs::set_permissions(beside.path(), std::fs::metadata(file)?.permissions())?;
    beside.persist(file).map_err(|error| error.error)?;
    Ok(true)
}

fn errors(file: &Path, text: &str) -> usize {
    let (_, faults) = fixture::parse(file, text.as_bytes());
    faults.iter().filter(|fault| fault.severity == Severity::Error).count()
}

fn of_outcome(text: &str, outcome: &Outcome, edits: &mut Vec<Edit>) {
    for (check, found) in &outcome.checks {
        let rewriter = Rewriter { text, check, found, unit: outcome.unit, gone: &outcome.gone };
        match &check.content() {
            Content::Mapping(_) => rewriter.mapping(edits),
            _ => rewriter.list(edits),
        }
    }
}

struct Rewriter<'c> {
    text: &'c str,
    check: &'c Check,
    found: &'c [FoundRow],
    unit: TimestampUnit,
    gone: &'c [Gone],
}

impl Check {
    /// A mapping for sections that are one, and for empty ones that should be.
    fn content(&self) -> Content {
        match (&self.node.content, &self.what) {
            (_, What::Sums | What::Unmapped) => Content::Mapping(Vec::new()),
            (content, _) => content.clone(),
        }
    }
}

impl Rewriter<'_> {
    /// Rewrites a list of rows.
    fn list(&self, edits: &mut Vec<Edit>) {
        let pairs = compare::pair(self.check, self.found);
        let order_is_wrong = self.check.ordered && compare::compare(self.check, self.found, self.unit).is_some();
        let gone: Vec<&Wish> = self.unpaired(&pairs.of_wish).collect();
        let news: Vec<&FoundRow> = pairs.left.iter().filter_map(|row| self.found.get(*row)).collect();
        let flow = self.raw(&self.check.node).starts_with('[');
        let nothing_stays = gone.len() == self.check.wishes.len();
        if (flow || nothing_stays || order_is_wrong) && (!gone.is_empty() || !news.is_empty() || order_is_wrong) {
            edits.push(self.whole_list(&pairs.of_wish, &news));
            return;
        }
        for (wish, row) in self.check.wishes.iter().zip(&pairs.of_wish) {
            if let Some(row) = row.and_then(|row| self.found.get(row)) {
                match self.is_bare(wish) {
                    true => edits.push(self.whole_row(wish, row)),
                    false => self.cells(wish, row, edits),
                }
            }
        }
        edits.extend(gone.iter().map(|wish| self.removed(wish)));
        let mut stays = self.check.wishes.iter().zip(&pairs.of_wish).filter(|(_, row)| row.is_some());
        let last = stays.next_back().map(|(wish, _)| wish.node.bytes.clone());
        if let (Some(last), false) = (last, news.is_empty()) {
            let indent = self.indent_of_item(last.start);
            let names = self.names();
            let lines: String = news.iter().map(|row| format!("\n{indent}- {}", self.row(row, &names))).collect();
            let end = self.line_end(last.end);
            edits.push(Edit { bytes: end..end, text: lines });
        }
    }

    /// The whole list anew, where it is empty, becomes empty, stands in brackets or had another order.
    fn whole_list(&self, of_wish: &[Option<usize>], news: &[&FoundRow]) -> Edit {
        let node = &self.check.node;
        let names = self.names();
        let stay = of_wish.iter().zip(&self.check.wishes).filter_map(|(row, wish)| {
            let own: Vec<usize> = match self.is_bare(wish) {
                true => names.clone(),
                false => {
                    wish.cells.iter().filter(|(place, ..)| names.contains(place)).map(|(place, ..)| *place).collect()
                }
            };
            Some(self.row(self.found.get((*row)?)?, &own))
        });
        let rows: Vec<String> = match self.check.ordered {
            true => self.found.iter().map(|row| self.row(row, &names)).collect(),
            false => stay.chain(news.iter().map(|row| self.row(row, &names))).collect(),
        };
        if node.in_flow {
            return Edit { bytes: node.bytes.clone(), text: self.spaced(node, format!("[{}]", rows.join(", "))) };
        }
        if rows.is_empty() {
            return Edit { bytes: self.behind_key(node), text: " []".to_owned() };
        }
        let indent = match self.check.wishes.first().filter(|_| !self.raw(node).starts_with('[')) {
            Some(first) => self.indent_of_item(first.node.bytes.start),
            None => " ".repeat(self.indent_of_key(node) + 2),
        };
        let lines: String = rows.iter().map(|row| format!("\n{indent}- {row}")).collect();
        Edit { bytes: self.behind_key(node), text: lines }
    }

    /// The bytes of a value and whatever stands between it and the colon of its key, unless that is a comment.
    fn behind_key(&self, node: &Node) -> Range<usize> {
        let before = self.text.get(..node.bytes.start).unwrap_or_default();
        let trimmed = before.trim_end();
        let start = if trimmed.ends_with(':') {
            trimmed.len()
        } else {
            before.trim_end_matches([' ', '\t']).trim_end_matches('\n').len()
        };
        start..node.bytes.end
    }

    /// Text that stands in place of nothing behind a colon.
    fn spaced(&self, node: &Node, text: String) -> String {
        let before = self.text.get(..node.bytes.start).unwrap_or_default();
        if before.ends_with(':') { format!(" {text}") } else { text }
    }

    /// Rewrites the sums, or the unmapped fields.
    fn mapping(&self, edits: &mut Vec<Edit>) {
        let Some(diff) = compare::compare(self.check, self.found, self.unit) else { return };
        let pairs = compare::pair(self.check, self.found);
        let only_cells = diff.rows.iter().all(|row| row.expected.is_some() && row.found.is_some());
        if only_cells {
            for (wish, row) in self.check.wishes.iter().zip(&pairs.of_wish) {
                if let Some(row) = row.and_then(|row| self.found.get(row)) {
                    self.cells(wish, row, edits);
                }
            }
            return;
        }
        let named: Vec<usize> = (1..self.check.columns.len())
            .filter(|place| {
                self.check.wishes.is_empty() || self.check.wishes.iter().any(|wish| wish.cell(*place).is_some())
            })
            .collect();
        let entry = |row: &FoundRow| {
            let show = |place: usize| match (row.get(place), self.check.columns.get(place)) {
                (Some(value), Some(column)) => column.show(value, self.unit),
                _ => String::new(),
            };
            match self.check.what {
                What::Sums => {
                    let counts = named.iter().filter(|place| show(**place) != "0").filter_map(|place| {
                        Some(format!("{}: {}", self.check.columns.get(*place)?.name, show(*place)))
                    });
                    format!("{}: {{{}}}", show(0), counts.collect::<Vec<_>>().join(", "))
                }
                _ => format!("{}: {}", show(0), show(1)),
            }
        };
        let entries: Vec<String> = self.found.iter().map(entry).collect();
        let node = &self.check.node;
        if node.in_flow || entries.is_empty() {
            let bytes = if node.in_flow { node.bytes.clone() } else { self.behind_key(node) };
            let text = format!("{{{}}}", entries.join(", "));
            let text = if node.in_flow { self.spaced(node, text) } else { format!(" {text}") };
            edits.push(Edit { bytes, text });
            return;
        }
        let block = !self.raw(node).starts_with('{') && !node.bytes.is_empty();
        let indent = if block { self.indent_of_line(node.bytes.start) } else { self.indent_of_key(node) + 2 };
        let indent = " ".repeat(indent);
        let lines: String = entries.iter().map(|entry| format!("\n{indent}{entry}")).collect();
        edits.push(Edit { bytes: self.behind_key(node), text: lines });
    }

    /// Rewrites the cells of a row that differ, and adds nothing.
    fn cells(&self, wish: &Wish, row: &FoundRow, edits: &mut Vec<Edit>) {
        for place in compare::differing(self.check, wish, row) {
            let cell = wish.cells.iter().find(|(other, ..)| *other == place);
            let (Some((_, _, Some(node))), Some(value), Some(column)) =
                (cell, row.get(place), self.check.columns.get(place))
            else {
                continue;
            };
            let text = self.spaced(node, column.show(value, self.unit));
            edits.push(Edit { bytes: node.bytes.clone(), text });
        }
    }

    /// A row all of whose columns exist no more, anew.
    fn whole_row(&self, wish: &Wish, row: &FoundRow) -> Edit {
        let text = self.spaced(&wish.node, self.row(row, &self.names()));
        Edit { bytes: wish.node.bytes.clone(), text }
    }

    /// Whether all that a row names exists no more.
    fn is_bare(&self, wish: &Wish) -> bool {
        let own = |row: &&Gone| row.row.bytes == wish.node.bytes;
        self.gone.iter().filter(own).any(Gone::is_all)
    }

    /// Whether nothing says which columns are looked at.
    fn nothing_is_named(&self) -> bool {
        let wishes = &self.check.wishes;
        wishes.is_empty()
            || (wishes.iter().all(|wish| wish.cells.is_empty()) && wishes.iter().any(|wish| self.is_bare(wish)))
    }

    /// A row's lines, gone.
    fn removed(&self, wish: &Wish) -> Edit {
        let start = self.dash_line(wish.node.bytes.start);
        let end = self.line_end(wish.node.bytes.end);
        let end = if self.text.get(end..).is_some_and(|rest| rest.starts_with('\n')) { end + 1 } else { end };
        Edit { bytes: start..end, text: String::new() }
    }

    fn unpaired<'w>(&'w self, of_wish: &'w [Option<usize>]) -> impl Iterator<Item = &'w Wish> {
        self.check.wishes.iter().zip(of_wish).filter(|(_, row)| row.is_none()).map(|(wish, _)| wish)
    }

    /// Columns that a new row names: those that the others do, or all that aren't NULL.
    fn names(&self) -> Vec<usize> {
        let nothing_is_named = self.nothing_is_named();
        let named = |place: &usize| {
            let key = self.check.key.contains(place);
            key || nothing_is_named || self.check.wishes.iter().any(|wish| wish.cell(*place).is_some())
        };
        (0..self.check.columns.len()).filter(named).collect()
    }

    /// A row as a fixture writes it: the named columns, without what goes without saying.
    fn row(&self, row: &FoundRow, names: &[usize]) -> String {
        if let (What::Tombstones, [place]) = (&self.check.what, self.check.key.as_slice()) {
            // A key of one column is enough; its version only where others have theirs.
            if self.check.wishes.iter().all(|wish| wish.cells.len() == 1)
                && let (Some(value), Some(column)) = (row.get(*place), self.check.columns.get(*place))
            {
                return column.show(value, self.unit);
            }
        }
        let cells = names.iter().filter_map(|place| {
            let (value, column) = (row.get(*place)?, self.check.columns.get(*place)?);
            let default = column.name == "partition" && column.show(value, self.unit) == "0";
            let left_out = value.is_null() && (self.nothing_is_named() || self.check.what == What::Quarantine);
            (!default && !left_out).then(|| format!("{}: {}", column.name, column.show(value, self.unit)))
        });
        format!("{{{}}}", cells.collect::<Vec<_>>().join(", "))
    }

    fn raw(&self, node: &Node) -> &str {
        self.text.get(node.bytes.clone()).unwrap_or_default()
    }

    fn line_start(&self, at: usize) -> usize {
        self.text.get(..at).and_then(|before| before.rfind('\n')).map_or(0, |end| end + 1)
    }

    /// Where the line of `at` ends, before its line break.
    fn line_end(&self, at: usize) -> usize {
        self.text.get(at..).and_then(|rest| rest.find('\n')).map_or(self.text.len(), |length| at + length)
    }

    /// How far the key is indented that a value stands under: the last one before it.
    fn indent_of_key(&self, node: &Node) -> usize {
        let before = self.text.get(..node.bytes.start).unwrap_or_default().trim_end();
        let line = before.get(self.line_start(before.len())..).unwrap_or_default();
        // A key behind the dash of an item is indented as far as the ones below it.
        line.len() - line.trim_start_matches([' ', '-']).len()
    }

    fn indent_of_line(&self, at: usize) -> usize {
        let line = self.text.get(self.line_start(at)..).unwrap_or_default();
        line.len() - line.trim_start_matches(' ').len()
    }

    /// Where the line of an item's dash begins; its value begins at `at`, there or on a line below.
    fn dash_line(&self, at: usize) -> usize {
        let mut start = self.line_start(at);
        while start > 0 && !self.text.get(start..).is_some_and(|line| line.trim_start_matches(' ').starts_with('-')) {
            start = self.line_start(start - 1);
        }
        start
    }

    /// What stands before the dash of an item whose value begins at `at`.
    fn indent_of_item(&self, at: usize) -> String {
        let line = self.text.get(self.dash_line(at)..).unwrap_or_default();
        " ".repeat(line.len() - line.trim_start_matches(' ').len())
    }
}
