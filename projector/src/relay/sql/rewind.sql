-- Sets the mark, wherever it stands. $1 shard int2 · $2 log id uuid · $3 position int8 · $4 hash bytea(32)
UPDATE relay.mark
SET log_id = $2, position = $3, hash = $4, halted = NULL, updated_at = clock_timestamp(), state = 'rewound', state_since = clock_timestamp()
WHERE shard = $1
