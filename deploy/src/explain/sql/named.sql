-- What has this id in a table of its own: kind, shard, wallet, what the table says. $1 shards int2[] · $2 id uuid
SELECT 'top-up', shard, wallet_id, concat_ws(' ', (amount * 0.00000001)::numeric(28, 8), provider, status, payment, reason)
FROM read.top_up WHERE shard = ANY ($1) AND top_up_id = $2
UNION ALL
SELECT 'refund', shard, wallet_id, concat_ws(' ', (amount * 0.00000001)::numeric(28, 8), status, 'of', payment, reference, reason)
FROM read.refund WHERE shard = ANY ($1) AND refund_id = $2
UNION ALL
SELECT 'write-off', shard, wallet_id, concat_ws(' ', (amount * 0.00000001)::numeric(28, 8), status, reason)
FROM read.write_off WHERE shard = ANY ($1) AND write_off_id = $2
UNION ALL
SELECT 'session', shard, wallet_id, concat_ws(' ', status, 'until', expires_at AT TIME ZONE 'UTC')
FROM read.session WHERE shard = ANY ($1) AND session_id = $2
