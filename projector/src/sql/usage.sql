-- Totals per day in dollars.
CREATE OR REPLACE VIEW read.usage_daily_usd WITH (security_invoker = true) AS
SELECT shard, day, app_id, route, provider, model, calls, input_tokens, output_tokens,
       (upstream / 1e8)::numeric(28, 8) AS upstream,
       (charge / 1e8)::numeric(28, 8) AS charge,
       (developer / 1e8)::numeric(28, 8) AS developer,
       (platform / 1e8)::numeric(28, 8) AS platform,
       (unrecovered / 1e8)::numeric(28, 8) AS unrecovered
FROM {schema}.usage_daily;
