//! `${NAME}` and `${NAME:-default}` in a text, filled in from the environment; `$$` is a dollar sign.

/// Looks a variable up; `None` where it is not set.
pub type Environment<'e> = dyn Fn(&str) -> Option<String> + 'e;

/// A stretch of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    /// Stands in the file as it is.
    Written(String),
    /// `${name}`, or `${name:-default}`: the default serves where the variable is unset or empty.
    Variable { name: String, default: Option<String> },
}

/// What is wrong with a text's variables, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct VariableFault {
    pub what: String,
    pub help: String,
}

/// Cuts `text` at its variables.
pub(super) fn pieces(text: &str) -> Result<Vec<Piece>, VariableFault> {
    let mut pieces = Vec::new();
    let mut written = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let (before, from) = rest.split_at(at);
        written.push_str(before);
        rest = from.strip_prefix('$').unwrap_or_default();
        if let Some(after) = rest.strip_prefix('$') {
            written.push('$');
            rest = after;
        } else if let Some(after) = rest.strip_prefix('{') {
            let Some((inside, after)) = after.split_once('}') else {
                return Err(fault("\"${\" without \"}\""));
            };
            if !written.is_empty() {
                pieces.push(Piece::Written(std::mem::take(&mut written)));
            }
            pieces.push(variable(inside)?);
            rest = after;
        } else if rest.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
            return Err(fault("a dollar sign before a name"));
        } else {
            written.push('$');
        }
    }
    written.push_str(rest);
    if !written.is_empty() || pieces.is_empty() {
        pieces.push(Piece::Written(written));
    }
    Ok(pieces)
}

/// Fills `pieces` in. Every variable that is missing is named.
pub(super) fn fill(pieces: &[Piece], environment: &Environment<'_>) -> Result<String, VariableFault> {
    let mut filled = String::new();
    let mut missing: Vec<&str> = Vec::new();
    for piece in pieces {
        match piece {
            Piece::Written(text) => filled.push_str(text),
            Piece::Variable { name, default } => match (environment(name), default) {
                (Some(value), None) => filled.push_str(&value),
                (Some(value), Some(_)) if !value.is_empty() => filled.push_str(&value),
                (_, Some(default)) => filled.push_str(default),
                (None, None) => missing.push(name),
            },
        }
    }
    if missing.is_empty() {
        return Ok(filled);
    }
    missing.dedup();
    let (noun, verb) = if missing.len() == 1 { ("variable", "is") } else { ("variables", "are") };
    Err(VariableFault {
        what: format!("environment {noun} {} {verb} not set", missing.join(", ")),
        help: format!("set it, or give a default: \"${{{}:-...}}\"", missing.first().copied().unwrap_or_default()),
    })
}

fn variable(inside: &str) -> Result<Piece, VariableFault> {
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default.to_owned())),
        None => (inside, None),
    };
    let starts = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if !starts || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return Err(fault("\"${...}\" that holds no name of a variable"));
    }
    Ok(Piece::Variable { name: name.to_owned(), default })
}

fn fault(what: &str) -> VariableFault {
    VariableFault {
        what: what.to_owned(),
        help: "a variable is written \"${NAME}\" or \"${NAME:-default}\", a dollar sign \"$$\"".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(text: &str) -> Result<String, VariableFault> {
        let environment = |name: &str| match name {
            "HOST" => Some("db".to_owned()),
            "EMPTY" => Some(String::new()),
            "NESTED" => Some("${HOST}".to_owned()),
            _ => None,
        };
        fill(&pieces(text)?, &environment)
    }

    #[test]
    fn variables_are_filled_in_once() {
        assert_eq!(expanded("a${HOST}b").unwrap(), "adbb");
        assert_eq!(expanded("${NESTED}").unwrap(), "${HOST}", "a value is not read for variables again");
        assert_eq!(expanded("${EMPTY}").unwrap(), "");
        assert_eq!(expanded("").unwrap(), "");
    }

    #[test]
    fn a_default_serves_where_a_variable_is_unset_or_empty() {
        assert_eq!(expanded("${PORT:-3306}").unwrap(), "3306");
        assert_eq!(expanded("${EMPTY:-x}").unwrap(), "x");
        assert_eq!(expanded("${HOST:-x}").unwrap(), "db");
        assert_eq!(expanded("${PORT:-}").unwrap(), "");
        assert_eq!(expanded("${PORT:-p@:-w}").unwrap(), "p@:-w");
    }

    #[test]
    fn two_dollar_signs_are_one_and_a_lone_one_before_a_name_is_a_fault() {
        assert_eq!(expanded("pa$$word, 5$, $1, $${HOST}").unwrap(), "pa$word, 5$, $1, ${HOST}");
        assert!(expanded("$HOST").is_err());
    }

    #[test]
    fn every_missing_variable_is_named() {
        let fault = expanded("${ONE}:${HOST}:${TWO}").unwrap_err();
        assert_eq!(fault.what, "environment variables ONE, TWO are not set");
        assert!(fault.help.contains("${ONE:-...}"));
    }

    #[test]
    fn malformed_variables_are_refused() {
        for bad in ["${HOST", "${}", "${1X}", "${A B}", "${A-b}"] {
            assert!(expanded(bad).is_err(), "{bad}");
        }
    }
}
