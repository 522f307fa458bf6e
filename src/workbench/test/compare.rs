//! Rows that are expected against rows that are found: which are missing, too many or different, and in which cell.

use datafusion::common::ScalarValue;

use super::super::fixture::bind::{Check, What, Wish};
use super::super::fixture::cell::{Column, Form};
use super::super::fixture::columns;
use super::super::{Tables, Turn};
use crate::decode::TimestampUnit;
use crate::diagnostic::Span;
use crate::position::Version;

/// A row as it is found: a value for each column of its check.
pub type FoundRow = Vec<ScalarValue>;

/// Rows of one section that aren't as expected.
#[derive(Debug, Clone)]
pub struct SectionDiff {
    pub title: String,
    pub span: Span,
    /// Columns that the rows below show.
    pub columns: Vec<String>,
    pub rows: Vec<RowDiff>,
}

/// One row; cells are texts in the order of [`SectionDiff::columns`], empty where nothing was expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowDiff {
    pub expected: Option<Vec<String>>,
    pub found: Option<Vec<String>>,
    /// Places of the cells that differ.
    pub differs: Vec<usize>,
    /// Where the expectation stands.
    pub span: Span,
    /// What is wrong, for people.
    pub what: &'static str,
}

/// Which found row each wish got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pairs {
    /// For each wish the found row that is meant, equal or not.
    pub of_wish: Vec<Option<usize>>,
    /// Found rows that nobody wished for.
    pub left: Vec<usize>,
}

/// What was found for a check.
pub fn found(check: &Check, turns: &[Turn], tables: &Tables) -> Vec<FoundRow> {
    let int = |number: i64| ScalarValue::Int64(Some(number));
    let text = |text: Option<&str>| ScalarValue::Utf8(text.map(ToOwned::to_owned));
    let place = |partition: i32, offset: i64| vec![ScalarValue::Int32(Some(partition)), int(offset)];
    match &check.what {
        What::Model { name, batch } => model_rows(name, *batch, turns),
        What::Table => {
            let row = |row: &super::super::Row| row.cells.iter().cloned().chain(version(row.version)).collect();
            tables.rows.values().map(row).collect()
        }
        What::Tombstones => tables
            .standing_tombstones()
            .map(|(key, at)| columns::key_cells(key, tables).into_iter().chain(version(at)).collect())
            .collect(),
        What::Quarantine => tables
            .quarantine
            .iter()
            // What stood there before has no offset.
            .filter(|(position, _)| position.offset >= 0)
            .map(|(position, record)| {
                let why = record.why.as_ref();
                let mut row = place(position.partition, position.offset);
                row.push(text(Some(record.state())));
                row.push(text(why.map(|why| why.stage.name())));
                row.push(text(why.and_then(|why| why.model.as_deref())));
                row.push(text(why.and_then(|why| why.column.as_deref())));
                row.push(text(why.map(|why| why.reason.as_str())));
                row.push(text(Some(&columns::keys_text(&record.keys, tables.key_len()))));
                row
            })
            .collect(),
        What::OutOfOrder => tables
            .out_of_order
            .iter()
            .map(|((position, key), late)| {
                let mut row = place(position.partition, position.offset);
                row.extend(columns::key_cells(key, tables));
                row.extend([int(late.ts_ns), int(late.known.ts_ns), int(late.known.offset)]);
                row
            })
            .collect(),
        What::Sums => tables
            .sums
            .iter()
            .map(|(partition, sums)| {
                let counts = columns::counts(sums).map(int);
                std::iter::once(ScalarValue::Int32(Some(*partition))).chain(counts).collect()
            })
            .collect(),
        What::Unmapped => tables
            .unmapped
            .iter()
            .map(|(field, count)| vec![text(Some(field)), ScalarValue::UInt64(Some(*count))])
            .collect(),
    }
}

fn version(version: Version) -> [ScalarValue; 3] {
    let Version { ts_ns, partition, offset } = version;
    [ScalarValue::Int64(Some(ts_ns)), ScalarValue::Int32(Some(partition)), ScalarValue::Int64(Some(offset))]
}

