-- One big HASH with a field for each task: the same string as in header.lua, written anew by each move.
local all = prefix .. 'tasks'

function layout.any(ids)
  for _, found in ipairs(redis.call('HMGET', all, unpack(ids))) do
    if found then return true end
  end
  return false
end

function layout.create(ids, tasks)
  local flat = {}
  for n, id in ipairs(ids) do flat[2 * n - 1], flat[2 * n] = id, created(tasks[n]) .. tasks[n].spec end
  redis.call('HSET', all, unpack(flat))
end

function layout.take(ids, holder)
  local found, flat = redis.call('HMGET', all, unpack(ids)), {}
  for n, raw in ipairs(found) do flat[2 * n - 1], flat[2 * n] = ids[n], with_taken(raw, holder) end
  redis.call('HSET', all, unpack(flat))
  return found
end

function layout.settle(ids, fences)
  local flat = {}
  for n, raw in ipairs(redis.call('HMGET', all, unpack(ids))) do
    local changed = with_settled(raw, fences[n])
    if changed then flat[#flat + 1], flat[#flat + 2] = ids[n], changed end
  end
  if #flat > 0 then redis.call('HSET', all, unpack(flat)) end
  return #flat / 2
end
