-- changes: from events to row images, one row per change of one user.
--
-- Comes in:  events, one row per record of the topic. `before` and `after` are the row's two images, typed by
--            schemas/users; `op` says what happened: c (created), u (updated), d (deleted), r (read by a snapshot).
-- Goes out:  the key, the data columns in the target's spelling, and four columns that every model passes on unchanged:
--            _deleted     whether the user is gone after this change
--            ts           when it happened, by the event's own clock
--            _partition, _offset   where the event stands in the topic
--
-- Most events make one change. An update that gives a user another key makes two: the old key is gone, the new one is
-- there. Both have the same position, so that they are accepted, refused or held together.

-- The user as the event leaves it.
SELECT
    after.userId  AS user_id,
    after.name    AS name,
    after.email   AS email,
    after.country AS country,
    false         AS _deleted,
    ts, _partition, _offset
FROM events
WHERE op <> 'd'

UNION ALL

-- Users that are gone: deleted, or known by another key from now on. Of their rows only the key matters.
SELECT
    before.userId AS user_id,
    NULL          AS name,
    NULL          AS email,
    NULL          AS country,
    true          AS _deleted,
    ts, _partition, _offset
FROM events
WHERE op = 'd'
   OR (op = 'u' AND before.userId IS NOT NULL AND before.userId IS DISTINCT FROM after.userId)
