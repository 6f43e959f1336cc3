--[[
Each second, by every master: renew the leases of its living workers, judge all others, forget who is idle.

A dead worker of whose tasks only records of a newer version are left is passed over, for the tick of a newer fairqued.
After a silence (outage, failover, clock jump) nobody could renew, so all leases are renewed and none is judged.

KEYS
  1  meta
ARGV
  1  lease    duration in microseconds
  2  silence  longest time between two ticks after which leases are still judged, in microseconds
  3  most     how many tasks to put back in this call
  4  living   how many ids of the master's living workers follow
  then these ids, then the queues that the master's pools serve
Moves: started -> queued, started -> failed, started -> cancelled
Returns: 1 if leases were judged; how many tasks were put back; the workers that were declared dead; those of the queues
  whose hidden queue has work that may run now
Cost: O(log n) a worker renewed or task put back, O(1) a queue; O(STARTED tasks), at most 2000, once after a record of one
  was damaged
]]
--#include lib/key
--#include lib/clock
--#include lib/account
--#include lib/hidden
--#include lib/lease
--#include lib/recount
--#include lib/attempt
--#include lib/release
local duration, silence, most = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local living, queues = { unpack(ARGV, 5, 4 + ARGV[4]) }, { unpack(ARGV, 5 + ARGV[4]) }
local FORGET_AT_MOST, JUDGE_AT_MOST, PASS_AT_MOST = 500, 10, 100

local known = redis.call('HMGET', key.of('meta'), 'ticked', 'recount')
local last = tonumber(known[1] or clock.now)

key.first_write()
redis.call('HSET', key.of('meta'), 'ticked', clock.now)
if known[2] then recount.run() end
for _, worker in ipairs(living) do
  if redis.call('EXISTS', key.of('worker', worker)) == 1 then lease.renew(worker, duration) end
end

local judged = math.abs(clock.now - last) <= silence
local put_back, dead = 0, {}
if judged then
  local passed = 0
  while put_back < most and #dead < JUDGE_AT_MOST and passed < PASS_AT_MOST do
    local worker = redis.call('ZRANGEBYSCORE', key.of('workers'), '-inf', clock.now, 'LIMIT', passed, 1)[1]
    if not worker then break end
    local taken, left, is_done = release.worker(worker, 'lost', most - put_back, { wills = {} })
    put_back = put_back + taken
    if taken > 0 or is_done then dead[#dead + 1] = worker end
    if left == 0 and not is_done then passed = passed + 1 end
  end
else
  for _, worker in ipairs(redis.call('ZRANGEBYSCORE', key.of('workers'), '(0', '+inf')) do
    lease.renew(worker, duration)
  end
end
redis.call('ZREMRANGEBYSCORE', key.of('dead'), '-inf', clock.now)
attempt.flush()
account.forget_idle(FORGET_AT_MOST)
local with_hidden_work = {}
for _, queue in ipairs(queues) do
  if redis.call('EXISTS', key.of('ready', hidden.of(queue))) == 1 then table.insert(with_hidden_work, queue) end
end
return { judged and 1 or 0, put_back, dead, with_hidden_work }
