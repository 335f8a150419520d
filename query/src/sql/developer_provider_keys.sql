-- Provider keys of an app's developer, newest first, disabled ones included. $1 developer uuid ·
-- $2 only keys before this time timestamptz and $3 id uuid, both null for all · $4 rows at most int8, null for all
SELECT credential_id, provider, base_url, masked, status, models_allowed, budget_limit, priority, fallback_to_platform, added_at
FROM read.credential
WHERE owner_kind = 'developer' AND owner_id = $1
  AND ($2::timestamptz IS NULL OR (added_at, credential_id) < ($2, $3::uuid))
ORDER BY added_at DESC, credential_id DESC
LIMIT $4
