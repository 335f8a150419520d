-- The wallet of a session. $1 shard int2 · $2 wallet uuid
SELECT wallet_id, user_id, posted, held
FROM read.wallet
WHERE shard = $1 AND wallet_id = $2
