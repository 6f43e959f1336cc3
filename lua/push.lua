--[[
Accept new tasks: all of them, or none.

KEYS
  1  meta
ARGV
  1  nonce      8 bytes of this enqueue: a replay with the same one changes nothing
  2  if_exists  raise, ignore or replace
  then 7 a task:
  1  id
  2  user
  3  queue
  4  priority   0 to 5
  5  due        '' now, '+N' in N microseconds, '@N' at N microseconds since the epoch
  6  flags      bits of the record
  7  spec       opaque
Moves: new -> queued, new -> scheduled, queued -> cancelled, scheduled -> cancelled
Returns: a status for each task: queued, scheduled, already (a replay), exists (if_exists is ignore)
Errors: DUPLICATE, SCHEMA
Cost: O(log n) a task
]]
--#include lib/key
--#include lib/clock
--#include lib/state
--#include lib/record
--#include lib/meta
--#include lib/account
--#include lib/bell
--#include lib/ready
--#include lib/place
--#include lib/spent
local nonce, if_exists = ARGV[1], ARGV[2]
local FIRST, WIDTH = 3, 7

local function due_time(text, index)
  local kind, number = string.sub(text, 1, 1), tonumber(string.sub(text, 2))
  if kind == '+' then return clock.now + number + index end
  if kind == '@' then return number + index end
  return clock.now + index
end

-- What stands in the way of a new id: 'already', 'exists' or nil; the old record where it may be replaced; a refusal.
local function look_up(id, batch, tombstone)
  if batch[id] then return nil, nil, { err = 'DUPLICATE ' .. id .. ' is twice in one call' } end
  batch[id] = true
  local old = record.load(id)
  if not old and not tombstone then return nil end
  if old and old.newer then
    if if_exists == 'ignore' then return 'exists' end
    return nil, nil, record.refusal(old)
  end
  if (old and old.nonce or tombstone) == nonce or spent.knows(id, nonce) then return 'already' end
  if if_exists == 'ignore' then return 'exists' end
  local waits = old and not old.corrupt and string.find('qsd', old.state, 1, true)
  if if_exists == 'replace' and waits and not spent.was_refused(id, nonce) then return nil, old end
  if if_exists == 'replace' then
    key.first_write()
    spent.refuse(id, nonce)
  end
  return nil, nil, { err = 'DUPLICATE ' .. id .. (old and ' exists already' or ' existed a moment ago') }
end

local refusal = meta.refusal()
if refusal then return refusal end

local ids = {}
for i = FIRST, #ARGV, WIDTH do ids[#ids + 1] = ARGV[i] end
local tombstones = redis.call('HMGET', key.of('tombstones'), unpack(ids))
local statuses, new, seen = {}, {}, {}
for i, id in ipairs(ids) do
  local status, old, problem = look_up(id, seen, tombstones[i])
  if problem then return problem end
  statuses[i] = status or ''
  if not status then
    local at = FIRST + (i - 1) * WIDTH
    local t = {
      id = id, user = ARGV[at + 1], queue = ARGV[at + 2], priority = tonumber(ARGV[at + 3]),
      due = due_time(ARGV[at + 4], i - 1), flags = tonumber(ARGV[at + 5]), nonce = nonce, old = old,
      fence = old and old.fence or 0, settled = old and old.settled or 0,
    }
    t.state = t.due > clock.now + i - 1 and state.SCHEDULED or state.QUEUED
    t.whole = record.create(t, ARGV[at + 6])
    statuses[i] = t.state == state.QUEUED and 'queued' or 'scheduled'
    new[#new + 1] = t
  end
end
if #new == 0 then return statuses end

local records, replaced = {}, {}
for i, t in ipairs(new) do records[2 * i - 1], records[2 * i] = key.of('task', t.id), t.whole end
redis.call('MSET', unpack(records))
meta.create()
for _, t in ipairs(new) do
  if t.old then
    place.take_out(t.old)
    spent.add(t.id, t.old.nonce)
    redis.call('HINCRBY', key.of('counters'), 'cancelled', 1)
  end
end

-- Tasks that wait for the same user in the same queue travel together.
local groups, order, scheduled = {}, {}, {}
for _, t in ipairs(new) do
  if t.state == state.SCHEDULED then
    scheduled[#scheduled + 1], scheduled[#scheduled + 2] = t.due, t.id
  else
    local critical = t.priority == record.CRITICAL
    local name = key.of(critical and 'critical' or 'waiting', t.queue, t.user)
    local group = groups[name]
    if not group then
      group = { queue = t.queue, user = t.user, critical = critical, set = name, members = {} }
      groups[name] = group
      order[#order + 1] = group
    end
    table.insert(group.members, place.score(t))
    table.insert(group.members, t.id)
  end
end
if #scheduled > 0 then
  redis.call('ZADD', key.of('scheduled'), unpack(scheduled))
  -- The first of all delayed tasks wakes an idle worker, which then knows until when it may sleep.
  local head = redis.call('ZRANGE', key.of('scheduled'), 0, 0)[1]
  for _, t in ipairs(new) do
    if t.id == head then bell.ring(t.queue) end
  end
end
for _, group in ipairs(order) do
  local count = #group.members / 2
  local a = account.of(group.queue, group.user)
  redis.call('ZADD', group.set, unpack(group.members))
  redis.call('HINCRBY', key.of('depth'), group.queue, count)
  account.enter(a, count, group.critical and count or 0)
  ready.put(a, group.queue, group.critical)
end
account.flush()
redis.call('HINCRBY', key.of('counters'), 'enqueued', #new)
return statuses
