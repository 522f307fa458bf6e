//! The new pipeline's models, commented so that they can be changed by somebody who reads them for the first time.

use super::Column;
use super::names::{identifier, member};

/// Name and text of each model.
pub(super) fn all(pipeline: &str, columns: &[Column]) -> impl Iterator<Item = (&'static str, String)> {
    [
        ("changes", changes(pipeline, columns)),
        ("enriched", ENRICHED.to_owned()),
        ("accepted", filled(ACCEPTED, columns)),
        ("latest", latest(columns)),
        ("out_of_order", filled(OUT_OF_ORDER, columns)),
        ("metrics", METRICS.to_owned()),
    ]
    .into_iter()
}

fn keys(columns: &[Column]) -> impl Iterator<Item = &Column> {
    columns.iter().filter(|column| column.is_key)
}

/// Each key column by `show`, with `between` in between.
fn each_key(columns: &[Column], between: &str, show: impl Fn(&str) -> String) -> String {
    keys(columns).map(|column| show(&identifier(&column.name))).collect::<Vec<_>>().join(between)
}

fn filled(text: &str, columns: &[Column]) -> String {
    text.replace("{held_join}", &each_key(columns, "\n      AND ", |key| format!("h.{key} = e.{key}")))
        .replace("{known_join}", &each_key(columns, " AND ", |key| format!("a.{key} = k.{key}")))
        .replace("{a_key}", &each_key(columns, ", ", |key| format!("a.{key}")))
        .replace("{key}", &each_key(columns, ", ", str::to_owned))
}

fn changes(pipeline: &str, columns: &[Column]) -> String {
    let sources: Vec<String> = columns.iter().map(|column| member("after", &column.field)).collect();
    let width = sources.iter().map(|source| source.chars().count() + 1).max().unwrap_or_default().max(13);
    let select = |source: &dyn Fn(&Column) -> String| -> String {
        let line = |column: &Column| format!("    {:width$} AS {},\n", source(column), identifier(&column.name));
        columns.iter().map(line).collect()
    };
    let present = select(&|column| member("after", &column.field));
    let gone = select(&|column| if column.is_key { member("before", &column.field) } else { "NULL".to_owned() });
    let differs = |column: &Column| {
        format!("{} IS DISTINCT FROM {}", member("before", &column.field), member("after", &column.field))
    };
    let known: Vec<String> =
        keys(columns).map(|column| format!("{} IS NOT NULL", member("before", &column.field))).collect();
    let differs: Vec<String> = keys(columns).map(differs).collect();
    // What follows IS DISTINCT FROM is read to the end of the condition: brackets end it.
    let differs = match differs.as_slice() {
        [only] => only.clone(),
        several => format!("(({}))", several.join(") OR (")),
    };
    CHANGES
        .replace("{pipeline}", pipeline)
        .replace("{present}", &present)
        .replace("{gone}", &gone)
        .replace("{moved}", &format!("op = 'u' AND {} AND {differs}", known.join(" AND ")))
        .replace("{false}", &format!("{:width$}", "false"))
        .replace("{true}", &format!("{:width$}", "true"))
}

fn latest(columns: &[Column]) -> String {
    let names: String = columns.iter().map(|column| format!("    {},\n", identifier(&column.name))).collect();
    filled(LATEST, columns).replace("{columns}", &names)
}

const CHANGES: &str = "\
-- changes: from events to row images, one row per change.
--
-- Comes in:  events, one row per record of the topic. `before` and `after` are the row's two images, typed by
--            schemas/{pipeline}; `op` says what happened: c (created), u (updated), d (deleted), r (read by a snapshot).
-- Goes out:  the key, the data columns in the table's spelling, and four columns that every model passes on unchanged:
--            _deleted     whether the row is gone after this change
--            ts           when it happened, by the event's own clock
--            _partition, _offset   where the event stands in the topic
--
-- An update that gives a row another key makes two changes: the old key is gone, the new one is there.

-- The row as the event leaves it.
SELECT
{present}    {false} AS _deleted,
    ts, _partition, _offset
FROM events
WHERE op <> 'd'

UNION ALL

-- Rows that are gone: deleted, or known by another key from now on. Of them only the key matters.
SELECT
{gone}    {true} AS _deleted,
    ts, _partition, _offset
FROM events
WHERE op = 'd'
   OR ({moved})
";

