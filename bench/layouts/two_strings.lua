-- A string of the packed header with user and queue, and another of the spec, which no move touches.
local function spec_key(id) return prefix .. 'spec:' .. id end

function layout.any(ids) return redis.call('EXISTS', unpack(keys_of(ids))) > 0 end

function layout.create(ids, tasks)
  local flat = {}
  for n, id in ipairs(ids) do
    flat[4 * n - 3], flat[4 * n - 2] = key(id), created(tasks[n])
    flat[4 * n - 1], flat[4 * n] = spec_key(id), tasks[n].spec
  end
  redis.call('MSET', unpack(flat))
end

function layout.take(ids, holder)
  local keys, count, flat = keys_of(ids), #ids, {}
  for n, id in ipairs(ids) do keys[count + n] = spec_key(id) end
  local found = redis.call('MGET', unpack(keys))
  for n = 1, count do flat[2 * n - 1], flat[2 * n] = keys[n], with_taken(found[n], holder) end
  redis.call('MSET', unpack(flat))
  return found
end

function layout.settle(ids, fences)
  local keys, flat = keys_of(ids), {}
  for n, raw in ipairs(redis.call('MGET', unpack(keys))) do
    local changed = with_settled(raw, fences[n])
    if changed then flat[#flat + 1], flat[#flat + 2] = keys[n], changed end
  end
  if #flat > 0 then redis.call('MSET', unpack(flat)) end
  return #flat / 2
end
