-- Payouts for the overview, newest first. $1 developer uuid, null for the house · $2 rows at most int8
SELECT p.payout_id, p.developer_id, d.name AS developer_name, p.amount, p.status, p.provider, p.reference, p.requested_at,
       p.updated_at
FROM read.payout p
JOIN read.developer d ON d.shard = p.shard AND d.developer_id = p.developer_id
WHERE $1::uuid IS NULL OR p.developer_id = $1
ORDER BY p.requested_at DESC, p.payout_id DESC
LIMIT $2
