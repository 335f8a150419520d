-- How far each live projection has come, shard by shard.
SELECT r.name, r.version, c.shard, c.position, r.code
FROM projection.registry r
JOIN projection.checkpoint c ON c.name = r.name AND c.version = r.version
WHERE r.state = 'live'
ORDER BY r.name, r.version, c.shard
