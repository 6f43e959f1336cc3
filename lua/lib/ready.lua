-- Which users may be served in a queue. A user with waiting tasks is either in the ready set or parked.
--#include lib/key
--#include lib/account
--#include lib/bell
local ready = {}

function ready.is_parked(a, queue)
  return a.limits.is_set and redis.call('SISMEMBER', key.of('parked', a.user), queue) == 1
end

-- Put a user in, or ahead if CRITICAL work came; one that stands there already keeps its place otherwise.
function ready.put(a, queue, has_critical)
  if ready.is_parked(a, queue) then return end
  local how = has_critical and 'LT' or 'NX'
  redis.call('ZADD', key.of('ready', queue), how, account.rank(a, has_critical), a.user)
  bell.ring(queue)
end

function ready.park(a, queue)
  redis.call('ZREM', key.of('ready', queue), a.user)
  redis.call('SADD', key.of('parked', a.user), queue)
  redis.call('SADD', key.of('parked'), a.user)
end

-- Put a parked user back wherever it has work, no further behind the clock than one estimate. pop parks it again if its
-- limits still forbid it to run.
function ready.unpark(user)
  local queues = redis.call('SMEMBERS', key.of('parked', user))
  if #queues == 0 then return end
  redis.call('DEL', key.of('parked', user))
  redis.call('SREM', key.of('parked'), user)
  for _, queue in ipairs(queues) do
    local a = account.of(queue, user)
    a.v = math.max(a.v, a.domain.clock - math.min(a.estimate, account.ESTIMATE_CAP) / a.limits.weight)
    ready.put(a, queue, redis.call('EXISTS', key.of('critical', queue, user)) == 1)
  end
end

-- After a task left a queue by another way than pop: its user goes when nothing else waits there.
function ready.drop_if_empty(a, queue)
  if redis.call('EXISTS', key.of('waiting', queue, a.user), key.of('critical', queue, a.user)) > 0 then return end
  redis.call('ZREM', key.of('ready', queue), a.user)
  if ready.is_parked(a, queue) then
    redis.call('SREM', key.of('parked', a.user), queue)
    if redis.call('EXISTS', key.of('parked', a.user)) == 0 then redis.call('SREM', key.of('parked'), a.user) end
  end
end
