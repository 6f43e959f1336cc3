--[[
Drop final tasks whose retention is over, by time and by count, and tombstones whose time is over.

Tasks whose record is of a newer version stay, in their order, for a newer fairqued; they are looked at like others, so
more than `most` of them in front keep the others behind them.

KEYS
  1  meta
ARGV
  1  finished_age  microseconds for which FINISHED and CANCELLED tasks are kept
  2  finished_max  how many of each are kept
  3  failed_age    the same for FAILED tasks
  4  failed_max
  5  dedup         microseconds for which an id chosen by the caller is refused after the task's end
  6  dedup_own     the same for ids made by the library
  7  most          how many tasks to drop in this call
Returns: how many tasks were dropped, how many tombstones
Cost: O(log n) a task
]]
--#include lib/key
--#include lib/clock
--#include lib/record
local finished_age, finished_max = tonumber(ARGV[1]), tonumber(ARGV[2])
local failed_age, failed_max = tonumber(ARGV[3]), tonumber(ARGV[4])
local dedup, dedup_own, most = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])

key.first_write()

local function bury(id, t)
  local keep = bit.band(t.flags, record.OWN_ID) ~= 0 and dedup_own or dedup
  if t.ended_at + keep <= clock.now then return end
  redis.call('HSET', key.of('tombstones'), id, t.nonce)
  redis.call('ZADD', key.of('tombstones_due'), t.ended_at + keep, id)
end

local function drop(id, t)
  if t and not t.corrupt then bury(id, t) end
  redis.call('UNLINK', key.of('task', id), key.of('result', id))
end

local function trim_list(name, age, keep)
  local surplus, dropped, newer = redis.call('LLEN', key.of(name)) - keep, 0, {}
  for _, id in ipairs(redis.call('LRANGE', key.of(name), 0, most - 1)) do
    local t = record.load(id)
    if t and t.newer then
      table.insert(newer, 1, id)
    else
      if t and not t.corrupt and dropped >= surplus and t.ended_at + age > clock.now then break end
      drop(id, t)
      dropped = dropped + 1
    end
  end
  if dropped > 0 then
    redis.call('LTRIM', key.of(name), dropped + #newer, -1)
    if #newer > 0 then redis.call('LPUSH', key.of(name), unpack(newer)) end
  end
  return dropped
end

local function trim_set(name, age, keep)
  local surplus, dropped = redis.call('ZCARD', key.of(name)) - keep, {}
  local ends = redis.call('ZRANGE', key.of(name), 0, most - 1, 'WITHSCORES')
  for i = 1, #ends, 2 do
    if #dropped >= surplus and ends[i + 1] + age > clock.now then break end
    local t = record.load(ends[i])
    if not (t and t.newer) then
      drop(ends[i], t)
      dropped[#dropped + 1] = ends[i]
    end
  end
  if #dropped > 0 then redis.call('ZREM', key.of(name), unpack(dropped)) end
  return #dropped
end

local dropped = trim_list('finished', finished_age, finished_max) + trim_set('cancelled', finished_age, finished_max)
  + trim_set('failed', failed_age, failed_max)
local old = redis.call('ZRANGEBYSCORE', key.of('tombstones_due'), '-inf', clock.now, 'LIMIT', 0, most)
if #old > 0 then
  redis.call('ZREM', key.of('tombstones_due'), unpack(old))
  redis.call('HDEL', key.of('tombstones'), unpack(old))
end
return { dropped, #old }
