//! Names: what a field of the source is called in the table, and how a name is written in SQL.

use datafusion::sql::sqlparser::ast::{Expr, SelectItem, SetExpr, Statement};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::{
    RESERVED_FOR_COLUMN_ALIAS, RESERVED_FOR_IDENTIFIER, RESERVED_FOR_TABLE_ALIAS,
};
use datafusion::sql::sqlparser::parser::Parser;

/// Names that the models need for themselves.
const TAKEN: [&str; 12] = [
    "ts",
    "cdc_ts",
    "cdc_partition",
    "cdc_offset",
    "newest",
    "highest",
    "earlier_ts",
    "earlier_offset",
    "in_batch",
    "events",
    "held",
    "known",
];
/// MySQL's limit is 64; a number may have to be added.
const LONGEST: usize = 58;

/// `userId` as `user_id`: letters, digits and `_`, none of `taken`.
pub(super) fn column(field: &str, taken: &[&str]) -> String {
    let letters: Vec<char> = field.chars().collect();
    let mut name = String::new();
    for (place, letter) in letters.iter().enumerate() {
        let before = place.checked_sub(1).and_then(|place| letters.get(place));
        let after = letters.get(place + 1);
        let word_starts = letter.is_uppercase()
            && (before.is_some_and(|before| before.is_lowercase() || before.is_numeric())
                || (before.is_some_and(|before| before.is_uppercase())
                    && after.is_some_and(|after| after.is_lowercase())));
        // Beyond the basic plane MySQL has no names.
        if !letter.is_alphanumeric() || u32::from(*letter) > 0xffff {
            name.push('_');
            continue;
        }
        if word_starts {
            name.push('_');
        }
        name.extend(letter.to_lowercase());
    }
    let words: Vec<&str> = name.split('_').filter(|word| !word.is_empty()).collect();
    let mut name: String = words.join("_").chars().take(LONGEST).collect();
    if name.is_empty() {
        name = "field".to_owned();
    }
    if name.starts_with(|first: char| first.is_numeric()) {
        name = format!("c_{name}");
    }
    if TAKEN.contains(&name.as_str()) {
        name.push_str("_value");
    }
    let free = |name: &str| !taken.iter().any(|other| other.to_lowercase() == name.to_lowercase());
    if free(&name) {
        return name;
    }
    (2..).map(|number| format!("{name}_{number}")).find(|name| free(name)).unwrap_or(name)
}

/// `name` as an identifier, in quotes where SQL would read it as something else.
pub(super) fn identifier(name: &str) -> String {
    if reads_back(name) { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

/// The field `name` of a struct.
pub(super) fn member(of: &str, name: &str) -> String {
    let plain = name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_');
    match plain {
        true => format!("{of}.{}", identifier(name)),
        false => format!("{of}['{}']", name.replace('\'', "''")),
    }
}

/// Whether the parser takes the bare word for a name everywhere that models use one.
fn reads_back(name: &str) -> bool {
    let reserved = [RESERVED_FOR_COLUMN_ALIAS, RESERVED_FOR_TABLE_ALIAS, RESERVED_FOR_IDENTIFIER];
    let upper = name.to_ascii_uppercase();
    if reserved.iter().any(|words| words.iter().any(|word| format!("{word:?}") == upper)) {
        return false;
    }
    let starts = name.starts_with(|letter: char| letter.is_ascii_alphabetic() || letter == '_');
    if !starts || !name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_') {
        return false;
    }
    let sql = format!("SELECT {name}, t.{name} AS {name}, 1 FROM t ORDER BY {name} DESC, t.{name}");
    let Ok(statements) = Parser::parse_sql(&GenericDialect {}, &sql) else { return false };
    let [Statement::Query(query)] = statements.as_slice() else { return false };
    let SetExpr::Select(select) = query.body.as_ref() else { return false };
    match select.projection.as_slice() {
        [
            SelectItem::UnnamedExpr(Expr::Identifier(bare)),
            SelectItem::ExprWithAlias { expr: Expr::CompoundIdentifier(parts), alias },
            _,
        ] => {
            bare.value == name
                && alias.value == name
                && parts.len() == 2
                && parts.last().is_some_and(|last| last.value == name)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_become_columns_in_snake_case() {
        for (field, expected) in [
            ("userId", "user_id"),
            ("HTTPServer2Name", "http_server2_name"),
            ("e-mail address", "e_mail_address"),
            ("_id", "id"),
            ("Straße", "straße"),
            ("2nd", "c_2nd"),
            ("ts", "ts_value"),
            ("💶", "field"),
            ("__", "field"),
        ] {
            assert_eq!(column(field, &[]), expected, "{field}");
        }
        assert_eq!(column("user-id", &["user_id", "user_id_2"]), "user_id_3");
        assert!(column(&"x".repeat(300), &[]).chars().count() <= 64);
    }

    #[test]
    fn words_of_sql_are_quoted_and_others_are_not() {
        for plain in ["user_id", "name", "amount", "userId", "status"] {
            assert_eq!(identifier(plain), plain);
        }
        for word in ["select", "from", "order", "current_date", "null", "true", "a b", "é", "1st"] {
            assert_eq!(identifier(word), format!("\"{word}\""));
        }
        assert_eq!(identifier("a\"b"), "\"a\"\"b\"");
        assert_eq!(member("after", "it's"), "after['it''s']");
        assert_eq!(member("after", "order"), "after.\"order\"");
    }
}
