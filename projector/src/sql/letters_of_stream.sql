-- Positions that wait in a stream, in order. $1 projection text · $2 version int4 · $3 shard int2 · $4 stream text · $5 limit int8
SELECT position FROM projection.dead_letter
WHERE projection = $1 AND version = $2 AND shard = $3 AND stream = $4
ORDER BY position
LIMIT $5
