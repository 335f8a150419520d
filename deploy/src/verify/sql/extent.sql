-- First position of the batch with position $2, last position of the batch with position $3, last position of all.
-- $1 shard int2 · $2 from int8 · $3 to int8
SELECT (SELECT first_pos FROM ledger.batch WHERE shard = $1 AND last_pos >= $2 ORDER BY last_pos LIMIT 1),
       (SELECT last_pos FROM ledger.batch WHERE shard = $1 AND last_pos >= $3 ORDER BY last_pos LIMIT 1),
       greatest((SELECT max(last_pos) FROM ledger.batch WHERE shard = $1), (SELECT max(position) FROM ledger.event WHERE shard = $1), 0)