const ENRICHED: &str = "\
-- enriched: each change, with what lookups know about it, and
--   _error   why this change can't be used; NULL where nothing is wrong with it.
--
-- A text in _error sends the whole event to quarantine, from where it can be tried again, and by default lets later events of
-- the same key wait behind it. For example:
--   CASE WHEN NOT _deleted AND amount < 0 THEN 'the amount is negative' END AS _error
--
-- A lookup is configured in afterimage.toml ([pipelines.<name>.lookups.<lookup>]) and joined by its key:
--   FROM changes c LEFT JOIN countries l ON l.code = c.country

SELECT
    *,
    CAST(NULL AS VARCHAR) AS _error
FROM changes
";

const ACCEPTED: &str = "\
-- accepted: the changes that count.
--
-- Comes in:  enriched, and held: the keys that wait because an earlier event of theirs is in quarantine, with _partition, and
--            _since: the offset from which on that key waits in that partition.
-- Goes out:  the columns of enriched without _error. What is left out isn't lost: it stands in quarantine, in order.

SELECT e.* EXCEPT (_error)
FROM enriched e
LEFT JOIN held h
       ON {held_join}
      AND h._partition = e._partition
WHERE e._error IS NULL
  AND (h._since IS NULL OR e._offset < h._since)
";

const LATEST: &str = "\
-- latest: the newest change of each key. Only these rows reach the table: one with _deleted = true removes its key, any other is
-- written over what is there.
--
-- Goes out:  the table's columns under their own names, and _deleted, ts, _partition, _offset. One row per key.
--
-- \"Newest\" is decided by the event's own time, then by its place in the topic, so that there is always exactly one winner.

SELECT
{columns}    _deleted, ts, _partition, _offset
FROM (
    SELECT
        *,
        ROW_NUMBER() OVER (
            PARTITION BY {key}
            ORDER BY ts DESC, _partition DESC, _offset DESC
        ) AS newest
    FROM accepted
)
WHERE newest = 1
";

const OUT_OF_ORDER: &str = "\
-- out_of_order: accepted events that are older than one accepted before them for the same key. Such events harm nothing
-- (latest sorts them out), but they are evidence that the producer doesn't keep its order. Nothing depends on this model.
--
-- Comes in:  accepted, and known: of each key that may be affected, the newest version stored before this batch.
-- Goes out:  the key, ts, _partition and _offset of the late event, and the newest event accepted before it.

WITH suspects AS (
    -- The highest time up to and including each event, in the order of the topic.
    SELECT
        {a_key}, a.ts, a._partition, a._offset,
        -- Partitions keep no order among each other: what is known from another one is no evidence.
        CASE WHEN k._known_partition = a._partition THEN k._known_ts END AS _known_ts,
        k._known_partition, k._known_offset,
        MAX(a.ts) OVER (
            PARTITION BY {a_key}, a._partition ORDER BY a._offset
            ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
        ) AS highest
    FROM known k
    JOIN accepted a ON {known_join}
),
compared AS (
    -- Of the events before each one: their highest time, and the last event that had it.
    SELECT
        *,
        MAX(ts) OVER (
            PARTITION BY {key}, _partition ORDER BY _offset
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        ) AS earlier_ts,
        MAX(CASE WHEN ts = highest THEN _offset END) OVER (
            PARTITION BY {key}, _partition ORDER BY _offset
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        ) AS earlier_offset
    FROM suspects
)
SELECT
    {key}, ts, _partition, _offset,
    CASE WHEN in_batch THEN earlier_ts     ELSE _known_ts        END AS _known_ts,
    CASE WHEN in_batch THEN _partition     ELSE _known_partition END AS _known_partition,
    CASE WHEN in_batch THEN earlier_offset ELSE _known_offset    END AS _known_offset
FROM (
    SELECT
        *,
        -- Whether the newest event before this one came in this batch rather than an earlier one.
        earlier_ts IS NOT NULL AND (_known_ts IS NULL OR earlier_ts >= _known_ts) AS in_batch
    FROM compared
)
WHERE ts < earlier_ts OR ts < _known_ts
";

const METRICS: &str = "\
-- metrics: figures of your own about each batch. They go into the log line and into the table user_cdc_pipeline_metrics, under the
-- names given here. Change them as you like: nothing else depends on them.

SELECT
    COUNT(*) FILTER (WHERE NOT _deleted) AS rows_written,
    COUNT(*) FILTER (WHERE _deleted)     AS rows_deleted
FROM enriched
";
