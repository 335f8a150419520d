-- Waits until nobody appends: the lock is that of ledger.append() and is let go at once. $1 shard int4
SELECT pg_advisory_xact_lock(7304, $1)
