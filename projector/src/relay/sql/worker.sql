-- Does anybody hold the right to publish a shard? $1 shard int8
SELECT EXISTS (SELECT FROM pg_locks
               WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
                 AND classid = 7307 AND objid::int8 = $1 AND objsubid = 2 AND granted)
