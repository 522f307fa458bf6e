-- enriched: each change with what the lookups know about it.
--
-- Comes in:  changes, and the lookup countries (code, name, region).
-- Goes out:  the columns of changes, those of the lookup, and
--            _error       why this change can't be used; NULL where nothing is wrong with it.
--
-- A text in _error sends the whole event to quarantine, from where it can be tried again, and by default lets later events of
-- the same user wait behind it. So say here what is an error and what isn't: a user without a country is fine, a country
-- that nobody knows is an error. A deletion needs no country at all.
--
-- LEFT JOIN keeps a change whose country isn't found; a plain JOIN would drop the event without a trace. A lookup's key is
-- unique, so the join can't double a row.

SELECT
    c.user_id,
    c.name,
    c.email,
    c.country,
    l.name   AS country_name,
    l.region AS region,
    CASE
        WHEN NOT c._deleted AND c.country IS NOT NULL AND l.code IS NULL
        THEN 'the country is not in the lookup countries'
    END      AS _error,
    c._deleted, c.ts, c._partition, c._offset
FROM changes c
LEFT JOIN countries l ON l.code = c.country
