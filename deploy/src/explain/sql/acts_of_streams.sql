-- The newest acts of streams. $1 shards int2[] · $2 streams text[] · $3 rows at most int8
SELECT a.shard, a.position, a.stream
FROM read.audit_log a
WHERE a.shard = ANY ($1) AND a.stream = ANY ($2)
ORDER BY a.shard, a.position DESC
LIMIT $3
