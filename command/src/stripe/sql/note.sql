-- Notes what became of it; done and ignored stay. $1 provider text · $2 id text · $3 state text · $4 problem text or null
UPDATE payment.work
SET state = $3, problem = $4, attempts = attempts + 1, updated_at = now()
WHERE provider = $1 AND id = $2 AND state NOT IN ('done', 'ignored')
