-- The server's clock, read once: microseconds since the epoch.
local clock = {}
do
  local time = redis.call('TIME')
  clock.now = time[1] * 1000000 + time[2]
end
