-- Acts, newest first. $1 shard int2 · $2 only below this position int8 · $3 rows at most int8 ·
-- $4 recorded from timestamptz, null for all · $5 recorded before timestamptz, null for all
SELECT position, recorded_at, actor, action, stream, request_id, detail
FROM read.audit_log
WHERE shard = $1 AND position < $2
  AND ($4::timestamptz IS NULL OR recorded_at >= $4)
  AND ($5::timestamptz IS NULL OR recorded_at < $5)
ORDER BY position DESC
LIMIT $3
