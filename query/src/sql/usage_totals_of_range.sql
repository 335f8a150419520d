-- Totals of an app over a span of recording times. Sums as texts: they may be wider than 64 bits.
-- $1 shard int2 · $2 app uuid · $3 recorded from timestamptz, null for all · $4 recorded before timestamptz, null for all
SELECT count(*) AS calls,
       coalesce(sum(input_tokens), 0)::bigint AS input_tokens,
       coalesce(sum(output_tokens), 0)::bigint AS output_tokens,
       coalesce(sum(charge), 0)::text AS charge,
       coalesce(sum(developer), 0)::text AS developer
FROM read.usage_record
WHERE shard = $1 AND app_id = $2
  AND ($3::timestamptz IS NULL OR recorded_at >= $3)
  AND ($4::timestamptz IS NULL OR recorded_at < $4)
