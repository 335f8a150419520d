-- Features of an app, if the tenant may see it, by key. $1 public app id text · $2 developer uuid, null for the house ·
-- $3 only behind this key text, null for all · $4 rows at most int8, null for all · $5 changed from timestamptz, null for all ·
-- $6 changed before timestamptz, null for all
SELECT f.feature_id, a.public_app_id, f.feature_key, f.display_name, f.markup_bps, f.revenue_share_bps, f.fee, f.policy, f.updated_at
FROM read.app a
JOIN read.feature f ON f.shard = a.shard AND f.app_id = a.app_id
WHERE a.public_app_id = $1 AND ($2::uuid IS NULL OR a.developer_id = $2)
  AND ($3::text IS NULL OR f.feature_key > $3 COLLATE "C")
  AND ($5::timestamptz IS NULL OR f.updated_at >= $5)
  AND ($6::timestamptz IS NULL OR f.updated_at < $6)
ORDER BY f.feature_key
LIMIT $4
