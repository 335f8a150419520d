-- Every version of every projection: how far it is, since when the next batch waits for it, and what it could not apply.
SELECT r.name, r.version, r.state, c.shard, c.position, h.position AS head, c.halted, c.updated_at,
       (SELECT b.committed_at FROM ledger.batch b
        WHERE b.shard = c.shard AND b.last_pos > c.position
        ORDER BY b.last_pos LIMIT 1) AS waiting_since,
       (SELECT count(*) FROM projection.dead_letter d
        WHERE d.projection = r.name AND d.version = r.version AND d.shard = c.shard) AS dead_letters
FROM projection.registry r
LEFT JOIN projection.checkpoint c ON c.name = r.name AND c.version = r.version
LEFT JOIN ledger.head h ON h.shard = c.shard
ORDER BY r.name, r.version, c.shard
