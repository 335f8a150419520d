-- Refunds, newest first, ordered by what never changes. $1 status text, null for all ·
-- $2 only refunds before this time timestamptz and $3 id uuid, both null for all · $4 rows at most int8
SELECT refund_id, wallet_id, payment, amount, receivable, reference, status, reason, requested_by, requested_at, updated_at, position
FROM read.refund
WHERE ($1::text IS NULL OR status = $1)
  AND ($2::timestamptz IS NULL OR (requested_at, refund_id) < ($2, $3::uuid))
ORDER BY requested_at DESC, refund_id DESC
LIMIT $4
