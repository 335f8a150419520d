-- What read tables have under ids of the payment provider: kind, shard, wallet, what the table says, further ids, a position.
-- $1 shards int2[] · $2 ids text[]
SELECT 'top-up' AS kind, shard, wallet_id, concat_ws(' ', top_up_id, (amount * 0.00000001)::numeric(28, 8), status, reason) AS says,
       ARRAY[payment, reference, top_up_id::text] AS ids, NULL::bigint AS at
FROM read.top_up WHERE shard = ANY ($1) AND (payment = ANY ($2) OR reference = ANY ($2))
UNION ALL
SELECT 'checkout', c.shard, c.wallet_id, concat_ws(' ', c.reference, 'of top-up', c.top_up_id), ARRAY[t.payment, c.reference, c.top_up_id::text], c.position
FROM read.checkout c LEFT JOIN read.top_up t ON t.shard = c.shard AND t.top_up_id = c.top_up_id
WHERE c.shard = ANY ($1) AND c.reference = ANY ($2)
UNION ALL
SELECT 'refund', shard, wallet_id, concat_ws(' ', refund_id, (amount * 0.00000001)::numeric(28, 8), status, reference, reason),
       ARRAY[payment, reference, refund_id::text], NULL
FROM read.refund WHERE shard = ANY ($1) AND (payment = ANY ($2) OR reference = ANY ($2))
UNION ALL
SELECT 'dispute', shard, wallet_id, concat_ws(' ', dispute, (amount * 0.00000001)::numeric(28, 8), status, reason),
       ARRAY[payment, dispute], NULL
FROM read.dispute WHERE shard = ANY ($1) AND (payment = ANY ($2) OR dispute = ANY ($2))
UNION ALL
SELECT 'movement', shard, NULL, concat_ws(' ', transaction, category, (amount * 0.00000001)::numeric(28, 8)),
       ARRAY[payment], position
FROM read.stripe_transaction
WHERE shard = ANY ($1) AND (payment = ANY ($2) OR transaction = ANY ($2) OR source = ANY ($2))
UNION ALL
SELECT 'clearing', shard, NULL, concat_ws(' ', 'credited', (credited * 0.00000001)::numeric(28, 8), 'charged',
       (charged * 0.00000001)::numeric(28, 8), 'refunded', (refunded * 0.00000001)::numeric(28, 8), 'at the provider',
       (refunded_at_provider * 0.00000001)::numeric(28, 8)), ARRAY[payment], NULL
FROM read.payment_clearing WHERE shard = ANY ($1) AND payment = ANY ($2)