fn model_rows(name: &str, batch: Option<usize>, turns: &[Turn]) -> Vec<FoundRow> {
    let chosen = turns.iter().enumerate().filter(|(number, _)| batch.is_none_or(|batch| batch == number + 1));
    let mut rows = Vec::new();
    for batch in chosen.filter_map(|(_, turn)| turn.model(name)) {
        for row in 0..batch.num_rows() {
            let cell =
                |column: &arrow::array::ArrayRef| ScalarValue::try_from_array(column, row).unwrap_or(ScalarValue::Null);
            rows.push(batch.columns().iter().map(cell).collect());
        }
    }
    rows
}

/// Where the found rows differ from what the check expects; `None` where they don't.
pub fn compare(check: &Check, found: &[FoundRow], unit: TimestampUnit) -> Option<SectionDiff> {
    let pairs = pair(check, found);
    let shown = shown_columns(check);
    let show = |row: &FoundRow, only: Option<&Wish>| -> Vec<String> {
        let text = |place: &usize| match (row.get(*place), check.columns.get(*place)) {
            (Some(value), Some(column)) if only.is_none_or(|wish| wish.cell(*place).is_some()) => {
                column.show(value, unit)
            }
            _ => String::new(),
        };
        shown.iter().map(text).collect()
    };
    let mut rows = Vec::new();
    for (wish, found_row) in check.wishes.iter().zip(&pairs.of_wish) {
        let found_row = found_row.and_then(|place| found.get(place));
        let expected: Vec<String> = shown.iter().map(|place| wanted(wish, *place, &check.columns, unit)).collect();
        let span = wish.node.span;
        let Some(row) = found_row else {
            let differs = Vec::new();
            rows.push(RowDiff { expected: Some(expected), found: None, differs, span, what: "missing" });
            continue;
        };
        let differing: Vec<usize> = differing(check, wish, row);
        if let Some(first) = differing.first() {
            let node = wish.cells.iter().find(|(place, ..)| place == first).and_then(|(_, _, node)| node.as_ref());
            let span = node.map_or(span, |node| node.span);
            let differs =
                shown.iter().enumerate().filter(|(_, place)| differing.contains(place)).map(|(at, _)| at).collect();
            let found = Some(show(row, Some(wish)));
            rows.push(RowDiff { expected: Some(expected), found, differs, span, what: "different" });
        } else if check.ordered && found_row.is_none() {
            continue;
        }
    }
    for place in pairs.left {
        if let Some(row) = found.get(place) {
            let (found, differs) = (Some(show(row, None)), Vec::new());
            rows.push(RowDiff { expected: None, found, differs, span: check.node.span, what: "unexpected" });
        }
    }
    let names = shown.iter().filter_map(|place| Some(check.columns.get(*place)?.name.clone())).collect();
    (!rows.is_empty()).then(|| SectionDiff { title: check.what.title(), span: check.node.span, columns: names, rows })
}

/// Columns that any wish names, keys first; those of the key alone where there is no wish, and all where there is no key.
fn shown_columns(check: &Check) -> Vec<usize> {
    let named =
        |place: &usize| check.key.contains(place) || check.wishes.iter().any(|wish| wish.cell(*place).is_some());
    let some: Vec<usize> = (0..check.columns.len()).filter(named).collect();
    if check.wishes.is_empty() { (0..check.columns.len()).collect() } else { some }
}

fn wanted(wish: &Wish, place: usize, columns: &[Column], unit: TimestampUnit) -> String {
    match (wish.cell(place), columns.get(place)) {
        (Some(value), Some(column)) => column.show(value, unit),
        _ => String::new(),
    }
}

/// Columns in which a found row isn't what is wished for.
pub(super) fn differing(check: &Check, wish: &Wish, row: &FoundRow) -> Vec<usize> {
    let differs = |place: usize, value: &ScalarValue| match (row.get(place), check.columns.get(place)) {
        (Some(found), Some(column)) => !fits(column, value, found),
        _ => true,
    };
    wish.cells.iter().filter(|(place, value, _)| differs(*place, value)).map(|(place, ..)| *place).collect()
}

fn fits(column: &Column, wanted: &ScalarValue, found: &ScalarValue) -> bool {
    match (column.form, wanted, found) {
        (Form::Part, ScalarValue::Utf8(Some(part)), ScalarValue::Utf8(Some(whole))) => {
            whole.to_lowercase().contains(&part.to_lowercase())
        }
        _ => wanted == found,
    }
}

