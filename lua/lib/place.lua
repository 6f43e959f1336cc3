-- Each state has one container: a task is taken out of the one and put into the other here.
--#include lib/key
--#include lib/clock
--#include lib/state
--#include lib/record
--#include lib/hidden
--#include lib/meta
--#include lib/account
--#include lib/ready
local place = {}

function place.score(t)
  if t.priority == record.CRITICAL then return t.due end
  return t.due - meta.head_start(t.priority)
end

local function is_critical(t) return t.priority == record.CRITICAL and 1 or 0 end

local function set_of(queue, t, critical) return key.of(critical == 1 and 'critical' or 'waiting', queue, t.user) end

-- Let a task wait for a worker. The record itself is written by the caller.
function place.queue(t)
  meta.load()
  state.set(t, state.QUEUED)
  local a = account.of(t.queue, t.user)
  redis.call('ZADD', set_of(t.queue, t, is_critical(t)), place.score(t), t.id)
  redis.call('HINCRBY', key.of('depth'), t.queue, 1)
  account.enter(a, 1, is_critical(t))
  ready.put(a, t.queue, is_critical(t) == 1)
end

function place.schedule(t, due)
  state.set(t, state.SCHEDULED)
  t.due = due
  redis.call('ZADD', key.of('scheduled'), due, t.id)
end

-- Take one off the depth of a queue; a queue without waiting tasks is not listed.
function place.less(queue, count)
  if redis.call('HINCRBY', key.of('depth'), queue, -count) <= 0 then redis.call('HDEL', key.of('depth'), queue) end
end

local function take_from(queue, t, critical)
  if redis.call('ZREM', set_of(queue, t, critical), t.id) == 0 then return false end
  local a = account.of(queue, t.user)
  place.less(queue, 1)
  account.leave(a, critical)
  ready.drop_if_empty(a, queue)
  return true
end

-- Take a QUEUED or SCHEDULED task out of where it waits.
function place.take_out(t)
  if t.state == state.SCHEDULED then
    redis.call('ZREM', key.of('scheduled'), t.id)
  elseif t.state == state.QUEUED then
    take_from(t.queue, t, is_critical(t))
  end
end

-- The same for a record that cannot be read. False if the task waits nowhere that can be told: whoever holds it, or
-- takes it out of a set by itself, meets the record later.
function place.take_out_unread(t)
  local unseen = hidden.of(t.queue)
  return redis.call('ZREM', key.of('scheduled'), t.id) == 1
    or take_from(t.queue, t, 0) or take_from(t.queue, t, 1) or take_from(unseen, t, 0) or take_from(unseen, t, 1)
end

local function counted(t, to) redis.call('HINCRBY', key.of('counters'), to, 1) end

function place.cancel(t)
  state.set(t, state.CANCELLED)
  t.ended_at, t.holder = clock.now, 0
  redis.call('ZADD', key.of('cancelled'), clock.now, t.id)
  counted(t, 'cancelled')
end

function place.fail(t, reason)
  state.set(t, state.FAILED)
  t.ended_at, t.holder, t.reason = clock.now, 0, reason
  redis.call('ZADD', key.of('failed'), clock.now, t.id)
  counted(t, 'failed')
end

-- Replace a record that cannot be read by a FAILED one, so that its neighbours go on and its owner is told.
function place.corrupt(id, user, queue)
  local t = record.stand_in()
  t.id, t.user, t.queue = id, user, hidden.base(queue)
  local whole = record.create(t, '')
  t.body = record.HEADER + #t.user + #t.queue
  redis.call('SET', key.of('task', id), whole)
  place.fail(t, place.CORRUPT)
  record.save_error(t, '{"type":"CorruptRecord","message":"the record in Redis could not be read"}')
end
place.POISONED, place.LOST, place.CORRUPT = 3, 4, 5
