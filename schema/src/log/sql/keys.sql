-- The events that answer idempotency keys. $1 shard int2 · $2 keys uuid[]
SELECT i.key, e.position, e.stream, e.stream_seq, e.type, e.version, e.recorded_at, e.actor, e.request_id, e.fingerprint, e.payload
FROM ledger.idempotency i
JOIN ledger.event e ON e.shard = i.shard AND e.position = i.position
WHERE i.shard = $1 AND i.key = ANY ($2)
