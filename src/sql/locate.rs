//! From the SQL engine's errors to faults with a place: file, line, column, and what was probably meant.
//!
//! Most planning errors carry a span; syntax errors carry one in their text only, and faults about struct fields and
//! constants carry none, so that the name in question is looked up in the model's text.

use std::path::Path;

use datafusion::common::diagnostic::Diagnostic as EngineDiagnostic;
use datafusion::common::{DataFusionError, Span as EngineSpan};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{self, Token, Tokenizer};

use crate::diagnostic::{Diagnostic, Span, did_you_mean};

/// What the SQL engine adds to errors that it didn't foresee.
const BUG_REPORT: &str = "This issue was likely caused by a bug in DataFusion's code. Please help us to resolve this by filing a \
                          bug report in our issue tracker: https://github.com/apache/datafusion/issues.";

/// A parser's span as ours; `None` for an empty one.
pub(super) fn span(span: tokenizer::Span) -> Option<Span> {
    (span.start.line > 0).then_some(Span {
        line: span.start.line as usize,
        column: span.start.column as usize,
        end_line: span.end.line as usize,
        end_column: span.end.column as usize,
    })
}

/// A syntax error, placed by the end of its text (`... at Line: 1, Column: 16`).
pub(super) fn syntax(file: &Path, sql: &str, error: &DataFusionError) -> Diagnostic {
    let text = plain(error);
    let (message, place) = match text.rsplit_once(" at Line: ") {
        Some((message, place)) => (message.to_owned(), place.to_owned()),
        None => (text.clone(), String::new()),
    };
    let mut numbers = place.split(", Column: ").map(|number| number.trim().parse::<usize>().ok());
    let span = match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(line), Some(column)) => Some(token_at(sql, line, column)),
        _ => end_of(sql),
    };
    let message = message.trim_start_matches("sql parser error: ").trim_start_matches("Expected: ").to_owned();
    let message = if text.contains("Expected: ") { format!("expected {message}") } else { message };
    Diagnostic::error("AI0104", format!("syntax error: {message}")).file(file).span(span)
}

/// The span of the token that starts at (line, column); one character wide where there is none.
fn token_at(sql: &str, line: usize, column: usize) -> Span {
    tokens(sql)
        .into_iter()
        .filter_map(|token| span(token.span))
        .find(|place| place.line == line && place.column == column)
        .unwrap_or(Span { line, column, end_line: line, end_column: column + 1 })
}

fn end_of(sql: &str) -> Option<Span> {
    let line = sql.lines().count();
    let column = sql.lines().last()?.chars().count() + 1;
    Some(Span { line, column, end_line: line, end_column: column + 1 })
}

fn tokens(sql: &str) -> Vec<tokenizer::TokenWithSpan> {
    Tokenizer::new(&GenericDialect {}, sql).tokenize_with_location().unwrap_or_default()
}

/// The first place where `name` stands as an identifier or a quoted text, exactly so.
pub(super) fn word(sql: &str, name: &str) -> Option<Span> {
    words(sql, name).into_iter().next()
}

/// All such places.
fn words(sql: &str, name: &str) -> Vec<Span> {
    let meant = |token: &tokenizer::TokenWithSpan| match &token.token {
        Token::Word(word) => word.value == name,
        Token::SingleQuotedString(text) => text == name,
        _ => false,
    };
    tokens(sql).into_iter().filter(meant).filter_map(|token| span(token.span)).collect()
}

/// The last place where `name` stands.
pub(super) fn last_word(sql: &str, name: &str) -> Option<Span> {
    words(sql, name).pop()
}

/// Where the table `name` is joined: behind a JOIN or a comma, otherwise its first place.
pub(super) fn joined(sql: &str, name: &str) -> Option<Span> {
    let tokens = tokens(sql);
    let words: Vec<&tokenizer::TokenWithSpan> =
        tokens.iter().filter(|token| !matches!(token.token, Token::Whitespace(_))).collect();
    let joins = |token: &Token| match token {
        Token::Word(word) => word.value.eq_ignore_ascii_case("JOIN"),
        Token::Comma => true,
        _ => false,
    };
    let is_name = |token: &Token| matches!(token, Token::Word(word) if word.value == name);
    let found = words.windows(2).find(|pair| joins(&pair[0].token) && is_name(&pair[1].token));
    found.and_then(|pair| span(pair[1].span)).or_else(|| word(sql, name))
}

