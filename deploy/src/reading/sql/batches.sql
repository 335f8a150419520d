-- The appends of shard $1 int2 that hold positions from $2 int8 to $3 int8, in order.
SELECT first_pos, last_pos, batch_id, prev_hash, hash, committed_at
FROM ledger.batch
WHERE shard = $1 AND last_pos >= $2
  AND last_pos <= coalesce((SELECT min(last_pos) FROM ledger.batch WHERE shard = $1 AND last_pos >= $3), $3)
ORDER BY last_pos
