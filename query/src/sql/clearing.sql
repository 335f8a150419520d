-- Payments whose two sources do not agree, oldest change first. $1 rows at most int8
SELECT payment, credited, charged, refunded, refunded_at_provider, lost, withheld, fees, updated_at
FROM read.payment_clearing
WHERE credited <> charged OR refunded <> refunded_at_provider OR lost <> withheld
ORDER BY updated_at, payment
LIMIT $1
