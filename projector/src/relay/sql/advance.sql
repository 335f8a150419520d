-- Moves the mark, if it stands where the caller thinks. $1 shard int2 · $2 log id uuid · $3 position int8 · $4 hash bytea(32)
-- $5 new position int8 · $6 new hash bytea(32)
UPDATE relay.mark SET position = $5, hash = $6, updated_at = clock_timestamp()
WHERE shard = $1 AND log_id = $2 AND position = $3 AND hash = $4 AND halted IS NULL