/// Gives each wish its row: by the key where there is one, by the order where that counts, and else so that as many as possible are
/// satisfied and the others get the row most like them.
pub(super) fn pair(check: &Check, found: &[FoundRow]) -> Pairs {
    let mut of_wish: Vec<Option<usize>> = match (check.ordered, check.key.is_empty()) {
        (true, _) => (0..check.wishes.len()).map(|place| (place < found.len()).then_some(place)).collect(),
        (false, false) => {
            check.wishes.iter().map(|wish| found.iter().position(|row| same_key(check, wish, row))).collect()
        }
        (false, true) => satisfied(check, found),
    };
    if !check.ordered && check.key.is_empty() {
        nearest(check, found, &mut of_wish);
    }
    let left = (0..found.len()).filter(|row| !of_wish.contains(&Some(*row))).collect();
    Pairs { of_wish, left }
}

fn same_key(check: &Check, wish: &Wish, row: &FoundRow) -> bool {
    check.key.iter().all(|place| wish.cell(*place) == row.get(*place))
}

/// A largest matching of wishes and rows that satisfy them: a row that many would do with goes to whoever can take no other.
fn satisfied(check: &Check, found: &[FoundRow]) -> Vec<Option<usize>> {
    let fitting: Vec<Vec<usize>> = check
        .wishes
        .iter()
        .map(|wish| {
            (0..found.len())
                .filter(|row| found.get(*row).is_some_and(|row| differing(check, wish, row).is_empty()))
                .collect()
        })
        .collect();
    let mut of_row: Vec<Option<usize>> = vec![None; found.len()];
    for wish in 0..fitting.len() {
        let mut seen = vec![false; found.len()];
        augment(wish, &fitting, &mut of_row, &mut seen);
    }
    let mut of_wish = vec![None; fitting.len()];
    for (row, wish) in of_row.iter().enumerate() {
        if let Some(slot) = wish.and_then(|wish| of_wish.get_mut(wish)) {
            *slot = Some(row);
        }
    }
    of_wish
}

/// Finds a row for `wish`, moving others where that makes room. The path is kept by hand: a long one must not need stack.
fn augment(wish: usize, fitting: &[Vec<usize>], of_row: &mut [Option<usize>], seen: &mut [bool]) {
    // Wishes on the path, each with the place of the row that it tries.
    let mut path: Vec<(usize, usize)> = vec![(wish, 0)];
    while let Some((wish, tried)) = path.last_mut() {
        let rows = fitting.get(*wish).map(Vec::as_slice).unwrap_or_default();
        let Some(row) = rows.get(*tried).copied() else {
            path.pop();
            continue;
        };
        *tried += 1;
        if seen.get(row).copied().unwrap_or(true) {
            continue;
        }
        seen[row] = true;
        match of_row.get(row).copied().flatten() {
            Some(other) => path.push((other, 0)),
            None => {
                for (wish, tried) in path {
                    let row = fitting.get(wish).and_then(|rows| rows.get(tried - 1)).copied();
                    if let Some(slot) = row.and_then(|row| of_row.get_mut(row)) {
                        *slot = Some(wish);
                    }
                }
                return;
            }
        }
    }
}

/// Gives wishes that no row satisfies the free row that has most cells right, if any cell is.
fn nearest(check: &Check, found: &[FoundRow], of_wish: &mut [Option<usize>]) {
    for (place, wish) in check.wishes.iter().enumerate() {
        if of_wish.get(place).copied().flatten().is_some() {
            continue;
        }
        let free = (0..found.len()).filter(|row| !of_wish.contains(&Some(*row)));
        let right = |row: &usize| {
            let wrong = found.get(*row).map_or(usize::MAX, |row| differing(check, wish, row).len());
            wish.cells.len().saturating_sub(wrong)
        };
        let best = free.max_by_key(|row| (right(row), std::cmp::Reverse(*row))).filter(|row| right(row) > 0);
        if let Some(slot) = of_wish.get_mut(place) {
            *slot = best;
        }
    }
}
