-- The kill switches that are on, newest first.
SELECT shard, kind, id, reason, since, actor, position
FROM read.freeze
ORDER BY since DESC, shard, kind, id
