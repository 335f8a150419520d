-- The last batch that ends at a position or before it. $1 shard int2 · $2 position int8
SELECT last_pos, hash FROM ledger.batch WHERE shard = $1 AND last_pos <= $2 ORDER BY last_pos DESC LIMIT 1
