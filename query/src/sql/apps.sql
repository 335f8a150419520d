-- Apps of a tenant, newest first. $1 developer uuid, null for the operator · $2 only apps before this time timestamptz and
-- $3 id uuid, both null for all · $4 rows at most int8, null for all · $5 registered from
-- timestamptz, null for all · $6 registered before timestamptz, null for all
SELECT a.app_id, a.public_app_id, a.name, a.vertical, a.default_revenue_share_bps, a.status, a.session_opening, a.developer_id,
       d.name AS developer_name, d.email AS developer_email, a.registered_at, a.updated_at
FROM read.app a
JOIN read.developer d ON d.shard = a.shard AND d.developer_id = a.developer_id
WHERE ($1::uuid IS NULL OR a.developer_id = $1)
  AND ($2::timestamptz IS NULL OR (a.registered_at, a.app_id) < ($2, $3::uuid))
  AND ($5::timestamptz IS NULL OR a.registered_at >= $5)
  AND ($6::timestamptz IS NULL OR a.registered_at < $6)
ORDER BY a.registered_at DESC, a.app_id DESC
LIMIT $4
