--[[
End attempts that did not return: retry, fail for good, or hand back what this worker has no code for.

KEYS
  1  meta
ARGV
  1  worker
  then 5 a task:
  1  id
  2  fence   as given by pop
  3  what    retry, fail or hand_back
  4  number  retry and hand_back: delay in microseconds; fail: the reason's number
  5  error   JSON, opaque
Moves: started -> scheduled, started -> failed, started -> cancelled
Returns: a status for each task: scheduled, failed, cancelled, already (a replay), stale (no longer held), corrupt
Errors: WORKERGONE
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
local statuses, ended = {}, {}

local function settle(t, what, number)
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

for i = 2, #ARGV, 5 do
  local id, fence, what = ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2]
  local t = record.load(id)
  local status
  if t and t.corrupt then
    status = attempt.corrupt(t, worker)
  else
    status = attempt.judge(t, w.handle, fence)
    if status == 'held' then
      attempt.stop(t)
      t.settled = t.fence
      status = settle(t, what, tonumber(ARGV[i + 3]))
      record.save_error(t, ARGV[i + 4])
      ended[#ended + 1] = id
    end
  end
  statuses[#statuses + 1] = status
end
if #ended > 0 then redis.call('ZREM', key.of('claims', worker), unpack(ended)) end
attempt.flush()
return statuses
