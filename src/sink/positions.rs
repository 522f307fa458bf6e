//! The positions table: who owns a partition, where its reading stands, what became of its records.
//!
//! Offsets move only by compare-and-swap inside the data transaction ([`Owner::swap`]): the row must be exactly as this instance left
//! or acquired it. Its offset makes a second application of a range impossible (P3); epoch and token stop an instance that lost the
//! partition without knowing it; the last transaction's name stops one whose memory is ahead of a database that was set back; the
//! generation stops one whose models are not the newest ([`super::generations`]).

use std::collections::BTreeMap;

use mysql_async::Row;

use super::quarantine::{self, PendingRow};
use super::quoting::{binary, optional_number, optional_text, text};
use super::session::{Session, StatementError, bytes_at, int_at, text_at};
use super::tables::POSITIONS;
use crate::error::{Error, Kind, Result};
use crate::generation::{Fingerprint, Generation};
use crate::position::Partition;

/// Random name of one run of one instance (owner) or of one transaction.
pub type Token = [u8; 16];

/// Which topic in which cluster the offsets belong to; `None` where the broker can't tell.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TopicIdentity {
    pub cluster_id: Option<String>,
    pub topic_id: Option<String>,
}

/// A partition's row after this instance acquired it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    pub partition: Partition,
    pub next_offset: i64,
    pub epoch: i64,
    /// The last transaction that moved it.
    pub transaction: Token,
    pub high_water_ns: Option<i64>,
    pub identity: TopicIdentity,
}

/// Partitions that this instance acquired, and what stood in quarantine of them at the same instant.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Acquired {
    pub stored: Vec<Stored>,
    pub pending: Vec<PendingRow>,
}

/// The change that one transaction makes to one partition's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advance {
    pub partition: Partition,
    pub epoch: i64,
    /// The transaction that moved the row last, as far as we know.
    pub last: Token,
    pub from: i64,
    /// Equal to `from` for a transaction that only re-runs quarantined records.
    pub to: i64,
    pub high_water_ns: Option<i64>,
    pub sums: SumChanges,
    /// Whose models the rows are from.
    pub generation: Generation,
}

/// By how much the running sums move; negative where a quarantined record changes its class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct SumChanges {
    pub read: i64,
    pub ignored: i64,
    pub refused: i64,
    pub held: i64,
    pub accepted: i64,
    pub changes: i64,
    pub upserted: i64,
    pub deleted: i64,
    pub superseded: i64,
}

impl SumChanges {
    /// P4: both sums balance, in every transaction.
    pub fn balances(&self) -> bool {
        self.read == self.ignored + self.refused + self.held + self.accepted
            && self.changes == self.upserted + self.deleted + self.superseded
    }

    pub fn add(&mut self, other: &SumChanges) {
        self.read += other.read;
        self.ignored += other.ignored;
        self.refused += other.refused;
        self.held += other.held;
        self.accepted += other.accepted;
        self.changes += other.changes;
        self.upserted += other.upserted;
        self.deleted += other.deleted;
        self.superseded += other.superseded;
    }

    fn columns(&self) -> [(&'static str, i64); 9] {
        [
            ("n_read", self.read),
            ("n_ignored", self.ignored),
            ("n_refused", self.refused),
            ("n_held", self.held),
            ("n_accepted", self.accepted),
            ("n_changes", self.changes),
            ("n_upserted", self.upserted),
            ("n_deleted", self.deleted),
            ("n_superseded", self.superseded),
        ]
    }
}

/// Whose rows, and who we are.
#[derive(Debug, Clone)]
pub struct Owner {
    pub pipeline: String,
    pub topic: String,
    pub token: Token,
    /// Host and process, for people.
    pub name: String,
    /// The definition that it runs.
    pub generation: Generation,
}

/// A partition's row as far as the protocol goes. What the statements do to it stands beside them in Rust: the model of the protocol
/// runs on that, and `tests/protocol/swap.rs` compares the two on real servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    pub partition: Partition,
    pub next_offset: i64,
    pub epoch: i64,
    /// Whose the partition is.
    pub owner: Token,
    /// The last transaction that moved it.
    pub transaction: Token,
    /// The newest definition that was registered: nobody else may move it.
    pub generation: Generation,
}

impl Found {
    /// Whether the swap of `advance` by `owner` finds this row as it expects it: the WHERE of [`Owner::swap`].
    pub fn fits(&self, advance: &Advance, owner: &Token) -> bool {
        self.next_offset == advance.from
            && self.epoch == advance.epoch
            && self.owner == *owner
            && self.transaction == advance.last
            && self.generation == advance.generation
    }

