-- The link of the chain at a position, if a batch ends there. $1 shard int2 · $2 position int8
SELECT hash FROM ledger.batch WHERE shard = $1 AND last_pos = $2
