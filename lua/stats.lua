--[[
What operators look at: depths, workers, counters, and the users with waiting work.

KEYS
  1  meta
ARGV
  1  most   how many users of each queue to list
Returns: server time; pairs of counter and number; pairs of queue and depth; number of SCHEDULED, FINISHED, FAILED and
  CANCELLED tasks; rows of worker, end of lease, tasks held, info; rows of queue, user, waiting, running, parked
Cost: O(queues + workers + users listed)
]]
--#include lib/key
--#include lib/clock
--#include lib/account
local most = tonumber(ARGV[1])

local function row_of_worker(worker, lease_end)
  local info = redis.call('HGET', key.of('worker', worker), 'info')
  return { worker, lease_end, redis.call('ZCARD', key.of('claims', worker)), info or '{}' }
end

local function row_of_user(queue, user, parked)
  local waiting = redis.call('ZCARD', key.of('waiting', queue, user)) + redis.call('ZCARD', key.of('critical', queue, user))
  local raw = redis.call('HGET', key.of('account', account.domain_of(queue)), user)
  local running = raw and #raw == account.SIZE and select(5, struct.unpack(account.FORMAT, raw)) or 0
  return { queue, user, waiting, running, parked }
end

local depth = redis.call('HGETALL', key.of('depth'))
local workers, users = {}, {}
local leases = redis.call('ZRANGE', key.of('workers'), 0, -1, 'WITHSCORES')
for i = 1, #leases, 2 do workers[#workers + 1] = row_of_worker(leases[i], leases[i + 1]) end
for i = 1, most > 0 and #depth or 0, 2 do
  for _, user in ipairs(redis.call('ZRANGE', key.of('ready', depth[i]), 0, most - 1)) do
    users[#users + 1] = row_of_user(depth[i], user, 0)
  end
end
for _, user in ipairs(redis.call('SRANDMEMBER', key.of('parked'), math.max(0, most))) do
  for _, queue in ipairs(redis.call('SMEMBERS', key.of('parked', user))) do
    users[#users + 1] = row_of_user(queue, user, 1)
  end
end
return {
  clock.now, redis.call('HGETALL', key.of('counters')), depth,
  { redis.call('ZCARD', key.of('scheduled')), redis.call('LLEN', key.of('finished')), redis.call('ZCARD', key.of('failed')),
    redis.call('ZCARD', key.of('cancelled')) },
  workers, users,
}
