-- A task's record: one string of a fixed header (the twin of fairqued/record.py), user, queue, spec and error. The
-- header is rewritten in place; the spec never changes and is opaque here. `queue` is the queue in which the task waits
-- when it waits: for a hidden task the hidden one, while the record keeps the name it was enqueued with.
--#include lib/key
--#include lib/clock
--#include lib/state
--#include lib/hidden
local record = {
  VERSION = 2,
  FORMAT = '<c1Bc1BBBBBBHHI4I4I4ddddc8HBHI4',
  HEADER = 74,
  CRITICAL = 5,
  CANCEL_ASKED = 1, HAS_RESULT = 2, OWN_ID = 4, -- 8 is hidden.FLAG
}

-- Whether a time lies in the years 1 to 9999; not so for NaN.
local function is_time(number) return number > -62e15 and number < 253e15 end

function record.parse(raw)
  if type(raw) ~= 'string' or #raw < record.HEADER then return nil end
  local t = { raw = raw }
  local magic, version
  magic, version, t.state, t.flags, t.priority, t.reason, t.suspicion, t.crashes, t.losses, t.attempts, t.failures,
    t.fence, t.settled, t.holder, t.enqueued_at, t.due, t.started_at, t.ended_at, t.nonce,
    t.user_length, t.queue_length, t.error_length, t.spec_length = struct.unpack(record.FORMAT, raw)
  if magic ~= 'F' or version == 0 or version > record.VERSION then return nil end
  if not string.find(state.ALL, t.state, 1, true) then return nil end
  if t.priority > record.CRITICAL or not (is_time(t.enqueued_at) and is_time(t.due) and is_time(t.started_at)
    and is_time(t.ended_at)) then return nil end
  t.body = record.HEADER + t.user_length + t.queue_length
  if #raw < t.body then return nil end
  t.user = string.sub(raw, record.HEADER + 1, record.HEADER + t.user_length)
  t.queue = string.sub(raw, record.HEADER + t.user_length + 1, t.body)
  if bit.band(t.flags, hidden.FLAG) ~= 0 then
    if version < hidden.SINCE_VERSION then return nil end
    t.queue = hidden.of(t.queue)
  end
  return t
end

function record.header(t)
  return struct.pack(record.FORMAT, 'F', record.VERSION, t.state, t.flags, t.priority, t.reason, t.suspicion, t.crashes,
    t.losses, t.attempts, t.failures, t.fence, t.settled, t.holder, t.enqueued_at, t.due, t.started_at, t.ended_at,
    t.nonce, t.user_length, t.queue_length, t.error_length, t.spec_length)
end

-- Header, user and queue of a task, nil if there is no record. One that cannot be read comes back as a stand-in with
-- `corrupt` set; one that a newer fairqued wrote tells nothing but its version, as `newer`, and has to stay as it is.
-- The first 256 bytes are nearly always enough.
function record.load(id)
  local where = key.of('task', id)
  local raw = redis.pcall('GETRANGE', where, 0, 255)
  if raw == '' then return nil end
  local t = record.parse(raw)
  if not t and #raw == 256 then
    raw = redis.call('GET', where)
    t = record.parse(raw)
  end
  t = t or record.stand_in(raw)
  t.id = id
  return t
end

-- The whole record, spec included; otherwise as `load`.
function record.load_whole(id)
  local raw = redis.pcall('GET', key.of('task', id))
  if not raw then return nil end
  local t = record.parse(raw)
  if not t or t.body + t.spec_length + t.error_length ~= #raw then t = record.stand_in(raw) end
  t.id = id
  return t
end

-- How a call is refused that would change a record of a newer version.
function record.refusal(t)
  local versions = 'its record has schema version ' .. t.newer .. ', this side knows ' .. record.VERSION
  return { err = 'SCHEMA task ' .. t.id .. ': ' .. versions }
end

-- `raw` is what cannot be read (no string at all, perhaps): whose task it was may still be told. The first two bytes
-- are what no version changes.
function record.stand_in(raw)
  local magic, version = string.byte(type(raw) == 'string' and raw or '', 1, 2)
  if magic == 70 and version and version > record.VERSION then return { newer = version } end
  local t = {
    corrupt = true, state = state.QUEUED, flags = 0, priority = 2, reason = 0, suspicion = 0, crashes = 0, losses = 0,
    attempts = 0, failures = 0, fence = 0, settled = 0, holder = 0, enqueued_at = clock.now, due = clock.now,
    started_at = clock.now, ended_at = 0, nonce = '\0\0\0\0\0\0\0\0', user = '', queue = '', user_length = 0,
    queue_length = 0, error_length = 0, spec_length = 0,
  }
  if type(raw) == 'string' and #raw >= record.HEADER then
    local user_length, queue_length = struct.unpack('<HB', raw, record.HEADER - 8)
    local at = record.HEADER + user_length
    if user_length > 0 and queue_length > 0 and at + queue_length <= #raw then
      t.user, t.queue = string.sub(raw, record.HEADER + 1, at), string.sub(raw, at + 1, at + queue_length)
    end
  end
  return t
end

-- A new record as a string; `t` needs user, queue, priority, flags, nonce, due, fence, settled and the state.
function record.create(t, spec)
  t.reason, t.suspicion, t.crashes, t.losses, t.attempts, t.failures, t.holder = 0, 0, 0, 0, 0, 0, 0
  t.enqueued_at, t.started_at, t.ended_at = clock.now, 0, 0
  t.user_length, t.queue_length, t.error_length, t.spec_length = #t.user, #t.queue, 0, #spec
  return record.header(t) .. t.user .. t.queue .. spec
end

-- Write the header in place, and return it.
function record.save(t)
  local header = record.header(t)
  redis.call('SETRANGE', key.of('task', t.id), 0, header)
  return header
end

-- Save with another error text, which is the last part of the string. Written anew: a string that grows by SETRANGE
-- makes Redis reserve as much memory again.
function record.save_error(t, text)
  local where = key.of('task', t.id)
  t.error_length = #text
  redis.call('SET', where,
    record.header(t) .. redis.call('GETRANGE', where, record.HEADER, t.body + t.spec_length - 1) .. text)
end
