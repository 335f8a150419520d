-- Acts for the overview, newest first: those by the developer's own tokens. $1 developer uuid, null for the house · $2 rows at most int8
SELECT a.shard, a.position, a.recorded_at, a.actor, a.action, a.stream, a.detail, t.developer_id
FROM read.audit_log a
LEFT JOIN read.developer_token t ON a.actor = 'token:' || t.token_id
WHERE $1::uuid IS NULL OR t.developer_id = $1
ORDER BY a.position DESC
LIMIT $2
