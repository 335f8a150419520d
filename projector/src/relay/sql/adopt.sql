-- A mark before a fork goes on under the log's present id. $1 shard int2 · $2 earlier log id uuid · $3 present log id uuid
-- $4 position int8 · $5 hash bytea(32)
UPDATE relay.mark SET log_id = $3, updated_at = clock_timestamp()
WHERE shard = $1 AND log_id = $2 AND position = $4 AND hash = $5 AND halted IS NULL
