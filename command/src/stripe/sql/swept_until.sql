-- Up to when everything of a kind was fetched, in seconds of Unix time. $1 provider text · $2 what text
SELECT extract(epoch FROM until)::bigint FROM payment.sweep WHERE provider = $1 AND what = $2
