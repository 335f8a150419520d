-- Developer tokens of a hash: one, or none. $1 SHA-256 of the token, bytea
SELECT token_id, developer_id, token_hash, scopes, status, expires_at
FROM read.developer_token
WHERE token_hash = $1
