-- Charged calls of all apps, newest first. $1 recorded from timestamptz, null for all · $2 recorded before timestamptz, null for all
SELECT u.recorded_at, u.request_id,
       (SELECT a.public_app_id FROM read.app a WHERE a.shard = u.shard AND a.app_id = u.app_id) AS public_app_id,
       u.feature_key, u.route, u.provider, u.model, u.input_tokens, u.output_tokens, u.upstream, u.charge, u.developer, u.platform
FROM read.usage_record u
WHERE ($1::timestamptz IS NULL OR u.recorded_at >= $1)
  AND ($2::timestamptz IS NULL OR u.recorded_at < $2)
ORDER BY u.shard DESC, u.position DESC
