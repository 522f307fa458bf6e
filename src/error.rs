//! Errors: what happened, where, what to do about it, and what the loop does next.
//!
//! Stations return [`Error`]; the loop looks only at its [`Kind`] (see `pipeline::policy`, which matches it exhaustively, so
//! a new kind does not compile until somebody decides what it means). Messages never carry payload data or secrets.

use std::fmt;

/// Result of a station.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of trouble this is; decides what happens next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Brokers can't be reached or don't answer: wait and try again.
    BrokerUnavailable,
    /// MySQL can't be reached, is restarting, read-only, full or out of resources: wait and try again.
    SinkUnavailable,
    /// Deadlock, lock wait timeout, snapshot conflict: repeat the whole transaction.
    SinkContention,
    /// The answer to COMMIT was lost: read the position back before anything else.
    CommitUnknown,
    /// Another instance owns the partition: drop what was read of it.
    Fenced,
    /// The database knows another generation of this pipeline's definition as the newest: nothing is written until ours is it.
    Outdated,
    /// MySQL refuses a row, not the transaction: find the row and quarantine it.
    RowRefused,
    /// MySQL refuses statements for a reason an operator can mend without a restart: privileges, a missing table or column.
    SinkConfig,
    /// Kafka no longer holds what must be read next, or it is a different topic: that partition halts.
    PositionLost,
    /// A model failed on a whole batch for a reason no single event explains, or yields what its contract forbids.
    Model,
    /// Config, schemas, models or lookups are wrong: exit before the first poll.
    Config,
    /// Too large a share of the records was refused: stop instead of diverting everything.
    TooManyRefused,
    /// `on_error = "stop"` and a record was refused.
    RecordRefused,
    /// Our own fault: stop, ask for a report.
    Bug,
}

/// What happened (`what`, a sentence without a full stop), where and what to do, and the error beneath it.
#[derive(Debug)]
pub struct Error {
    pub kind: Kind,
    pub what: String,
    /// What the reader can do about it; empty where nothing is to be done.
    pub remedy: String,
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    pub fn new(kind: Kind, what: impl Into<String>) -> Self {
        Self { kind, what: what.into(), remedy: String::new(), source: None }
    }

    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = remedy.into();
        self
    }

    #[must_use]
    pub fn source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Puts `context` (where it happened) before what happened.
    #[must_use]
    pub fn at(mut self, context: impl fmt::Display) -> Self {
        self.what = format!("{context}: {}", self.what);
        self
    }
}

/// `text`, somebody else's words about an event, without what may be its values: everything from the first quote mark to the last
/// (a value may hold some itself), and every number.
pub fn without_values(text: &str) -> String {
    const MARKS: [char; 3] = ['\'', '"', '`'];
    let (before, after) = match (text.find(MARKS), text.rfind(MARKS)) {
        (Some(first), Some(last)) => (text.get(..first), text.get(last + 1..)),
        _ => (Some(text), None),
    };
    let mut kept = without_numbers(before.unwrap_or_default());
    if let Some(after) = after {
        kept.push_str("'...'");
        kept.push_str(&without_numbers(after));
    }
    kept
}

/// `text` with `#` for each number; digits that belong to a word, as in `Int32`, stay.
fn without_numbers(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    for c in text.chars() {
        let in_word = kept.ends_with(|before: char| before.is_alphanumeric() || before == '_');
        match c {
            c if !c.is_ascii_digit() || in_word => kept.push(c),
            _ if kept.ends_with('#') => {}
            _ => kept.push('#'),
        }
    }
    kept
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if let Some(source) = &self.source {
            write!(f, ": {source}")?;
        }
        if !self.remedy.is_empty() {
            write!(f, " ({})", self.remedy)?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Proves: P6
    #[test]
    fn words_of_others_are_kept_and_values_are_not() {
        for (text, expected) in [
            ("Cannot cast string 'five' to value of Int32 type", "Cannot cast string '...' to value of Int32 type"),
            ("Cannot cast string 'o'canary' to Int32", "Cannot cast string '...' to Int32"),
            ("Overflow happened on: 9223372036854775807 + 1", "Overflow happened on: # + #"),
            ("value \"a'b\" of `c", "value '...'c"),
            ("an é before 'x'", "an é before '...'"),
            ("plain", "plain"),
            ("'", "'...'"),
        ] {
            assert_eq!(without_values(text), expected);
        }
    }
}
