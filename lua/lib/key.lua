-- Key names, from the namespace's prefix. KEYS[1] of every script is the key `meta`. The table of all keys is in
-- fairqued/keys.py.
local key = { prefix = string.sub(KEYS[1], 1, -5) }

function key.of(name, a, b)
  if b then return key.prefix .. name .. ':' .. a .. ':' .. b end
  if a then return key.prefix .. name .. ':' .. a end
  return key.prefix .. name
end

-- Above maxmemory Redis refuses a script's first write if it may grow memory, and lets all writes pass after one that
-- cannot. Every script but push opens its writes with this, so a full Redis still drains.
function key.first_write() redis.call('DEL', key.of('none')) end
