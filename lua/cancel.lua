--[[
Cancel tasks: at once where they wait, by asking their worker where they run.

If the record of one is of a newer version, none is cancelled.

KEYS
  1  meta
ARGV
  1  nonce   8 bytes of this call: a late copy does not cancel what was let run again since
  then task ids
Moves: queued -> cancelled, scheduled -> cancelled, deferred -> cancelled, started -> started
Returns: a status for each task: cancelled, asked, final (it had ended before), missing, corrupt
Errors: SCHEMA
Cost: O(log n) a task
]]
--#include lib/key
--#include lib/state
--#include lib/record
--#include lib/account
--#include lib/place
--#include lib/spent
--#include lib/batch
local nonce = ARGV[1]
local ids = { unpack(ARGV, 2) }

local tasks, refusal = batch.load(ids)
if refusal then return refusal end

key.first_write()
local statuses = {}

local function cancel(t)
  if state.is_final(t) then return t.state == state.CANCELLED and 'cancelled' or 'final' end
  if bit.band(t.flags, record.CANCEL_ASKED) ~= 0 then return 'asked' end
  if spent.knows(t.id, nonce) then return 'cancelled' end
  spent.add(t.id, nonce)
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

for _, id in ipairs(ids) do
  local t, status = tasks[id], 'missing'
  if t and t.corrupt then
    if place.take_out_unread(t) then place.corrupt(id, t.user, t.queue) end
    status = 'corrupt'
  elseif t then
    status = cancel(t)
  end
  statuses[#statuses + 1] = status
end
account.flush()
return statuses
