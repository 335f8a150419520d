-- The rate card that prices new holds and usage. $1 shard int2
SELECT rate_card_id, sha256, source, models, published_at, activated_at, activated_position
FROM read.rate_card
WHERE shard = $1 AND active
