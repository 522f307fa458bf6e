//! Joins with a lookup by its key go through the lookup's own index: the cost follows the batch, not the lookup.
//!
//! [`IndexJoinRule`] comes first among the physical rules. It turns a hash join of anything with a lookup, by exactly the lookup's key,
//! into an [`IndexJoinExec`]; further conditions on the pair or on the lookup's row go with it. What it declines stays the planner's
//! own join, which is right and slow. Either way it notes a [`Verdict`], so that people can be told why a model is slow.

mod exec;

use std::sync::{Arc, Mutex, PoisonError};

use arrow::datatypes::Schema;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{JoinSide, JoinType, NullEquality, Result};
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{BinaryExpr, CastExpr, Column};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::joins::HashJoinExec;
use datafusion::physical_plan::projection::ProjectionExec;

use self::exec::{Condition, From, IndexJoinExec, Keeps};
use super::leaf::LeafExec;
use super::lookup::key::is_exact;
use super::lookup::slot::LookupSlot;

const RULE: &str = "index join";

/// What a rule made of one join or one use of a lookup.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Verdict {
    pub rule: &'static str,
    pub took: bool,
    /// The lookup, and why; fit for a message.
    pub why: String,
}

/// Verdicts of the plan that is being made.
#[derive(Debug, Default)]
pub(super) struct Verdicts(Mutex<Vec<Verdict>>);

impl Verdicts {
    /// Hands over what was noted since the last time.
    pub(super) fn take(&self) -> Vec<Verdict> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn note(&self, took: bool, lookup: &str, why: &str) {
        let verdict = Verdict { rule: RULE, took, why: format!("lookup {lookup}: {why}") };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(verdict);
    }
}

/// See the module page.
#[derive(Debug)]
pub(super) struct IndexJoinRule(pub(super) Arc<Verdicts>);

