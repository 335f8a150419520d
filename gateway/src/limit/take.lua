-- Takes from all buckets or from none, by the clock of Redis.
-- KEYS: the buckets. ARGV: for each of them its window and the time that the cost takes to flow in again, in microseconds.
-- Returns for each what was missing before, as the time until it was full, in microseconds.
-- A bucket is the moment at which it is full again; a moment that no clock of ours can have made (another server's clock, an old
-- copy) counts as "empty now".
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local backlogs, granted = {}, true
for i, key in ipairs(KEYS) do
  local window, cost = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
  local full_at = tonumber(redis.call('GET', key) or 0) or 0
  local backlog = math.min(math.max(full_at - now, 0), window)
  backlogs[i] = backlog
  granted = granted and backlog + cost <= window
end
if granted then
  for i, key in ipairs(KEYS) do
    local backlog = backlogs[i] + tonumber(ARGV[2 * i])
    redis.call('SET', key, string.format('%.0f', now + backlog), 'PX', math.ceil(backlog / 1000) + 1)
  end
end
return backlogs
