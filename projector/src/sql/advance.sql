-- $1 names text[] · $2 versions int4[] · $3 shard int2 · $4 log id uuid · $5 position int8 · $6 hash bytea(32)
-- $7 new position int8 · $8 new hash bytea(32)
SELECT projection.advance($1, $2, $3, $4, $5, $6, $7, $8)
