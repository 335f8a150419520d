-- Sessions of a token's hash, with what their app allows: one, or none. $1 SHA-256 of the token, bytea
SELECT s.shard, s.wallet_id, s.user_id, s.token_hash, s.status, s.expires_at, a.status AS app_status
FROM read.session s
JOIN read.app a ON a.shard = s.shard AND a.app_id = s.app_id
WHERE s.token_hash = $1
