-- Top-ups, newest first, ordered by what never changes. $1 status text, null for all ·
-- $2 only top-ups before this time timestamptz and $3 id uuid, both null for all · $4 rows at most int8 ·
-- $5 requested from timestamptz, null for all · $6 requested before timestamptz, null for all
SELECT top_up_id, wallet_id, amount, provider, reference, payment, status, reason, requested_at, updated_at, position
FROM read.top_up
WHERE ($1::text IS NULL OR status = $1)
  AND ($2::timestamptz IS NULL OR (requested_at, top_up_id) < ($2, $3::uuid))
  AND ($5::timestamptz IS NULL OR requested_at >= $5)
  AND ($6::timestamptz IS NULL OR requested_at < $6)
ORDER BY requested_at DESC, top_up_id DESC
LIMIT $4
