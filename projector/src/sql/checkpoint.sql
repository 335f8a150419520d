-- One version, whatever its state, and how far it has come. $1 name text · $2 version int4 · $3 shard int2
SELECT r.name, r.version, r.state, c.log_id, c.position, c.hash, c.halted, r.code
FROM projection.registry r
JOIN projection.checkpoint c ON c.name = r.name AND c.version = r.version
WHERE r.name = $1 AND r.version = $2 AND c.shard = $3
