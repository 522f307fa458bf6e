//! The target follows the models: which `ALTER TABLE`s it lacks, how the server would run each, and running them.
//!
//! In: the columns that the model `latest` asks for, and the table as it is. Out: a [`Plan`]. Columns are added and widened, so that
//! every value that is there stays the same; what would lose something is done only where it is named, or not at all. How a statement
//! runs (instantly, in place, or as a copy that keeps writers out) the server says itself: each is tried on an empty copy of the table.
//!
//! Nothing here is part of a data transaction. Every statement names the algorithm that it was planned with: a server that can't keep to
//! it refuses instead of blocking the table.

use crate::target::{Column, Target};

pub mod apply;
pub mod plan;
mod wider;

#[cfg(test)]
mod tests;

/// What the caller allows beyond adding and widening.
#[derive(Debug, Clone, Default)]
pub struct Wishes {
    /// Columns to drop.
    pub drop: Vec<String>,
    /// Columns to rename: from, to.
    pub rename: Vec<(String, String)>,
    /// Columns to widen to a type that the models don't ask for by themselves, such as `varchar(500)`.
    pub widen: Vec<(String, String)>,
}

/// One change of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Add(Column),
    /// The column as it is, and the type that it gets.
    Widen(Column, String),
    /// From, to.
    Rename(String, String),
    Drop(String),
}

/// When a statement belongs before or after the models that go with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Models of before don't mind it.
    Before,
    /// Models of before and after both wait for the other: they stand still until it is done.
    Between,
    /// Models of before need what it takes away.
    After,
}

/// How the server runs a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Only the catalogue changes.
    Instant,
    /// Writers go on while it runs.
    Online,
    /// Nobody writes while it runs.
    Blocking,
    /// It couldn't be tried.
    Unknown,
}

impl Class {
    pub fn name(self) -> &'static str {
        match self {
            Self::Instant => "instant",
            Self::Online => "online",
            Self::Blocking => "blocking",
            Self::Unknown => "unknown",
        }
    }

    /// What a statement ends with so that the server keeps to it.
    fn clause(self) -> &'static str {
        match self {
            Self::Instant => ", ALGORITHM=INSTANT",
            Self::Online => ", ALGORITHM=INPLACE, LOCK=NONE",
            Self::Blocking => ", ALGORITHM=COPY",
            Self::Unknown => "",
        }
    }
}

impl Phase {
    pub fn name(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::Between => "between",
            Self::After => "after",
        }
    }
}

impl Change {
    pub fn phase(&self) -> Phase {
        match self {
            Self::Add(_) | Self::Widen(..) => Phase::Before,
            Self::Rename(..) => Phase::Between,
            Self::Drop(_) => Phase::After,
        }
    }

    /// The column's name as it is now, or will be.
    pub fn column(&self) -> &str {
        match self {
            Self::Add(column) | Self::Widen(column, _) => &column.name,
            Self::Rename(from, _) => from,
            Self::Drop(name) => name,
        }
    }

    /// What it does, for people.
    pub fn told(&self) -> String {
        match self {
            Self::Add(column) => format!("add {} {}", column.name, column.ddl_type),
            Self::Widen(column, to) => format!("widen {} from {} to {to}", column.name, wider::bare(column)),
            Self::Rename(from, to) => format!("rename {from} to {to}"),
            Self::Drop(name) => format!("drop {name}"),
        }
    }
}

/// One `ALTER TABLE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    pub changes: Vec<Change>,
    pub class: Class,
    pub phase: Phase,
    pub sql: String,
}

/// What the table lacks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    pub table: String,
    pub statements: Vec<Statement>,
    /// What no statement here mends: a column's type that can't be widened into what the models yield.
    pub conflicts: Vec<String>,
    /// What is worth knowing: columns that the models don't yield, why classes are unknown.
    pub notes: Vec<String>,
}

impl Plan {
    pub fn is_empty(&self) -> bool {
        self.statements.is_empty() && self.conflicts.is_empty()
    }
}

/// The changes that lead from `actual` to a table that holds what `wanted` asks for, in the order in which they are safe, and what can't
/// be mended. Wishes that make no sense are conflicts.
pub fn changes(wanted: &Target, actual: &Target, wishes: &Wishes) -> (Vec<Change>, Vec<String>, Vec<String>) {
    let (mut changes, mut conflicts, mut notes) = (Vec::new(), Vec::new(), Vec::new());
    let renamed_to = |name: &str| wishes.rename.iter().find(|(_, to)| to == name).map(|(from, _)| from.as_str());
    let mut used: Vec<&str> = Vec::new();
    for column in &wanted.columns {
        let now = actual.column(&column.name).or_else(|| actual.column(renamed_to(&column.name)?));
        let Some(now) = now else {
            if actual.columns.iter().any(|other| other.name.eq_ignore_ascii_case(&column.name)) {
                conflicts.push(format!(
                    "{} is there in another case of letters: names of columns don't tell it",
                    column.name
                ));
            } else {
                changes.push(Change::Add(column.clone()));
            }
            continue;
        };
        used.push(&now.name);
        if now.name != column.name {
            changes.push(Change::Rename(now.name.clone(), column.name.clone()));
        }
        match wider::need(now, column) {
            wider::Need::Nothing => {}
            wider::Need::Type(to) => changes.push(Change::Widen(now.clone(), to)),
            wider::Need::Other => conflicts.push(format!(
                "{} is {}, and the models yield {}: no wider type holds both; add a column beside it, or CAST in latest.sql",
                now.name,
                wider::bare(now),
                column.ddl_type
            )),
        }
    }
    for (name, to) in &wishes.widen {
        match actual.column(name).map(|column| (column, wider::wished(column, to))) {
            Some((column, true)) => {
                changes.retain(|change| !matches!(change, Change::Widen(other, _) if other.name == *name));
                if !wider::bare(column).eq_ignore_ascii_case(to) {
                    changes.push(Change::Widen(column.clone(), to.clone()));
                }
            }
            Some((column, false)) => {
                conflicts.push(format!("{to} doesn't hold all that {name} {} does", wider::bare(column)));
            }
            None => conflicts.push(format!("there is no column {name} to widen")),
        }
    }
    for (from, to) in &wishes.rename {
        if actual.column(from).is_none() && actual.column(to).is_none() {
            conflicts.push(format!("there is no column {from} to rename"));
        } else if wanted.column(to).is_none() {
            conflicts.push(format!("the models yield no column {to} that {from} could become"));
        }
    }
    for column in actual.columns.iter().filter(|column| !used.contains(&column.name.as_str())) {
        let name = &column.name;
        if wishes.drop.contains(name) {
            changes.push(Change::Drop(name.clone()));
        } else {
            let empty = if column.nullable {
                "stays, and is NULL in new rows"
            } else {
                "stays, and needs a default to be left out"
            };
            notes.push(format!("the models yield no {name}: it {empty}; `--drop {name}` plans to drop it"));
        }
    }
    for name in &wishes.drop {
        if wanted.column(name).is_some() {
            conflicts.push(format!("the models yield {name}: it can't be dropped"));
        }
    }
    changes.sort_by_key(Change::phase);
    (changes, conflicts, notes)
}
