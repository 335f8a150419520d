-- Which secrets were stored more than so many seconds ago, in the order of their ids. $1 seconds int4 ·
-- $2 only ids behind this one uuid · $3 rows at most int8
SELECT credential_id FROM secret.credential
WHERE stored_at < now() - make_interval(secs => $1::int4) AND credential_id > $2
ORDER BY credential_id
LIMIT $3
