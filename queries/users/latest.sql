-- latest: the newest change of each user. Only these rows reach the target.
--
-- Comes in:  accepted.
-- Goes out:  the target's columns under their own names, and _deleted, ts, _partition, _offset. One row per user: a row
--            with _deleted = true removes the user, any other is written over what is there.
--
-- "Newest" is decided by the event's own time, then by its place in the topic, so that there is always exactly one winner
-- and the order in which events arrive makes no difference. The same comparison is made again with what the target holds.
-- Select rows here, don't sum them up: a batch may hold one event of a user or all of them.

SELECT user_id, name, email, country, country_name, region, _deleted, ts, _partition, _offset
FROM (
    SELECT
        *,
        ROW_NUMBER() OVER (
            PARTITION BY user_id
            ORDER BY ts DESC, _partition DESC, _offset DESC
        ) AS newest
    FROM accepted
)
WHERE newest = 1
