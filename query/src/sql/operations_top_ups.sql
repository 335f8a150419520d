-- Top-ups for the overview, newest first. $1 developer uuid, null for the house · $2 rows at most int8
SELECT t.top_up_id, t.wallet_id, w.user_id, t.provider, t.reference, t.amount, t.status, c.url, t.requested_at,
       t.updated_at
FROM read.top_up t
JOIN read.wallet w ON w.shard = t.shard AND w.wallet_id = t.wallet_id
JOIN read.app a ON a.shard = w.shard AND a.app_id = w.app_id
LEFT JOIN read.checkout c ON c.shard = t.shard AND c.top_up_id = t.top_up_id
WHERE $1::uuid IS NULL OR a.developer_id = $1
ORDER BY t.requested_at DESC, t.top_up_id DESC
LIMIT $2
