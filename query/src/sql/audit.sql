-- Acts and looks, the newest first: acts are events, with the address and reason of the attempt that the same request announced;
-- looks and attempts stand in the access log. An event's own reason is not looked for here: PostgreSQL cannot read all JSON there is. $1 shard int2 · $2 kinds text[] · $3 actor text, null for all · $4 action text, null for
-- all · $5 resource text, null for all · $6 request id text, null for all · $7 from timestamptz, null for all · $8 before timestamptz,
-- null for all · $9 only before this time timestamptz, $10 source int2 and $11 number int8, all null for all · $12 rows at most int8,
-- null for all
SELECT source, number, at, kind, actor, address, action, resource, reason, request_id, detail
FROM (
    SELECT 1::smallint AS source, a.position AS number, a.recorded_at AS at, 'act' AS kind, a.actor, host(x.address) AS address,
           a.action, a.stream AS resource, x.reason, a.request_id, a.detail
    FROM read.audit_log a
    LEFT JOIN LATERAL (
        SELECT x.address, x.reason
        FROM ledger.access x
        WHERE x.actor = a.actor AND x.request_id = a.request_id AND x.kind = 'attempt'
        ORDER BY x.access_id DESC
        LIMIT 1) AS x ON true
    WHERE a.shard = $1 AND 'act' = ANY ($2)
    UNION ALL
    SELECT 0::smallint, x.access_id, x.at, x.kind, x.actor, host(x.address), x.operation, x.target, x.reason, x.request_id, '{}'
    FROM ledger.access x
    WHERE x.kind = ANY ($2)
) AS audit
WHERE ($3::text IS NULL OR actor = $3)
  AND ($4::text IS NULL OR action = $4)
  AND ($5::text IS NULL OR resource = $5)
  AND ($6::text IS NULL OR request_id = $6)
  AND ($7::timestamptz IS NULL OR at >= $7)
  AND ($8::timestamptz IS NULL OR at < $8)
  AND ($9::timestamptz IS NULL OR (at, source, number) < ($9, $10::smallint, $11::bigint))
ORDER BY at DESC, source DESC, number DESC
LIMIT $12
