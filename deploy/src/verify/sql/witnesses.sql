-- What projections and snapshots have seen of a shard's log: who, position, hash, log id (null where it is not kept).
-- $1 shard int2
SELECT format('the checkpoint of projection %s v%s', c.name, c.version), c.position, c.hash, c.log_id
FROM projection.checkpoint c
JOIN projection.registry r ON r.name = c.name AND r.version = c.version
WHERE c.shard = $1 AND r.state IN ('live', 'standby')
UNION ALL
SELECT 'a snapshot of the writer', s.position, s.hash, NULL
FROM ledger.snapshot s
WHERE s.shard = $1
ORDER BY 2
