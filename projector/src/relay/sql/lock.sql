-- The right to publish a shard, for as long as the session lasts. $1 shard int4
SELECT pg_try_advisory_lock(7307, $1)
