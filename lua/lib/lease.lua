-- Workers and their leases. A worker is registered while its hash exists; once reclaimed, its id is refused.
--#include lib/key
--#include lib/clock
local lease = { REFUSED_FOR = 3600000000 }

-- Handle and last claim of a registered worker; a refusal otherwise.
function lease.of(worker)
  local w = redis.call('HMGET', key.of('worker', worker), 'handle', 'claim')
  if not w[1] then return nil, { err = 'WORKERGONE worker ' .. worker .. ' is not registered' } end
  return { id = worker, handle = tonumber(w[1]), claim = tonumber(w[2]) }
end

function lease.is_dead(worker) return redis.call('ZSCORE', key.of('dead'), worker) ~= false end

function lease.renew(worker, duration)
  redis.call('ZADD', key.of('workers'), 'XX', clock.now + duration, worker)
end

-- From here on the worker is refused. It stays listed, expired, until its tasks are all put back.
function lease.revoke(worker)
  redis.call('DEL', key.of('worker', worker))
  redis.call('ZADD', key.of('dead'), clock.now + lease.REFUSED_FOR, worker)
  redis.call('ZADD', key.of('workers'), 'XX', 0, worker)
end
