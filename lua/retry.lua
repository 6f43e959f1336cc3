--[[
Let FAILED and CANCELLED tasks run again, with a clean slate of failures, crashes, losses and suspicion.

If the record of one is of a newer version, none is revived.

KEYS
  1  meta
ARGV
  1  nonce   8 bytes of this call: a replay with the same one changes nothing
  then task ids
Moves: failed -> queued, cancelled -> queued
Returns: a status for each task: queued, already (a replay), refused (not FAILED or CANCELLED, or
  FAILED as corrupt), missing, corrupt
Errors: SCHEMA
Cost: O(log n) a task
]]
--#include lib/key
--#include lib/clock
--#include lib/state
--#include lib/record
--#include lib/hidden
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

local function retry(t)
  if t.nonce == nonce or spent.knows(t.id, nonce) then return 'already' end
  if t.state ~= state.FAILED and t.state ~= state.CANCELLED then return 'refused' end
  if t.reason == place.CORRUPT then return 'refused' end
  spent.add(t.id, t.nonce)
  redis.call('ZREM', key.of(t.state == state.FAILED and 'failed' or 'cancelled'), t.id)
  t.flags = bit.band(t.flags, bit.bnot(record.CANCEL_ASKED))
  t.reason, t.failures, t.suspicion, t.crashes, t.losses = 0, 0, 0, 0, 0
  t.nonce, t.due, t.ended_at = nonce, clock.now, 0
  hidden.set(t, false)
  place.queue(t)
  record.save(t)
  redis.call('HINCRBY', key.of('counters'), 'revived', 1)
  return 'queued'
end

for _, id in ipairs(ids) do
  local t, status = tasks[id], 'missing'
  if t then status = t.corrupt and 'corrupt' or retry(t) end
  statuses[#statuses + 1] = status
end
account.flush()
return statuses
