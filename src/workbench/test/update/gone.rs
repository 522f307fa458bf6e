//! Cells of columns that exist no more: which bytes of the file go with them.
//!
//! In: a row as it is written, and the names that go. Out: edits that leave the other cells, their order and their comments as they
//! stand. A line that holds nothing else goes whole; a comment behind such a cell goes with it.

use std::ops::Range;

use super::Edit;
use crate::workbench::fixture::Node;
use crate::workbench::fixture::bind::Gone;

/// Cells that go, one behind the other, and the cells before and behind them that stay.
struct Run<'t> {
    text: &'t str,
    bytes: Range<usize>,
    before: Option<usize>,
    behind: Option<usize>,
}

/// The edits that take the cells out; `None` where they are written in a way that only a hand can mend.
pub(super) fn edits(text: &str, gone: &Gone) -> Option<Vec<Edit>> {
    let entries = gone.row.entries()?;
    let in_braces = text.get(gone.row.bytes.start..)?.starts_with('{');
    let goes = |entry: &&(Node, Node)| gone.names(&entry.0);
    let mut edits = Vec::new();
    let mut before: Option<usize> = None;
    let mut rest = entries;
    while let Some(first) = rest.first() {
        let length = rest.iter().take_while(goes).count();
        let (run, others) = rest.split_at_checked(length)?;
        if let Some(last) = run.last() {
            let bytes = first.0.bytes.start..end(text, last);
            let run = Run { text, bytes, before, behind: others.first().map(|entry| entry.0.bytes.start) };
            let bytes = if in_braces { run.in_braces() } else { run.on_lines() }?;
            edits.push(Edit { bytes, text: String::new() });
            rest = others;
        } else {
            before = Some(end(text, first));
            rest = rest.get(1..)?;
        }
    }
    Some(edits)
}

/// Where a cell ends: behind its value, or behind the colon where it has none.
fn end(text: &str, (key, value): &(Node, Node)) -> usize {
    // Without a value its place is that of the comma or of the brace behind it.
    let written = text.get(value.bytes.clone()).unwrap_or_default();
    if !written.is_empty() && !written.starts_with([',', '}']) {
        return value.bytes.end;
    }
    let rest = text.get(key.bytes.end..).unwrap_or_default();
    let colon = rest.trim_start_matches([' ', '\t']).strip_prefix(':').map(|behind| rest.len() - behind.len());
    key.bytes.end + colon.unwrap_or(0)
}

impl Run<'_> {
    /// In a mapping like `{user_id: "1", region: Europe}`.
    fn in_braces(&self) -> Option<Range<usize>> {
        let (from, to) = (self.bytes.start, self.bytes.end);
        if self.is_explicit() {
            return None;
        }
        if let (Some(before), None) = (self.before, self.behind)
            && !self.text.get(before..from)?.contains(['\n', '\r'])
        {
            return Some(before..to);
        }
        let rest = self.text.get(to..)?;
        let to = match (rest.trim_start().strip_prefix(','), self.behind) {
            (Some(behind), _) => to + (rest.len() - behind.len()),
            (None, None) => to,
            // A comment stands before the comma.
            (None, Some(behind)) => return Some(from..behind),
        };
        let rest = self.text.get(to..)?;
        let tail = rest.split('\n').next()?;
        let nothing_else = tail.trim().is_empty() || (tail.starts_with([' ', '\t']) && tail.trim().starts_with('#'));
        if self.line_before().trim().is_empty() && nothing_else {
            return Some(self.whole_lines(to));
        }
        let blanks = rest.len() - rest.trim_start_matches([' ', '\t']).len();
        // A comment begins behind a blank.
        let touches = rest.get(blanks..)?.starts_with('#') && !self.line_before().ends_with([' ', '\t']);
        Some(from..if touches { to } else { to + blanks })
    }

    /// In a mapping with a line for each cell.
    fn on_lines(&self) -> Option<Range<usize>> {
        let (from, to) = (self.bytes.start, self.bytes.end);
        if self.is_explicit() {
            return None;
        }
        if self.line_before().trim().is_empty() {
            return Some(self.whole_lines(to));
        }
        // Behind the dash: the next cell comes there, unless a comment stands between them.
        let behind = self.behind?;
        let line_end = self.whole_lines(to).end;
        if self.text.get(line_end..behind)?.trim().is_empty() {
            return Some(from..behind);
        }
        let dash = self.line_before().trim_end_matches([' ', '\t']).len();
        let line_break = self.text.get(to..line_end)?.trim_end_matches(['\n', '\r']).len();
        Some(from - (self.line_before().len() - dash)..to + line_break)
    }

    /// A cell written as `? key : value`.
    fn is_explicit(&self) -> bool {
        self.line_before().trim_end().ends_with('?')
    }

    /// What stands before the cells on their line.
    fn line_before(&self) -> &str {
        let before = self.text.get(..self.bytes.start).unwrap_or_default();
        before.rsplit('\n').next().unwrap_or_default()
    }

    /// From the first cell's line to the end of the one of `to`, its line break included.
    fn whole_lines(&self, to: usize) -> Range<usize> {
        let rest = self.text.get(to..).unwrap_or_default();
        let end = rest.find('\n').map_or(self.text.len(), |at| to + at + 1);
        self.bytes.start - self.line_before().len()..end
    }
}