/// As [`word`], in any case: function names and keywords.
pub(super) fn word_any_case(sql: &str, name: &str) -> Option<Span> {
    let first = name.split(' ').next().unwrap_or(name);
    tokens(sql)
        .into_iter()
        .find(|token| matches!(&token.token, Token::Word(word) if word.value.eq_ignore_ascii_case(first)))
        .and_then(|token| span(token.span))
}

/// The faults in an error of planning `sql`, several where the engine found several. `fields` are the names of struct fields
/// that the model could have meant.
pub(super) fn planning(file: &Path, sql: &str, error: &DataFusionError, fields: &[String]) -> Vec<Diagnostic> {
    error.iter().map(|error| one(file, sql, error, fields)).collect()
}

fn one(file: &Path, sql: &str, error: &DataFusionError, fields: &[String]) -> Diagnostic {
    let text = plain(error);
    if let Some(field) = between(&text, "Field ", " not found in struct") {
        return struct_field(file, sql, field, fields);
    }
    if let Some(call) = between(&text, "argument types '", "'") {
        return no_such_call(file, sql, call, &text);
    }
    if text.contains("does not support logical expression") && sql.to_lowercase().contains("select") {
        return Diagnostic::error("AI0113", "this subquery can't be planned")
            .file(file)
            .span(subquery(sql))
            .help("write it as a JOIN, or as a model of its own");
    }
    if text.contains("unique expression names") {
        return same_name(file, sql, &text);
    }
    let code = code(&text);
    let Some(found) = error.diagnostic() else {
        let fault = Diagnostic::error(code, text.clone()).file(file).span(guess(sql, &text));
        return match code {
            "AI0114" => fault.help("write a value of the other side's type, or convert with TRY_CAST"),
            _ => fault,
        };
    };
    if let Some(fault) = incompatible(file, found) {
        return fault;
    }
    let place = found.span.map(ours);
    let fault = Diagnostic::error(code, lower_first(&found.message)).file(file).span(place);
    let mut helps: Vec<String> = found.helps.iter().map(|help| help.message.clone()).collect();
    helps.extend(found.notes.iter().map(|note| note.message.clone()));
    // The error's text often says what the diagnostic doesn't: "Did you mean 'e.country'?".
    if let Some(meant) = between(&text, "Did you mean '", "'?") {
        helps.retain(|help| !help.to_lowercase().starts_with("possible"));
        helps.insert(0, format!("did you mean \"{meant}\"?"));
    }
    if helps.is_empty() && !text.is_empty() && !text.contains(&found.message) {
        helps.push(text);
    }
    match helps.is_empty() {
        true => fault,
        false => fault.help(helps.iter().map(|help| lower_first(help)).collect::<Vec<_>>().join("; ")),
    }
}

/// Two sides of a comparison that have nothing in common: the engine's notes say what each is, and where.
fn incompatible(file: &Path, found: &EngineDiagnostic) -> Option<Diagnostic> {
    let [left, right] = found.notes.as_slice() else { return None };
    let (left_is, right_is) = (left.message.strip_prefix("has type ")?, right.message.strip_prefix("has type ")?);
    let span = left.span.or(right.span).or(found.span).map(ours);
    let message = format!("{left_is} can't be compared with {right_is}");
    Some(Diagnostic::error("AI0113", message).file(file).span(span).help("CAST one of them to the other's type"))
}

fn ours(span: EngineSpan) -> Span {
    Span {
        line: span.start.line as usize,
        column: span.start.column as usize,
        end_line: span.end.line as usize,
        end_column: span.end.column as usize,
    }
}

/// A model that fails even without rows.
pub(super) fn on_empty_batch(file: &Path, sql: &str, error: &DataFusionError) -> Diagnostic {
    let text = plain(error);
    Diagnostic::error("AI0114", format!("the model fails on an empty batch: {text}")).file(file).span(guess(sql, &text))
}

/// A function that is there, but not for these arguments.
fn no_such_call(file: &Path, sql: &str, call: &str, text: &str) -> Diagnostic {
    let name = call.split('(').next().unwrap_or(call);
    let fault = Diagnostic::error("AI0113", format!("there is no {call}")).file(file).span(word_any_case(sql, name));
    match text.split_once("Candidate functions:") {
        Some((_, candidates)) => fault.help(format!("there is {}", candidates.trim().replace(") ", "), "))),
        None => fault,
    }
}

