//! What the planner made of the models: for people who want to know why one is slow.
//!
//! In: planned models. Out: an [`Explanation`], per model what it reads, its logical and its physical plan, and a [`Verdict`] for
//! every place at which a fast rule took it or could have: those about lookups as `index_join` noted them, the others read off the
//! physical plan, which is what runs.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use datafusion::physical_plan::{ExecutionPlan, displayable};
use serde::Serialize;

pub use super::index_join::Verdict;
use super::plan::Step;

/// `ROW_NUMBER() .. = 1`: the newest row of each key without sorting.
pub const NEWEST_ROW: &str = "newest row";
/// A join by equality: each row meets only those that are like it.
pub const EQUALITY: &str = "join by equality";

/// The models of one pipeline as they are planned.
#[derive(Debug, Clone, Serialize)]
pub struct Explanation {
    /// What models read besides each other.
    pub tables: Vec<TableNode>,
    /// In running order.
    pub models: Vec<ModelNode>,
}

/// A table that models read.
#[derive(Debug, Clone, Serialize)]
pub struct TableNode {
    pub name: String,
    pub kind: TableKind,
    /// Of a lookup.
    pub rows: Option<usize>,
    /// The model from whose rows the engine makes it.
    pub made_from: Option<&'static str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TableKind {
    /// The decoded batch.
    Events,
    Lookup,
    /// Made by the engine: users on hold, or what was known of late ones.
    Engine,
}

/// A planned model.
#[derive(Debug, Clone, Serialize)]
pub struct ModelNode {
    pub name: String,
    pub file: PathBuf,
    /// Tables and models, by name.
    pub reads: Vec<String>,
    /// Whether rows of it can come to the target.
    pub reaches_target: bool,
    pub verdicts: Vec<Verdict>,
    /// Names of the physical plan's operators, outermost first.
    pub operators: Vec<String>,
    pub logical: String,
    pub physical: String,
}

/// A planned model as a node of the graph; `lookups` are names and rows.
pub(super) fn model(step: &Step, reaches_target: bool, lookups: &BTreeMap<String, usize>) -> ModelNode {
    let plan = step.physical();
    let mut operators = Vec::new();
    // What became of lookups was noted while planning.
    let mut verdicts = step.verdicts.clone();
    visit(plan, &mut operators, &mut verdicts, lookups);
    ModelNode {
        name: step.name.clone(),
        file: step.file.clone(),
        reads: step.reads.clone(),
        reaches_target,
        verdicts,
        operators,
        logical: step.logical.display_indent().to_string(),
        physical: displayable(plan.as_ref()).indent(false).to_string().trim_end().to_owned(),
    }
}

fn visit(
    plan: &Arc<dyn ExecutionPlan>,
    operators: &mut Vec<String>,
    verdicts: &mut Vec<Verdict>,
    lookups: &BTreeMap<String, usize>,
) {
    operators.push(plan.name().to_owned());
    verdicts.extend(verdict(plan, lookups));
    for child in plan.children() {
        visit(child, operators, verdicts, lookups);
    }
}

fn verdict(plan: &Arc<dyn ExecutionPlan>, lookups: &BTreeMap<String, usize>) -> Option<Verdict> {
    let looked_up = || {
        let sides = plan.children().into_iter().filter_map(only_leaf);
        sides.filter_map(|name| lookups.get(&name).map(|rows| (name, *rows))).next()
    };
    let not = |rule, why: String| Some(Verdict { rule, took: false, why });
    let yes = |rule, why: &str| Some(Verdict { rule, took: true, why: why.to_owned() });
    match plan.name() {
        "LatestExec" => yes(NEWEST_ROW, "the first row of each key is picked in one pass, without sorting"),
        "NestedLoopJoinExec" | "CrossJoinExec" => {
            let with = looked_up().map(|(name, rows)| format!(" (of {name}, {rows} rows)")).unwrap_or_default();
            let why = format!("each row meets every row of the other side{with}: ON has no equality between the two");
            not(EQUALITY, why)
        }
        "BoundedWindowAggExec" | "WindowAggExec" if computes_row_number(plan) => {
            let why = "ROW_NUMBER() sorts the batch: only with PARTITION BY, ORDER BY and a filter that keeps number 1 \
                       alone, with nothing computed in between, it doesn't";
            not(NEWEST_ROW, why.to_owned())
        }
        _ => None,
    }
}

fn computes_row_number(plan: &Arc<dyn ExecutionPlan>) -> bool {
    displayable(plan.as_ref()).one_line().to_string().to_lowercase().contains("row_number()")
}

/// The name of the table below `plan`, where it reads one alone.
fn only_leaf(plan: &Arc<dyn ExecutionPlan>) -> Option<String> {
    match plan.children().as_slice() {
        // Leaves show themselves as `SlotExec: name`.
        [] => {
            let line = displayable(plan.as_ref()).one_line().to_string();
            let (_, name) = line.trim().split_once(": ")?;
            Some(name.to_owned())
        }
        [child] => only_leaf(child),
        _ => None,
    }
}
