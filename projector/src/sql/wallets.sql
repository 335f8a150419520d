-- Wallets in dollars.
CREATE OR REPLACE VIEW read.wallet_usd WITH (security_invoker = true) AS
SELECT shard, wallet_id, app_id, user_id,
       (floor * 0.00000001)::numeric(28, 8) AS floor,
       (posted * 0.00000001)::numeric(28, 8) AS posted,
       (promo * 0.00000001)::numeric(28, 8) AS promo,
       (held * 0.00000001)::numeric(28, 8) AS held,
       ((posted - held) * 0.00000001)::numeric(28, 8) AS available,
       opened_at, updated_at, position
FROM {schema}.wallet;
