--[[
Register a worker and publish the functions it can run.

A worker that is registered already stays as it is.

KEYS
  1  meta
ARGV
  1  worker    id, never used twice
  2  lease     duration in microseconds
  3  info      JSON for operators: host, pid, pool, queues
  then 2 a function:
  1  name
  2  description  JSON
Returns: 1 for a new worker, 0 for one that was registered already
Errors: WORKERGONE, SCHEMA
Cost: O(log workers + functions)
]]
--#include lib/key
--#include lib/clock
--#include lib/meta
--#include lib/lease
local worker, duration, info = ARGV[1], tonumber(ARGV[2]), ARGV[3]

local refusal = meta.refusal()
if refusal then return refusal end
if lease.is_dead(worker) then return { err = 'WORKERGONE worker ' .. worker .. ' was declared dead' } end

key.first_write()
meta.create()
for i = 4, #ARGV, 2 do redis.call('HSET', key.of('functions'), ARGV[i], ARGV[i + 1]) end
if redis.call('EXISTS', key.of('worker', worker)) == 1 then return 0 end
local handle = redis.call('HINCRBY', key.of('meta'), 'handles', 1)
redis.call('HSET', key.of('worker', worker), 'handle', handle, 'claim', 0, 'info', info, 'since', clock.now)
redis.call('ZADD', key.of('workers'), clock.now + duration, worker)
return 1
