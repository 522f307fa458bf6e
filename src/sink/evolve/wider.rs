//! Which type a column has to get so that it holds what the models yield as well as what it holds already.

use crate::target::{Column, Holds};

/// What a column needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Need {
    /// It takes the values as it is.
    Nothing,
    /// This type, which holds both.
    Type(String),
    /// Another type, in which something could be lost.
    Other,
}

/// What `now` needs to hold what `wanted` does. Texts and bytes are as long as their column was made: how long they are the models
/// don't say, and a value that doesn't fit is refused by itself.
pub(super) fn need(now: &Column, wanted: &Column) -> Need {
    match (now.holds, wanted.holds) {
        (Holds::Other, _) => Need::Nothing,
        (Holds::Text { .. } | Holds::Json | Holds::JsonText, Holds::Text { .. } | Holds::Json | Holds::JsonText) => {
            Need::Nothing
        }
        (Holds::Bytes { .. }, Holds::Bytes { .. } | Holds::Text { .. }) => Need::Nothing,
        (Holds::Double, Holds::Double | Holds::Float) | (Holds::Float, Holds::Float) => Need::Nothing,
        (Holds::Float, Holds::Double) => Need::Type("double".to_owned()),
        (Holds::Date, Holds::Date) => Need::Nothing,
        (Holds::Date, Holds::DateTime { digits }) => Need::Type(with_digits("datetime", digits)),
        (Holds::DateTime { .. }, Holds::Date) => Need::Nothing,
        (Holds::DateTime { digits: has }, Holds::DateTime { digits }) => match digits > has {
            false => Need::Nothing,
            true if now.ddl_type.starts_with("timestamp") => Need::Type(with_digits("timestamp", digits)),
            true => Need::Type(with_digits("datetime", digits)),
        },
        (Holds::Time { digits: has }, Holds::Time { digits }) => match digits > has {
            true => Need::Type(with_digits("time", digits)),
            false => Need::Nothing,
        },
        (Holds::Int { .. } | Holds::Bool, Holds::Int { .. } | Holds::Bool) => whole(now, wanted),
        (
            Holds::Int { .. } | Holds::Bool | Holds::Decimal { .. },
            Holds::Int { .. } | Holds::Bool | Holds::Decimal { .. },
        ) => decimal(now, wanted),
        _ => Need::Other,
    }
}

/// Whether the type called `to` is one that holds all that the column does: a wish is checked as far as its text tells.
pub(super) fn wished(column: &Column, to: &str) -> bool {
    let to = to.trim().to_lowercase();
    let length = |text: &str| -> Option<u64> { text.split_once('(')?.1.strip_suffix(')')?.parse().ok() };
    match column.holds {
        Holds::Text { max_chars, .. } if bare(column).starts_with("varchar") || bare(column).starts_with("char") => {
            let longer = to.starts_with("varchar(") && length(&to).is_some_and(|length| length >= max_chars);
            longer || matches!(to.as_str(), "text" | "mediumtext" | "longtext")
        }
        Holds::Bytes { max_bytes } if bare(column).starts_with("varbinary") => {
            let longer = to.starts_with("varbinary(") && length(&to).is_some_and(|length| length >= max_bytes);
            longer || matches!(to.as_str(), "blob" | "mediumblob" | "longblob")
        }
        Holds::Text { .. } => matches!(
            (bare(column), to.as_str()),
            ("tinytext", "text") | ("tinytext" | "text", "mediumtext") | (_, "longtext")
        ),
        Holds::Bytes { .. } => matches!(
            (bare(column), to.as_str()),
            ("tinyblob", "blob") | ("tinyblob" | "blob", "mediumblob") | (_, "longblob")
        ),
        _ => false,
    }
}

/// The column's type without character set and collation.
pub(super) fn bare(column: &Column) -> &str {
    column.ddl_type.split(" CHARACTER SET").next().unwrap_or_default()
}

fn with_digits(name: &str, digits: u8) -> String {
    if digits == 0 { name.to_owned() } else { format!("{name}({digits})") }
}

const WHOLE: [(&str, u32); 4] = [("tinyint", 8), ("smallint", 16), ("int", 32), ("bigint", 64)];

fn range(holds: Holds) -> (i128, i128) {
    match holds {
        Holds::Int { min, max } => (min, max),
        _ => (0, 1),
    }
}

fn whole(now: &Column, wanted: &Column) -> Need {
    let ((has_min, has_max), (min, max)) = (range(now.holds), range(wanted.holds));
    if has_min <= min && max <= has_max {
        return Need::Nothing;
    }
    if now.ddl_type.starts_with("bit") {
        return Need::Other;
    }
    let (min, max) = (min.min(has_min), max.max(has_max));
    let signed = WHOLE.iter().find(|(_, bits)| -(1_i128 << (bits - 1)) <= min && max < 1_i128 << (bits - 1));
    let unsigned = WHOLE.iter().find(|(_, bits)| min >= 0 && max < 1_i128 << bits);
    // A column that had no negative numbers needs none now either.
    let keeps = if now.ddl_type.contains("unsigned") { unsigned } else { signed };
    match keeps.map(|(name, _)| (name, now.ddl_type.contains("unsigned"))).or(signed.map(|(name, _)| (name, false))) {
        Some((name, true)) => Need::Type(format!("{name} unsigned")),
        Some((name, false)) => Need::Type((*name).to_owned()),
        // Signed and unsigned numbers of 64 bits.
        None => Need::Type("decimal(20,0)".to_owned()),
    }
}

/// Digits before and after the point.
fn digits(holds: Holds) -> (u8, u8) {
    match holds {
        Holds::Decimal { precision, scale } => (precision.saturating_sub(scale), scale),
        Holds::Int { min, max } => (min.unsigned_abs().max(max.unsigned_abs()).to_string().len() as u8, 0),
        _ => (1, 0),
    }
}

fn decimal(now: &Column, wanted: &Column) -> Need {
    let ((has_before, has_after), (before, after)) = (digits(now.holds), digits(wanted.holds));
    let is_decimal = matches!(now.holds, Holds::Decimal { .. });
    if is_decimal && has_before >= before && has_after >= after {
        return Need::Nothing;
    }
    let (before, after) = (before.max(has_before), after.max(has_after));
    if before + after > 65 || after > 30 {
        return Need::Other;
    }
    Need::Type(format!("decimal({},{after})", before + after))
}
