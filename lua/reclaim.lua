--[[
Declare a worker dead and put back what it held, some tasks a call; call again while any are left.

KEYS
  1  meta
ARGV
  1  worker
  2  why    death (adds a suspicion), lost (a whole daemon died: adds a loss), drain (takes the attempt back)
  3  most   how many tasks to put back in this call
Moves: started -> queued, started -> failed, started -> cancelled
Returns: how many were put back, how many are left
Cost: O(log n) a task
]]
--#include lib/key
--#include lib/attempt
local worker, why, most = ARGV[1], ARGV[2], tonumber(ARGV[3])

key.first_write()
local put_back, left = attempt.release_worker(worker, why, most)
attempt.flush()
return { put_back, left }
