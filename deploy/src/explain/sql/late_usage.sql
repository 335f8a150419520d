-- Where usage was charged after its hold had expired. $1 shard int2 · $2 wallet uuid · $3 behind this position int8 · $4 hold uuid
SELECT e.position
FROM read.entry e
JOIN read.usage_record u ON u.shard = e.shard AND u.position = e.position
WHERE e.shard = $1 AND e.wallet_id = $2 AND e.position > $3 AND e.type = 'LateUsageCaptured' AND u.usage_id = $4
ORDER BY e.position
LIMIT 1
