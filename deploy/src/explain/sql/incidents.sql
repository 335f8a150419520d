-- The closings of an incident. $1 shards int2[] · $2 its name as a member of the stored form text
SELECT a.shard, a.position
FROM read.audit_log a
WHERE a.shard = ANY ($1) AND a.stream = 'shard:00000000-0000-0000-0000-000000000000' AND a.action = 'IncidentClosed'
  AND strpos(a.detail, $2) > 0
ORDER BY a.shard, a.position
