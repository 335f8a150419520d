-- The log's id and its newest link. $1 shard int2
SELECT log_id, position, hash FROM ledger.head WHERE shard = $1
