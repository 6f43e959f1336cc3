-- One attempt: who holds a STARTED task, and what its end settles.
--#include lib/key
--#include lib/clock
--#include lib/state
--#include lib/record
--#include lib/limit
--#include lib/account
--#include lib/ready
--#include lib/place
--#include lib/lease
local attempt = {}

-- What a worker may do with a task: 'held', 'already' (this fence was ended before by its holder) or 'stale'.
function attempt.judge(t, handle, fence)
  if not t then return 'stale' end
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

-- After all writes of a script that ended attempts.
function attempt.flush()
  for i = 1, #account.order do
    local a = account.order[i]
    if a.may_unpark and limit.allows(a.limits, account.running_everywhere(a)) then ready.unpark(a.user) end
  end
  account.flush()
end

-- Take a task from a holder that lost it, for one of the reasons of `reclaim`.
attempt.MOST_LOSSES = 10
function attempt.release(t, why)
  attempt.stop(t)
  t.fence = t.fence + 1
  if why == 'drain' then
    t.attempts = math.max(0, t.attempts - 1)
  elseif why == 'death' then
    t.suspicion = math.min(255, t.suspicion + 1)
  elseif why == 'lost' then
    t.losses = math.min(255, t.losses + 1)
  end
  if bit.band(t.flags, record.CANCEL_ASKED) ~= 0 then
    place.cancel(t)
  elseif t.losses >= attempt.MOST_LOSSES then
    place.fail(t, place.LOST)
  else
    t.holder = 0
    place.queue(t)
  end
  record.save(t)
end

-- A record that cannot be read, of a task that a worker holds: FAILED, and its user's slot is given back if the record
-- still tells whose it is.
function attempt.corrupt(t, worker)
  if redis.call('ZREM', key.of('claims', worker), t.id) == 0 then return 'stale' end
  if t.user ~= '' then attempt.stop(t) end
  place.corrupt(t.id, t.user, t.queue)
  return 'corrupt'
end

-- Put back the tasks of a worker that is gone, at most `most`. Returns how many were put back and how many are left.
function attempt.release_worker(worker, why, most)
  lease.revoke(worker)
  local claims = key.of('claims', worker)
  local ids = redis.call('ZRANGE', claims, 0, most - 1)
  for _, id in ipairs(ids) do
    local t = record.load(id)
    if t and not t.corrupt and t.state == state.STARTED then
      attempt.release(t, why)
    elseif t and t.corrupt then
      attempt.corrupt(t, worker)
    end
  end
  if #ids > 0 then
    redis.call('ZREM', claims, unpack(ids))
    redis.call('HINCRBY', key.of('counters'), 'reclaimed', #ids)
  end
  local left = redis.call('ZCARD', claims)
  if left == 0 then redis.call('ZREM', key.of('workers'), worker) end
  return #ids, left
end
