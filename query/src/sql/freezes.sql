-- The kill switches that are on, newest first. $1 only below this position int8 · $2 rows at most int8 ·
-- $3 frozen from timestamptz, null for all · $4 frozen before timestamptz, null for all
SELECT shard, kind, id, reason, since, actor, position
FROM read.freeze
WHERE position < $1
  AND ($3::timestamptz IS NULL OR since >= $3)
  AND ($4::timestamptz IS NULL OR since < $4)
ORDER BY position DESC, shard
LIMIT $2
