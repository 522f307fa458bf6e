//! Generations: which version of a pipeline's definition is in use, and since when.
//!
//! A definition is all that decides what an event becomes: the models, the schema file in use, and the settings beside them. Its
//! [`Fingerprint`] says whether two are the same, its [`Generation`] which of two is the newer one. Numbers are given by the database
//! (`sink::generations`) and only ever grow.

use std::fmt;

use sha2::{Digest, Sha256};

/// SHA-256 of a definition's content.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Fingerprint(pub [u8; 32]);

/// What a definition is told apart by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Marks {
    /// Of all of it.
    pub whole: Fingerprint,
    /// Of that part which decides how bytes become events.
    pub schema: Fingerprint,
}

/// A registered definition. Both parts are compared wherever it matters: a database that was set back gives a number twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Generation {
    /// From 1; 0: none is registered yet.
    pub number: i64,
    pub fingerprint: Fingerprint,
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}

impl Fingerprint {
    /// The first 12 digits, for people.
    pub fn short(&self) -> String {
        self.to_string().chars().take(12).collect()
    }
}

/// Makes a [`Fingerprint`] of parts, each with a name, so that no two lists of parts look alike.
#[derive(Debug, Clone, Default)]
pub struct Fingerprinter(Sha256);

impl Fingerprinter {
    pub fn part(&mut self, name: &str, content: &[u8]) {
        for text in [name.as_bytes(), content] {
            self.0.update((text.len() as u64).to_le_bytes());
            self.0.update(text);
        }
    }

    pub fn finish(self) -> Fingerprint {
        Fingerprint(self.0.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(parts: &[(&str, &str)]) -> Fingerprint {
        let mut made = Fingerprinter::default();
        parts.iter().for_each(|(name, content)| made.part(name, content.as_bytes()));
        made.finish()
    }

    #[test]
    fn parts_that_merely_read_alike_differ() {
        let all = [of(&[("a", "bc")]), of(&[("ab", "c")]), of(&[("a", "b"), ("c", "")]), of(&[("a", ""), ("b", "c")])];
        for (index, one) in all.iter().enumerate() {
            assert!(all.iter().skip(index + 1).all(|other| other != one), "{index}");
        }
        assert_eq!(of(&[("a", "b")]).short().len(), 12);
    }
}
