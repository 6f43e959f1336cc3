-- Tasks are taken from a holder that lost them, for one of the reasons of `reclaim`, or because it never heard of them.
--#include lib/key
--#include lib/state
--#include lib/hidden
--#include lib/record
--#include lib/place
--#include lib/lease
--#include lib/attempt
--#include lib/ending
local release = { MOST_LOSSES = 10, MOST_SUSPICION = 2 }

-- What the holder's end is held against a task.
local function charge(t, why)
  if why == 'drain' then
    t.attempts = math.max(0, t.attempts - 1)
  elseif why == 'death' then
    t.suspicion = math.min(255, t.suspicion + 1)
    if t.suspicion >= release.MOST_SUSPICION then hidden.set(t, true) end
  elseif why == 'crash' then
    t.crashes = math.min(255, t.crashes + 1)
  elseif why == 'lost' then
    t.losses = math.min(255, t.losses + 1)
  end
end

-- Why a task is given up, and the error that tells; nothing if it may run again.
local function verdict(t, why, terms)
  if why == 'crash' and terms.max_crashes > 0 and t.crashes >= terms.max_crashes then
    return place.POISONED, terms.error
  end
  if t.losses >= release.MOST_LOSSES then
    return place.LOST, '{"type":"WorkerLost","message":"the workers that ran it were lost ' .. t.losses .. ' times"}'
  end
end

-- Take one task back; its place among those that wait is the one it had. The terms are those of `release.worker`.
function release.task(t, why, terms)
  attempt.stop(t)
  t.fence = t.fence + 1
  charge(t, why)
  local reason, error = verdict(t, why, terms)
  if bit.band(t.flags, record.CANCEL_ASKED) ~= 0 then
    place.cancel(t)
  elseif reason then
    place.fail(t, reason)
  else
    t.holder = 0
    place.queue(t)
  end
  if t.state == state.FAILED then record.save_error(t, error) else record.save(t) end
end

local function take(t, worker, why, terms)
  if t.corrupt then
    attempt.corrupt(t, worker)
  elseif t.state == state.STARTED then
    local will = terms.wills[t.fence .. ':' .. t.id]
    if will then
      ending.apply(t, will.what, will.number, will.error)
    else
      release.task(t, why, terms)
    end
  end
end

-- Take the tasks of a worker that is gone from it, at most `most`. Terms: `max_crashes` and `error` for the reason crash,
-- and `wills` (what, number, error) by fence and id. Returns how many were taken, how many are left to take, and whether
-- it is done with. Records of a newer version are not counted: they stay behind the others among its claims, and the
-- worker stays listed, until a newer fairqued ticks.
function release.worker(worker, why, most, terms)
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
