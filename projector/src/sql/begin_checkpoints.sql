-- A checkpoint before the first event for every projection that follows the log and has none yet.
-- $1 shard int2 · $2 log id uuid · $3 hash before the first event bytea(32)
INSERT INTO projection.checkpoint (name, version, shard, log_id, position, hash)
SELECT name, version, $1, $2, 0, $3 FROM projection.registry WHERE state IN ('live', 'standby')
ON CONFLICT DO NOTHING
