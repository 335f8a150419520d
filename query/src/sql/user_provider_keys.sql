-- Provider keys of a user, newest first, disabled ones included. $1 shard int2 · $2 user uuid ·
-- $3 only keys before this time timestamptz and $4 id uuid, both null for all · $5 rows at most int8, null for all
SELECT credential_id, provider, base_url, masked, status, models_allowed, budget_limit, priority, fallback_to_platform, added_at
FROM read.credential
WHERE shard = $1 AND owner_kind = 'user' AND owner_id = $2
  AND ($3::timestamptz IS NULL OR (added_at, credential_id) < ($3, $4::uuid))
ORDER BY added_at DESC, credential_id DESC
LIMIT $5
