-- accepted: the changes that count.
--
-- Comes in:  enriched, and held: the users who wait because an earlier event of theirs is in quarantine. held has the key
--            columns, _partition, and _since: the offset from which on that user waits in that partition.
-- Goes out:  the columns of enriched without _error.
--
-- Two kinds of rows are left out: those that failed (_error), and those of a user who waits, from the first failed event
-- on. Everybody else flows. What is left out isn't lost: it stands in quarantine, in order.

SELECT e.* EXCEPT (_error)
FROM enriched e
LEFT JOIN held h
       ON h.user_id = e.user_id
      AND h._partition = e._partition
WHERE e._error IS NULL
  AND (h._since IS NULL OR e._offset < h._since)
