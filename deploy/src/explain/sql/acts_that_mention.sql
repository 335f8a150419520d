-- Acts of a stream that mention one of these texts. $1 shard int2 · $2 stream text · $3 texts text[]
SELECT a.shard, a.position
FROM read.audit_log a
WHERE a.shard = $1 AND a.stream = $2 AND EXISTS (SELECT FROM unnest($3::text[]) AS t (id) WHERE strpos(a.detail, t.id) > 0)
ORDER BY a.position
