-- Notes up to when everything of a kind was fetched; never goes back. $1 provider text · $2 what text · $3 seconds of Unix time int8
INSERT INTO payment.sweep AS s (provider, what, until) VALUES ($1, $2, to_timestamp($3::bigint))
ON CONFLICT (provider, what) DO UPDATE SET until = greatest(s.until, excluded.until)
