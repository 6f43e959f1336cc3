-- One attempt: who holds a STARTED task, and what its end settles.
--#include lib/key
--#include lib/clock
--#include lib/state
--#include lib/hidden
--#include lib/record
--#include lib/limit
--#include lib/account
--#include lib/ready
--#include lib/place
local attempt = {}

-- What a worker may do with a task: 'held', 'already' (this fence was ended before by its holder), 'stale', or 'newer':
-- the record is of a newer version, so nothing may be done here.
function attempt.judge(t, handle, fence)
  if not t then return 'stale' end
  if t.newer then return 'newer' end
  if t.state == state.STARTED and t.holder == handle and t.fence == fence then return 'held' end
  if t.settled == fence and fence > 0 then return 'already' end
  return 'stale'
end

-- Settle the slot time of a task that leaves STARTED, and let its user run again if it was parked at its limit.
function attempt.stop(t)
  local a = account.of(t.queue, t.user)
  account.stop(a, clock.now - t.started_at)
  a.may_unpark = a.limits.is_set
end

-- The holder lived to end its attempt, so this task has killed nobody.
function attempt.settle(t)
  attempt.stop(t)
  t.settled = t.fence
  if t.suspicion > 0 then
    t.suspicion = 0
    hidden.set(t, false)
  end
end

-- After all writes of a script that ended attempts.
function attempt.flush()
  for i = 1, #account.order do
    local a = account.order[i]
    if a.may_unpark and limit.allows(a.limits, account.running_everywhere(a)) then ready.unpark(a.user) end
  end
  account.flush()
end

-- A record that cannot be read, of a task that a worker holds: FAILED. Its user's slot is given back if the record
-- still tells whose it is; as it may not tell, or not the truth, the next tick counts anew.
function attempt.corrupt(t, worker)
  if redis.call('ZREM', key.of('claims', worker), t.id) == 0 then return 'stale' end
  if t.user ~= '' then attempt.stop(t) end
  place.corrupt(t.id, t.user, t.queue)
  redis.call('HSET', key.of('meta'), 'recount', 1)
  return 'corrupt'
end
