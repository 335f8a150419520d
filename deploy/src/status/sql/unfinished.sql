-- What the payment provider told and is not finished, the oldest of it, and up to when its movements were fetched.
SELECT count(*) FILTER (WHERE state = 'received'), count(*) FILTER (WHERE state = 'waiting'), count(*) FILTER (WHERE state = 'refused'),
       min(updated_at), (SELECT max(until) FROM payment.sweep)
FROM payment.work
WHERE state IN ('received', 'waiting', 'refused')
