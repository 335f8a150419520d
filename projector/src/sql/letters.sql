-- Dead letters, oldest first: with what waits behind each, and whether it is the first of its stream. $1 id int8, null for all
SELECT d.id, d.projection, d.version, d.shard, d.position, d.stream, d.cause, d.attempts, d.first_seen, d.last_seen,
       (SELECT count(*) FROM projection.dead_letter w
        WHERE w.projection = d.projection AND w.version = d.version AND w.shard = d.shard AND w.stream = d.stream
          AND w.position > d.position),
       NOT EXISTS (SELECT FROM projection.dead_letter w
                   WHERE w.projection = d.projection AND w.version = d.version AND w.shard = d.shard AND w.stream = d.stream
                     AND w.position < d.position)
FROM projection.dead_letter d
WHERE $1::bigint IS NULL OR d.id = $1
ORDER BY d.projection, d.version, d.shard, d.position
