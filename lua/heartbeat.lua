--[[
Renew a worker's lease, put back what it was given and does not know of, and answer with orders.

A task whose record is of a newer version is left as it is: there is no order for it, and it is not put back.

KEYS
  1  meta
ARGV
  1  worker
  2  lease   duration in microseconds
  3  claim   the last claim whose reply arrived: only tasks of claims up to it may be unknown
  then 2 a task it holds (running, or ended and not yet acknowledged):
  1  id
  2  fence
Moves: started -> queued, started -> cancelled
Returns: pairs of order and task id: cancel (it was asked for), gone (no longer held)
Errors: WORKERGONE
Cost: O(log n) a task held or put back, at most 100 put back
]]
--#include lib/key
--#include lib/clock
--#include lib/state
--#include lib/record
--#include lib/lease
--#include lib/attempt
--#include lib/release
local worker, duration, claim = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local PUT_BACK_AT_MOST = 100

local w, refusal = lease.of(worker)
if refusal then return refusal end

key.first_write()
lease.renew(worker, duration)
local orders, held = {}, {}
local function order(what, id) orders[#orders + 1], orders[#orders + 2] = what, id end

for i = 4, #ARGV, 2 do
  local id, t = ARGV[i], record.load(ARGV[i])
  held[id] = true
  local status = attempt.judge(t, w.handle, tonumber(ARGV[i + 1]))
  if status == 'stale' then
    order('gone', id)
  elseif status == 'held' and bit.band(t.flags, record.CANCEL_ASKED) ~= 0 then
    order('cancel', id)
  end
end

local claims, put_back = key.of('claims', worker), {}
local function put_back_unknown(id)
  local t = record.load(id)
  if t and t.newer then return end
  put_back[#put_back + 1] = id
  if t and t.corrupt then
    attempt.corrupt(t, worker)
  elseif t and t.state == state.STARTED and t.holder == w.handle then
    release.task(t, 'unknown')
  end
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', claims, '-inf', claim)) do
  if not held[id] and #put_back < PUT_BACK_AT_MOST then put_back_unknown(id) end
end
if #put_back > 0 then
  redis.call('ZREM', claims, unpack(put_back))
  redis.call('HINCRBY', key.of('counters'), 'reclaimed', #put_back)
end
attempt.flush()
return orders
