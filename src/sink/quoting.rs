//! SQL text: identifiers and literals. The only place where either is written into a statement.

use std::fmt::Write;

/// An identifier in backticks. Names come from the config (checked there) or from `information_schema`, never from messages.
pub fn identifier(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// Text as a hexadecimal literal: nothing in it can end the literal, whatever the session's sql_mode.
pub fn text(value: &str) -> String {
    if value.is_empty() { "''".to_owned() } else { format!("CONVERT({} USING utf8mb4)", binary(value.as_bytes())) }
}

/// Text that may be absent.
pub fn optional_text(value: Option<&str>) -> String {
    value.map_or_else(|| "NULL".to_owned(), text)
}

/// Bytes as a hexadecimal literal.
pub fn binary(value: &[u8]) -> String {
    if value.is_empty() {
        return "''".to_owned();
    }
    let mut literal = String::with_capacity(value.len() * 2 + 3);
    literal.push_str("x'");
    push_hex(&mut literal, value);
    literal.push('\'');
    literal
}

/// Bytes that may be absent.
pub fn optional_binary(value: Option<&[u8]>) -> String {
    value.map_or_else(|| "NULL".to_owned(), binary)
}

/// A number that may be absent.
pub fn optional_number(value: Option<i64>) -> String {
    value.map_or_else(|| "NULL".to_owned(), |number| number.to_string())
}

/// Appends `value` in hexadecimal.
pub fn push_hex(out: &mut String, value: &[u8]) {
    for byte in value {
        // Writing to a String cannot fail.
        let _ = write!(out, "{byte:02x}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Proves: R62
    #[test]
    fn quotes_in_names_and_values_stay_inside() {
        assert_eq!(identifier("a`b"), "`a``b`");
        assert_eq!(text("'; drop"), "CONVERT(x'273b2064726f70' USING utf8mb4)");
        assert_eq!(optional_binary(None), "NULL");
    }
}
