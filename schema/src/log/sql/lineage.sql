-- Every id that a log has had, the first one first. $1 shard int2
SELECT log_id, until, lost_until FROM ledger.lineage WHERE shard = $1 ORDER BY epoch
