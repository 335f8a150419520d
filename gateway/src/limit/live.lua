-- Says that an instance lives and returns how many do.
-- KEYS[1]: the list of a service, `id=seconds id=seconds …`. ARGV: the id, and after how many seconds an instance counts as gone.
local now = tonumber(redis.call('TIME')[1])
local list = { ARGV[1] .. '=' .. now }
for id, seen in string.gmatch(redis.call('GET', KEYS[1]) or '', '(%x+)=(%d+)') do
  if id ~= ARGV[1] and math.abs(now - tonumber(seen)) <= tonumber(ARGV[2]) then
    list[#list + 1] = id .. '=' .. seen
  end
end
redis.call('SET', KEYS[1], table.concat(list, ' '), 'PX', tonumber(ARGV[2]) * 1000)
return #list
