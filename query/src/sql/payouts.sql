-- Payouts, newest first, ordered by what never changes. $1 status text, null for all ·
-- $2 only payouts before this time timestamptz and $3 id uuid, both null for all · $4 rows at most int8
SELECT p.payout_id, p.developer_id, d.name AS developer_name, p.amount, p.status, p.provider, p.trigger, p.reference, p.fee,
       p.reason, p.requested_by, p.approved_by, p.requested_at, p.updated_at, p.position
FROM read.payout p
LEFT JOIN read.developer d ON d.shard = p.shard AND d.developer_id = p.developer_id
WHERE ($1::text IS NULL OR p.status = $1)
  AND ($2::timestamptz IS NULL OR (p.requested_at, p.payout_id) < ($2, $3::uuid))
ORDER BY p.requested_at DESC, p.payout_id DESC
LIMIT $4
