//! A writer by itself: one sink on a database of its own or shared with others, and batches of made-up changes for it.
//!
//! In: the way on which batches are to travel. Out: what the sink says of each.

use std::sync::Arc;

use afterimage::demo::server::{Flavour, PrivateServer};
use afterimage::generation::{Generation, Marks};
use afterimage::position::Version;
use afterimage::sink::generations::{Grounds, Registered};
use afterimage::sink::positions::{Advance, Owner, Stored, SumChanges, TopicIdentity};
use afterimage::sink::{Known, Outcome, RowFault, Sink, Staging, Superseded, Work, migrate};
use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array, Int16Array,
    Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray, TimestampMillisecondArray,
    UInt64Array,
};
use rand::RngExt;

use crate::support::mysql::{Database, connector};

/// How a batch travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Text,
    Load,
    Insert,
    /// Into the target itself where there are no deletes and nothing late, whether or not the rows are new.
    NewLoad,
    NewInsert,
    NewBulk,
    /// As values of prepared statements where the server takes rows in bulk; keys that were written before are always taken to have a row.
    Bulk,
    /// The same where `local_infile` is off, so that MySQL has prepared statements of many rows, too.
    BulkAlone,
}

pub(super) const WAYS: [Way; 8] =
    [Way::Text, Way::Load, Way::Insert, Way::NewLoad, Way::NewInsert, Way::NewBulk, Way::Bulk, Way::BulkAlone];

/// Rows per request: few, so that a small batch has several.
const BULK_ROWS: usize = 2;

/// A target's key; its data columns are always the same.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) name: &'static str,
    pub(super) ddl: &'static str,
    pub(super) columns: &'static [&'static str],
}

pub(super) const SHAPES: [Shape; 3] = [
    Shape { name: "text", ddl: "id VARCHAR(40) CHARACTER SET utf8mb4 COLLATE {bin} NOT NULL", columns: &["id"] },
    Shape {
        name: "compound",
        ddl: "id VARCHAR(40) CHARACTER SET utf8mb4 COLLATE {bin} NOT NULL, shard INT NOT NULL",
        columns: &["id", "shard"],
    },
    Shape { name: "binary", ddl: "id VARBINARY(60) NOT NULL", columns: &["id"] },
];

/// An event of one key; everything else about it follows from its version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Change {
    pub(super) key: usize,
    pub(super) version: Version,
}

impl Change {
    pub(super) fn deleted(self) -> bool {
        (self.version.ts_ns * 7 + self.version.offset * 3 + self.key as i64) % 3 == 0
    }

    pub(super) fn name(self) -> Option<String> {
        let Version { ts_ns, partition, offset } = self.version;
        (offset % 5 != 0).then(|| format!("na'me\\ {ts_ns}\t{partition}\n\u{1f600} {offset}"))
    }
}

/// Awkward, and of different lengths; in the order of their bytes.
pub(super) const KEYS: [&str; 9] =
    ["\u{1}", "A", "a", "a ", "a\t'b\\", "ab", "b;\nc", "ä", "\u{1f600} long enough to matter"];

pub(super) fn batch(shape: &Shape, changes: &[Change], late: &[bool]) -> (RecordBatch, Vec<bool>) {
    let name = changes.iter().map(|change| if change.deleted() { None } else { change.name() });
    let number = |change: &Change| (!change.deleted()).then_some(change.version.offset as f64 / 8.0);
    let mut columns: Vec<(&str, ArrayRef, bool)> =
        vec![("id", Arc::new(StringArray::from_iter_values(changes.iter().map(|change| KEYS[change.key]))), false)];
    if shape.columns.len() > 1 {
        let shards = changes.iter().map(|change| change.key as i32 % 3 - 1);
        columns.push(("shard", Arc::new(Int32Array::from_iter_values(shards)), false));
    }
    columns.extend([
        ("name", Arc::new(StringArray::from_iter(name)) as ArrayRef, true),
        ("ratio", Arc::new(Float64Array::from_iter(changes.iter().map(number))), true),
        (
            "at",
            Arc::new(TimestampMillisecondArray::from_iter(
                changes.iter().map(|change| (!change.deleted()).then_some(1_700_000_000_123 + change.version.ts_ns)),
            )),
            true,
        ),
        ("_deleted", Arc::new(BooleanArray::from_iter(changes.iter().map(|change| Some(change.deleted())))), false),
        ("cdc_ts", Arc::new(Int64Array::from_iter_values(changes.iter().map(|change| change.version.ts_ns))), false),
        (
            "cdc_partition",
            Arc::new(Int32Array::from_iter_values(changes.iter().map(|change| change.version.partition))),
            false,
        ),
        (
            "cdc_offset",
            Arc::new(Int64Array::from_iter_values(changes.iter().map(|change| change.version.offset))),
            false,
        ),
    ]);
    (RecordBatch::try_from_iter_with_nullable(columns).unwrap(), late.to_vec())
}