fn struct_field(file: &Path, sql: &str, field: &str, fields: &[String]) -> Diagnostic {
    let field = field.trim_matches(['"', '\'']);
    let fault =
        Diagnostic::error("AI0110", format!("no field {field:?} in the struct")).file(file).span(member(sql, field));
    match did_you_mean(field, fields.iter().map(String::as_str)) {
        Some(meant) => fault.help(format!("did you mean {meant:?}?")),
        None if fields.is_empty() => fault,
        None => fault.help(format!("it has {}", fields.join(", "))),
    }
}

/// The first SELECT in brackets.
fn subquery(sql: &str) -> Option<Span> {
    let tokens = tokens(sql);
    let words: Vec<&tokenizer::TokenWithSpan> =
        tokens.iter().filter(|token| !matches!(token.token, Token::Whitespace(_))).collect();
    let select = |token: &Token| matches!(token, Token::Word(word) if word.value.eq_ignore_ascii_case("SELECT"));
    let found = words.windows(2).find(|pair| pair[0].token == Token::LParen && select(&pair[1].token));
    found.and_then(|pair| span(pair[1].span))
}

/// Two columns of one SELECT have one name.
fn same_name(file: &Path, sql: &str, text: &str) -> Diagnostic {
    let expression = between(text, "and \"", "\" at position").unwrap_or_default();
    let name = expression.rsplit_once(" AS ").map_or(expression, |(_, name)| name);
    let name = name.rsplit('.').next().unwrap_or(name);
    let places = words(sql, name);
    Diagnostic::error("AI0117", format!("a SELECT yields the column {name:?} twice"))
        .file(file)
        .span(places.get(1).or(places.first()).copied())
        .help("give one of them another name with AS, or leave one out")
}

/// Where `field` is taken out of a struct: behind a dot or a bracket, otherwise its first place.
fn member(sql: &str, field: &str) -> Option<Span> {
    let tokens = tokens(sql);
    let is_field = |token: &Token| match token {
        Token::Word(word) => word.value == field,
        Token::SingleQuotedString(text) => text == field,
        _ => false,
    };
    let found = tokens
        .windows(2)
        .find(|pair| matches!(pair[0].token, Token::Period | Token::LBracket) && is_field(&pair[1].token));
    found.and_then(|pair| span(pair[1].span)).or_else(|| word(sql, field))
}

/// The stable code for an error text.
fn code(text: &str) -> &'static str {
    let lower = text.to_lowercase();
    let has = |part: &str| lower.contains(part);
    if has("invalid function") || has("error during planning: unknown function") {
        "AI0111"
    } else if has("no field named") || (has("column") && has("not found")) {
        "AI0109"
    } else if has("ambiguous") {
        "AI0112"
    } else if has("cannot cast")
        || has("cast error")
        || has("parser error: error parsing")
        || has("parse error")
        || has("error parsing")
    {
        "AI0114"
    } else {
        "AI0113"
    }
}

/// A constant that the error names in quotes stands somewhere in the text.
fn guess(sql: &str, text: &str) -> Option<Span> {
    text.split('\'').skip(1).step_by(2).find_map(|quoted| word(sql, quoted))
}

/// The error's own words, without the engine's prefixes and internals.
pub(super) fn plain(error: &DataFusionError) -> String {
    let root = match error {
        DataFusionError::Diagnostic(_, inner) => inner.as_ref(),
        other => other,
    };
    let mut text = root.find_root().strip_backtrace();
    let prefixes = [
        "Error during planning: ",
        "Internal error: ",
        "SQL error: ",
        "Execution error: ",
        "Arrow error: ",
        "Schema error: ",
        "Parser error: ",
        "Cast error: ",
    ];
    for prefix in prefixes {
        text = text.trim_start_matches(prefix).to_owned();
    }
    // The SQL engine calls each mistake that it didn't foresee a bug of its own.
    text = text.split_whitespace().collect::<Vec<_>>().join(" ").replace(BUG_REPORT, "");
    if let Some(inner) = between(&text, "ParserError(\"", "\")") {
        text = inner.to_owned();
    } else if let Some(inner) = between(&text, "TokenizerError(\"", "\")") {
        text = inner.to_owned();
    }
    text
}

/// `plain` without what may be values: those don't belong in logs.
pub(super) fn without_values(error: &DataFusionError) -> String {
    crate::error::without_values(&plain(error))
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(before)?;
    rest.split_once(after).map(|(found, _)| found)
}

/// The text with a small first letter, unless it begins with a word in capitals.
fn lower_first(text: &str) -> String {
    if text.chars().nth(1).is_some_and(char::is_uppercase) {
        return text.to_owned();
    }
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => first.to_lowercase().chain(letters).collect(),
        None => String::new(),
    }
}
