-- out_of_order: accepted events that are older than one accepted before them for the same user. Such events harm nothing
-- (latest sorts them out), but they are evidence that the producer doesn't keep its order.
--
-- Comes in:  accepted, and known: of each user who may be affected, the newest version stored before this batch
--            (_known_ts, _known_partition, _known_offset; NULL where nothing was stored). Users who can't be affected aren't in
--            known, which is why the join comes first: on an orderly stream this model has nothing to do.
-- Goes out:  the key, ts, _partition and _offset of the late event, and the newest event accepted before it under the
--            names _known_ts, _known_partition, _known_offset.
--
-- "Before" means: earlier in the same partition, in this batch or in any batch before. Events of the same time are in order.

WITH suspects AS (
    -- The highest time up to and including each event, in the order of the topic.
    SELECT
        a.user_id, a.ts, a._partition, a._offset,
        -- Partitions keep no order among each other: what is known from another one is no evidence.
        CASE WHEN k._known_partition = a._partition THEN k._known_ts END AS _known_ts,
        k._known_partition, k._known_offset,
        MAX(a.ts) OVER (
            PARTITION BY a.user_id, a._partition ORDER BY a._offset
            ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
        ) AS highest
    FROM known k
    JOIN accepted a ON a.user_id = k.user_id
),
compared AS (
    -- Of the events before each one: their highest time, and the last event that had it.
    SELECT
        *,
        MAX(ts) OVER (
            PARTITION BY user_id, _partition ORDER BY _offset
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        ) AS earlier_ts,
        MAX(CASE WHEN ts = highest THEN _offset END) OVER (
            PARTITION BY user_id, _partition ORDER BY _offset
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        ) AS earlier_offset
    FROM suspects
)
SELECT
    user_id, ts, _partition, _offset,
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
