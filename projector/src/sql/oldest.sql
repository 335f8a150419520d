-- When the first batch behind a position was committed. $1 shard int2 · $2 position int8
SELECT committed_at FROM ledger.batch WHERE shard = $1 AND last_pos > $2 ORDER BY last_pos LIMIT 1
