-- Features of an app, if the tenant may see it, by key. $1 public app id text · $2 developer uuid, null for the operator
SELECT f.feature_id, a.public_app_id, f.feature_key, f.display_name, f.markup_bps, f.revenue_share_bps, f.fee, f.policy, f.updated_at
FROM read.app a
JOIN read.feature f ON f.shard = a.shard AND f.app_id = a.app_id
WHERE a.public_app_id = $1 AND ($2::uuid IS NULL OR a.developer_id = $2)
ORDER BY f.feature_key
