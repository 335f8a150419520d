-- Every version of every projection that is not retired: how far behind, since when, halted or not, and its dead letters.
SELECT r.name, r.version, r.state, c.shard, greatest(coalesce(h.position, 0) - coalesce(c.position, 0), 0)::bigint,
       (SELECT b.committed_at FROM ledger.batch b WHERE b.shard = c.shard AND b.last_pos > c.position ORDER BY b.last_pos LIMIT 1),
       c.halted, coalesce(d.letters, 0), d.oldest
FROM projection.registry r
LEFT JOIN projection.checkpoint c ON c.name = r.name AND c.version = r.version
LEFT JOIN ledger.head h ON h.shard = c.shard
LEFT JOIN LATERAL (SELECT count(*) AS letters, min(first_seen) AS oldest FROM projection.dead_letter l
                   WHERE l.projection = r.name AND l.version = r.version AND l.shard = c.shard) d ON true
WHERE r.state <> 'retired'
ORDER BY r.name, r.version, c.shard
