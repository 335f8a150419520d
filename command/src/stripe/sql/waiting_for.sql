-- What waits for a payment, oldest first. $1 provider text · $2 payment text
SELECT r.id, r.body
FROM payment.work w
JOIN payment.received r USING (provider, id)
WHERE w.provider = $1 AND w.payment = $2 AND w.state = 'waiting'
ORDER BY r.created_at, r.id
LIMIT 100
