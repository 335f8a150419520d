-- Totals of every app, used or not, by public id. Sums as texts: they may be wider than 64 bits.
SELECT a.public_app_id, a.developer_id, d.email,
       coalesce(u.calls, 0) AS calls,
       coalesce(u.upstream, 0)::text AS upstream,
       coalesce(u.charge, 0)::text AS charge,
       coalesce(u.developer, 0)::text AS developer,
       coalesce(u.platform, 0)::text AS platform
FROM read.app a
LEFT JOIN read.developer d ON d.shard = a.shard AND d.developer_id = a.developer_id
LEFT JOIN (SELECT shard, app_id, sum(calls)::bigint AS calls, sum(upstream) AS upstream, sum(charge) AS charge,
                  sum(developer) AS developer, sum(platform) AS platform
           FROM read.usage_daily GROUP BY shard, app_id) u ON u.shard = a.shard AND u.app_id = a.app_id
ORDER BY a.public_app_id
