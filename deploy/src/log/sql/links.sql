-- Links behind a position, in order. $1 shard int2 · $2 position int8
SELECT first_pos, last_pos, batch_id, prev_hash, hash, committed_at
FROM ledger.batch
WHERE shard = $1 AND last_pos > $2
ORDER BY last_pos
LIMIT 1024
