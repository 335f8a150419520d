-- Stops a projection in a shard until an operator clears the reason. $1 name text · $2 version int4 · $3 shard int2 · $4 reason text
UPDATE projection.checkpoint SET halted = $4, updated_at = clock_timestamp()
WHERE name = $1 AND version = $2 AND shard = $3 AND halted IS NULL
