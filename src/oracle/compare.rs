//! What is different between that which should be and that which is, in lines that a person can act upon.

use std::collections::BTreeMap;
use std::fmt::Debug;

use super::{Late, Quarantined, Row, Sums, Version};

/// Something with named parts, so that a difference names the parts that differ.
pub trait Columns {
    fn columns(&self) -> Vec<(&'static str, String)>;
}

/// One line per entry that is missing, too much or different, e.g. `enriched_user "42": name: expected Some("A"), found None`; none if
/// both are equal. At most `limit` lines, and one more that counts the rest.
pub fn differences<K: Ord + Debug, V: PartialEq + Columns>(
    what: &str,
    expected: &BTreeMap<K, V>,
    found: &BTreeMap<K, V>,
    limit: usize,
) -> Vec<String> {
    let mut lines = Vec::new();
    let mut count: usize = 0;
    let mut note = |line: &dyn Fn() -> String| {
        count += 1;
        if count <= limit {
            lines.push(line());
        }
    };
    for (key, value) in expected {
        match found.get(key) {
            None => note(&|| format!("{what} {key:?}: missing, expected {}", whole(value))),
            Some(there) if there != value => note(&|| format!("{what} {key:?}: {}", parts(value, there))),
            Some(_) => {}
        }
    }
    for (key, value) in found {
        if !expected.contains_key(key) {
            note(&|| format!("{what} {key:?}: unexpected, found {}", whole(value)));
        }
    }
    if count > limit {
        lines.push(format!("{what}: {} more differences", count - limit));
    }
    lines
}

fn whole(value: &impl Columns) -> String {
    let columns: Vec<String> = value.columns().into_iter().map(|(name, text)| format!("{name} {text}")).collect();
    columns.join(", ")
}

fn parts(expected: &impl Columns, found: &impl Columns) -> String {
    let pairs = expected.columns().into_iter().zip(found.columns());
    let unequal = pairs.filter(|((_, expected), (_, found))| expected != found);
    let lines: Vec<String> =
        unequal.map(|((name, expected), (_, found))| format!("{name}: expected {expected}, found {found}")).collect();
    lines.join("; ")
}

/// Lists the named fields of a struct with their debug text.
macro_rules! columns {
    ($type:ty: $($field:ident),+) => {
        impl Columns for $type {
            fn columns(&self) -> Vec<(&'static str, String)> {
                vec![$((stringify!($field), format!("{:?}", self.$field))),+]
            }
        }
    };
}

columns!(Row: name, email, country, country_name, region, cdc_ts, cdc_partition, cdc_offset);
columns!(Quarantined: state, stage, users);
columns!(Late: ts_ns, known_ns);
columns!(Sums: read, ignored, refused, held, accepted, changes);

impl Columns for Version {
    fn columns(&self) -> Vec<(&'static str, String)> {
        vec![("cdc_ts", self.0.to_string()), ("cdc_partition", self.1.to_string()), ("cdc_offset", self.2.to_string())]
    }
}