    /// The row after `transaction` has moved it: the SET of [`Owner::swap`].
    #[must_use]
    pub fn swapped(self, advance: &Advance, transaction: &Token) -> Self {
        Self { next_offset: advance.to, transaction: *transaction, ..self }
    }

    /// The row after `owner` has acquired it, if its generation is the owner's: the UPDATE of [`Owner::acquire`].
    #[must_use]
    pub fn acquired(self, owner: &Token) -> Self {
        Self { epoch: self.epoch + 1, owner: *owner, ..self }
    }
}

impl Owner {
    pub(super) fn is_mine(&self) -> String {
        format!("pipeline = {} AND topic = {}", text_ascii(&self.pipeline), text_ascii(&self.topic))
    }

    /// Takes ownership of `partitions`: bumps each row's epoch and puts our token in it. Partitions without a row are missing
    /// from the answer. Waits for a former owner's open transaction, which holds the row. Who is on hold is read under the same lock:
    /// later it might be what another owner has made of it. [`Kind::Outdated`], and nothing is taken, where a row is of another
    /// generation than ours.
    pub async fn acquire(&self, session: &mut Session, partitions: &[Partition]) -> Result<Acquired> {
        if partitions.is_empty() {
            return Ok(Acquired::default());
        }
        let chosen = format!("{} AND kafka_partition IN ({})", self.is_mine(), list(partitions));
        let result = async {
            session.run("START TRANSACTION").await?;
            let bump = format!(
                "UPDATE {POSITIONS} SET owner_epoch = owner_epoch + 1, owner_token = {}, owner = {} WHERE {chosen} AND {}",
                binary(&self.token),
                text(&self.name),
                self.is_current(),
            );
            session.run(&bump).await?;
            let select = format!(
                "SELECT kafka_partition, next_offset, owner_epoch, high_water_ns, cluster_id, topic_id, transaction_id, generation, \
                 fingerprint FROM {POSITIONS} \
                 WHERE {chosen} ORDER BY kafka_partition FOR UPDATE"
            );
            let rows = session.rows(&select).await?;
            if let Some(other) = rows.iter().map(|row| generation_at(row, 7)).find(|found| *found != self.generation) {
                return Ok(Err(other));
            }
            let pending = quarantine::pending(session, self, partitions).await?;
            session.run("COMMIT").await?;
            Ok(Ok((rows, pending)))
        }
        .await;
        match result {
            Ok(Err(other)) => {
                session.rollback().await;
                Err(self.outdated(other.number))
            }
            Ok(Ok((rows, pending))) => {
                let stored = rows.iter().map(stored).collect::<Result<_>>()?;
                Ok(Acquired { stored, pending })
            }
            Err(error) => {
                session.rollback().await;
                Err(StatementError::into_error(error).at("acquiring partitions"))
            }
        }
    }

    /// How many partitions of this topic have a position.
    pub async fn count(&self, session: &mut Session) -> Result<usize> {
        let sql = format!("SELECT COUNT(*) FROM {POSITIONS} WHERE {}", self.is_mine());
        let rows = session.rows(&sql).await.map_err(StatementError::into_error)?;
        Ok(rows.first().and_then(|row| int_at(row, 0)).and_then(|count| usize::try_from(count).ok()).unwrap_or(0))
    }

    /// Where every partition of this topic stands, whoever owns it.
    pub async fn offsets(&self, session: &mut Session) -> Result<BTreeMap<Partition, i64>> {
        let sql = format!("SELECT kafka_partition, next_offset FROM {POSITIONS} WHERE {}", self.is_mine());
        let rows = session.rows(&sql).await.map_err(StatementError::into_error)?;
        Ok(rows.iter().map(|row| (partition_at(row), int_at(row, 1).unwrap_or(0))).collect())
    }

