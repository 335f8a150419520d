-- A mark before the first event for a shard that has none. $1 shard int2 · $2 log id uuid · $3 hash before the first event bytea(32)
INSERT INTO relay.mark (shard, log_id, position, hash) VALUES ($1, $2, 0, $3) ON CONFLICT DO NOTHING
