-- Disputes of a shard, newest first. $1 shard int2 · $2 status text, null for all · $3 only opened below this position int8 ·
-- $4 rows at most int8
SELECT dispute, wallet_id, payment, amount, held, receivable, status, reason, opened_at, opened_position, updated_at, position
FROM read.dispute
WHERE shard = $1 AND ($2::text IS NULL OR status = $2) AND opened_position < $3
ORDER BY opened_position DESC
LIMIT $4
