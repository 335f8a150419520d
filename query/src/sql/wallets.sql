-- Wallets of a tenant, newest first: ids are ordered by time. $1 developer uuid, null for the house · $2 public app id text, null for
-- all · $3 opened from timestamptz, null for all · $4 opened before timestamptz, null for all · $5 only below this wallet uuid, null
-- for all · $6 rows at most int8
SELECT w.shard, w.wallet_id, w.user_id, w.floor, w.posted, w.promo, w.held, w.opened_at, w.updated_at, w.position,
       a.public_app_id, a.name AS app_name
FROM read.wallet w
JOIN read.app a ON a.shard = w.shard AND a.app_id = w.app_id
WHERE ($1::uuid IS NULL OR a.developer_id = $1)
  AND ($2::text IS NULL OR a.public_app_id = $2)
  AND ($3::timestamptz IS NULL OR w.opened_at >= $3)
  AND ($4::timestamptz IS NULL OR w.opened_at < $4)
  AND ($5::uuid IS NULL OR w.wallet_id < $5)
ORDER BY w.wallet_id DESC
LIMIT $6
