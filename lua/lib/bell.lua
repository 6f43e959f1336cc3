-- The bell of a queue: one marker that idle workers block on (BZPOPMIN). It is a hint and carries no data.
--#include lib/key
local bell = { rung = {} }

function bell.ring(queue)
  if bell.rung[queue] then return end
  bell.rung[queue] = true
  redis.call('ZADD', key.of('bell', queue), 0, '1')
end
