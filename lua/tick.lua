--[[
Each second, by every master: renew the leases of its living workers, judge all others, forget who is idle.

After a silence (outage, failover, clock jump) nobody could renew, so all leases are renewed and none is judged.

KEYS
  1  meta
ARGV
  1  lease    duration in microseconds
  2  silence  longest time between two ticks after which leases are still judged, in microseconds
  3  most     how many tasks to put back in this call
  then the ids of the master's living workers
Moves: started -> queued, started -> failed, started -> cancelled
Returns: 1 if leases were judged, how many tasks were put back, then the workers that were declared dead
Cost: O(log n) a worker renewed or task put back
]]
--#include lib/key
--#include lib/clock
--#include lib/account
--#include lib/lease
--#include lib/attempt
local duration, silence, most = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local FORGET_AT_MOST = 500

local last = tonumber(redis.call('HGET', key.of('meta'), 'ticked') or clock.now)

key.first_write()
redis.call('HSET', key.of('meta'), 'ticked', clock.now)
for i = 4, #ARGV do
  if redis.call('EXISTS', key.of('worker', ARGV[i])) == 1 then lease.renew(ARGV[i], duration) end
end

local judged = math.abs(clock.now - last) <= silence
local put_back, dead = 0, {}
if judged then
  for _, worker in ipairs(redis.call('ZRANGEBYSCORE', key.of('workers'), '-inf', clock.now, 'LIMIT', 0, 10)) do
    if put_back < most then
      put_back = put_back + attempt.release_worker(worker, 'lost', most - put_back)
      dead[#dead + 1] = worker
    end
  end
else
  for _, worker in ipairs(redis.call('ZRANGEBYSCORE', key.of('workers'), '(0', '+inf')) do
    lease.renew(worker, duration)
  end
end
redis.call('ZREMRANGEBYSCORE', key.of('dead'), '-inf', clock.now)
attempt.flush()
account.forget_idle(FORGET_AT_MOST)
return { judged and 1 or 0, put_back, unpack(dead) }
