-- Events behind a position, in order. $1 shard int2 · $2 position int8 · $3 limit int8
SELECT position, stream, stream_seq, type, version, recorded_at, actor, request_id, key, fingerprint, payload
FROM ledger.event
WHERE shard = $1 AND position > $2
ORDER BY position
LIMIT $3
