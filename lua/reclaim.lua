--[[
Declare a worker dead and take from it what it held, some tasks a call; call again while any are left.

Records of a newer version stay with the dead worker, for the tick of a newer fairqued, and are not counted as left.

KEYS
  1  meta
ARGV
  1  worker
  2  why          death (adds a suspicion; at two the task is hidden), crash (of a process with one slot: adds a crash),
                  lost (a whole daemon died: adds a loss), drain (takes the attempt back)
  3  most         how many tasks to take in this call
  4  max_crashes  so many crashes and the task is FAILED as poisoned; 0: never
  5  error        JSON, opaque: of a task that is FAILED as poisoned
  then 5 a will, which says how a task ends that the worker held under that very fence, as if it had called fail:
  1  id
  2  fence   as given by pop
  3  what    retry, fail or hand_back
  4  number  retry and hand_back: delay in microseconds; fail: the reason's number
  5  error   JSON, opaque
Moves: started -> queued, started -> scheduled, started -> failed, started -> cancelled
Returns: how many were taken, how many are left
Cost: O(log n) a task
]]
--#include lib/key
--#include lib/attempt
--#include lib/release
local worker, why, most = ARGV[1], ARGV[2], tonumber(ARGV[3])
local max_crashes, error = tonumber(ARGV[4]), ARGV[5]
local wills = {}
for i = 6, #ARGV, 5 do
  local id, fence = ARGV[i], ARGV[i + 1]
  wills[fence .. ':' .. id] = { what = ARGV[i + 2], number = tonumber(ARGV[i + 3]), error = ARGV[i + 4] }
end

key.first_write()
local taken, left = release.worker(worker, why, most, { max_crashes = max_crashes, error = error, wills = wills })
attempt.flush()
return { taken, left }
