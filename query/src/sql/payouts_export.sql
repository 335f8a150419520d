-- Every payout with its developer, newest first. $1 requested from timestamptz, null for all · $2 requested before timestamptz,
-- null for all
SELECT p.requested_at, p.updated_at, p.payout_id, p.developer_id, d.email, p.amount, p.status, p.provider, p.reference
FROM read.payout p
LEFT JOIN read.developer d ON d.shard = p.shard AND d.developer_id = p.developer_id
WHERE ($1::timestamptz IS NULL OR p.requested_at >= $1)
  AND ($2::timestamptz IS NULL OR p.requested_at < $2)
ORDER BY p.requested_at DESC, p.payout_id DESC
