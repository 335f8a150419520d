-- Streams that wait behind a dead letter, and how many letters. $1 projection text · $2 version int4 · $3 shard int2
SELECT stream, count(*) FROM projection.dead_letter WHERE projection = $1 AND version = $2 AND shard = $3 GROUP BY stream
