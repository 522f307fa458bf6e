-- metrics: figures of your own about each batch. They go into the log line and into the table
-- user_cdc_pipeline_metrics, under the names given here. Change them as you like: nothing else depends on them.
--
-- Comes in:  any model; here enriched, which still has the changes that failed.
-- Goes out:  one row, one column per figure.

SELECT
    COUNT(*) FILTER (WHERE NOT _deleted)                     AS users_written,
    COUNT(*) FILTER (WHERE _deleted)                         AS users_deleted,
    COUNT(*) FILTER (WHERE NOT _deleted AND country IS NULL) AS users_without_country,
    COUNT(DISTINCT country)                                  AS countries_seen
FROM enriched
