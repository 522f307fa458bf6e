//! The generations table: which definition of a pipeline is the newest, and that nobody writes under an older one.
//!
//! [`Owner::register`] runs in one transaction: it takes the pipeline's lock (the first row of its generations), finds or gives the
//! number, and writes it into all positions of the pipeline. That takes their row locks, so it waits for commits that are under way;
//! from then on every other generation's compare-and-swap finds a row that doesn't fit. First rows of partitions are made under the same
//! lock, shared ([`Owner::newest_locked`]).

use super::positions::{Owner, generation_at, text_ascii};
use super::quoting::{binary, text};
use super::session::{Session, StatementError, int_at, text_at};
use super::tables::{GENERATIONS, POSITIONS};
use crate::error::{Error, Kind, Result};
use crate::generation::{Fingerprint, Generation, Marks};

/// Two first registrations that meet: one of them is repeated. More often than this it is something else.
const ATTEMPTS: usize = 10;

/// On what grounds a definition is registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grounds {
    /// An instance starts: an older definition is one that somebody has replaced.
    Start,
    /// The files of an instance that runs this generation have changed. If it is the newest, that is somebody's will, also where they
    /// change back.
    Edit(Generation),
    /// An operator says so.
    Adoption,
}

/// What came of a registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registered {
    /// It was the newest before.
    Known(Generation),
    /// It is the newest now.
    New(Generation),
    /// It is an older one; nothing was changed.
    Outdated { ours: i64, newest: i64 },
}

/// A row of the table, for people.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Entry {
    pub generation: i64,
    pub fingerprint: String,
    pub first_seen: String,
    pub instance: String,
    /// Partitions whose last transaction was of this generation.
    pub wrote_last: i64,
}

impl Owner {
    /// Registers the definition with these `marks` as this pipeline's newest definition, if it isn't already and `grounds` allow it. If COMMIT's answer is
    /// lost, asking again tells.
    pub async fn register(&self, session: &mut Session, marks: &Marks, grounds: Grounds) -> Result<Registered> {
        for _ in 0..ATTEMPTS {
            match self.try_register(session, marks, grounds).await {
                Ok(registered) => return Ok(registered),
                Err(error) => {
                    session.rollback().await;
                    // Another instance has registered the first one, or the same number, at this moment.
                    if error.code != 1062 {
                        return Err(error.into_error().at("registering a generation"));
                    }
                }
            }
        }
        Err(Error::new(Kind::SinkContention, "others register generations all the time"))
    }

    async fn try_register(
        &self,
        session: &mut Session,
        marks: &Marks,
        grounds: Grounds,
    ) -> Result<Registered, StatementError> {
        let fingerprint = marks.whole;
        session.run("START TRANSACTION").await?;
        session.run(&self.lock()).await?;
        let mine = format!("pipeline = {}", text_ascii(&self.pipeline));
        // In this order: where there is no first row yet there is no lock either, and whoever makes it meanwhile must not be taken for a
        // database that was set back, nor for another definition than its own.
        let stored = session.rows(&format!("SELECT MAX(generation) FROM {POSITIONS} WHERE {mine}")).await?;
        let stored = stored.first().and_then(|row| int_at(row, 0)).unwrap_or(0);
        let known = self.number_of(session, fingerprint).await?;
        let newest = self.newest(session).await?;
        let registered = decide(fingerprint, newest, known, stored, grounds);
        let generation = match registered {
            Registered::Outdated { .. } => {
                session.rollback().await;
                return Ok(registered);
            }
            Registered::Known(generation) => generation,
            Registered::New(generation) => {
                let insert = format!(
                    "INSERT INTO {GENERATIONS} (pipeline, generation, fingerprint, schema_fingerprint, first_seen, instance) \
                     VALUES ({}, {}, {}, {}, UTC_TIMESTAMP(6), {})",
                    text_ascii(&self.pipeline),
                    generation.number,
                    binary(&fingerprint.0),
                    binary(&marks.schema.0),
                    text(&self.name),
                );
                session.run(&insert).await?;
                generation
            }
        };
        // Whatever its topic: an older definition may name another one.
        let (number, print) = (generation.number, binary(&generation.fingerprint.0));
        let fence = format!(
            "UPDATE {POSITIONS} SET generation = {number}, fingerprint = {print} WHERE {mine} AND (generation <> {number} OR fingerprint <> {print})"
        );
        session.run(&fence).await?;
        session.run("COMMIT").await?;
        Ok(registered)
    }

