-- The projections that follow the log, and how far each has come. $1 shard int2
SELECT r.name, r.version, r.state, c.log_id, c.position, c.hash, c.halted, r.code
FROM projection.registry r
JOIN projection.checkpoint c ON c.name = r.name AND c.version = r.version
WHERE r.state IN ('live', 'standby') AND c.shard = $1
ORDER BY r.name, r.version
