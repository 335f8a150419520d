-- What projections and snapshots have seen of a shard's log: who, position, hash, log id (null where it is not kept).
-- $1 shard int2
-- Who has read under an earlier id may have read on over the fork: the hash says whether it is of this log.
SELECT format('the checkpoint of projection %s v%s', c.name, c.version), c.position, c.hash,
       CASE WHEN EXISTS (SELECT FROM ledger.lineage l WHERE l.shard = c.shard AND l.log_id = c.log_id)
            THEN (SELECT log_id FROM ledger.log WHERE shard = $1) ELSE c.log_id END
FROM projection.checkpoint c
JOIN projection.registry r ON r.name = c.name AND r.version = c.version
WHERE c.shard = $1 AND r.state IN ('live', 'standby')
UNION ALL
SELECT 'a snapshot of the writer', s.position, s.hash, NULL
FROM ledger.snapshot s
WHERE s.shard = $1
UNION ALL
SELECT format('the fork to log %s', f.log_id), f.position, f.hash, NULL
FROM ledger.fork f
WHERE f.shard = $1
ORDER BY 2
