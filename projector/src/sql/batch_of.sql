-- The head before the batch that holds a position. $1 shard int2 · $2 position int8
SELECT first_pos - 1, prev_hash FROM ledger.batch WHERE shard = $1 AND last_pos >= $2 ORDER BY last_pos LIMIT 1
