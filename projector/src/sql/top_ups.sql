-- Top-ups in dollars.
CREATE OR REPLACE VIEW read.top_up_usd WITH (security_invoker = true) AS
SELECT shard, top_up_id, wallet_id, (amount * 0.00000001)::numeric(28, 8) AS amount,
       provider, reference, payment, status, reason, requested_at, updated_at, position
FROM {schema}.top_up;
