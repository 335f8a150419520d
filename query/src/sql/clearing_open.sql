-- Payments whose two sources do not agree, by how long they have not changed, and what they differ by. No parameters.
SELECT CASE WHEN updated_at > now() - interval '1 day' THEN 'day' WHEN updated_at > now() - interval '7 days' THEN 'week' ELSE 'older' END,
       count(*),
       sum(abs(credited - charged) + abs(refunded - refunded_at_provider) + abs(lost - withheld))::bigint
FROM read.payment_clearing
WHERE credited <> charged OR refunded <> refunded_at_provider OR lost <> withheld
GROUP BY 1
