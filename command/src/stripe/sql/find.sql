-- What became of what was received under an id. $1 provider text · $2 id text
SELECT state FROM payment.work WHERE provider = $1 AND id = $2
