-- Totals of an app over all time, added up from days. Sums as texts: they may be wider than 64 bits.
-- $1 shard int2 · $2 app uuid
SELECT coalesce(sum(calls), 0)::bigint AS calls,
       coalesce(sum(input_tokens), 0)::bigint AS input_tokens,
       coalesce(sum(output_tokens), 0)::bigint AS output_tokens,
       coalesce(sum(charge), 0)::text AS charge,
       coalesce(sum(developer), 0)::text AS developer
FROM read.usage_daily
WHERE shard = $1 AND app_id = $2
