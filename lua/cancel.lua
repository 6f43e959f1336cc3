--[[
Cancel tasks: at once where they wait, by asking their worker where they run.

KEYS
  1  meta
ARGV
  task ids
Moves: queued -> cancelled, scheduled -> cancelled, deferred -> cancelled, started -> started
Returns: a status for each task: cancelled, asked, final (it had ended before), missing, corrupt
Cost: O(log n) a task
]]
--#include lib/key
--#include lib/state
--#include lib/record
--#include lib/account
--#include lib/place
local ids = ARGV

key.first_write()
local statuses = {}

local function cancel(t)
  if state.is_final(t) then return t.state == state.CANCELLED and 'cancelled' or 'final' end
  if t.state == state.STARTED then
    t.flags = bit.bor(t.flags, record.CANCEL_ASKED)
    record.save(t)
    return 'asked'
  end
  place.take_out(t)
  place.cancel(t)
  record.save(t)
  return 'cancelled'
end

for i, id in ipairs(ids) do
  local t = record.load(id)
  if not t then
    statuses[i] = 'missing'
  elseif t.corrupt then
    if place.take_out_unread(t) then place.corrupt(id, t.user, t.queue) end
    statuses[i] = 'corrupt'
  else
    statuses[i] = cancel(t)
  end
end
account.flush()
return statuses