    /// Takes the pipeline's lock. It is the first row, which unlike the newest one stays the same; nothing in it changes.
    fn lock(&self) -> String {
        format!(
            "UPDATE {GENERATIONS} SET instance = instance WHERE pipeline = {} ORDER BY generation LIMIT 1",
            text_ascii(&self.pipeline)
        )
    }

    /// The newest generation. Under READ COMMITTED each statement sees what is committed by then.
    async fn newest(&self, session: &mut Session) -> Result<Option<Generation>, StatementError> {
        let newest = format!(
            "SELECT generation, fingerprint FROM {GENERATIONS} WHERE pipeline = {} ORDER BY generation DESC LIMIT 1",
            text_ascii(&self.pipeline)
        );
        Ok(session.rows(&newest).await?.first().map(|row| generation_at(row, 0)))
    }

    /// The newest generation, and none is registered until the session's transaction ends.
    pub(super) async fn newest_locked(&self, session: &mut Session) -> Result<Option<Generation>, StatementError> {
        let first = format!(
            "SELECT generation FROM {GENERATIONS} WHERE pipeline = {} ORDER BY generation LIMIT 1 LOCK IN SHARE MODE",
            text_ascii(&self.pipeline)
        );
        session.rows(&first).await?;
        self.newest(session).await
    }

    /// The last number that was given to `fingerprint`.
    async fn number_of(&self, session: &mut Session, fingerprint: Fingerprint) -> Result<Option<i64>, StatementError> {
        let known = format!(
            "SELECT MAX(generation) FROM {GENERATIONS} WHERE pipeline = {} AND fingerprint = {}",
            text_ascii(&self.pipeline),
            binary(&fingerprint.0)
        );
        Ok(session.rows(&known).await?.first().and_then(|row| int_at(row, 0)))
    }

    /// Whether `fingerprint` is known as an older definition than the newest: its number and the newest one's. Takes no lock.
    pub async fn outdated_by(&self, session: &mut Session, fingerprint: Fingerprint) -> Result<Option<(i64, i64)>> {
        let asked = async {
            let known = self.number_of(session, fingerprint).await?;
            Ok((self.newest(session).await?, known))
        };
        let (newest, known) = asked.await.map_err(StatementError::into_error)?;
        Ok(match (newest, known) {
            (Some(newest), Some(known)) if newest.fingerprint != fingerprint => Some((known, newest.number)),
            _ => None,
        })
    }

    /// The last generation that read events in another way than the one with this mark of its schema; 0 if none did.
    pub async fn last_read_differently(&self, session: &mut Session, schema: Fingerprint) -> Result<i64> {
        let sql = format!(
            "SELECT MAX(generation) FROM {GENERATIONS} WHERE pipeline = {} AND schema_fingerprint <> {}",
            text_ascii(&self.pipeline),
            binary(&schema.0)
        );
        let rows = session.rows(&sql).await.map_err(StatementError::into_error)?;
        Ok(rows.first().and_then(|row| int_at(row, 0)).unwrap_or(0))
    }

    /// Whether the generation that this instance runs is the newest.
    pub async fn is_newest(&self, session: &mut Session) -> Result<bool> {
        let newest = self.newest(session).await.map_err(StatementError::into_error)?;
        Ok(newest == Some(self.generation))
    }

    /// The condition of a positions row being of the generation that this instance runs.
    pub(super) fn is_current(&self) -> String {
        format!("generation = {} AND fingerprint = {}", self.generation.number, binary(&self.generation.fingerprint.0))
    }

    pub(super) fn outdated(&self, found: i64) -> Error {
        outdated(&self.pipeline, self.generation.number, found)
    }
}

