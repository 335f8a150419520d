-- Events in a range of positions, in order. $1 int2: shard. $2 int8: behind this position. $3 int8: up to this one.
-- $4 text[]: their kinds; null: all. $5 text[]: but not these. $6 int8: how many.
SELECT position, stream, stream_seq, type, version, (extract(epoch FROM recorded_at) * 1000000)::int8, actor, request_id, payload
FROM ledger.event
WHERE shard = $1 AND position > $2 AND position <= $3
  AND ($4::text[] IS NULL OR type = ANY ($4)) AND type <> ALL ($5)
ORDER BY position
LIMIT $6
