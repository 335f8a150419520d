-- Stops the relay of a shard until an operator says where to go on. $1 shard int2 · $2 reason text
UPDATE relay.mark SET halted = $2, state = 'halted', state_since = clock_timestamp() WHERE shard = $1 AND halted IS NULL
