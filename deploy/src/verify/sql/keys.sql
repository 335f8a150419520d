-- Idempotency keys by position. $1 shard int2 · $2 first position int8 · $3 last position int8
SELECT position, key
FROM ledger.idempotency
WHERE shard = $1 AND position >= $2 AND position <= $3
ORDER BY position, key
