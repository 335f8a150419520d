-- Staff tokens, newest first; never their hashes. $1 only tokens before this time timestamptz and $2 id uuid, both null for all ·
-- $3 rows at most int8 · $4 issued from timestamptz, null for all · $5 issued before timestamptz, null for all
SELECT t.token_id, t.name, t.role, t.token_prefix, t.status, t.issued_at, t.issued_by, t.expires_at, t.revoked_at, u.last_used_at
FROM read.staff_token t
LEFT JOIN ledger.token_use u ON u.token_id = t.token_id
WHERE ($1::timestamptz IS NULL OR (t.issued_at, t.token_id) < ($1, $2::uuid))
  AND ($4::timestamptz IS NULL OR t.issued_at >= $4)
  AND ($5::timestamptz IS NULL OR t.issued_at < $5)
ORDER BY t.issued_at DESC, t.token_id DESC
LIMIT $3
