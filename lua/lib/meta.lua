-- What a namespace agreed on: schema version, head starts, CRITICAL's lead, default limits. Made by the first push with
-- defaults, or by a daemon (configure.lua).
--#include lib/key
local meta = { SCHEMA = 1, loaded = false }

function meta.load()
  if meta.loaded then return end
  local m = redis.call('HMGET', key.of('meta'), 'schema', 'critical_lead', 'weight', 'max_running', 'paused')
  meta.loaded = true
  meta.schema = tonumber(m[1] or meta.SCHEMA)
  meta.critical_lead = tonumber(m[2] or 10000000)
  meta.weight, meta.max_running = tonumber(m[3] or 1), tonumber(m[4] or 0)
  meta.paused = m[5] == '1'
  meta.is_new = not m[1]
end

function meta.refusal()
  meta.load()
  if meta.schema > meta.SCHEMA then
    return { err = 'SCHEMA this namespace has schema version ' .. meta.schema .. ', this side knows ' .. meta.SCHEMA }
  end
end

function meta.create()
  if meta.is_new then redis.call('HSETNX', key.of('meta'), 'schema', meta.SCHEMA) end
end

-- How far before its due time a task of this priority is placed, in microseconds.
function meta.head_start(priority)
  if not meta.heads then
    local h = redis.call('HMGET', key.of('meta'), 'head_start:0', 'head_start:1', 'head_start:2', 'head_start:3',
      'head_start:4')
    meta.heads = {
      tonumber(h[1] or -600000000), tonumber(h[2] or -120000000), tonumber(h[3] or 0), tonumber(h[4] or 120000000),
      tonumber(h[5] or 600000000),
    }
  end
  return meta.heads[priority + 1]
end
