-- An app by its public id, if the tenant may see it. $1 public id text · $2 developer uuid, null for the operator
SELECT shard, app_id, developer_id, public_app_id, name
FROM read.app
WHERE public_app_id = $1 AND ($2::uuid IS NULL OR developer_id = $2)