    /// Gives a partition its first row, standing at `next_offset`. An error of kind [`Kind::Fenced`] if another instance was faster,
    /// [`Kind::Outdated`] if another generation than ours is the newest.
    pub async fn create(
        &self,
        session: &mut Session,
        partition: Partition,
        next_offset: i64,
        identity: &TopicIdentity,
    ) -> Result<Stored> {
        let sql = format!(
            "INSERT INTO {POSITIONS} (pipeline, topic, kafka_partition, next_offset, cluster_id, topic_id, owner_epoch, owner_token, owner, \
             transaction_id, updated, generation, fingerprint) \
             VALUES ({}, {}, {partition}, {next_offset}, {}, {}, 1, {}, {}, {}, UTC_TIMESTAMP(6), {}, {})",
            text_ascii(&self.pipeline),
            text_ascii(&self.topic),
            optional_text(identity.cluster_id.as_deref()),
            optional_text(identity.topic_id.as_deref()),
            binary(&self.token),
            text(&self.name),
            binary(&self.token),
            self.generation.number,
            binary(&self.generation.fingerprint.0),
        );
        // No newer generation can be registered between the look and the end of the transaction.
        let created = async {
            session.run("START TRANSACTION").await?;
            let newest = self.newest_locked(session).await?;
            if newest != Some(self.generation) {
                return Ok(Err(newest.unwrap_or_default()));
            }
            session.run(&sql).await?;
            session.run("COMMIT").await.map(|_| Ok(()))
        }
        .await;
        match created {
            Ok(Err(newest)) => {
                session.rollback().await;
                Err(self.outdated(newest.number))
            }
            Ok(Ok(())) => Ok(Stored {
                partition,
                next_offset,
                epoch: 1,
                transaction: self.token,
                high_water_ns: None,
                identity: identity.clone(),
            }),
            Err(error) if error.code == 1062 => {
                session.rollback().await;
                Err(Error::new(Kind::Fenced, format!("another instance has just begun partition {partition}")))
            }
            Err(error) => {
                session.rollback().await;
                Err(error.into_error().at("recording a first position"))
            }
        }
    }

    /// Notes cluster and topic where they were unknown so far.
    pub async fn identify(
        &self,
        session: &mut Session,
        partitions: &[Partition],
        identity: &TopicIdentity,
    ) -> Result<()> {
        let sql = format!(
            "UPDATE {POSITIONS} SET cluster_id = COALESCE(cluster_id, {}), topic_id = COALESCE(topic_id, {}) \
             WHERE {} AND kafka_partition IN ({}) AND owner_token = {}",
            optional_text(identity.cluster_id.as_deref()),
            optional_text(identity.topic_id.as_deref()),
            self.is_mine(),
            list(partitions),
            binary(&self.token),
        );
        session.run(&sql).await.map(drop).map_err(StatementError::into_error)
    }

    /// The compare-and-swap for all partitions of one transaction in one statement. It must affect `advances.len()` rows. Each row is
    /// looked up by its key: in so small a table the servers would rather read all of it, and wait for whoever moves another one.
    pub fn swap(&self, advances: &[Advance], transaction: &Token) -> String {
        let mut rows: Vec<String> = Vec::with_capacity(advances.len());
        for advance in advances {
            let names = rows.is_empty();
            let alias = |name: &str| if names { format!(" AS {name}") } else { String::new() };
            let mut row = format!(
                "SELECT {}{}, {}{}, {}{}, {}{}, {}{}, {}{}, {}{}, {}{}",
                advance.partition,
                alias("part"),
                advance.from,
                alias("was"),
                advance.to,
                alias("becomes"),
                advance.epoch,
                alias("epoch"),
                binary(&advance.last),
                alias("last"),
                optional_number(advance.high_water_ns),
                alias("high_water"),
                advance.generation.number,
                alias("generation"),
                binary(&advance.generation.fingerprint.0),
                alias("fingerprint"),
            );
            for (name, change) in advance.sums.columns() {
                row.push_str(&format!(", {change}{}", alias(name)));
            }
            rows.push(row);
        }
        let sums: Vec<String> =
            SumChanges::default().columns().iter().map(|(name, _)| format!("p.{name} = p.{name} + v.{name}")).collect();
        format!(
            "UPDATE ({}) v STRAIGHT_JOIN {POSITIONS} p FORCE INDEX (PRIMARY) ON p.pipeline = {pipeline} AND p.topic = {topic} AND \
             p.kafka_partition = v.part SET p.next_offset = v.becomes, \
             p.high_water_ns = NULLIF(GREATEST(COALESCE(p.high_water_ns, {min}), COALESCE(v.high_water, {min})), {min}), \
             {}, p.transaction_id = {}, p.updated = UTC_TIMESTAMP(6), p.wrote_generation = v.generation \
             WHERE p.next_offset = v.was AND p.owner_epoch = v.epoch AND p.owner_token = {} \
             AND p.transaction_id = v.last AND p.generation = v.generation AND p.fingerprint = v.fingerprint",
            rows.join(" UNION ALL "),
            sums.join(", "),
            binary(transaction),
            binary(&self.token),
            pipeline = text_ascii(&self.pipeline),
            topic = text_ascii(&self.topic),
            min = i64::MIN + 1,
        )
    }

