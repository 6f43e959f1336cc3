--[[
Complete tasks that returned.

KEYS
  1  meta
ARGV
  1  worker
  then 4 a task:
  1  id
  2  fence   as given by pop
  3  result  JSON, '' for none or null
  4  ttl     of the result in milliseconds
Moves: started -> finished, started -> cancelled
Returns: a status for each task: finished, cancelled, already (a replay), stale (no longer held), corrupt, or a
  refusal of this one alone: the others do not wait for it
Errors: WORKERGONE, SCHEMA
Cost: O(log n) a task
]]
--#include lib/key
--#include lib/clock
--#include lib/state
--#include lib/record
--#include lib/place
--#include lib/lease
--#include lib/attempt
local worker = ARGV[1]

local w, refusal = lease.of(worker)
if refusal then return refusal end

key.first_write()
local statuses, finished, ended = {}, {}, {}

local function finish(t, result, ttl)
  attempt.settle(t)
  ended[#ended + 1] = t.id
  if bit.band(t.flags, record.CANCEL_ASKED) ~= 0 then
    place.cancel(t)
  else
    state.set(t, state.FINISHED)
    t.ended_at, t.holder = clock.now, 0
    finished[#finished + 1] = t.id
    if result ~= '' then
      t.flags = bit.bor(t.flags, record.HAS_RESULT)
      redis.call('SET', key.of('result', t.id), result, 'PX', ttl)
    end
  end
  record.save(t)
  return t.state == state.FINISHED and 'finished' or 'cancelled'
end

for i = 2, #ARGV, 4 do
  local id, fence, result, ttl = ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2], ARGV[i + 3]
  local t = record.load(id)
  local status
  if t and t.corrupt then
    status = attempt.corrupt(t, worker)
  else
    status = attempt.judge(t, w.handle, fence)
    if status == 'held' then
      status = finish(t, result, ttl)
    elseif status == 'newer' then
      status = record.refusal(t).err
    end
  end
  statuses[#statuses + 1] = status
end
if #finished > 0 then
  redis.call('RPUSH', key.of('finished'), unpack(finished))
  redis.call('HINCRBY', key.of('counters'), 'finished', #finished)
end
if #ended > 0 then redis.call('ZREM', key.of('claims', worker), unpack(ended)) end
attempt.flush()
return statuses
