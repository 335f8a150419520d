-- Approved payouts that a person carries to the bank, oldest first. No parameters.
SELECT p.payout_id, p.developer_id, d.name, d.email, p.amount, p.approved_by, p.updated_at
FROM read.payout p
LEFT JOIN read.developer d ON d.shard = p.shard AND d.developer_id = p.developer_id
WHERE p.status = 'processing' AND p.provider = 'bank'
ORDER BY p.requested_at, p.payout_id
