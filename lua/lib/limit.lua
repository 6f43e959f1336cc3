-- Limits of a user: their own where set (with origin), else the namespace's defaults.
--#include lib/key
--#include lib/meta
local limit = { known = {} }

-- Put a user's own limits over the defaults. What cannot be read, or makes no sense, must not stop the queue.
local function overlay(l, text)
  local readable, own = pcall(cjson.decode, text)
  if not readable or type(own) ~= 'table' then return end
  for name, entry in pairs(own) do
    if type(entry) == 'table' and type(entry.value) == type(l[name]) then l[name] = entry.value end
  end
  if not (l.weight > 0 and l.weight < math.huge) then l.weight = meta.weight end
end

function limit.of(user)
  local l = limit.known[user]
  if l then return l end
  meta.load()
  l = { weight = meta.weight, max_running = meta.max_running, paused = meta.paused }
  local own = redis.call('HGET', key.of('limits'), user)
  if own then overlay(l, own) end
  l.is_set = l.max_running > 0 or l.paused
  limit.known[user] = l
  return l
end

-- Whether a user with this many STARTED tasks may start another.
function limit.allows(l, running)
  return not l.paused and (l.max_running == 0 or running < l.max_running)
end
