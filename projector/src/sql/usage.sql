-- Totals per day in dollars.
CREATE OR REPLACE VIEW read.usage_daily_usd WITH (security_invoker = true) AS
SELECT shard, day, app_id, route, provider, model, calls, input_tokens, output_tokens,
       (upstream * 0.00000001)::numeric(28, 8) AS upstream,
       (charge * 0.00000001)::numeric(28, 8) AS charge,
       (developer * 0.00000001)::numeric(28, 8) AS developer,
       (platform * 0.00000001)::numeric(28, 8) AS platform,
       (unrecovered * 0.00000001)::numeric(28, 8) AS unrecovered
FROM {schema}.usage_daily;
