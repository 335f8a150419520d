-- Moves the moments of buckets that are still there.
-- KEYS: the buckets. ARGV: for each of them by how much, in microseconds, which may be less than zero.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
for i, key in ipairs(KEYS) do
  local full_at = tonumber(redis.call('GET', key) or 0) or 0
  if full_at > now then
    full_at = full_at + tonumber(ARGV[i])
    local left = math.max(math.ceil((full_at - now) / 1000), 0) + 1
    redis.call('SET', key, string.format('%.0f', full_at), 'PX', left)
  end
end
return 0
