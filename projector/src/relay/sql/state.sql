-- What the working relay does. $1 shard int2 · $2 state text
UPDATE relay.mark SET state = $2, state_since = clock_timestamp() WHERE shard = $1 AND state <> $2
