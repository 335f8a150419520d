-- How far the log of each shard is, and how far each live projection has read it. A shard that nothing has read has one row
-- without a name.
SELECT h.shard, h.position AS head, r.name, c.position
FROM ledger.head h
LEFT JOIN (projection.checkpoint c
           JOIN projection.registry r ON r.name = c.name AND r.version = c.version AND r.state = 'live')
       ON c.shard = h.shard
