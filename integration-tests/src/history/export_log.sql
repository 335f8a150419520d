-- The whole log for the checker, one JSON object per row, in the order that checker/check.py asks for. No parameters.
-- Times are whole microseconds since 1970, bytes are hexadecimal.
SELECT line
FROM (
    SELECT 1 AS part, shard, 0::bigint AS place,
           json_build_object('table', 'log', 'shard', shard, 'log_id', log_id,
                             'created_at', (extract(epoch FROM created_at) * 1000000)::bigint)::text AS line
    FROM ledger.log
    UNION ALL
    SELECT 2, shard, last_pos,
           json_build_object('table', 'batch', 'shard', shard, 'first_pos', first_pos, 'last_pos', last_pos, 'batch_id', batch_id,
                             'prev_hash', encode(prev_hash, 'hex'), 'hash', encode(hash, 'hex'),
                             'committed_at', (extract(epoch FROM committed_at) * 1000000)::bigint)::text
    FROM ledger.batch
    UNION ALL
    SELECT 3, shard, position, json_build_object('table', 'idempotency', 'shard', shard, 'key', key, 'position', position)::text
    FROM ledger.idempotency
    UNION ALL
    SELECT 4, shard, position,
           json_build_object('table', 'event', 'shard', shard, 'position', position, 'stream', stream, 'stream_seq', stream_seq,
                             'type', type, 'version', version,
                             'recorded_at', (extract(epoch FROM recorded_at) * 1000000)::bigint, 'actor', actor,
                             'request_id', request_id, 'key', key, 'fingerprint', fingerprint,
                             'payload', encode(payload, 'hex'))::text
    FROM ledger.event
) AS rows
ORDER BY part, shard, place
