-- What changed a wallet's posted balance, newest first. Amounts: what the customer gained, units of 1e-8 USD.
-- $1 shard int2 · $2 wallet uuid · $3 only below this position int8 · $4 rows at most int8 ·
-- $5 recorded from timestamptz, null for all · $6 recorded before timestamptz, null for all
SELECT position, recorded_at, occurred_at, type, wallet_amount, wallet_posted, request_id
FROM read.entry
WHERE shard = $1 AND wallet_id = $2 AND position < $3
  AND ($5::timestamptz IS NULL OR recorded_at >= $5)
  AND ($6::timestamptz IS NULL OR recorded_at < $6)
ORDER BY position DESC
LIMIT $4
