-- Acts, newest first. $1 shard int2 · $2 only below this position int8 · $3 rows at most int8
SELECT position, recorded_at, actor, action, stream, request_id, detail
FROM read.audit_log
WHERE shard = $1 AND position < $2
ORDER BY position DESC
LIMIT $3
