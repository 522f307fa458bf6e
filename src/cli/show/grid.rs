//! A table of texts for people.
//!
//! In: a head and rows of cells. Out: lines in columns, no wider than the terminal: long cells are shortened, and where even that
//! leaves too little of each, every row becomes a paragraph with a line per column. Nothing in a cell reaches the terminal as a command.

use std::io::{self, Write};

use super::terminal::{columns, harmless, shortened};

/// Columns of a cell that still says something.
const LEAST: usize = 6;
const INDENT: &str = "  ";
const GAP: &str = "  ";

/// A table of texts.
#[derive(Debug, Clone, Default)]
pub struct Grid {
    head: Vec<String>,
    /// Whether a column's cells stand at its right.
    right: Vec<bool>,
    rows: Vec<Vec<String>>,
}

impl Grid {
    /// An empty table; names that begin with `>` (which is left out) are those of columns that stand at the right.
    pub fn new<'a>(head: impl IntoIterator<Item = &'a str>) -> Self {
        let mut grid = Self::default();
        for name in head {
            let right = name.starts_with('>');
            grid.push_column(name.strip_prefix('>').unwrap_or(name), right);
        }
        grid
    }

    pub fn push_column(&mut self, name: &str, right: bool) {
        self.head.push(harmless(name));
        self.right.push(right);
    }

    pub fn push(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| harmless(&cell)).collect());
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Writes all of it, at most `width` columns wide; head and all.
    pub fn write(&self, out: &mut impl Write, width: Option<usize>) -> io::Result<()> {
        let natural: Vec<usize> = (0..self.head.len()).map(|column| self.natural_width(column)).collect();
        match self.fit(&natural, width) {
            Some(widths) => self.write_lines(out, &widths),
            None => self.write_paragraphs(out, width),
        }
    }

    fn natural_width(&self, column: usize) -> usize {
        let cells = self.rows.iter().filter_map(|row| row.get(column));
        cells.chain(self.head.get(column)).map(|cell| columns(cell)).max().unwrap_or(0)
    }

    /// The columns' widths: as much as each needs, but none more than the widest that still lets all of them in.
    fn fit(&self, natural: &[usize], width: Option<usize>) -> Option<Vec<usize>> {
        let Some(width) = width else { return Some(natural.to_vec()) };
        let gaps = INDENT.len() + GAP.len() * natural.len().saturating_sub(1);
        let space = width.checked_sub(gaps)?;
        let taken = |most: usize| natural.iter().map(|width| (*width).min(most)).sum::<usize>();
        let widest = natural.iter().copied().max().unwrap_or(0);
        if taken(widest) <= space {
            return Some(natural.to_vec());
        }
        let most = (LEAST..widest).rev().find(|most| taken(*most) <= space)?;
        Some(natural.iter().map(|width| (*width).min(most)).collect())
    }

    fn write_lines(&self, out: &mut impl Write, widths: &[usize]) -> io::Result<()> {
        let head: Vec<String> = self.head.clone();
        for (number, row) in std::iter::once(&head).chain(&self.rows).enumerate() {
            let mut line = INDENT.to_owned();
            for (column, cell) in row.iter().enumerate() {
                let width = widths.get(column).copied().unwrap_or(0);
                let cell = shortened(cell, width);
                let blank = " ".repeat(width.saturating_sub(columns(&cell)));
                let right = self.right.get(column).copied().unwrap_or(false);
                line.push_str(if column > 0 { GAP } else { "" });
                let (before, after) = if right { (blank.as_str(), "") } else { ("", blank.as_str()) };
                line.push_str(before);
                line.push_str(&cell);
                line.push_str(after);
            }
            writeln!(out, "{}", line.trim_end())?;
            if number == 0 {
                let rules: Vec<String> = widths.iter().map(|width| "─".repeat(*width)).collect();
                writeln!(out, "{INDENT}{}", rules.join(GAP))?;
            }
        }
        Ok(())
    }

    fn write_paragraphs(&self, out: &mut impl Write, width: Option<usize>) -> io::Result<()> {
        let names = self.head.iter().map(|name| columns(name)).max().unwrap_or(0);
        let space = width.unwrap_or(usize::MAX).saturating_sub(INDENT.len() + names + GAP.len()).max(LEAST);
        for (number, row) in self.rows.iter().enumerate() {
            if number > 0 {
                writeln!(out)?;
            }
            for (name, cell) in self.head.iter().zip(row) {
                let blank = " ".repeat(names.saturating_sub(columns(name)));
                let line = format!("{INDENT}{name}{blank}{GAP}{}", shortened(cell, space));
                writeln!(out, "{}", line.trim_end())?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(grid: &Grid, width: Option<usize>) -> String {
        let mut out = Vec::new();
        grid.write(&mut out, width).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn people() -> Grid {
        let mut grid = Grid::new(["user_id", ">age", "name", "note"]);
        grid.push(["1", "7", "Ann", "likes tea"].map(str::to_owned));
        grid.push(["22", "41", "李 雷", "a note that goes on\nand on and on until nobody reads it"].map(str::to_owned));
        grid
    }

    #[test]
    fn a_table_is_as_wide_as_it_needs_to_be_where_nothing_limits_it() {
        insta::assert_snapshot!(shown(&people(), None), @r"
          user_id  age  name   note
          ───────  ───  ─────  ────────────────────────────────────────────────────────
          1          7  Ann    likes tea
          22        41  李 雷  a note that goes on\nand on and on until nobody reads it
        ");
    }

    #[test]
    fn long_cells_are_shortened_on_a_narrow_terminal() {
        insta::assert_snapshot!(shown(&people(), Some(40)), @r"
          user_id  age  name   note
          ───────  ───  ─────  ─────────────────
          1          7  Ann    likes tea
          22        41  李 雷  a note that goes…
        ");
    }

    #[test]
    fn rows_become_paragraphs_where_columns_have_no_room() {
        insta::assert_snapshot!(shown(&people(), Some(24)), @r"
          user_id  1
          age      7
          name     Ann
          note     likes tea

          user_id  22
          age      41
          name     李 雷
          note     a note that …
        ");
    }
}
