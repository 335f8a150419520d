-- Staff tokens, newest first; never their hashes. $1 only tokens before this time timestamptz and $2 id uuid, both null for all ·
-- $3 rows at most int8
SELECT token_id, name, role, token_prefix, status, issued_at, issued_by, expires_at, revoked_at
FROM read.staff_token
WHERE $1::timestamptz IS NULL OR (issued_at, token_id) < ($1, $2::uuid)
ORDER BY issued_at DESC, token_id DESC
LIMIT $3
