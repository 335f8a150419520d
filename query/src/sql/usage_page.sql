-- Charged calls of an app, newest first. $1 shard int2 · $2 app uuid · $3 only below this position int8 ·
-- $4 recorded from timestamptz, null for all · $5 recorded before timestamptz, null for all · $6 rows at most int8
SELECT position, request_id, feature_key, route, provider, model, input_tokens, output_tokens, charge, developer, recorded_at
FROM read.usage_record
WHERE shard = $1 AND app_id = $2
  AND position < $3
  AND ($4::timestamptz IS NULL OR recorded_at >= $4)
  AND ($5::timestamptz IS NULL OR recorded_at < $5)
ORDER BY position DESC
LIMIT $6
