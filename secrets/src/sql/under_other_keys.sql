-- Secrets that are sealed under another key than this one, in the order of their ids. $1 key-encryption key int8 ·
-- $2 only ids behind this one uuid · $3 rows at most int8
SELECT credential_id, owner, purpose, sealed FROM secret.credential
WHERE kek_id <> $1 AND credential_id > $2
ORDER BY credential_id
LIMIT $3
