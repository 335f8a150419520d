-- Wallets for the overview: the developers' own (what they have earned and were not paid yet), then those of users, the last changed
-- first. Amounts in units of 1e-8 USD. $1 developer uuid, null for the house · $2 rows at most int8
SELECT owner_scope, id, owner_id, owner_name, balance, updated_at
FROM (
    SELECT 'developer' AS owner_scope, d.developer_id AS id, d.developer_id AS owner_id, d.name AS owner_name,
           coalesce(a.credit - a.debit, 0) AS balance, coalesce(e.recorded_at, d.registered_at) AS updated_at
    FROM read.developer d
    LEFT JOIN read.account a ON a.shard = d.shard AND a.account = '2210:' || d.developer_id
    LEFT JOIN read.entry e ON e.shard = a.shard AND e.position = a.position
    WHERE $1::uuid IS NULL OR d.developer_id = $1
    UNION ALL
    SELECT 'end_user', w.wallet_id, w.user_id, NULL, w.posted, w.updated_at
    FROM read.wallet w
    JOIN read.app a ON a.shard = w.shard AND a.app_id = w.app_id
    WHERE $1::uuid IS NULL OR a.developer_id = $1
) AS wallets
ORDER BY owner_scope, updated_at DESC, id DESC
LIMIT $2
