-- How far the relay is. $1 shard int2
SELECT log_id, position, hash, state, state_since, halted FROM relay.mark WHERE shard = $1
