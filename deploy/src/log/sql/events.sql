-- Events behind a position, up to another, in order. $1 shard int2 · $2 position int8 · $3 last position int8
SELECT position, stream, stream_seq, type, version, recorded_at, actor, request_id, key, fingerprint, payload
FROM ledger.event
WHERE shard = $1 AND position > $2 AND position <= $3
ORDER BY position