    /// Moves `count` changes of one partition from an outcome to `superseded`, after the merge told how many there were.
    pub fn correct(&self, partition: Partition, upserted: i64, deleted: i64) -> String {
        format!(
            "UPDATE {POSITIONS} SET n_upserted = n_upserted - {upserted}, n_deleted = n_deleted - {deleted}, \
             n_superseded = n_superseded + {} WHERE {} AND kafka_partition = {partition}",
            upserted + deleted,
            self.is_mine(),
        )
    }

    /// The rows of `partitions` for somebody who has a transaction in doubt. The locking read waits until that transaction, which
    /// may still be committing, is decided; a plain read would show the state before it.
    pub async fn find(&self, session: &mut Session, partitions: &[Partition]) -> Result<Vec<Found>> {
        self.look(session, partitions, false).await.map(|(rows, _)| rows)
    }

    /// The same, with what stands in quarantine of these partitions while the rows are as they were found.
    pub async fn find_pending(
        &self,
        session: &mut Session,
        partitions: &[Partition],
    ) -> Result<(Vec<Found>, Vec<PendingRow>)> {
        self.look(session, partitions, true).await
    }

    async fn look(
        &self,
        session: &mut Session,
        partitions: &[Partition],
        wanted: bool,
    ) -> Result<(Vec<Found>, Vec<PendingRow>)> {
        if partitions.is_empty() {
            return Ok((Vec::new(), Vec::new()));
        }
        let select = format!(
            "SELECT kafka_partition, next_offset, owner_epoch, owner_token, transaction_id, generation, fingerprint FROM {POSITIONS} WHERE {} \
             AND kafka_partition IN ({}) ORDER BY kafka_partition FOR UPDATE",
            self.is_mine(),
            list(partitions),
        );
        let result = async {
            session.run("START TRANSACTION").await?;
            let rows = session.rows(&select).await?;
            let pending = if wanted { quarantine::pending(session, self, partitions).await? } else { Vec::new() };
            session.run("COMMIT").await?;
            Ok((rows, pending))
        }
        .await;
        match result {
            Ok((rows, pending)) => Ok((rows.iter().map(found).collect(), pending)),
            Err(error) => {
                session.rollback().await;
                Err(StatementError::into_error(error).at("reading positions back"))
            }
        }
    }
}

fn found(row: &Row) -> Found {
    Found {
        partition: partition_at(row),
        next_offset: int_at(row, 1).unwrap_or(-1),
        epoch: int_at(row, 2).unwrap_or(-1),
        owner: token_at(row, 3),
        transaction: token_at(row, 4),
        generation: generation_at(row, 5),
    }
}

fn stored(row: &Row) -> Result<Stored> {
    let missing = || Error::new(Kind::Bug, "a positions row lacks a number");
    let optional = |index: usize| Some(text_at(row, index)).filter(|text| !text.is_empty());
    Ok(Stored {
        partition: partition_at(row),
        next_offset: int_at(row, 1).ok_or_else(missing)?,
        epoch: int_at(row, 2).ok_or_else(missing)?,
        high_water_ns: int_at(row, 3),
        transaction: token_at(row, 6),
        identity: TopicIdentity { cluster_id: optional(4), topic_id: optional(5) },
    })
}

fn token_at(row: &Row, index: usize) -> Token {
    bytes_at(row, index).and_then(|bytes| Token::try_from(bytes).ok()).unwrap_or_default()
}

/// Number and fingerprint, which stand side by side from `index` on.
pub(super) fn generation_at(row: &Row, index: usize) -> Generation {
    let bytes = bytes_at(row, index + 1).and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
    Generation { number: int_at(row, index).unwrap_or(0), fingerprint: Fingerprint(bytes.unwrap_or_default()) }
}

fn partition_at(row: &Row) -> Partition {
    int_at(row, 0).and_then(|number| Partition::try_from(number).ok()).unwrap_or(-1)
}

fn list(partitions: &[Partition]) -> String {
    let mut sorted = partitions.to_vec();
    sorted.sort_unstable();
    sorted.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// A literal for the ASCII columns (config and Kafka allow nothing else in these names), so that their index serves the comparison.
pub fn text_ascii(value: &str) -> String {
    format!(
        "'{}'",
        value.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')).collect::<String>()
    )
}
