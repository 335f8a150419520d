-- How far the live projections are. $1 shard int2 · $2 the position of interest int8
SELECT r.name, coalesce(c.position, 0), c.halted
FROM projection.registry r
LEFT JOIN projection.checkpoint c ON c.name = r.name AND c.version = r.version AND c.shard = $1
WHERE r.state = 'live'
ORDER BY coalesce(c.position, 0) >= $2, r.name
