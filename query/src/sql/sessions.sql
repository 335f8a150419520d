-- Sessions of a tenant's apps, newest first: ids are ordered by time. $1 developer uuid, null for the house · $2 public app id text,
-- null for all · $3 status text, null for all · $4 opened from timestamptz, null for all · $5 opened before timestamptz, null for
-- all · $6 only below this session uuid, null for all · $7 rows at most int8
SELECT s.session_id, a.public_app_id, s.user_id, s.wallet_id, s.feature_key, s.status, s.opened_at, s.expires_at, s.ended_at
FROM read.session s
JOIN read.app a ON a.shard = s.shard AND a.app_id = s.app_id
WHERE ($1::uuid IS NULL OR a.developer_id = $1)
  AND ($2::text IS NULL OR a.public_app_id = $2)
  AND ($3::text IS NULL OR s.status = $3)
  AND ($4::timestamptz IS NULL OR s.opened_at >= $4)
  AND ($5::timestamptz IS NULL OR s.opened_at < $5)
  AND ($6::uuid IS NULL OR s.session_id < $6)
ORDER BY s.session_id DESC
LIMIT $7
