-- A checkpoint before a fork goes on under the log's present id. $1 name text · $2 version int4 · $3 shard int2
-- $4 present log id uuid · $5 position int8 · $6 hash bytea(32)
UPDATE projection.checkpoint SET log_id = $4, updated_at = clock_timestamp()
WHERE name = $1 AND version = $2 AND shard = $3 AND position = $5 AND hash = $6 AND halted IS NULL
