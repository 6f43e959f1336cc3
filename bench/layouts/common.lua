-- What all layouts share. A script is this file, then a layout, then one of push, pop and finish. KEYS[1] is the
-- prefix of all keys; ARGV[1] the user, ARGV[2] the queue. Header and field order are those of lua/lib/record.lua.
local prefix, user, queue = KEYS[1], ARGV[1], ARGV[2]
local waiting = prefix .. 'w:' .. queue .. ':' .. user
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local FORMAT, HEADER = '<c1Bc1BBBBBBHHI4I4I4ddddc8HBHI4', 74
local layout = {}

local function key(id) return prefix .. 'task:' .. id end

local function keys_of(ids)
  local keys = {}
  for n, id in ipairs(ids) do keys[n] = key(id) end
  return keys
end

local function parse(raw)
  local t = {}
  t.magic, t.version, t.state, t.flags, t.priority, t.reason, t.suspicion, t.crashes, t.losses, t.attempts, t.failures,
    t.fence, t.settled, t.holder, t.enqueued_at, t.due, t.started_at, t.ended_at, t.nonce,
    t.user_length, t.queue_length, t.error_length, t.spec_length = struct.unpack(FORMAT, raw)
  return t
end

local function pack(t)
  return struct.pack(FORMAT, 'F', 1, t.state, t.flags, t.priority, t.reason, t.suspicion, t.crashes, t.losses,
    t.attempts, t.failures, t.fence, t.settled, t.holder, t.enqueued_at, t.due, t.started_at, t.ended_at, t.nonce,
    t.user_length, t.queue_length, t.error_length, t.spec_length)
end

-- A new record up to its spec.
local function created(task)
  return struct.pack(FORMAT, 'F', 1, 'q', 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, now, task.due, 0, 0, task.nonce,
    #user, #queue, 0, #task.spec) .. user .. queue
end

-- A move: the checked header with its changes; `settled` is false for a finish that was made before.
local function taken(raw, holder)
  local t = parse(raw)
  if t.state ~= 'q' then error({ err = 'NOTQUEUED task' }) end
  t.state, t.fence, t.holder, t.started_at, t.attempts = 'r', t.fence + 1, holder, now, t.attempts + 1
  return pack(t)
end

local function settled(raw, fence)
  local t = parse(raw)
  if t.settled == fence then return false end
  if t.state ~= 'r' or t.fence ~= fence then error({ err = 'STALE fence' }) end
  t.state, t.settled, t.ended_at = 'f', fence, now
  return pack(t)
end

-- The same for layouts that write the value anew.
local function with_taken(raw, holder) return taken(raw, holder) .. string.sub(raw, HEADER + 1) end

local function with_settled(raw, fence)
  local header = settled(raw, fence)
  return header and header .. string.sub(raw, HEADER + 1)
end
