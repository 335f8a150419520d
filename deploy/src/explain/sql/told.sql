-- What Stripe told under an id, or of a payment, and what became of it. $1 id text
SELECT r.id, r.type, coalesce(w.payment, r.payment), coalesce(w.state, 'received'), w.problem
FROM payment.received r
LEFT JOIN payment.work w ON w.provider = r.provider AND w.id = r.id
WHERE r.provider = 'stripe' AND (r.id = $1 OR r.payment = $1)
ORDER BY r.received_at
LIMIT 100
