-- Every shard that has a log, or rows without one; jumps from shard to shard along the keys.
WITH RECURSIVE
    event (shard) AS (SELECT min(shard) FROM ledger.event
        UNION ALL SELECT (SELECT min(e.shard) FROM ledger.event e WHERE e.shard > event.shard) FROM event WHERE shard IS NOT NULL),
    batch (shard) AS (SELECT min(shard) FROM ledger.batch
        UNION ALL SELECT (SELECT min(b.shard) FROM ledger.batch b WHERE b.shard > batch.shard) FROM batch WHERE shard IS NOT NULL),
    idempotency (shard) AS (SELECT min(shard) FROM ledger.idempotency
        UNION ALL SELECT (SELECT min(i.shard) FROM ledger.idempotency i WHERE i.shard > idempotency.shard) FROM idempotency WHERE shard IS NOT NULL)
SELECT seen.shard, log.log_id, head.log_id
FROM (SELECT shard FROM ledger.log UNION SELECT shard FROM event UNION SELECT shard FROM batch UNION SELECT shard FROM idempotency) AS seen
LEFT JOIN ledger.log ON log.shard = seen.shard
LEFT JOIN ledger.head ON head.shard = seen.shard
WHERE seen.shard IS NOT NULL
ORDER BY seen.shard
