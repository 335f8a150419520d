-- The postings of an entry. $1 shard int2 · $2 position int8
SELECT account, amount FROM read.posting WHERE shard = $1 AND position = $2 ORDER BY line
