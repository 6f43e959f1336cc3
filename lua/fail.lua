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
Returns: a status for each task: scheduled, failed, cancelled, already (a replay), stale (no longer held), corrupt, or a
  refusal of this one alone: the others do not wait for it
Errors: WORKERGONE, SCHEMA
Cost: O(log n) a task
]]
--#include lib/key
--#include lib/record
--#include lib/lease
--#include lib/attempt
--#include lib/ending
local worker = ARGV[1]

local w, refusal = lease.of(worker)
if refusal then return refusal end

key.first_write()
local statuses, ended = {}, {}

for i = 2, #ARGV, 5 do
  local id, fence, what, number, error = ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2], tonumber(ARGV[i + 3]), ARGV[i + 4]
  local t = record.load(id)
  local status
  if t and t.corrupt then
    status = attempt.corrupt(t, worker)
  else
    status = attempt.judge(t, w.handle, fence)
    if status == 'held' then
      status = ending.apply(t, what, number, error)
      ended[#ended + 1] = id
    elseif status == 'newer' then
      status = record.refusal(t).err
    end
  end
  statuses[#statuses + 1] = status
end
if #ended > 0 then redis.call('ZREM', key.of('claims', worker), unpack(ended)) end
attempt.flush()
return statuses
