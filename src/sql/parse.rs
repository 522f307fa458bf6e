//! One model's text, parsed: its statement, the tables it reads, the functions it calls and the columns it names, each with its place.
//!
//! In: the text of a `.sql` file. Out: a [`Parsed`], or the faults that keep it from being one `SELECT`.

use std::ops::ControlFlow;
use std::path::Path;

use datafusion::sql::parser::{DFParserBuilder, Statement};
use datafusion::sql::sqlparser::ast::{
    Expr, ObjectName, Query, SelectItem, SetExpr, Spanned, Statement as SqlStatement, TableFactor, Visit, Visitor,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;

use super::locate;
use crate::diagnostic::{Diagnostic, Span};

/// A name in the text and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) name: String,
    pub(super) span: Option<Span>,
}

/// A model's body.
#[derive(Debug, Clone)]
pub(super) struct Parsed {
    pub(super) statement: Statement,
    /// Tables read, without the query's own `WITH` names, in order of appearance, each once.
    pub(super) reads: Vec<Named>,
    /// Functions called, in order of appearance.
    pub(super) calls: Vec<Named>,
    /// Columns that the outermost `SELECT` names itself (not those behind a `*`).
    pub(super) outputs: Vec<Named>,
}

/// Parses the text of `file`.
pub(super) fn parse(file: &Path, sql: &str) -> Result<Parsed, Vec<Diagnostic>> {
    let statements = DFParserBuilder::new(sql)
        .with_dialect(&GenericDialect {})
        .build()
        .and_then(|mut parser| parser.parse_statements())
        .map_err(|error| vec![locate::syntax(file, sql, &error)])?;
    let mut statements = statements.into_iter();
    let Some(statement) = statements.next() else {
        return Err(vec![
            Diagnostic::error("AI0105", "the file holds no statement")
                .file(file)
                .help("a model is one SELECT; delete the file if the model isn't needed"),
        ]);
    };
    if let Some(second) = statements.next() {
        let span = statement_span(&second);
        return Err(vec![
            Diagnostic::error("AI0105", "the file holds more than one statement")
                .file(file)
                .span(span)
                .help("a model is one SELECT; put the second one in a file of its own"),
        ]);
    }
    let Some(query) = query_of(&statement) else {
        return Err(vec![
            Diagnostic::error("AI0106", "a model must be a SELECT")
                .file(file)
                .span(statement_span(&statement))
                .help("models only read: nothing may be created, changed or set"),
        ]);
    };
    let mut seen = Names::default();
    if let ControlFlow::Break(fault) = query.visit(&mut seen) {
        return Err(vec![(*fault).file(file)]);
    }
    let outputs = outputs(query);
    Ok(Parsed { outputs, reads: seen.reads, calls: seen.calls, statement })
}

fn query_of(statement: &Statement) -> Option<&Query> {
    match statement {
        Statement::Statement(inner) => match inner.as_ref() {
            SqlStatement::Query(query) => Some(query),
            _ => None,
        },
        _ => None,
    }
}

fn statement_span(statement: &Statement) -> Option<Span> {
    match statement {
        Statement::Statement(inner) => locate::span(inner.span()),
        _ => None,
    }
}

/// The columns that the outermost SELECT (the first of a UNION) names.
fn outputs(query: &Query) -> Vec<Named> {
    let mut body = query.body.as_ref();
    let select = loop {
        match body {
            SetExpr::Select(select) => break select,
            SetExpr::Query(query) => body = query.body.as_ref(),
            SetExpr::SetOperation { left, .. } => body = left.as_ref(),
            _ => return Vec::new(),
        }
    };
    let named = |item: &SelectItem| match item {
        SelectItem::ExprWithAlias { alias, .. } => {
            Some(Named { name: alias.value.clone(), span: locate::span(alias.span) })
        }
        SelectItem::UnnamedExpr(Expr::Identifier(ident)) => {
            Some(Named { name: ident.value.clone(), span: locate::span(ident.span) })
        }
        SelectItem::UnnamedExpr(Expr::CompoundIdentifier(parts)) => {
            parts.last().map(|ident| Named { name: ident.value.clone(), span: locate::span(ident.span) })
        }
        _ => None,
    };
    select.projection.iter().filter_map(named).collect()
}

/// Collects tables and functions, and stops at what a model may not contain.
#[derive(Default)]
struct Names {
    reads: Vec<Named>,
    calls: Vec<Named>,
    /// `WITH` names in scope, innermost last.
    scope: Vec<String>,
    /// The next relation is a table function's name, e.g. `generate_series(1, 3)`.
    table_function: bool,
}

impl Visitor for Names {
    type Break = Box<Diagnostic>;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<Self::Break> {
        if let Some(with) = &query.with {
            if with.recursive {
                let fault = Diagnostic::error("AI0106", "a model can't use WITH RECURSIVE")
                    .span(locate::span(with.with_token.0.span));
                return ControlFlow::Break(Box::new(fault));
            }
            for cte in &with.cte_tables {
                // A WITH name isn't in scope in its own definition: `WITH t AS (SELECT * FROM t)` reads the table t.
                cte.visit(self)?;
                self.scope.push(cte.alias.name.value.clone());
            }
        }
        if matches!(
            query.body.as_ref(),
            SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_)
        ) {
            let fault = Diagnostic::error("AI0106", "a model must be a SELECT")
                .span(locate::span(query.span()))
                .help("models only read: nothing may be created, changed or set");
            return ControlFlow::Break(Box::new(fault));
        }
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, query: &Query) -> ControlFlow<Self::Break> {
        if let Some(with) = &query.with {
            self.scope.truncate(self.scope.len().saturating_sub(with.cte_tables.len()));
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<Self::Break> {
        self.table_function = matches!(factor, TableFactor::Table { args: Some(_), .. });
        ControlFlow::Continue(())
    }

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<Self::Break> {
        if std::mem::take(&mut self.table_function) {
            return ControlFlow::Continue(());
        }
        let name = plain_name(relation);
        let known = self.reads.iter().any(|read| read.name == name) || self.scope.contains(&name);
        if !known {
            self.reads.push(Named { name, span: locate::span(relation.span()) });
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Self::Break> {
        if let Expr::Function(function) = expr {
            self.calls.push(Named { name: plain_name(&function.name), span: locate::span(function.name.span()) });
        }
        ControlFlow::Continue(())
    }
}

/// The name as written, without quotes; parts are joined by dots, which makes `a.b` an unknown table.
fn plain_name(name: &ObjectName) -> String {
    let parts: Vec<&str> = name.0.iter().filter_map(|part| part.as_ident()).map(|ident| ident.value.as_str()).collect();
    parts.join(".")
}
