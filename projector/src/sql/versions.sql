-- Every version of a projection, or of all, and how far it is in each shard. $1 name text, null for all
SELECT r.name, r.version, r.code, r.state, c.shard, c.position, coalesce(h.position, 0), c.halted,
       (SELECT count(*) FROM projection.dead_letter d
        WHERE d.projection = r.name AND d.version = r.version AND d.shard = c.shard)
FROM projection.registry r
LEFT JOIN projection.checkpoint c ON c.name = r.name AND c.version = r.version
LEFT JOIN ledger.head h ON h.shard = c.shard
WHERE $1::text IS NULL OR r.name = $1
ORDER BY r.name, r.version, c.shard
