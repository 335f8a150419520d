-- Snapshots of the writer's state. $1 shard int2 · $2 fold version int4 · $3 last position int8
SELECT position, state
FROM ledger.snapshot
WHERE shard = $1 AND fold_version = $2 AND position <= $3
ORDER BY position
