-- Events of a range of positions, in order. $1 shard int2 · $2 first int8 · $3 last int8 · and, null for all: $4 stream text ·
-- $5 types text[] · $6 actor text · $7 request text · $8 bytes that the payload has bytea
SELECT position, stream, stream_seq, type, version, recorded_at, actor, request_id, key, fingerprint, payload
FROM ledger.event
WHERE shard = $1 AND position BETWEEN $2 AND $3
  AND ($4::text IS NULL OR stream = $4)
  AND ($5::text[] IS NULL OR type = ANY ($5))
  AND ($6::text IS NULL OR actor = $6)
  AND ($7::text IS NULL OR request_id = $7)
  AND ($8::bytea IS NULL OR position($8 IN payload) > 0)
ORDER BY position
