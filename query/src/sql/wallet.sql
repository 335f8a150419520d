-- A wallet, if the tenant may see it. The list of shards lets the primary key be used.
-- $1 wallet uuid · $2 developer uuid, null for the operator
SELECT w.shard, w.wallet_id, w.user_id, w.floor, w.posted, w.promo, w.held, w.opened_at, w.updated_at, w.position,
       a.public_app_id, a.name AS app_name
FROM read.wallet w
JOIN read.app a ON a.shard = w.shard AND a.app_id = w.app_id
WHERE w.shard = ANY (ARRAY(SELECT shard FROM ledger.log))
  AND w.wallet_id = $1
  AND ($2::uuid IS NULL OR a.developer_id = $2)
