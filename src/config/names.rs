//! Names that end up in SQL, in paths and at the broker: which are accepted.
//!
//! In each function: `None` where the name may be used, else what is wrong with it (without the name itself).

/// Longest identifier of MySQL, in characters.
const MAX_IDENTIFIER: usize = 64;
/// Longest topic name of Kafka, in characters.
const MAX_TOPIC: usize = 249;
/// Tables of ours in the target's database; `migrate` creates them.
const OWN_TABLES: [&str; 3] = ["error_data_enrichment", "out_of_order_events", "user_cdc_pipeline_metrics"];
const OWN_TABLE_PREFIX: &str = "afterimage_";
/// Tables that every model may select from, which no lookup can be.
const LEAF_TABLES: [&str; 3] = ["events", "held", "known"];

/// A name for columns, tables and lookups that needs no quoting anywhere.
fn identifier(name: &str) -> Option<String> {
    let starts = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if !starts || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return Some("must be letters (a-z), digits and _, and not start with a digit".to_owned());
    }
    (name.len() > MAX_IDENTIFIER).then(|| format!("is longer than {MAX_IDENTIFIER} characters"))
}

/// A pipeline: names folders and rows of our tables.
pub(crate) fn pipeline(name: &str) -> Option<String> {
    let starts = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if !starts || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-') {
        return Some("must be letters (a-z), digits, _ and -, and start with a letter or digit".to_owned());
    }
    (name.len() > MAX_IDENTIFIER).then(|| format!("is longer than {MAX_IDENTIFIER} characters"))
}

pub(super) fn topic(name: &str) -> Option<String> {
    if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')) {
        return Some("must be letters (a-z), digits, ., _ and -: one topic, no pattern".to_owned());
    }
    if name == "." || name == ".." {
        return Some("is refused by Kafka".to_owned());
    }
    (name.len() > MAX_TOPIC).then(|| format!("is longer than {MAX_TOPIC} characters"))
}

pub(super) fn table(name: &str) -> Option<String> {
    if name.contains('.') {
        return Some("must not name a database: tables are in the database of mysql.url".to_owned());
    }
    let lower = name.to_ascii_lowercase();
    if lower.starts_with(OWN_TABLE_PREFIX) || OWN_TABLES.contains(&lower.as_str()) {
        return Some("is a table of afterimage's own".to_owned());
    }
    identifier(name)
}

/// A key column of a target or of a lookup.
pub(super) fn column(name: &str) -> Option<String> {
    if crate::target::VERSION_COLUMNS.contains(&name.to_ascii_lowercase().as_str()) {
        return Some("is a version column, which afterimage fills itself".to_owned());
    }
    if name.starts_with('_') {
        return Some("must not start with _: such columns are afterimage's own".to_owned());
    }
    identifier(name)
}

pub(super) fn lookup(name: &str) -> Option<String> {
    if LEAF_TABLES.contains(&name.to_ascii_lowercase().as_str()) {
        return Some(format!("is taken: {} are there in every pipeline", LEAF_TABLES.join(", ")));
    }
    identifier(name)
}

/// A database of MySQL, as it stands in the URL.
pub(super) fn database(name: &str) -> Option<String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '$');
    if name.is_empty() || !name.chars().all(allowed) {
        return Some("must be letters (a-z), digits, _, - and $".to_owned());
    }
    (name.len() > MAX_IDENTIFIER).then(|| format!("is longer than {MAX_IDENTIFIER} characters"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_names_are_accepted() {
        assert_eq!(pipeline("users-2"), None);
        assert_eq!(topic("db.app.user_cdc-1"), None);
        assert_eq!(table("enriched_user"), None);
        assert_eq!(column("user_id"), None);
        assert_eq!(lookup("countries"), None);
        assert_eq!(database("app-1"), None);
    }

    // Proves: P6, R62
    #[test]
    fn names_that_would_need_quoting_or_mean_something_else_are_refused() {
        for bad in ["", "a b", "a/b", "-a", "../x", "ü", &"x".repeat(65)] {
            assert!(pipeline(bad).is_some(), "{bad}");
        }
        for bad in ["", "^user.*", "a b", ".", "..", &"x".repeat(250)] {
            assert!(topic(bad).is_some(), "{bad}");
        }
        for bad in ["", "a`b", "app.users", "1a", "afterimage_positions", "Error_Data_Enrichment", &"x".repeat(65)] {
            assert!(table(bad).is_some(), "{bad}");
        }
        for bad in ["", "cdc_ts", "CDC_OFFSET", "_deleted", "a-b", "1a"] {
            assert!(column(bad).is_some(), "{bad}");
        }
        for bad in ["", "events", "Held", "known", "a b"] {
            assert!(lookup(bad).is_some(), "{bad}");
        }
    }
}