/// Why a pipeline writes nothing: another generation than its own is in use.
pub fn outdated(pipeline: &str, ours: i64, newest: i64) -> Error {
    let what = format!(
        "the models, schema and settings here are generation {ours} of pipeline {pipeline}; generation {newest} is in use"
    );
    Error::new(Kind::Outdated, what).remedy(format!(
        "bring the newer files here, or go back to these on purpose: `afterimage generations adopt --pipeline {pipeline}`; it goes on \
         by itself"
    ))
}

/// All generations of a pipeline, the newest first.
pub async fn list(session: &mut Session, pipeline: &str) -> Result<Vec<Entry>> {
    let sql = format!(
        "SELECT g.generation, g.fingerprint, g.first_seen, g.instance, (SELECT COUNT(*) FROM {POSITIONS} p WHERE p.pipeline = g.pipeline \
         AND p.wrote_generation = g.generation) FROM {GENERATIONS} g WHERE g.pipeline = {} ORDER BY g.generation DESC",
        text_ascii(pipeline)
    );
    let rows = session.rows(&sql).await.map_err(StatementError::into_error)?;
    let entry = |row: &mysql_async::Row| Entry {
        generation: int_at(row, 0).unwrap_or(0),
        fingerprint: generation_at(row, 0).fingerprint.to_string(),
        first_seen: text_at(row, 2),
        instance: text_at(row, 3),
        wrote_last: int_at(row, 4).unwrap_or(0),
    };
    Ok(rows.iter().map(entry).collect())
}

/// What a registration comes to: `newest` and `known` (the last number of this very fingerprint) as the table has them, `stored` the
/// greatest number in the positions.
fn decide(
    fingerprint: Fingerprint,
    newest: Option<Generation>,
    known: Option<i64>,
    stored: i64,
    grounds: Grounds,
) -> Registered {
    let number = newest.map_or(0, |newest| newest.number);
    // Positions may be ahead of a table that was emptied or restored by itself: numbers still only grow.
    let next = Registered::New(Generation { number: number.max(stored) + 1, fingerprint });
    match (newest, known) {
        (Some(newest), _) if newest.fingerprint == fingerprint && stored <= newest.number => Registered::Known(newest),
        (Some(newest), Some(ours)) if newest.fingerprint != fingerprint => match grounds {
            Grounds::Adoption => next,
            Grounds::Edit(from) if from == newest => next,
            Grounds::Start | Grounds::Edit(_) => Registered::Outdated { ours, newest: newest.number },
        },
        _ => next,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Fingerprint = Fingerprint([1; 32]);
    const B: Fingerprint = Fingerprint([2; 32]);

    fn new(number: i64, fingerprint: Fingerprint) -> Registered {
        Registered::New(Generation { number, fingerprint })
    }

    // Proves: R57
    #[test]
    fn an_older_definition_is_refused_at_start_and_comes_back_only_on_purpose() {
        let first = Generation { number: 1, fingerprint: A };
        let second = Generation { number: 2, fingerprint: B };
        assert_eq!(decide(A, None, None, 0, Grounds::Start), new(1, A));
        assert_eq!(decide(A, Some(first), Some(1), 1, Grounds::Start), Registered::Known(first));
        assert_eq!(decide(B, Some(first), None, 1, Grounds::Start), new(2, B));
        let outdated = Registered::Outdated { ours: 1, newest: 2 };
        assert_eq!(decide(A, Some(second), Some(1), 2, Grounds::Start), outdated);
        assert_eq!(decide(A, Some(second), Some(1), 2, Grounds::Edit(first)), outdated, "an edit of an outdated one");
        assert_eq!(decide(A, Some(second), Some(1), 2, Grounds::Edit(second)), new(3, A), "an edit that is undone");
        assert_eq!(decide(A, Some(second), Some(1), 2, Grounds::Adoption), new(3, A));
    }

    #[test]
    fn numbers_grow_though_the_table_of_generations_was_lost() {
        assert_eq!(decide(A, None, None, 7, Grounds::Start), new(8, A));
        let first = Generation { number: 1, fingerprint: A };
        assert_eq!(decide(A, Some(first), Some(1), 7, Grounds::Start), new(8, A));
    }
}
