-- Changes when an operator adds, switches, halts or resumes a projection. $1 shard int2
SELECT coalesce(string_agg(format('%s %s %s %s', r.name, r.version, r.state, c.halted IS NULL), ';' ORDER BY r.name, r.version), '')
FROM projection.registry r
LEFT JOIN projection.checkpoint c ON c.name = r.name AND c.version = r.version AND c.shard = $1
WHERE r.state IN ('live', 'standby')