/// Columns of [`every_kind_of_value`] besides the key.
pub(super) const EVERY_KIND: [&str; 15] = [
    "amount", "seen", "stamp", "part", "yes", "day", "doc", "raw", "blobs", "flags", "large", "small", "lasted",
    "kind", "words",
];

/// Five new rows of [`EVERY_KIND`]: an odd number, so that requests of two rows leave one. The last has no values at all.
pub(super) fn every_kind_of_value() -> RecordBatch {
    const ROWS: usize = 5;
    fn of<T>(value: impl Fn(usize) -> T) -> Vec<Option<T>> {
        (0..ROWS).map(|row| (row + 1 < ROWS).then(|| value(row))).collect()
    }
    let bytes = |row: usize| vec![0xff_u8, 0, b'\'', b'\\', b'\t', row as u8];
    let raw = of(bytes);
    let us = |row: usize| 1_700_000_000_123_456 + row as i64;
    let arrays: [ArrayRef; EVERY_KIND.len()] = [
        Arc::new(
            Decimal128Array::from(of(|row| -123_456_789_012_345_i128 * (row as i128 - 1)))
                .with_precision_and_scale(20, 5)
                .unwrap(),
        ),
        Arc::new(TimestampMicrosecondArray::from(of(us))),
        Arc::new(TimestampMillisecondArray::from(of(|row| us(row) / 1000))),
        Arc::new(Float32Array::from(of(|row| row as f32 / 8.0 - 0.25))),
        Arc::new(BooleanArray::from(of(|row| row % 2 == 0))),
        Arc::new(Date32Array::from(of(|row| 19_000 + row as i32))),
        Arc::new(StringArray::from(of(|row| format!(r#"{{"a": [{row}, "\\n'"], "b": "ä"}}"#)))),
        Arc::new(BinaryArray::from_iter(raw.clone())),
        Arc::new(BinaryArray::from_iter(raw)),
        Arc::new(UInt64Array::from(of(|row| 509 + row as u64 % 3))),
        Arc::new(UInt64Array::from(of(|row| u64::MAX - row as u64))),
        Arc::new(Int16Array::from(of(|row| i16::MIN + row as i16))),
        Arc::new(StringArray::from(of(|row| format!("-{row}1:02:03.456")))),
        Arc::new(StringArray::from(of(|row| ["a", "b"][row % 2]))),
        Arc::new(StringArray::from(of(|row| format!("it's \\ {row}\n\u{1f600}")))),
    ];
    let keys = KEYS.iter().take(ROWS);
    let mut columns: Vec<(&str, ArrayRef, bool)> =
        vec![("id", Arc::new(StringArray::from_iter_values(keys)) as ArrayRef, false)];
    columns.extend(EVERY_KIND.into_iter().zip(arrays).map(|(name, array)| (name, array, true)));
    columns.extend([
        ("_deleted", Arc::new(BooleanArray::from(vec![false; ROWS])) as ArrayRef, false),
        ("cdc_ts", Arc::new(Int64Array::from_iter_values(1..=ROWS as i64)), false),
        ("cdc_partition", Arc::new(Int32Array::from(vec![0; ROWS])), false),
        ("cdc_offset", Arc::new(Int64Array::from_iter_values(0..ROWS as i64)), false),
    ]);
    RecordBatch::try_from_iter_with_nullable(columns).unwrap()
}

/// One writer on a database of its own or shared with others.
pub(super) struct Writer {
    pub(super) sink: Sink,
    pub(super) at: Stored,
    pub(super) way: Way,
}

impl Writer {
    pub(super) async fn new(database: &Database, shape: &Shape, topic: &str, way: Way) -> Self {
        Self::of_columns(database, shape, &["name", "ratio", "at"], topic, way).await
    }

    /// One that writes these columns besides the key.
    pub(super) async fn of_columns(database: &Database, shape: &Shape, data: &[&str], topic: &str, way: Way) -> Self {
        let connector = connector(&database.url);
        let mut session = connector.connect().await.unwrap();
        let mut owner = Owner {
            pipeline: "p".into(),
            topic: topic.into(),
            token: [7; 16],
            name: "test".into(),
            generation: Generation::default(),
        };
        owner.generation = match owner.register(&mut session, &Marks::default(), Grounds::Start).await.unwrap() {
            Registered::New(generation) | Registered::Known(generation) => generation,
            other => unreachable!("{other:?}"),
        };
        let at = owner.create(&mut session, 0, 0, &TopicIdentity::default()).await.unwrap();
        let mut sink = Sink::new(connector, owner, shape.columns.iter().map(|name| (*name).to_owned()).collect());
        let columns = shape.columns.iter().chain(data).copied();
        let wanted = afterimage::target::Target {
            table: "t".into(),
            columns: columns
                .map(|name| afterimage::target::Column {
                    name: name.to_owned(),
                    ddl_type: String::new(),
                    holds: afterimage::target::Holds::Other,
                    nullable: true,
                })
                .collect(),
            key_len: shape.columns.len(),
        };
        let found = sink.look(&wanted).await.unwrap().unwrap();
        sink.use_target(found.target);
        Self { sink, at, way }
    }

    /// One more on the same road, for the batch behind this one's.
    pub(super) fn another(&self) -> Self {
        Self { sink: self.sink.another(), at: self.at.clone(), way: self.way }
    }

    /// Sees to it that the next batch goes this writer's way.
    pub(super) async fn choose_way(&mut self) {
        let facts = &mut self.sink.session().await.unwrap().facts;
        facts.local_infile = matches!(self.way, Way::Load | Way::NewLoad | Way::Bulk);
        let bulk = matches!(self.way, Way::Bulk | Way::BulkAlone | Way::NewBulk);
        facts.prepared_rows = if bulk { BULK_ROWS } else { 0 };
        self.sink.limit_text(if self.way == Way::Text { 100 } else { 0 });
        match self.way {
            Way::NewLoad | Way::NewInsert | Way::NewBulk => self.sink.expect_new_rows(),
            Way::Bulk | Way::BulkAlone => self.sink.rely_on_stored_rows(),
            Way::Text | Way::Load | Way::Insert => {}
        }
    }

    /// The next batch.
    pub(super) fn work<'a>(&self, rows: &'a RecordBatch, late: &[bool]) -> Work<'a> {
        let count = rows.num_rows() as i64;
        let sums =
            SumChanges { read: count, accepted: count, changes: count, upserted: count, ..SumChanges::default() };
        let advance = Advance {
            partition: 0,
            epoch: self.at.epoch,
            last: self.at.transaction,
            from: self.at.next_offset,
            to: self.at.next_offset + count,
            high_water_ns: None,
            sums,
            generation: self.sink.owner().generation,
        };
        Work {
            id: rand::rng().random(),
            advances: vec![advance],
            latest: rows,
            late: late.to_vec(),
            wants_evidence: true,
            quarantine: Vec::new(),
            settled: Vec::new(),
        }
    }

    /// Is where `work` leads.
    pub(super) fn follow(&mut self, work: &Work<'_>) {
        (self.at.next_offset, self.at.transaction) = (work.advances[0].to, work.id);
    }

    /// Applies once; what was known of late rows, and the outcome.
    pub(super) async fn attempt(
        &mut self,
        rows: &RecordBatch,
        late: &[bool],
    ) -> (Known, Result<Vec<Superseded>, Option<afterimage::error::Error>>, Vec<RowFault>) {
        self.choose_way().await;
        let work = self.work(rows, late);
        let mut known = Vec::new();
        let outcome = match self.sink.stage(&work).await {
            Ok(Staging::Ready(staged)) => match self.sink.known(&work, &staged).await {
                Ok(found) => {
                    known = found;
                    self.sink.transact(&work, &staged, &[]).await
                }
                Err(error) => Err(error),
            },
            Ok(Staging::Refused(faults)) => Ok(Outcome::Rows(faults)),
            Err(error) => Err(error),
        };
        match outcome {
            Ok(Outcome::Committed { mut superseded, .. }) => {
                self.follow(&work);
                superseded.sort_by_key(|lost| lost.partition);
                (known, Ok(superseded), Vec::new())
            }
            Ok(Outcome::Rows(faults)) => (known, Err(None), faults),
            Ok(Outcome::Lost(found)) => panic!("lost: {found:?}"),
            Err(error) => (known, Err(Some(error)), Vec::new()),
        }
    }

    /// Rows in the session's stage; of an earlier batch where nothing was staged since.
    pub(super) async fn staged(&mut self) -> i64 {
        let session = self.sink.session().await.unwrap();
        session.rows("SELECT COUNT(*) FROM afterimage_stage").await.unwrap()[0].get(0).unwrap()
    }
}

pub(super) async fn database(server: &PrivateServer, shape: &Shape, more: &str) -> Database {
    let database = Database::create(server).await;
    let bin = if server.flavour() == Flavour::MariaDb { "utf8mb4_nopad_bin" } else { "utf8mb4_0900_bin" };
    database
        .execute(&format!(
            "CREATE TABLE t ({}, name VARCHAR(60) CHARACTER SET utf8mb4 NULL, ratio DOUBLE NULL, at DATETIME(3) NULL, cdc_ts BIGINT NOT \
             NULL, cdc_partition INT NOT NULL, cdc_offset BIGINT NOT NULL, PRIMARY KEY ({}){more}) ENGINE=InnoDB",
            shape.ddl.replace("{bin}", bin),
            shape.columns.join(", ")
        ))
        .await;
    let mut session = connector(&database.url).connect().await.unwrap();
    let statements = migrate::plan(&mut session, &[]).await.unwrap();
    migrate::run(&mut session, &statements).await.unwrap();
    database
}
