--[[
Let SCHEDULED tasks whose time has come wait for a worker.

Those whose record is of a newer version stay, for a newer fairqued; at most as many are passed over as are promoted.

KEYS
  1  meta
ARGV
  1  most   how many in this call
Moves: scheduled -> queued, scheduled -> failed
Returns: how many were promoted, microseconds until the next one is due (-1: none)
Cost: O(log n) a task
]]
--#include lib/key
--#include lib/clock
--#include lib/account
--#include lib/promote
local most = tonumber(ARGV[1])

key.first_write()
local promoted, next_due = promote.due(most)
account.flush()
return { promoted, next_due and math.max(0, next_due - clock.now) or -1 }