impl PhysicalOptimizerRule for IndexJoinRule {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        let mut told: Vec<String> = Vec::new();
        let plan = plan.transform_up(|node| {
            let Some(join) = node.downcast_ref::<HashJoinExec>() else { return Ok(Transformed::no(node)) };
            match rewrite(join)? {
                Rewritten::Taken(lookup, by) => {
                    self.0.note(true, &by.0, &by.1);
                    Ok(Transformed::yes(lookup))
                }
                Rewritten::Declined(lookup, why) => {
                    self.0.note(false, &lookup, &why);
                    told.push(lookup);
                    Ok(Transformed::no(node))
                }
                Rewritten::NoLookup => Ok(Transformed::no(node)),
            }
        })?;
        // What is left is read row by row, whether a join was declined for it or it stands in none that could be looked at.
        plan.data.apply(|node| {
            if let Some(leaf) = node.downcast_ref::<LeafExec<LookupSlot>>()
                && !told.iter().any(|name| name == leaf.rows().name())
            {
                told.push(leaf.rows().name().to_owned());
                self.0.note(
                    false,
                    leaf.rows().name(),
                    "all of its rows are read for every batch: it isn't joined by its key",
                );
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(plan.data)
    }

    fn name(&self) -> &'static str {
        "IndexJoin"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

enum Rewritten {
    /// The new operator; the lookup and by what it is joined.
    Taken(Arc<dyn ExecutionPlan>, (String, String)),
    /// The lookup, and why not.
    Declined(String, String),
    NoLookup,
}

/// One side of a join that yields nothing but a lookup's rows.
struct LookupSide {
    slot: Arc<LookupSlot>,
    /// Which column of the lookup each column of this side is.
    columns: Vec<usize>,
    conditions: Vec<Condition>,
}

enum Side {
    Lookup(LookupSide),
    /// A lookup stands there, but its rows don't come through as they are.
    Changed(String, &'static str),
    Other,
}

fn rewrite(join: &HashJoinExec) -> Result<Rewritten> {
    let (left, right) = (side(join.left())?, side(join.right())?);
    let (lookup, on_left) = match (left, right) {
        (_, Side::Lookup(lookup)) => (lookup, false),
        (Side::Lookup(lookup), _) => (lookup, true),
        (Side::Changed(name, why), _) | (_, Side::Changed(name, why)) => {
            return Ok(Rewritten::Declined(name, why.to_owned()));
        }
        (Side::Other, Side::Other) => return Ok(Rewritten::NoLookup),
    };
    let name = lookup.slot.name().to_owned();
    match index_join(join, lookup, on_left)? {
        Ok((operator, by)) => Ok(Rewritten::Taken(operator, (name, by))),
        Err(why) => Ok(Rewritten::Declined(name, why)),
    }
}

/// The operator and by what it joins, or why there is none.
type Offer = Result<(Arc<dyn ExecutionPlan>, String), String>;

fn index_join(join: &HashJoinExec, mut lookup: LookupSide, on_left: bool) -> Result<Offer> {
    let keeps = match (join.join_type(), on_left) {
        (JoinType::Inner, _) => Keeps::Matched,
        (JoinType::Left, false) | (JoinType::Right, true) => Keeps::All,
        (JoinType::LeftSemi, false) | (JoinType::RightSemi, true) => Keeps::Matched,
        (JoinType::LeftAnti, false) | (JoinType::RightAnti, true) if !join.null_aware => Keeps::Unmatched,
        (JoinType::LeftAnti | JoinType::RightAnti, _) => {
            return Ok(Err("NOT IN has to look at all of its rows: write NOT EXISTS".to_owned()));
        }
        _ => {
            return Ok(Err("the join keeps the lookup's own rows: put it on the other side of a LEFT JOIN".to_owned()));
        }
    };
    if join.null_equality() != NullEquality::NullEqualsNothing {
        return Ok(Err("compared by IS NOT DISTINCT FROM: a key is never NULL, use =".to_owned()));
    }
    if join.fetch().is_some() {
        return Ok(Err("a LIMIT stands at the join".to_owned()));
    }
    let (input, lookup_plan) = if on_left { (join.right(), join.left()) } else { (join.left(), join.right()) };
    let keys = match keys(join, &mut lookup, on_left, input)? {
        Ok(keys) => keys,
        Err(why) => return Ok(Err(why)),
    };
    if let Some(filter) = join.filter() {
        let from = filter.column_indices().iter().map(|column| {
            if (column.side == JoinSide::Left) == on_left {
                lookup.columns.get(column.index).map(|column| From::Lookup(*column))
            } else {
                Some(From::Input(column.index))
            }
        });
        let Some(from) = from.collect::<Option<Vec<_>>>() else {
            return Ok(Err("its condition names a column that isn't there".to_owned()));
        };
        let (expression, schema) = (Arc::clone(filter.expression()), Arc::clone(filter.schema()));
        lookup.conditions.push(Condition { expression, schema, from });
    }
    let of_input = (0..input.schema().fields().len()).map(From::Input);
    let of_lookup = lookup.columns.iter().map(|column| From::Lookup(*column));
    let joined: Vec<From> = match (join.join_type(), on_left) {
        (JoinType::LeftSemi | JoinType::LeftAnti | JoinType::RightSemi | JoinType::RightAnti, _) => of_input.collect(),
        (_, true) => of_lookup.chain(of_input).collect(),
        (_, false) => of_input.chain(of_lookup).collect(),
    };
    let output: Option<Vec<From>> = match &join.projection {
        Some(columns) => columns.iter().map(|column| joined.get(*column).copied()).collect(),
        None => Some(joined),
    };
    let Some(output) = output.filter(|output| output.len() == join.schema().fields().len()) else {
        return Ok(Err("the join's columns aren't known".to_owned()));
    };
    debug_assert!(lookup_plan.schema().fields().len() == lookup.columns.len());
    let by = format!("by {}", lookup.slot.key().join(", "));
    let by = if lookup.conditions.is_empty() { by } else { format!("{by}, with a condition") };
    let operator =
        IndexJoinExec::new(Arc::clone(input), lookup.slot, keys, lookup.conditions, keeps, output, join.schema());
    Ok(Ok((Arc::new(operator), by)))
}

/// What is compared with each column of the lookup's key, in the key's order. What else is compared becomes a condition.
fn keys(
    join: &HashJoinExec,
    lookup: &mut LookupSide,
    on_left: bool,
    input: &Arc<dyn ExecutionPlan>,
) -> Result<Result<Vec<Arc<dyn PhysicalExpr>>, String>> {
    let schema = Arc::clone(lookup.slot.schema());
    let mut compared: Vec<(usize, Arc<dyn PhysicalExpr>)> = Vec::new();
    for (left, right) in join.on() {
        let (theirs, own) = if on_left { (right, left) } else { (left, right) };
        let Some(column) = own.downcast_ref::<Column>() else {
            return Ok(Err(computed(own).to_owned()));
        };
        let Some(column) = lookup.columns.get(column.index()) else {
            return Ok(Err("its key is computed".to_owned()));
        };
        compared.push((*column, Arc::clone(theirs)));
    }
    let mut keys = Vec::new();
    for name in lookup.slot.key() {
        let place = schema.index_of(name)?;
        let Some(at) = compared.iter().position(|(column, _)| *column == place) else {
            return Ok(Err(format!("a part of its key isn't compared: {name}")));
        };
        let (_, expression) = compared.swap_remove(at);
        let kind = schema.field(place).data_type();
        if !is_exact(kind) {
            return Ok(Err(format!("its key column {name} is {kind}, which an index can't compare")));
        }
        if expression.data_type(&input.schema())? != *kind {
            return Ok(Err(format!("its key column {name} is {kind} and compared with another type")));
        }
        keys.push(expression);
    }
    for (column, theirs) in compared {
        let Some(input_column) = theirs.downcast_ref::<Column>() else {
            let name = schema.field(column).name();
            return Ok(Err(format!("more than its key is compared: {name}, with something computed")));
        };
        let from = vec![From::Input(input_column.index()), From::Lookup(column)];
        let fields = [input.schema().field(input_column.index()).clone(), schema.field(column).clone()];
        let sides: [Arc<dyn PhysicalExpr>; 2] = [0, 1].map(|at| Arc::new(Column::new(fields[at].name(), at)) as _);
        let [theirs, own] = sides;
        let expression = Arc::new(BinaryExpr::new(theirs, Operator::Eq, own));
        let schema = Arc::new(Schema::new(fields.to_vec()));
        lookup.conditions.push(Condition { expression, schema, from });
    }
    Ok(Ok(keys))
}

fn computed(expression: &Arc<dyn PhysicalExpr>) -> &'static str {
    if expression.is::<CastExpr>() {
        "its key is cast for the comparison: cast the other side to the key's type instead"
    } else {
        "its key is computed: compute the other side instead"
    }
}

/// Follows a side of a join down to a lookup, as long as its rows come through as they are.
fn side(plan: &Arc<dyn ExecutionPlan>) -> Result<Side> {
    if let Some(leaf) = plan.downcast_ref::<LeafExec<LookupSlot>>() {
        let (slot, columns) = (Arc::clone(leaf.rows()), leaf.columns());
        return Ok(Side::Lookup(LookupSide { slot, columns, conditions: Vec::new() }));
    }
    if let Some(projection) = plan.downcast_ref::<ProjectionExec>() {
        let Side::Lookup(lookup) = side(projection.input())? else { return below(plan) };
        let mut columns = Vec::new();
        for wanted in projection.expr() {
            match wanted.expr.downcast_ref::<Column>().and_then(|column| lookup.columns.get(column.index())) {
                Some(column) => columns.push(*column),
                None => return Ok(Side::Changed(lookup.slot.name().to_owned(), computed(&wanted.expr))),
            }
        }
        return Ok(Side::Lookup(LookupSide { columns, ..lookup }));
    }
    if let Some(filter) = plan.downcast_ref::<FilterExec>() {
        let Side::Lookup(mut lookup) = side(filter.input())? else { return below(plan) };
        let from = lookup.columns.iter().map(|column| From::Lookup(*column)).collect();
        let (expression, schema) = (Arc::clone(filter.predicate()), filter.input().schema());
        lookup.conditions.push(Condition { expression, schema, from });
        if let Some(kept) = filter.projection() {
            let columns: Option<Vec<usize>> = kept.iter().map(|at| lookup.columns.get(*at).copied()).collect();
            let Some(columns) = columns else { return below(plan) };
            lookup.columns = columns;
        }
        return Ok(Side::Lookup(lookup));
    }
    below(plan)
}

/// Whether a side is made of lookups alone, in a way that the rule doesn't follow.
fn below(plan: &Arc<dyn ExecutionPlan>) -> Result<Side> {
    let (mut lookup, mut others) = (None, false);
    plan.apply(|node| {
        match node.downcast_ref::<LeafExec<LookupSlot>>() {
            Some(leaf) => lookup = Some(leaf.rows().name().to_owned()),
            None => others |= node.children().is_empty() || node.is::<IndexJoinExec>(),
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(match lookup.filter(|_| !others) {
        Some(name) => Side::Changed(name, "its rows are grouped, united or computed before they are joined"),
        None => Side::Other,
    })
}

#[cfg(test)]
mod tests;
