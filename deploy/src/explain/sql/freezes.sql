-- Kill switches as they were turned up to a position. $1 shard int2 · $2 position int8
SELECT position, action, actor, detail
FROM read.audit_log
WHERE shard = $1 AND stream = 'shard:00000000-0000-0000-0000-000000000000' AND position <= $2 AND action IN ('Frozen', 'Thawed')
ORDER BY position
