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
--#include lib/recount
local attempt = { MOST_LOSSES = 10, MOST_SUSPICION = 2 }

-- What a worker may do with a task: 'held', 'already' (this fence was ended before by its holder), 'stale', or 'newer': a
-- newer fairqued wrote the record, so nothing may be done here.
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

-- After all writes of a script that ended attempts.
function attempt.flush()
  for i = 1, #account.order do
    local a = account.order[i]
    if a.may_unpark and limit.allows(a.limits, account.running_everywhere(a)) then ready.unpark(a.user) end
  end
  account.flush()
end

-- The holder lived to end its attempt, so this task has killed nobody.
function attempt.settle(t)
  attempt.stop(t)
  t.settled, t.suspicion = t.fence, 0
  record.reveal(t)
end

local function end_as(t, what, number)
  if bit.band(t.flags, record.CANCEL_ASKED) ~= 0 then
    place.cancel(t)
    return 'cancelled'
  end
  if what == 'fail' then
    t.failures = math.min(65535, t.failures + 1)
    place.fail(t, number)
    return 'failed'
  end
  if what == 'hand_back' then
    t.attempts = math.max(0, t.attempts - 1)
  else
    t.failures = math.min(65535, t.failures + 1)
    redis.call('HINCRBY', key.of('counters'), 'retried', 1)
  end
  t.holder = 0
  place.schedule(t, clock.now + number)
  return 'scheduled'
end

-- End an attempt that did not return, as `fail` has it: retry, fail or hand_back; the delay or the reason; the error.
function attempt.fail(t, what, number, error)
  attempt.settle(t)
  local status = end_as(t, what, number)
  record.save_error(t, error)
  return status
end

-- What a holder's end is held against a task, for each of the reasons of `reclaim`.
local function charge(t, why)
  if why == 'drain' then
    t.attempts = math.max(0, t.attempts - 1)
  elseif why == 'death' then
    t.suspicion = math.min(255, t.suspicion + 1)
    if t.suspicion >= attempt.MOST_SUSPICION then record.hide(t) end
  elseif why == 'crash' then
    t.crashes = math.min(255, t.crashes + 1)
  elseif why == 'lost' then
    t.losses = math.min(255, t.losses + 1)
  end
end

-- Why the task is given up, if it is, and the error that tells.
local function verdict(t, why, terms)
  if why == 'crash' and terms.max_crashes > 0 and t.crashes >= terms.max_crashes then return place.POISONED, terms.error end
  if t.losses >= attempt.MOST_LOSSES then
    return place.LOST, '{"type":"WorkerLost","message":"the workers that ran it were lost ' .. t.losses .. ' times"}'
  end
end

-- Take a task from a holder that lost it, for one of the reasons of `reclaim`; its terms are those of `release_worker`.
function attempt.release(t, why, terms)
  attempt.stop(t)
  t.fence = t.fence + 1
  charge(t, why)
  local reason, error = verdict(t, why, terms)
  if bit.band(t.flags, record.CANCEL_ASKED) ~= 0 then
    place.cancel(t)
  elseif reason then
    place.fail(t, reason)
    return record.save_error(t, error)
  else
    t.holder = 0
    place.queue(t)
  end
  record.save(t)
end

-- A record that cannot be read, of a task that a worker holds: FAILED. Its user's slot is given back if the record still
-- tells whose it is, and the next tick counts anew, for it may not tell, or not the truth.
function attempt.corrupt(t, worker)
  if redis.call('ZREM', key.of('claims', worker), t.id) == 0 then return 'stale' end
  if t.user ~= '' then attempt.stop(t) end
  place.corrupt(t.id, t.user, t.queue)
  recount.ask()
  return 'corrupt'
end

local function take(t, worker, why, terms)
  if t.corrupt then
    attempt.corrupt(t, worker)
  elseif t.state == state.STARTED then
    local will = terms.wills[t.fence .. ':' .. t.id]
    if will then
      attempt.fail(t, will.what, will.number, will.error)
    else
      attempt.release(t, why, terms)
    end
  end
end

-- Take the tasks of a worker that is gone from it, at most `most`. Terms: `max_crashes` and `error` for the reason crash, and
-- `wills` (what, number, error) by fence and id. Returns how many were taken, how many are left to take, and whether it is
-- done with. Records of a newer version are not counted: they stay behind the others among its claims, and the worker stays
-- listed, until a newer fairqued ticks.
function attempt.release_worker(worker, why, most, terms)
  lease.revoke(worker)
  local claims, taken = key.of('claims', worker), {}
  for _, id in ipairs(redis.call('ZRANGE', claims, 0, most - 1)) do
    local t = record.load(id)
    if t and t.newer then
      redis.call('ZADD', claims, 'XX', '+inf', id)
    else
      taken[#taken + 1] = id
      if t then take(t, worker, why, terms) end
    end
  end
  if #taken > 0 then
    redis.call('ZREM', claims, unpack(taken))
    redis.call('HINCRBY', key.of('counters'), 'reclaimed', #taken)
  end
  local is_done = redis.call('EXISTS', claims) == 0
  if is_done then redis.call('ZREM', key.of('workers'), worker) end
  return #taken, redis.call('ZCOUNT', claims, '-inf', '(+inf'), is_done
end
