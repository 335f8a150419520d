-- Staff tokens of a hash: one, or none. $1 SHA-256 of the token, bytea
SELECT token_id, role, token_hash, status, expires_at
FROM read.staff_token
WHERE token_hash = $1
