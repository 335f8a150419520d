-- Tokens of a tenant, newest first; never their hashes. $1 developer uuid, null for the operator ·
-- $2 only tokens before this time timestamptz and $3 id uuid, both null for all · $4 rows at most int8 ·
-- $5 issued from timestamptz, null for all · $6 issued before timestamptz, null for all
SELECT t.token_id, t.developer_id, d.name AS developer_name, d.email AS developer_email, t.name, t.token_prefix, t.scopes,
       t.status, t.expires_at, t.revoked_at, t.issued_at, u.last_used_at
FROM read.developer_token t
JOIN read.developer d ON d.shard = t.shard AND d.developer_id = t.developer_id
LEFT JOIN ledger.token_use u ON u.token_id = t.token_id
WHERE ($1::uuid IS NULL OR t.developer_id = $1)
  AND ($2::timestamptz IS NULL OR (t.issued_at, t.token_id) < ($2, $3::uuid))
  AND ($5::timestamptz IS NULL OR t.issued_at >= $5)
  AND ($6::timestamptz IS NULL OR t.issued_at < $6)
ORDER BY t.issued_at DESC, t.token_id DESC
LIMIT $4
