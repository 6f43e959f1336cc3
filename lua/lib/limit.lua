-- Limits of a user: their own where set (with origin), else the namespace's defaults.
--#include lib/key
--#include lib/meta
local limit = { known = {} }

function limit.of(user)
  local l = limit.known[user]
  if l then return l end
  meta.load()
  l = { weight = meta.weight, max_running = meta.max_running, paused = meta.paused }
  local own = redis.call('HGET', key.of('limits'), user)
  if own then
    for name, entry in pairs(cjson.decode(own)) do l[name] = entry.value end
  end
  l.is_set = l.max_running > 0 or l.paused
  limit.known[user] = l
  return l
end

-- Whether a user with this many STARTED tasks may start another.
function limit.allows(l, running)
  return not l.paused and (l.max_running == 0 or running < l.max_running)
end
