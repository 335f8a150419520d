-- Events of streams that live projections have put aside. $1 shard int2 · $2 streams text[]
SELECT d.projection, d.position, d.cause
FROM projection.dead_letter d
JOIN projection.registry r ON r.name = d.projection AND r.version = d.version AND r.state = 'live'
WHERE d.shard = $1 AND d.stream = ANY ($2)
ORDER BY d.position
LIMIT 20
