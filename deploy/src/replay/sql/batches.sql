-- Batches behind a position, whole ones up to another. $1 shard int2 · $2 after int8 · $3 up to int8 · $4 limit int8
SELECT first_pos, last_pos, batch_id, hash, committed_at
FROM ledger.batch
WHERE shard = $1 AND first_pos > $2 AND last_pos <= $3
ORDER BY last_pos
LIMIT $4
