-- Takes old answers away. $1 bigint: their age in seconds. $2 bigint: how many at once.
DELETE FROM gateway.answer WHERE hold_id IN (
    SELECT hold_id FROM gateway.answer WHERE kept_at < now() - make_interval(secs => $1::bigint) ORDER BY kept_at LIMIT $2)
