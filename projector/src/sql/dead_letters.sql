-- $1 projection text · $2 version int4 · $3 shard int2 · $4 streams text[] · $5 positions int8[] · $6 causes text[]
INSERT INTO projection.dead_letter (projection, version, shard, stream, position, cause)
SELECT $1, $2, $3, letter.stream, letter.position, letter.cause
FROM unnest($4::text[], $5::bigint[], $6::text[]) AS letter (stream, position, cause)
