-- The newest entries of a wallet. $1 shards int2[] · $2 wallet uuid · $3 rows at most int8
SELECT shard, position
FROM read.entry
WHERE shard = ANY ($1) AND wallet_id = $2
ORDER BY position DESC
LIMIT $3
