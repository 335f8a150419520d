-- What is neither done nor ignored, least lately tried first. $1 provider text · $2 rows at most int8
SELECT r.id, r.type, w.state, w.problem, r.body
FROM payment.work w
JOIN payment.received r USING (provider, id)
WHERE w.provider = $1 AND w.state IN ('received', 'waiting', 'refused')
ORDER BY w.updated_at, r.created_at, r.id
LIMIT $2
