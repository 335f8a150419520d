-- The log's id and its newest link. $1 int2: shard.
SELECT log_id, position, hash FROM ledger.head WHERE shard = $1
