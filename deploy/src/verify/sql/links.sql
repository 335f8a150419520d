-- Links by last position. $1 shard int2 · $2 first position int8 · $3 last position int8
SELECT first_pos, last_pos, batch_id, prev_hash, hash, committed_at
FROM ledger.batch
WHERE shard = $1 AND last_pos >= $2 AND last_pos <= $3
ORDER BY last_pos
